"""The processor time of a node's first reading: `python -m tests.benchmarks first_reading`.

gpuid, an earlier commit, the plain client (plain_client.py) and the least that a program can do (least_reading.py) read
the same simulated fleets one after the other, a small and a large one. The difference in processor time, divided by the
difference in nodes, is what a node costs, without the start.
"""

import contextlib
import functools
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks.processes import REPOSITORY, collector, counting, simulated, usage, wait
from tests.benchmarks.table import Row, duration, times

__all__ = ["rows"]

COMMIT = "457803c9"  # before outputs were read without an XML parser
_GPUS, _LATENCY, _PATIENCE = 8, "20ms", 600.0


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare this working tree with the others, in turn; a shallow clone does not have the commit."""
    clusters, few, many, runs = (1, 1, 3, 1) if small else (20, 5, 50, 3)
    with checkout(COMMIT) as before:
        measured: dict[str, Callable[[int], float]] = {"ours": functools.partial(_gpuid, REPOSITORY, clusters)}
        if before is not None and not small:
            measured["before"] = functools.partial(_gpuid, before, clusters)
        measured["client"] = functools.partial(_program, "plain_client", clusters)
        measured["least"] = functools.partial(_program, "least_reading", clusters)
        found: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(runs):
            for name, cpu_seconds in measured.items():
                found[name].append((cpu_seconds(many) - cpu_seconds(few)) / (clusters * (many - few)))
        best = {name: min(costs) for name, costs in found.items()}
    peers = {"before": f"commit {COMMIT}", "client": "client", "least": "bare TLS and parsing"}
    for name, peer in peers.items():
        yield Row(
            f"CPU of a node's first reading / {peer}",
            duration(best["ours"]),
            duration(best[name]) if name in best else "not measured",
            times(best[name] / best["ours"]) if name in best and not small else "",  # a few nodes cost less than a tick
            "≥ 2 ×" if name == "before" else "",
        )


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path | None]:
    """Give a folder with the files of a commit; None if the repository does not have it."""
    archive = subprocess.run(["git", "archive", commit, "collector"], cwd=REPOSITORY, capture_output=True, check=False)
    if archive.returncode:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def _gpuid(tree: Path, clusters: int, nodes: int) -> float:
    """Return the CPU seconds of a collector from its start to a full inventory."""
    with (
        tempfile.TemporaryDirectory() as name,
        simulated(Path(name), clusters, nodes, _GPUS, _LATENCY) as fleet,
        collector(Path(name), fleet.kubeconfig, clusters, tree=tree) as (process, client),
    ):

        def complete() -> bool:
            return bool(client.get("/api/v1/gpus", params={"limit": 1}).json()["total"] >= clusters * nodes * _GPUS)

        wait(process, complete, seconds=_PATIENCE, every=0.2)
        return usage(process.pid)[0]


def _program(module: str, clusters: int, nodes: int) -> float:
    """Return the CPU seconds of a program that reads every node, prints how many GPUs there are, and stays."""
    with (
        tempfile.TemporaryDirectory() as name,
        simulated(Path(name), clusters, nodes, _GPUS, _LATENCY) as fleet,
        counting(module, fleet, clusters * nodes * _GPUS) as process,
    ):
        return usage(process.pid)[0]
