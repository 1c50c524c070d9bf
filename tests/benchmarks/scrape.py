"""A scrape against `generate_latest` and gzip, against copying its bytes, and while nodes change."""

import gc
import gzip
import time
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import uvloop
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from collector import gc_freeze
from collector.exposition import Body
from collector.exposition.families import NODE_FAMILIES
from tests.benchmarks.clocks import Beat, best, best_async, heartbeat, idle_loop
from tests.benchmarks.fleet import Published
from tests.benchmarks.table import Row, amount, duration, times

__all__ = ["SIZES", "rows", "same_series"]

GPUS = 8
SIZES = ((10, 100), (10, 1_000), (100, 1_000))  # clusters × nodes: 8,000, 80,000 and 800,000 GPUs
_CHURN = 20.0  # seconds of scraping while nodes change
_EVERY = 0.25  # seconds between two scrapes


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare the answers for three fleets; the largest is then scraped while 1 % of its nodes change each second."""
    for clusters, nodes in ((2, 4),) if small else SIZES:
        largest = (clusters, nodes) == SIZES[-1] or small
        yield from uvloop.run(_compare(clusters, nodes, churn=0.5 if small else _CHURN if largest else 0.0))


async def _compare(clusters: int, nodes: int, churn: float) -> list[Row]:
    published = Published(clusters, nodes, GPUS)
    exposition, series = published.exposition, clusters * nodes * GPUS
    await exposition.refresh()
    peer = same_series(published)

    async def scrape() -> bytes:
        return b"".join((await exposition.scrape(gzip=True)).chunks)

    ours = await best_async(scrape, runs=9)
    text, compressed = b"", b""

    def latest() -> None:
        nonlocal text, compressed
        text = generate_latest(peer)
        compressed = gzip.compress(text)  # at its level, which is prometheus-client's

    theirs = best(latest, runs=1 if series > 100_000 else 3)
    body = await scrape()
    _assert_same(body, text)
    copying = best(lambda: bytes(bytearray(body)), runs=9) / 2  # the expression copies twice
    what = f"scrape of {series:,} GPUs"
    aim = "≥ 100 ×" if series <= 8_000 else "≥ 200 × at 800,000"
    found = [
        Row(f"{what}, gzip: time", duration(ours), duration(theirs), times(theirs / ours), aim),
        Row(
            f"{what}, gzip, every cluster confirmed since the last one: time",
            duration(confirmed := await _after_bookmarks(published)),
            duration(theirs),
            times(theirs / confirmed),
            aim,
        ),
        Row(f"{what}, gzip: bytes", amount(len(body)), amount(len(compressed)), times(len(compressed) / len(body))),
        Row(
            f"{what}: joining its bytes / copying them once",
            duration(joining := await _joining(published)),
            duration(copying),
            f"{joining / copying:.2g} × as long",
            "within 3 ×",
        ),
    ]
    if churn:
        found += await _churn(published, churn, theirs)
    return found


async def _after_bookmarks(published: Published) -> float:
    """Seconds of a scrape before which a bookmark has confirmed each cluster, as happens once a minute."""
    seconds = []
    for number in range(9):
        for cluster in {reading.cluster for reading in published.readings}:
            published.metrics.synced(cluster, time.time() + number)
        started = time.perf_counter()
        b"".join((await published.exposition.scrape(gzip=True)).chunks)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


async def _joining(published: Published) -> float:
    """Seconds to make an answer's bytes of what is ready, without the collector's own series."""
    seconds = []
    for _ in range(9):
        body: Body = await published.exposition.scrape(gzip=True)
        started = time.perf_counter()
        b"".join(body.chunks)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


async def _churn(published: Published, seconds: float, theirs: float) -> list[Row]:
    """Change 1 % of the nodes each second, one after the other, and scrape all the while."""
    nodes = len(published.readings)
    beat, waits, changed = Beat(), [], 0

    async def change() -> None:
        nonlocal changed
        started = time.perf_counter()
        while True:
            due = int((time.perf_counter() - started) * nodes / 100) + 1
            while changed < due:
                published.change(changed * 7919 % nodes)
                changed += 1
                if changed % 10 == 0:
                    await anyio.lowlevel.checkpoint()
            await anyio.sleep(0.005)

    gc.collect()
    gc.freeze()  # as after a restart; what has survived a full collection later is left out by gc_freeze.run
    with idle_loop() as idle:
        async with anyio.create_task_group() as tasks:
            for work in (gc_freeze.run, published.exposition.run, change):
                tasks.start_soon(work)
            tasks.start_soon(heartbeat, beat)
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                started = time.perf_counter()
                body = await published.exposition.scrape(gzip=True)
                for _ in body.chunks:
                    await anyio.lowlevel.checkpoint()
                waits.append(time.perf_counter() - started)
                await anyio.sleep(max(0.0, _EVERY - waits[-1]))
            tasks.cancel_scope.cancel()
    p99 = sorted(waits)[int(len(waits) * 0.99)]
    if changed < nodes / 100 * (seconds - 1):
        raise SystemExit(f"only {changed:,} nodes were changed in {seconds:g} s")
    what = f"{nodes * GPUS:,} GPUs while 1 % of the nodes change each second"
    return [
        Row(f"scrape p99, {what}", duration(p99), duration(theirs), times(theirs / p99)),
        Row(
            f"longest turn of the event loop on the processor, {what}",
            duration(beat.busy),
            f"{duration(idle.busy)} (an idle loop)",
            "",
            "≤ 20 ms",
        ),
        Row(
            f"longest wait of the event loop, {what}",
            duration(beat.late),
            f"{duration(idle.late)} (an idle loop)",
            "",
        ),
    ]


class _Families(Collector):
    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> list[GaugeMetricFamily]:
        return self._families


def same_series(published: Published) -> CollectorRegistry:
    """Give prometheus-client the same samples, ready made: only writing and compressing them is measured."""
    families = [GaugeMetricFamily(family.name, family.help, labels=family.labels) for family in NODE_FAMILIES]
    # The fleet has no virtual GPUs, and all of them are healthy and report everything.
    gpus, info, counts, read, *_empty = families
    for cluster in published.inventory.clusters():
        for name, entry in published.inventory.nodes(cluster).items():
            node = entry.node
            for gpu in entry.gpus:
                gpus.add_metric(
                    [cluster, name, gpu.serial or "", gpu.uuid or "", gpu.model or "", gpu.chassis or ""], 1
                )
            versions = [entry.driver_version or "", entry.cuda_version or ""]
            info.add_metric([cluster, name, node.machine, node.provider_id, entry.chassis, *versions], 1)
            for state, count in (
                ("found", entry.found),
                ("capacity", node.capacity),
                ("allocatable", node.allocatable),
            ):
                counts.add_metric([cluster, name, state], count or 0)
            read.add_metric([cluster, name], entry.time or 0.0)
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return registry


def _assert_same(body: bytes, text: bytes) -> None:
    """Prove of a small fleet that both say the same, and of a large one that they say as much."""

    def lines(answer: bytes) -> list[bytes]:
        return [line for line in answer.splitlines() if line.startswith((b"gpuid_gpu_info", b"gpuid_node_"))]

    ours, theirs = lines(gzip.decompress(body)), lines(text)
    same = len(ours) == len(theirs)
    if same and len(ours) < 20_000:
        same = _samples(ours) == _samples(theirs)
    if not same:
        raise SystemExit(f"the answers differ: {len(ours):,} and {len(theirs):,} samples")


def _samples(lines: list[bytes]) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    text = b"\n".join(lines).decode() + "\n"
    return {
        (sample.name, frozenset(sample.labels.items()), round(sample.value, 3))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
