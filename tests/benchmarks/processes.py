"""Programs that a comparison starts: the simulated fleet, the candidates, and what the kernel says they used."""

import compileall
import contextlib
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import tomli_w

from tests.support.processes import free_ports

__all__ = [
    "REPOSITORY",
    "Fleet",
    "collector",
    "compile_modules",
    "counting",
    "processor_time",
    "running",
    "simulated",
    "usage",
    "wait",
]

REPOSITORY = Path(__file__).resolve().parents[2]


class Fleet:
    """Simulated clusters in a process of their own."""

    def __init__(self, clusters: int, kubeconfig: Path, control: str) -> None:
        self.clusters = clusters
        self.kubeconfig = kubeconfig
        self._control = control

    def requests(self) -> dict[str, int]:
        """What the API servers were asked, "verb resource" -> count, summed over the clusters."""
        total: dict[str, int] = {}
        for index in range(self.clusters):
            answer = httpx.get(f"{self._control}/clusters/sim-{index}", timeout=30).json()
            for key, number in answer["counters"]["requests"].items():
                total[key] = total.get(key, 0) + number
        return total


@contextlib.contextmanager
def simulated(folder: Path, clusters: int, nodes: int, gpus: int, latency: str) -> Iterator[Fleet]:
    """Start a fleet; `latency` is how long nvidia-smi takes."""
    kubeconfig = folder / "kubeconfig"
    command = [sys.executable, "-m", "collector", "simulate", "--clusters", str(clusters), "--nodes", str(nodes)]
    command += ["--gpus", str(gpus), "--latency", latency, "--kubeconfig", str(kubeconfig)]
    with running(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"curl .*?(http://[0-9.:]+)", line):
                yield Fleet(clusters, kubeconfig, found[1])
                return
        raise SystemExit("the simulator did not start")


def compile_modules(tree: Path = REPOSITORY) -> None:
    """Write the bytecode of the collector's modules, which an installed package has; otherwise each start compiles."""
    compileall.compile_dir(tree / "collector", quiet=1)


@contextlib.contextmanager
def running(command: Sequence[object], **options: Any) -> Iterator["subprocess.Popen[Any]"]:
    """Start a program, and end it with the block."""
    with subprocess.Popen([str(word) for word in command], **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def collector(
    folder: Path, kubeconfig: Path | None, clusters: int, *, tree: Any = None, **settings: Any
) -> Iterator[tuple["subprocess.Popen[Any]", httpx.Client]]:
    """Start `gpuid run` for the fleet's contexts, `settings` in its configuration; gives a client of its HTTP.

    `tree` is the path of the folder with its source, if another than this one's.
    """
    (port,) = free_ports(1)
    contexts = [{"context": f"sim-{index}", "kubeconfig": str(kubeconfig)} for index in range(clusters)]
    (folder / "gpuid.toml").write_text(
        tomli_w.dumps({"server": {"listen": f"127.0.0.1:{port}"}, "clusters": contexts} | settings)
    )
    command = [sys.executable, "-m", "collector", "run", "-c", folder / "gpuid.toml", "--log-level", "error"]
    with running(command, cwd=tree) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield process, client


@contextlib.contextmanager
def counting(module: str, fleet: Fleet, gpus: int, *arguments: object) -> Iterator["subprocess.Popen[Any]"]:
    """Start a module of this package that reads a fleet; gives its process once it has printed its number of GPUs."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", fleet.kubeconfig, fleet.clusters, *arguments]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if (found := int(process.stdout.readline() or 0)) != gpus:
            raise SystemExit(f"{module} found {found} of {gpus} GPUs")
        yield process


def wait(process: "subprocess.Popen[Any]", done: Callable[[], bool], *, seconds: float, every: float = 0.05) -> float:
    """Ask until the answer is yes; returns the seconds that it took. A server that does not respond yet says no."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended")
        with contextlib.suppress(httpx.TransportError):
            if done():
                return time.perf_counter() - started
        time.sleep(every)
    raise SystemExit(f"not done after {seconds:g} s: {process.args!r}")


def processor_time(command: Sequence[object]) -> float:
    """Run a program, and return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds so far and peak memory in bytes, as the kernel accounts for a process."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    return cpu, int(peak[1]) * 1024.0
