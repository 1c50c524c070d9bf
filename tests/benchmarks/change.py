"""What one change costs, from the reading to the published text, in fleets of any size."""

import time
from collections.abc import Iterator

import uvloop

from tests.benchmarks.fleet import Published
from tests.benchmarks.table import Row, duration

__all__ = ["SIZES", "cost", "rows"]

GPUS = 8
SIZES = ((1, 100), (10, 100), (10, 1_000), (100, 1_000))  # clusters × nodes
_CHANGES = 200


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare each fleet, and one large cluster, with the smallest fleet."""
    sizes = ((1, 4), (2, 4)) if small else (*SIZES, (1, 100_000))
    base = 0.0
    for clusters, nodes in sizes:
        seconds = cost(clusters, nodes, changes=4 if small else _CHANGES)
        base = base or seconds
        if seconds != base:
            yield Row(
                f"one change among {clusters * nodes:,} nodes in {clusters} clusters / among {sizes[0][1]} nodes",
                f"{duration(seconds)} of CPU",
                f"{duration(base)} of CPU",
                f"{seconds / base:.3g} × as long",
                "within 1.3 ×",
            )


def cost(clusters: int, nodes: int, *, changes: int = _CHANGES) -> float:
    """Seconds of CPU of one change among the cheapest tenth: apply a reading with another GPU, and refresh the text."""
    return uvloop.run(_cost(Published(clusters, nodes, GPUS), changes))


async def _cost(published: Published, changes: int) -> float:
    await published.exposition.refresh()
    seconds = []
    for count in range(changes):
        started = time.process_time()
        published.change(count * 7919 % len(published.readings))
        await published.exposition.refresh()
        seconds.append(time.process_time() - started)
    return sorted(seconds)[len(seconds) // 10]  # the others share a cache or the interpreter with something else
