"""Makes the tables of docs/sizing.md from the measurements in RESULTS.md: `python -m tests.benchmarks.sizing`."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["PAGE", "memory_mib", "page_with_tables"]

RESULTS = Path(__file__).with_name("RESULTS.md")
PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"

INVENTORY = "full inventory of {} nodes / client, no limit: {}"
SCRAPE = "scrape of {} GPUs, gzip: bytes"
WHOLE = "100 clusters × 1,000 nodes × 8 GPUs, history on: {}"
UNITS = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}

# Of memory, as RESULTS.md explains where it goes. Beyond ten clusters, the processor limits how much is read at a time.
PROGRAM_MIB, CLUSTER_MIB, NODE_MIB = 142.0, 1.0, 8 / 1024
READING_MIB, READING_CLUSTERS = 8.0, 10
FLEETS = ((10, 1_000), (50, 10_000), (50, 50_000), (100, 100_000))  # clusters and nodes
STEPS = (256, 512, 1024, 1536, 2048)  # MiB that one requests or allows


def memory_mib(clusters: int, nodes: int) -> float:
    """Return the peak memory of a collector, estimated from what its parts take."""
    reading = min(clusters, READING_CLUSTERS) * READING_MIB
    return PROGRAM_MIB + clusters * CLUSTER_MIB + reading + nodes * NODE_MIB


def page_with_tables(page: str, results: str) -> str:
    """Return the page with its tables made again."""
    measured = _measurements(results)
    for name, make in (("measured", _measured), ("estimated", _estimated), ("disk", _disk)):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(?=<!-- end of {name} -->)", re.DOTALL)
        page = pattern.sub(lambda found, make=make: found[1] + "\n".join(make(measured)) + "\n", page)  # type: ignore[misc]
    return page


def _measurements(results: str) -> Callable[[str], str]:
    """Return what finds gpuid's own value by the name of a row."""
    rows = [line.strip("| \n").split(" | ") for line in results.splitlines() if line.startswith("| ")]
    values = {row[0]: row[1] for row in rows if len(row) > 1}
    return lambda name: next(value for row, value in values.items() if row == name or row.startswith(f"{name} /"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _measured(measured: Callable[[str], str]) -> Iterator[str]:
    rows = [
        [
            f"{fleet.replace('×', 'cluster' + 's' * (not fleet.startswith('1 ')) + ' ×')} nodes × 8 GPUs",
            measured(INVENTORY.format(fleet, "time")),
            measured(INVENTORY.format(fleet, "CPU")),
            measured(INVENTORY.format(fleet, "peak memory")),
            scrape,
        ]
        for fleet, scrape in (("1 × 1,000", measured(SCRAPE.format("8,000"))), ("20 × 100", "–"))
    ]
    restart = measured(WHOLE.format("restart until all is published")).partition(",")[0]
    rows.append(
        [
            "100 clusters × 1,000 nodes × 8 GPUs, with history",
            f"restart: {restart}",
            f"idle: {measured(WHOLE.format('CPU while nothing happens'))}",
            measured(WHOLE.format("peak memory")),
            measured(SCRAPE.format("800,000")),
        ]
    )
    return _table(("fleet", "time of a full inventory", "CPU for it", "peak memory", "scrape (gzip)"), rows)


def _estimated(_measured: Callable[[str], str]) -> Iterator[str]:
    rows = []
    for clusters, nodes in FLEETS:
        peak = memory_mib(clusters, nodes)
        request = next(step for step in STEPS if step >= peak)
        limit = next(step for step in STEPS if step >= 1.5 * peak)
        cpu = "100m" if nodes <= 10_000 else "500m"
        fleet = f"up to {clusters} clusters, {nodes:,} nodes"
        rows.append([fleet, f"{peak:,.0f} MiB", f"{request}Mi", f"{limit}Mi", cpu])
    return _table(("fleet", "peak memory", "memory request", "memory limit", "CPU request"), rows)


def _disk(measured: Callable[[str], str]) -> Iterator[str]:
    per_million = _mib(measured("store for a million placements with their changes and indexes"))
    rows = [
        [
            f"{gpus:,} GPUs, {changes:,} changes a year",
            _size(gpus * per_million / 1e6),
            _size(changes * per_million / 1e6),
        ]
        for gpus, changes in ((8_000, 8_000), (80_000, 160_000), (800_000, 1_600_000))
    ]
    return _table(("fleet", "disk for the first inventory", "for each year"), rows)


def _mib(text: str) -> float:
    amount, unit = text.split()[:2]
    return float(amount.replace(",", "")) * UNITS[unit]


def _size(mib: float) -> str:
    return f"{mib:,.0f} MiB" if mib < 1024 else f"{mib / 1024:,.1f} GiB"


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(), RESULTS.read_text()))
