"""`gpuid demo` as a newcomer sees it."""

import re
import signal
import subprocess
import sys
import time

import httpx
import pytest

from tests.support.processes import free_ports


@pytest.fixture
def demo():
    """A small demo on a port of its own, and that port."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "collector", "demo", "--clusters", "2", "--nodes", "3", "--gpus", "4"]
    process = subprocess.Popen(
        [*command, "--listen", f"127.0.0.1:{port}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process, f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


def test_it_shows_events_until_ctrl_c(demo) -> None:
    process, url = demo
    started = time.monotonic()
    said = ""
    while not re.search(r"moved .*\n.* gpuid noticed after [\d.]+ s; 24 GPUs published\n", said):
        line = process.stdout.readline()
        assert line, process.communicate()
        said += line
        assert time.monotonic() - started < 60
    for place in ("/", "/metrics", "/sd", "/api/v1/gpus"):
        assert f"{url}{place}" in said
        assert httpx.get(url + place).status_code == 200
    assert httpx.get(f"{url}/metrics").text.count("gpuid_gpu_info{") == 24
    (moved,) = re.findall(r"moved (GPU-\S+?),? ", said)[:1]
    placements = httpx.get(f"{url}/api/v1/gpus/{moved}/history").json()["placements"]
    assert [placement["until"] is None for placement in placements] == [True, False]
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert rest.endswith("Demo stopped.\n")
    assert (process.returncode, errors) == (0, "")


def test_it_stops_after_the_given_time() -> None:
    (port,) = free_ports(1)
    command = [
        sys.executable,
        "-m",
        "collector",
        "demo",
        "--nodes",
        "1",
        "--for",
        "1s",
        "--listen",
        f"127.0.0.1:{port}",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.endswith("Demo stopped.\n")


def test_a_taken_port_is_one_line(demo) -> None:
    process, url = demo
    assert process.stdout.readline()
    address = url.removeprefix("http://")
    command = [sys.executable, "-m", "collector", "demo", "--listen", address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"gpuid: --listen: cannot listen on {address}: the address is already in use\n"
