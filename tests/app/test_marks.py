"""A running collector knows the marks in the store soon after they change."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from collector.app.marks import MarkFollower
from collector.exposition import mark_series
from collector.exposition.mark_series import MarkSeries
from collector.exposition.shards import compressed, inflated
from collector.inventory import Inventory
from collector.marks import Mark, MarkedGpu, MarkKind, Marks, NewMark
from collector.model import Fingerprint, Gpu, NodeInfo, Place, Reading
from collector.store import OpenMode, Store, StoreSettings
from collector.store.errors import DamagedStoreError, UnavailableStoreError
from collector.views.marks import marked_gpus
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

RMA = NewMark(kind=MarkKind.RMA)


@pytest.fixture
def settings(tmp_path: Path) -> StoreSettings:
    return StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")


async def test_marks_from_another_process_are_seen_soon(settings):
    marks = Marks()
    async with (
        Store.open(settings) as store,
        Store.open(settings, OpenMode.OPERATOR) as command,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(MarkFollower(store, marks, poll_seconds=0.01).run)
        await command.marks.set(["GPU-1", "S2"], RMA, by="ops")
        await eventually(lambda: len(list(marks)) == 2)
        assert marks.of("GPU-1", None, 0.0) is not None
        assert marks.of("GPU-9", "S2", 0.0) is not None
        await command.marks.remove(["GPU-1"], by="ops")
        await eventually(lambda: marks.of("GPU-1", None, 0.0) is None)
        tasks.cancel_scope.cancel()


async def test_marks_are_read_only_when_they_have_changed(settings, monkeypatch):
    async with Store.open(settings) as store:
        follower = MarkFollower(store, Marks())
        await store.marks.set(["GPU-1"], RMA, by="ops")
        await follower.refresh()
        monkeypatch.setattr(store.marks, "in_force", None)  # nobody may call it
        await follower.refresh()


async def test_a_failing_store_keeps_the_known_marks(settings):
    marks = Marks()
    async with Store.open(settings) as store:
        follower = MarkFollower(store, marks)
        await store.marks.set(["GPU-1"], RMA, by="ops")
        await follower.refresh()
        store.database.trouble = UnavailableStoreError("store: the disk is full")
        await follower.try_refresh()
        assert store.health.status.message == "store: the disk is full"
        assert marks.of("GPU-1", None, 0.0) is not None
        store.database.trouble = None
        await follower.try_refresh()
        assert store.health.status.up


async def test_a_store_replacing_a_damaged_one_gets_the_marks(settings):
    marks = Marks()
    async with Store.open(settings) as store:
        follower = MarkFollower(store, marks)
        await store.marks.set(["GPU-1"], RMA, by="ops")
        await follower.refresh()
        store.database.trouble = DamagedStoreError("store: the file is damaged")
        await store.database.recover()
        await store.marks.set(["GPU-2"], RMA, by="ann")  # before the collector looks again
        await follower.refresh()
        assert sorted(mark.set_by for mark in await store.marks.page()) == ["ann", "ops"]
        assert marks.of("GPU-1", None, 0.0) is not None


async def test_a_mark_expires_without_a_write(settings):
    marks = Marks()
    async with Store.open(settings, clock=lambda: 1000.0) as store:
        await store.marks.set(["GPU-1"], NewMark(kind=MarkKind.WATCH, until=2000.0), by="ops")
        await MarkFollower(store, marks).refresh()
    assert marks.of("GPU-1", None, 1999.0) is not None
    assert marks.of("GPU-1", None, 2000.0) is None
    assert marks.all(2000.0) == []


class Published:
    """The series of some marks, and how often their GPUs were looked up."""

    def __init__(self, inventory: Inventory, marks: Marks) -> None:
        self.now = 100.0
        self.looks = 0
        self.series = MarkSeries()
        self._inventory, self._marks = inventory, marks
        self.series.register(marks, self._look, lambda: self.now)

    def _look(self, now: float) -> Iterator[MarkedGpu]:
        self.looks += 1
        return marked_gpus(self._inventory, self._marks, now)

    async def lines(self) -> list[str]:
        text = b"".join(inflated(await self.series.text())).decode()
        return [line for line in text.splitlines() if not line.startswith("#")]


class TestTheMetric:
    async def test_each_marked_gpu_has_one_series_with_its_details(self):
        inventory = Inventory()
        inventory.apply(reading("n1", Gpu(uuid="GPU-1", serial="S1"), Gpu(uuid="GPU-2", serial="S2")))
        inventory.apply(reading("n2", Gpu(uuid="GPU-3", serial="S3")))
        inventory.remove_node(Place("prod", "n2"), 20.0)
        marks = Marks(
            [
                mark(uuid="GPU-1", kind=MarkKind.WATCH),
                mark(serial="S1", kind=MarkKind.RMA),  # of the same GPU, from before it was known
                mark(serial="S2", ticket='https://tickets/1?a="b"'),
                mark(uuid="GPU-3"),  # absent
                mark(serial="S9"),  # never seen
                mark(uuid="GPU-9"),
            ]
        )
        assert await Published(inventory, marks).lines() == [
            'gpuid_gpu_mark_info{serial="S1",uuid="GPU-1",mark="watch",ticket=""} 1',
            'gpuid_gpu_mark_info{serial="S3",uuid="GPU-3",mark="rma",ticket=""} 1',
            'gpuid_gpu_mark_info{serial="",uuid="GPU-9",mark="rma",ticket=""} 1',
            'gpuid_gpu_mark_info{serial="S2",uuid="GPU-2",mark="rma",ticket="https://tickets/1?a=\\"b\\""} 1',
            'gpuid_gpu_mark_info{serial="S9",uuid="",mark="rma",ticket=""} 1',
        ]

    async def test_the_series_ends_with_the_mark(self):
        published = Published(Inventory(), Marks([mark(uuid="GPU-1", until=150.0)]))
        assert len(await published.lines()) == 1
        published.now = 150.0
        assert await published.lines() == []
        published.now = 149.0  # the clock was set back
        assert len(await published.lines()) == 1

    async def test_without_marks_there_is_no_family(self):
        assert await Published(Inventory(), Marks()).series.text() == compressed(b"")

    async def test_a_scrape_looks_up_nothing_until_a_mark_changes(self):
        inventory, marks = Inventory(), Marks([mark(uuid="GPU-1", serial="S1")])
        published = Published(inventory, marks)
        for _ in range(3):
            await published.lines()
            published.series.inventory_changed()
        assert published.looks == 1
        marks.replace([mark(uuid="GPU-2", serial="S2")])
        assert await published.lines() == ['gpuid_gpu_mark_info{serial="S2",uuid="GPU-2",mark="rma",ticket=""} 1']

    async def test_a_mark_by_serial_follows_the_inventory(self):
        inventory = Inventory()
        published = Published(inventory, Marks([mark(serial="S1")]))
        assert await published.lines() == ['gpuid_gpu_mark_info{serial="S1",uuid="",mark="rma",ticket=""} 1']
        inventory.apply(reading("n1", Gpu(uuid="GPU-1", serial="S1")))
        published.series.inventory_changed()
        assert await published.lines() == ['gpuid_gpu_mark_info{serial="S1",uuid="GPU-1",mark="rma",ticket=""} 1']
        before = await published.series.text()
        published.series.inventory_changed()
        assert await published.series.text() is before  # what has not changed is not rendered again

    async def test_looking_up_many_gpus_lets_other_tasks_run(self, monkeypatch):
        """Every 100 GPUs the clock is read, here 4 ms later each time; after 5 ms it is another task's turn."""
        turns: list[None] = []

        async def checkpoint() -> None:
            turns.append(None)

        published = Published(Inventory(), Marks(mark(uuid=f"GPU-{number}") for number in range(300)))
        clock = itertools.count(0.0, 0.004)
        monkeypatch.setattr(mark_series, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
        monkeypatch.setattr(anyio.lowlevel, "checkpoint", checkpoint)
        assert len(await published.lines()) == 300
        assert turns == [None]


def mark(*, kind: MarkKind = MarkKind.RMA, **fields: Any) -> Mark:
    return Mark(kind=kind, set_at=1.0, set_by="ops", **fields)


def reading(node: str, *gpus: Gpu) -> Reading:
    print_ = Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8)
    return Reading(
        cluster="prod",
        node=NodeInfo(name=node),
        source="s",
        fingerprint=print_,
        time=10.0,
        driver_version="580.1",
        cuda_version="13.0",
        gpus=gpus,
    )
