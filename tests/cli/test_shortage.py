"""Limits of memory and threads: one line and exit code 1, never a traceback or a silent exit."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from collector.shortage import why_short
from tests.support.processes import free_ports
from tests.support.waiting import until

MIB = 1 << 20
START_SECONDS = 200.0  # several start at once, and each may have to compile all modules first
WORK_SECONDS = 0.5  # that one may run which its limit suffices for
LINES = re.compile(
    r"gpuid: (.*: )?(out of memory|no more threads can be started) "
    r"\(limits: address space (\d+) MiB\); raise "
)


class Started(NamedTuple):
    process: "subprocess.Popen[str]"
    port: int


def run(folder: Path, *, address_space: int, stack: int = 8) -> Started:
    """Start a collector with limits in MiB."""
    (port,) = free_ports(1)
    name = f"{address_space}-{stack}"
    kubeconfig, config = folder / f"{name}.kubeconfig", folder / f"{name}.toml"
    kubeconfig.write_text(
        '{"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],'
        ' "contexts": [{"name": "prod", "context": {"cluster": "c"}}]}'
    )
    config.write_text(
        f'[server]\nlisten = "127.0.0.1:{port}"\n[store]\nurl = "sqlite://{folder}/{name}.db"\n'
        f'[[clusters]]\ncontext = "prod"\nkubeconfig = "{kubeconfig}"\n'
    )
    limits = ["env", "PYTHONFAULTHANDLER=1", "prlimit", f"--as={address_space * MIB}", f"--stack={stack * MIB}"]
    command = [sys.executable, "-m", "collector", "run", "-c", str(config)]
    process = subprocess.Popen([*limits, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return Started(process, port)


def ended(started: Started) -> tuple[int, str]:
    """Stop a process once it has served for a moment, unless it has ended; return its exit code and what it printed."""
    process = started.process
    try:
        until(lambda: process.poll() is not None or serves(started.port), seconds=START_SECONDS)
    except AssertionError:
        process.send_signal(signal.SIGABRT)
        pytest.fail(f"{process.args!r} neither serves nor ends: {process.communicate()[1]}")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(WORK_SECONDS)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def serves(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_an_address_space_of_any_size(tmp_path: Path) -> None:
    sizes = (120, 200, 280, 600)
    processes = [run(tmp_path, address_space=size) for size in sizes]
    try:
        found = dict(zip(sizes, map(ended, processes), strict=True))
    finally:
        for started in processes:
            started.process.kill()
    for size, (code, errors) in found.items():
        assert code in (0, 1), (size, errors)
        assert "Traceback" not in errors, f"{size} MiB: {errors}"
        if code == 1:
            line = LINES.match(errors.splitlines()[-1])
            assert line is not None, errors
            assert line[3] == str(size)
    assert found[120][0] == 1


def test_no_thread_can_be_started(tmp_path: Path) -> None:
    code, errors = ended(run(tmp_path, address_space=900, stack=800))  # each would need a stack of that size
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith("gpuid: no more threads can be started (limits: address space 900 MiB); raise ")


IN_THE_THREAD = "def fail(thread): raise MemoryError\nthreading.Thread._set_ident = fail"


def started_thread(fault: str) -> "subprocess.CompletedProcess[str]":
    """Start a thread with a fault, in a process of its own."""
    code = f"import os, threading\nfrom collector import shortage\nshortage.install_hooks()\n{fault}\n"
    code += "threading.Thread(target=print).start()\n"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "fault",
    [
        IN_THE_THREAD,
        # As Python finds no memory for the first frame: what starts the thread is not called.
        "class Start:\n    def __get__(self, thread, kind): return fail\n"
        "def fail(): raise MemoryError\nthreading.Thread._bootstrap = Start()",
    ],
    ids=["in the thread", "before it"],
)
def test_a_thread_that_runs_out_of_memory_while_it_starts_ends_the_process(fault: str) -> None:
    process = started_thread(fault)
    assert (process.returncode, process.stderr.count("\n")) == (1, 1), process.stderr
    assert process.stderr.startswith("gpuid: out of memory; raise the limit ")


def test_it_ends_even_if_the_line_cannot_be_written() -> None:
    assert started_thread(f"{IN_THE_THREAD}\nos.close(2)").returncode == 1


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (MemoryError(), "out of memory"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (ImportError("x.so: failed to map segment from shared object"), "out of memory"),
        (SystemError("error return without exception set"), "out of memory"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (ExceptionGroup("", [ValueError(), ExceptionGroup("", [MemoryError()])]), "out of memory"),
        (ValueError("out of memory"), None),
        (OSError(2, "No such file or directory"), None),
        (None, None),
    ],
    ids=repr,
)
def test_what_counts(error: BaseException | None, start: str | None) -> None:
    why = why_short(error)
    assert (why or "").startswith(start or "")
    assert (why is None) is (start is None)
