"""The processor time of a node's first reading, against an earlier commit: `python -m tests.benchmarks first_reading`.

Both collectors read the same simulated fleets one after the other, a small and a large one. The difference in processor
time, divided by the difference in nodes, is what a node costs, without the start.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.processes import collector, simulated, usage, wait
from tests.benchmarks.table import Row, duration, times

__all__ = ["rows"]

COMMIT = "457803c9"  # before outputs were read without an XML parser
_REPOSITORY = Path(__file__).resolve().parents[2]
_GPUS, _LATENCY, _PATIENCE = 8, "20ms", 600.0


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare this working tree with the commit, alternately; a shallow clone does not have the commit."""
    clusters, few, many, runs = (1, 1, 3, 1) if small else (20, 5, 50, 3)
    with checkout(COMMIT) as before:
        found: dict[Path, list[float]] = {_REPOSITORY: []}
        if before is not None and not small:
            found[before] = []
        for _ in range(runs):
            for tree, costs in found.items():
                extra = _cpu_seconds(tree, clusters, many) - _cpu_seconds(tree, clusters, few)
                costs.append(extra / (clusters * (many - few)))
        ours, *theirs = (min(costs) for costs in found.values())
        yield Row(
            f"CPU of a node's first reading / commit {COMMIT}",
            duration(ours),
            duration(theirs[0]) if theirs else "not measured",
            times(theirs[0] / ours) if theirs else "",
            "≥ 2 ×",
        )


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path | None]:
    """Give a folder with the files of a commit; None if the repository does not have it."""
    archive = subprocess.run(["git", "archive", commit, "collector"], cwd=_REPOSITORY, capture_output=True, check=False)
    if archive.returncode:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def _cpu_seconds(tree: Path, clusters: int, nodes: int) -> float:
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
