"""`gpuid demo` as a newcomer sees it."""

import datetime
import itertools
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx
import pytest

from collector.cli import demo as demo_command
from collector.cli.demo_teller import DRIVERS, tell
from collector.config import ConfigError, Listen
from collector.inventory import Inventory
from collector.model import ClusterState
from collector.simulator import Simulator
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


def read_until(process, pattern: str) -> str:
    """All lines up to those that match."""
    said, started = "", time.monotonic()
    while not re.search(pattern, said):
        line = process.stdout.readline()
        assert line, process.communicate()
        said += line
        assert time.monotonic() - started < 60
    return said


@pytest.mark.anyio
@pytest.mark.parametrize("size", [(3, 20, 8), (1, 1, 1)])
async def test_no_event_stops_it(size, monkeypatch, capsys, tmp_path) -> None:
    """Neither on the initial fleet nor after actions of users, here on the only cluster."""
    monkeypatch.setattr(demo_command, "_EVENT_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(demo_command, "_OUTAGE_SECONDS", 0.0)
    monkeypatch.setattr(demo_command, "_NOTICE_TIMEOUT_SECONDS", 0.0)
    clusters, nodes, gpus = size
    simulator = Simulator(clusters=clusters, nodes=nodes, gpus=gpus, drivers=DRIVERS, directory=tmp_path)
    tell(simulator.fleet, simulator.drivers)
    statuses = {name: SimpleNamespace(state=ClusterState.UP) for name in simulator.fleet.clusters}
    service = SimpleNamespace(inventory=Inventory(), clusters=SimpleNamespace(statuses=statuses))
    scenario = demo_command._Scenario(simulator, service)  # type: ignore[arg-type]
    events = scenario._events()
    monkeypatch.setattr(scenario, "_events", lambda: itertools.islice(events, 150))
    async with simulator:
        if clusters == 1:
            simulator.clusters["sim-0"].delete_node("gpu-0000")
        await scenario.run()
    said = capsys.readouterr().out
    assert said.count("started the API server") == 25
    if clusters == 3:
        assert said.count("row_remap_pending=True, recovery_action=Reset") == 25
        assert "nothing:" not in said
    else:
        assert re.search(r"^\S+  nothing: sim-0: no GPU nodes left$", said, re.MULTILINE)


@pytest.mark.anyio
async def test_events_repair_none_of_the_made_up_faults(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(demo_command, "_EVENT_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(demo_command, "_OUTAGE_SECONDS", 0.0)
    monkeypatch.setattr(demo_command, "_NOTICE_TIMEOUT_SECONDS", 0.0)
    simulator = Simulator(clusters=3, nodes=20, gpus=8, drivers=DRIVERS, directory=tmp_path)
    story = tell(simulator.fleet, simulator.drivers)
    statuses = {name: SimpleNamespace(state=ClusterState.UP) for name in simulator.fleet.clusters}
    service = SimpleNamespace(inventory=Inventory(), clusters=SimpleNamespace(statuses=statuses))
    scenario = demo_command._Scenario(simulator, service, story)  # type: ignore[arg-type]
    events = scenario._events()
    monkeypatch.setattr(scenario, "_events", lambda: itertools.islice(events, 150))

    def featured() -> dict:
        cards = {
            card.uuid: (cluster, node, card)
            for cluster in simulator.fleet.clusters
            for node in simulator.fleet.nodes(cluster)
            for card in simulator.fleet.cards(cluster, node)
        }
        return {one.title: cards.get(one.uuid) for one in story.featured}

    before = featured()
    async with simulator:
        await scenario.run()
    assert len(before) == 12
    assert featured() == before


@pytest.mark.parametrize("readable", [False, True])
def test_a_gpu_that_is_lost_on_an_unreadable_node_delays_no_event(readable, monkeypatch) -> None:
    simulator = Simulator(clusters=3, nodes=20, gpus=8, drivers=DRIVERS)
    story = tell(simulator.fleet, simulator.drivers)
    ((unreadable, _),) = story.unreadable
    everything = simulator.fleet.expected()
    lost = next(one for one in everything if ((one.cluster, one.node) == unreadable) is not readable)
    monkeypatch.setattr(demo_command, "_published", lambda _inventory: iter(everything - {lost}))
    service = SimpleNamespace(inventory=Inventory())
    scenario = demo_command._Scenario(simulator, service, story)  # type: ignore[arg-type]
    assert scenario._is_current() is not readable


def get(url: str, path: str) -> dict:
    return httpx.get(f"{url}/api/v1/{path}").raise_for_status().json()


def test_it_shows_events_until_ctrl_c(demo) -> None:
    process, url = demo
    said = read_until(process, r"moved .*\n.* gpuid noticed after [\d.]+ s; 23 GPUs published\n")  # one is lost
    for place in ("/", "/metrics", "/sd", "/api/v1/gpus"):
        assert f"{url}{place}" in said
        assert httpx.get(url + place).status_code == 200
    assert httpx.get(f"{url}/metrics").text.count("gpuid_gpu_info{") == 24
    (moved,) = re.findall(r"moved (GPU-\S+?),? ", said)[:1]
    placements = get(url, f"gpus/{moved}/history")["placements"]
    assert [placement["until"] is None for placement in placements] == [True, False]
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert rest.endswith("Demo stopped.\n")
    assert (process.returncode, errors) == (0, "")


def test_its_first_readings_confirm_its_made_up_past(demo) -> None:
    process, url = demo
    said = read_until(process, r"the collector started\n.* gpuid noticed ")
    changes = get(url, "changes?limit=1000")["changes"]
    now = datetime.datetime.now(datetime.UTC)
    ages = [(now - datetime.datetime.fromisoformat(change["time"])).total_seconds() for change in changes]
    assert max(ages) > 59 * 86400
    assert min(age for age in ages if age > 60.0) > 3600  # nothing has changed since, but what two nodes claim
    assert {"appeared", "moved", "vanished", "health"} == {change["event"] for change in changes}
    potato, *_ = re.findall(rf"{url}/gpus/(GPU-\S+)\n", said)
    for path in re.findall(rf" {url}(/\S+)\n", said):
        assert httpx.get(f"{url}{path}").status_code == 200
    [here] = [gpu for gpu in get(url, "gpus")["gpus"] if gpu["uuid"] == potato]
    assert (here["degraded"], here["level"], here["mark"]["kind"]) == (["row_remap_failure"], "replace", "rma")
    assert len({placement["cluster"] for placement in get(url, f"gpus/{potato}/history")["placements"]}) == 2


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


@pytest.mark.anyio
async def test_a_taken_port_is_reported_before_the_past_is_generated(monkeypatch) -> None:
    monkeypatch.setattr(demo_command, "tell", lambda *_args: pytest.fail("made up a past"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = Listen(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ExceptionGroup) as caught:
            await demo_command._demo(Simulator(clusters=1, nodes=1, gpus=1), listen, None)
    assert caught.group_contains(ConfigError, match="the address is already in use")
