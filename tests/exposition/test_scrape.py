"""How a scrape is put together: what is kept, what is rendered when, and what lets other tasks run."""

import itertools
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from collector.exposition import exposition
from collector.exposition.exposition import CLASSIC, OPENMETRICS, Exposition
from collector.exposition.shards import ClusterText, ClusterTextStore
from collector.marks import Mark, MarkedGpu, MarkKind, Marks
from collector.model import Gpu, Place
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Count how often other tasks get a turn."""
    taken: list[None] = []

    async def checkpoint() -> None:
        taken.append(None)

    monkeypatch.setattr(anyio.lowlevel, "checkpoint", checkpoint)
    return taken


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the clusters of each text of nodes that is put together."""
    counted: list[int] = []
    of = exposition._NodesText.of

    def count(clusters: Sequence[ClusterText]) -> exposition._NodesText:
        counted.append(len(clusters))
        return of(clusters)

    monkeypatch.setattr(exposition._NodesText, "of", count)
    return counted


def add_marks(bench: Any, *uuids: str) -> None:
    """Mark GPUs."""
    marks = Marks([Mark(uuid=uuid, kind=MarkKind.RMA, set_at=1.0, set_by="ops") for uuid in uuids])
    bench.exposition.marks.register(
        marks, lambda _now: [MarkedGpu("", uuid, mark) for uuid, mark in zip(uuids, marks, strict=True)]
    )


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("gzip", [False, True])
async def test_the_answer_says_its_format_and_its_length(bench: Any, openmetrics: bool, gzip: bool) -> None:
    bench.read("prod", "n1", Gpu(uuid="GPU-a"))
    add_marks(bench, "GPU-a")
    for body in (
        await bench.exposition.scrape(openmetrics=openmetrics, gzip=gzip),
        await bench.exposition.scrape_collector(openmetrics=openmetrics, gzip=gzip),
    ):
        assert body.content_type == (OPENMETRICS if openmetrics else CLASSIC)
        assert body.encoding == ("gzip" if gzip else "identity")
        assert len(b"".join(body.chunks)) == body.length
    text = await bench.text(openmetrics=openmetrics)
    assert text.endswith("# EOF\n") is openmetrics
    assert text.count("# EOF\n") == openmetrics


async def test_the_answer_is_plain_and_classic_unless_asked_otherwise(bench: Any) -> None:
    for body in (await bench.exposition.scrape(), await bench.exposition.scrape_collector()):
        assert (body.content_type, body.encoding) == (CLASSIC, "identity")


async def test_marks_are_part_of_the_whole_and_of_the_collectors_share(bench: Any) -> None:
    bench.metrics.add_cluster("prod")
    bench.read("prod", "n1", Gpu(uuid="GPU-a"))
    add_marks(bench, "GPU-a")
    line = 'gpuid_gpu_mark_info{serial="",uuid="GPU-a",mark="rma",ticket=""} 1\n'
    assert line in await bench.text()
    assert line in b"".join((await bench.exposition.scrape_collector()).chunks).decode()
    assert "mark" not in await bench.text(clusters=["prod"])


async def test_a_cluster_that_is_not_rendered_is_only_counted(bench: Any) -> None:
    bench.exposition.renders = lambda cluster: cluster == "prod"
    for cluster in ("other", "prod"):
        bench.metrics.add_cluster(cluster)
        bench.read(cluster, "n1", Gpu(uuid=f"GPU-{cluster}", model="H100"))
    text = await bench.text()
    assert "GPU-prod" in text
    assert "GPU-other" not in text
    assert 'gpuid_gpus{cluster="other",model="H100"' in text
    bench.read("other", "n2")
    await bench.exposition.refresh()
    assert bench.exposition._behind_since is None


async def test_a_scrape_counts_the_time_that_it_takes(bench: Any) -> None:
    before = time.perf_counter()
    await bench.text()
    took = time.perf_counter() - before
    (line,) = (one for one in (await bench.text()).splitlines() if one.startswith("gpuid_scrape_duration_seconds_sum"))
    assert 0.0 <= float(line.split()[1]) <= took


class TestKeptTexts:
    async def test_the_whole_and_each_cluster_are_joined_again_after_a_change(
        self, bench: Any, joined: list[int]
    ) -> None:
        async def scrape() -> list[int]:
            joined.clear()
            for clusters in (None, ["a"], ["b"]):
                await bench.exposition.scrape(clusters=clusters)
            return joined

        for cluster in ("a", "b"):
            bench.read(cluster, "n1")
        assert await scrape() == [2, 1, 1]
        assert await scrape() == []
        bench.read("a", "n1", Gpu(uuid="GPU-a"))
        assert await scrape() == [2, 1]
        assert "GPU-a" in await bench.text(clusters=["a"])
        assert "GPU-a" in await bench.text()

    async def test_that_of_several_is_not_kept(self, bench: Any, joined: list[int]) -> None:
        for cluster in ("a", "b", "c"):
            bench.read(cluster, "n1")
        for _ in range(2):
            await bench.exposition.scrape(clusters=["b", "a", "gone"])
        assert joined == [2, 2]

    async def test_a_cluster_without_nodes_has_none(self, bench: Any) -> None:
        bench.metrics.add_cluster("a")
        assert "gpuid_node_info" not in await bench.text(clusters=["a"])


class TestTurns:
    """Work that a large fleet makes long is done in slices, between which other tasks run."""

    async def test_nodes_are_rendered_for_five_milliseconds(
        self, bench: Any, turns: list[None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = itertools.count(0.0, 0.002)
        fake = SimpleNamespace(perf_counter=lambda: next(clock), monotonic=time.monotonic)
        monkeypatch.setattr(exposition, "time", fake)
        for number in range(5):
            bench.read("prod", f"n{number}")
        await bench.exposition.refresh()
        assert len(turns) == 3  # two nodes in a slice

    async def test_the_series_of_a_few_clusters_are_collected_at_once(
        self, bench: Any, turns: list[None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exposition, "_LOOKED_AT_ONCE", 2)
        await bench.exposition.refresh()
        for number in range(5):
            bench.metrics.add_cluster(f"c{number}")
        turns.clear()
        await bench.exposition.scrape()
        assert len(turns) == 2


class TestCompressing:
    """It is done in a thread, here only once all tasks wait for it."""

    @pytest.fixture
    def seen(self, bench: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        """How many clusters are being compressed, and how many nodes are rendered, at each time."""
        found: list[tuple[int, int]] = []
        running: list[ClusterTextStore] = []
        refreshed = ClusterTextStore.refreshed

        def refresh(store: ClusterTextStore) -> ClusterText:
            running.append(store)
            if len(running) == 1:
                anyio.from_thread.run(anyio.wait_all_tasks_blocked)
            found.append((len(running), sum(len(one._by_node) for one in bench.exposition._stores.values())))
            running.remove(store)
            return refreshed(store)

        monkeypatch.setattr(ClusterTextStore, "refreshed", refresh)
        return found

    async def test_meanwhile_another_cluster_is_rendered(self, bench: Any, seen: list[tuple[int, int]]) -> None:
        for cluster in ("a", "b"):
            bench.read(cluster, "n1")
        await bench.exposition.refresh()
        assert seen == [(1, 2), (1, 2)]

    async def test_a_large_cluster_is_compressed_in_parts(
        self, bench: Any, seen: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = itertools.count(0.0, 0.002)
        fake = SimpleNamespace(perf_counter=lambda: next(clock), monotonic=time.monotonic)
        monkeypatch.setattr(exposition, "time", fake)
        monkeypatch.setattr(exposition, "_MAX_UNCOMPRESSED_NODES", 4)
        for number in range(7):
            bench.read("prod", f"n{number}")
        await bench.exposition.refresh()
        assert seen == [(1, 4), (1, 7)]
        assert (await bench.text()).count("gpuid_node_info{") == 7


class TestInTheBackground:
    @pytest.mark.parametrize("running", [False, True])
    async def test_the_first_scrape_or_one_without_a_background_waits_for_all_nodes(
        self, bench: Any, running: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exposition, "_MAX_REFRESH_SECONDS", 0.0)
        found: list[str] = []

        async def scrape() -> None:
            found.append(await bench.text())

        async with anyio.create_task_group() as tasks:
            if running:
                tasks.start_soon(bench.exposition.run)
            else:
                await bench.exposition.refresh()
            async with bench.exposition._lock:  # as a refresh that gets no turn
                bench.read("prod", "n1", Gpu(uuid="GPU-late"))
                tasks.start_soon(scrape)
                await anyio.wait_all_tasks_blocked()
            await eventually(lambda: found)
            tasks.cancel_scope.cancel()
        assert "GPU-late" in found[0]

    async def test_what_is_withdrawn_is_removed(self, bench: Any) -> None:
        bench.read("prod", "n1")
        await bench.exposition.refresh()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.exposition.run)
            await anyio.wait_all_tasks_blocked()
            bench.exposition.withdraw("prod", ["n1"])
            await eventually(lambda: list(bench.exposition._snapshot), [])
            tasks.cancel_scope.cancel()
        assert not bench.exposition._stores

    @pytest.mark.parametrize("nothing", [lambda one: one.update({}), lambda one: one.withdraw("prod", [])])
    async def test_no_change_causes_no_refresh(self, bench: Any, nothing: Callable[[Exposition], None]) -> None:
        await bench.exposition.refresh()
        nothing(bench.exposition)
        assert not bench.exposition._changed.is_set()
        assert bench.exposition._behind_since is None

    async def test_a_node_that_goes_before_it_was_rendered_leaves_nothing(self, bench: Any) -> None:
        bench.exposition.update({Place("prod", "n1"): None})
        assert "prod" not in await bench.text()
        assert not bench.exposition._stores


async def test_scrapes_are_counted_by_how_they_are_encoded(bench: Any) -> None:
    for gzip in (True, True, False):
        body = await bench.exposition.scrape(gzip=gzip)
    lines = (await bench.text()).splitlines()
    assert 'gpuid_scrape_body_bytes_count{encoding="gzip"} 2.0' in lines
    assert 'gpuid_scrape_body_bytes_count{encoding="identity"} 1.0' in lines
    assert f'gpuid_scrape_body_bytes_sum{{encoding="identity"}} {float(body.length)}' in lines
    assert "gpuid_scrape_duration_seconds_count 3.0" in lines


async def test_a_mark_by_serial_gets_the_uuid_once_the_gpu_is_known(bench: Any) -> None:
    mark = Mark(serial="S1", kind=MarkKind.RMA, set_at=1764000000.0, set_by="ann")

    def marked(_now: float) -> list[MarkedGpu]:
        return [MarkedGpu("S1", "GPU-1" if bench.inventory.find(serial="S1") else "", mark)]

    bench.exposition.marks.register(Marks([mark]), marked)
    assert 'gpuid_gpu_mark_info{serial="S1",uuid="",mark="rma",ticket=""} 1' in await bench.text()
    bench.read("prod", "n1", Gpu(uuid="GPU-1", serial="S1"))
    assert 'gpuid_gpu_mark_info{serial="S1",uuid="GPU-1",mark="rma",ticket=""} 1' in await bench.text()
