"""What is to be alone is alone, and waits for no more than what runs already."""

import fcntl
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

from tests.support.alone import turn
from tests.support.waiting import until

ROOT = Path(__file__).parents[1]

# Tests of both workers, which write down when they begin and end. Each file's first test waits for the other file's.
TESTS = """
import time
from pathlib import Path

import pytest

LOG = Path(__file__).with_name("log")


def ran(alone):
    with LOG.open("a", 1) as log:
        log.write(f"{alone:d} begin\\n")
        time.sleep(0.05)
        log.write(f"{alone:d} end\\n")


@pytest.fixture
def prepared(request):
    ran(request.node.get_closest_marker("alone") is not None)


def test_both_workers_are_there():
    Path(__file__).with_suffix(".there").touch()
    while len(list(Path(__file__).parent.glob("*.there"))) < 2:
        time.sleep(0.01)


@pytest.mark.parametrize("number", range(3))
def test_with_others(number):
    ran(False)


@pytest.mark.alone
@pytest.mark.parametrize("number", range(3))
def test_alone(prepared, number):
    ran(True)
"""

FORK = """
import fcntl, os, sys
from pathlib import Path
from tests.support.alone import turn

folder = Path(sys.argv[1])
reading, writing = os.pipe()
with turn(folder, alone=False):
    if not os.fork():
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
with (folder / "running").open("w") as running:
    fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("the turn is free")
os.close(writing)
os.wait()
"""


def test_nothing_runs_beside_a_test_marked_alone(tmp_path: Path) -> None:
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    plugins = ["-p", "tests.support.alone", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, f"--rootdir={tmp_path}", str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert "14 passed" in done.stdout, done.stdout + done.stderr
    running: list[str] = []
    for line in (tmp_path / "log").read_text().splitlines():
        alone, _, event = line.partition(" ")
        running.append(alone) if event == "begin" else running.remove(alone)
        assert "1" not in running or len(running) == 1, line


def test_others_wait_behind_one_that_waits_to_be_alone(tmp_path: Path) -> None:
    """Otherwise it would never have its turn among several workers."""
    order: list[str] = []

    def take(name: str, *, alone: bool) -> None:
        with turn(tmp_path, alone=alone):
            order.append(name)

    first, second = (threading.Thread(target=partial(take, name, alone=name == "alone")) for name in ("alone", "other"))
    with turn(tmp_path, alone=False):
        first.start()
        until(lambda: gate_is_shut(tmp_path))
        second.start()
        assert order == []
    for thread in (first, second):
        thread.join()
    assert order == ["alone", "other"]


def test_a_forked_child_does_not_keep_the_turn(tmp_path: Path) -> None:
    """A child that has not yet started its program has the files of its parent."""
    done = subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("the turn is free\n", "")


def gate_is_shut(folder: Path) -> bool:
    with (folder / "gate").open("w") as gate:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
