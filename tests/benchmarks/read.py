"""Time, CPU, memory and requests from the start to a full inventory, against others on the same simulated fleet.

`client` is the plain way to do the same with the Kubernetes client alone (plain_client.py), without a limit or with
gpuid's; `Go gpuid` the Go program, where `gpuid` on PATH is it or GPUID_GO names it. It knows one cluster, and writes
two node labels for each reading.
"""

import functools
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.benchmarks.processes import Fleet, collector, compile_modules, counting, running, simulated, usage, wait
from tests.benchmarks.table import Row, amount, duration, times
from tests.support.processes import free_ports

__all__ = ["go_program", "rows"]

GPUS = 8
LATENCY = "20ms"
_PATIENCE = 900.0  # seconds
_EQUAL = (100, 200)  # requests a second and at once: gpuid's defaults


class Cost(NamedTuple):
    """What one run took."""

    seconds: float
    cpu_seconds: float
    peak: float  # bytes
    requests: float  # of any kind, for each node


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare on one large cluster and on many small ones."""
    one, many = ((1, 2), (2, 2)) if small else ((1, 1_000), (20, 100))
    compile_modules()
    ours = _measure(_gpuid, *one)
    if program := go_program():
        defaults = _measure(_go(program), *one)
        equal = _measure(_go(program, *_EQUAL), *one)
        yield from _compared(one, "Go gpuid, each one's defaults", ours, defaults, "≥ 6 ×")
        yield from _compared(one, f"Go gpuid, {_EQUAL[0]} requests/s, burst {_EQUAL[1]}", ours, equal, "≥ 3 ×")
    limited = _measure(functools.partial(_client, limits=_EQUAL), *one)
    yield from _compared(one, f"client, {_EQUAL[0]} requests/s, burst {_EQUAL[1]}", ours, limited, "")
    for size, cost in ((one, ours), (many, None)):
        yield from _compared(
            size, "client, no limit", cost or _measure(_gpuid, *size), _measure(_client, *size), "", "≥ 2 ×"
        )


def go_program() -> str | None:
    """Find the Go program: it is no Python script."""
    if named := os.environ.get("GPUID_GO"):
        return named
    found = shutil.which("gpuid")
    return found if found and Path(found).read_bytes()[:4] == b"\x7fELF" else None


def _compared(size: tuple[int, int], peer: str, ours: Cost, theirs: Cost, aim: str, cpu_aim: str = "") -> Iterator[Row]:
    what = f"full inventory of {size[0]} × {size[1]:,} nodes / {peer}"
    yield Row(
        f"{what}: time", duration(ours.seconds), duration(theirs.seconds), times(theirs.seconds / ours.seconds), aim
    )
    yield Row(
        f"{what}: CPU",
        duration(ours.cpu_seconds),
        duration(theirs.cpu_seconds),
        times(theirs.cpu_seconds / ours.cpu_seconds),
        cpu_aim,
    )
    yield Row(f"{what}: peak memory", amount(ours.peak), amount(theirs.peak), times(theirs.peak / ours.peak))
    yield Row(
        f"{what}: requests a node",
        f"{ours.requests:.3f}",
        f"{theirs.requests:.3f}",
        times(theirs.requests / ours.requests),
    )


def _measure(run: Callable[..., Any], clusters: int, nodes: int) -> Cost:
    """Give one candidate a fresh fleet and account for its process."""
    with tempfile.TemporaryDirectory() as name, simulated(Path(name), clusters, nodes, GPUS, LATENCY) as fleet:
        found: Cost = run(Path(name), fleet, clusters * nodes)
        return found


def _cost(process: "subprocess.Popen[Any]", started: float, fleet: Fleet, nodes: int) -> Cost:
    seconds, (cpu, peak) = time.perf_counter() - started, usage(process.pid)
    requests = fleet.requests()
    if requests.get("exec pods", 0) != nodes:
        raise SystemExit(f"{requests.get('exec pods')} execs for {nodes} nodes")
    return Cost(seconds, cpu, peak, sum(requests.values()) / nodes)


def _gpuid(folder: Path, fleet: Fleet, nodes: int) -> Cost:
    """Measure `gpuid run` with its default settings."""
    started = time.perf_counter()
    with collector(folder, fleet.kubeconfig, fleet.clusters) as (process, client):

        def complete() -> bool:
            return bool(client.get("/api/v1/gpus", params={"limit": 1}).json()["total"] >= nodes * GPUS)

        wait(process, complete, seconds=_PATIENCE)
        return _cost(process, started, fleet, nodes)


def _client(folder: Path, fleet: Fleet, nodes: int, limits: tuple[int, ...] = ()) -> Cost:
    """Measure the Kubernetes client alone; it prints how many GPUs there are and stays, to be accounted for."""
    del folder
    started = time.perf_counter()
    with counting("plain_client", fleet, nodes * GPUS, *limits) as process:
        return _cost(process, started, fleet, nodes)


def _go(program: str, rate: int | None = None, burst: int | None = None) -> Callable[[Path, Fleet, int], Cost]:
    """Measure the Go program, which counts the nodes that it has exported."""

    def run(folder: Path, fleet: Fleet, nodes: int) -> Cost:
        (port,) = free_ports(1)
        settings = {"KUBECONFIG": str(fleet.kubeconfig), "CLUSTER_NAME": "sim-0", "SERVER_PORT": str(port)}
        if rate is not None:
            settings |= {"QPS": str(rate), "BURST": str(burst)}

        def complete() -> bool:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
            done = re.findall(r"^gpuid_export_success_total\{.*\} (\S+)$", text, re.MULTILINE)
            return sum(map(float, done)) >= nodes

        started = time.perf_counter()
        with (
            (folder / "go.log").open("wb") as log,
            running([program], env=os.environ | settings, stdout=log, stderr=log) as process,
        ):
            wait(process, complete, seconds=_PATIENCE)
            return _cost(process, started, fleet, nodes)

    return run
