"""Marks in the store: one in force for each GPU, what a name means, and all that ever was; on both engines."""

import functools

import anyio
import pytest
from sqlalchemy import text, update

from collector.marks import Mark, MarkKind, Marks, NewMark
from collector.model import Gpu
from collector.store import KnownGpu, OpenMode, RefusedMarkError, Store, StoreError, schema
from collector.store.mark_book import Book, KnownGpus
from collector.store.retention import prune

pytestmark = pytest.mark.anyio

RMA = NewMark(kind=MarkKind.RMA, note="row remap failure", ticket="https://tickets/1")
WATCH = NewMark(kind=MarkKind.WATCH)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def collector(settings, collecting, clock):
    """GPU-1 on a, and GPU-2 and GPU-3 of one board on b."""
    async with collecting(settings, clock=clock) as one:
        one.read("a", 10.0, "1")
        board = [f"GPU-{number}" for number in "23"]
        one.read("b", 10.0, *(gpu(uuid, "board") for uuid in board))
        assert await one.store.history_writer.flushed(10)
        yield one


def gpu(uuid, serial):
    return Gpu(uuid=uuid, serial=serial, model="NVIDIA GB200", chassis="chassis-1")


async def in_force(store) -> list[Mark]:
    return (await store.marks.in_force())[1]


class TestSetting:
    async def test_a_serial_marks_the_gpu_that_has_it(self, collector):
        (done,) = await collector.store.marks.set(["serial-1"], RMA, by="ops")
        assert (done.name, done.seen, done.former) == ("serial-1", True, None)
        (mark,) = await in_force(collector.store)
        assert (mark.uuid, mark.serial, mark.kind, mark.note) == ("GPU-1", "serial-1", MarkKind.RMA, RMA.note)
        assert (mark.set_at, mark.set_by, mark.ticket) == (1000.0, "ops", RMA.ticket)

    async def test_the_answer_has_the_id_of_the_row(self, collector):
        done = await collector.store.marks.set(["GPU-2", "GPU-3"], RMA, by="ops")
        assert {one.mark.uuid: one.mark.id for one in done} == {
            mark.uuid: mark.id for mark in await in_force(collector.store)
        }

    async def test_a_uuid_in_either_case_marks_it_too(self, collector):
        await collector.store.marks.set(["gpu-1"], RMA, by="ops")
        (mark,) = await in_force(collector.store)
        assert (mark.uuid, mark.serial) == ("GPU-1", "serial-1")

    async def test_a_gpu_seen_long_ago_is_known(self, collector):
        collector.read("a", 20.0)
        assert await collector.store.history_writer.flushed(10)
        (done,) = await collector.store.marks.set(["serial-1"], RMA, by="ops")
        assert done.seen
        assert done.mark.uuid == "GPU-1"

    async def test_a_gpu_that_only_the_inventory_knows_is_known(self, collector):
        (done,) = await collector.store.marks.set(["S9"], RMA, by="ops", known=[KnownGpu("GPU-9", "S9")])
        assert (done.seen, done.mark.uuid, done.mark.serial) == (True, "GPU-9", "S9")

    @pytest.mark.parametrize(("name", "uuid", "serial"), [("S9", None, "S9"), ("gpu-9F", "GPU-9f", None)])
    async def test_an_unknown_gpu_is_marked_by_its_name(self, collector, name, uuid, serial):
        (done,) = await collector.store.marks.set([name], RMA, by="ops")
        assert (done.seen, done.mark.uuid, done.mark.serial) == (False, uuid, serial)

    async def test_a_new_mark_ends_the_previous_one(self, collector, clock):
        await collector.store.marks.set(["serial-1"], RMA, by="ops")
        clock.time = 2000.0
        (done,) = await collector.store.marks.set(["GPU-1"], WATCH, by="dev")
        assert done.former.kind is MarkKind.RMA
        assert [mark.kind for mark in await in_force(collector.store)] == [MarkKind.WATCH]
        ended = (await collector.store.marks.of_gpu("GPU-1", "serial-1"))[1]
        assert (ended.kind, ended.removed_at, ended.removed_by) == (MarkKind.RMA, 2000.0, "dev")

    async def test_the_same_mark_again_changes_nothing(self, collector):
        await collector.store.marks.set(["serial-1"], RMA, by="ops")
        version = await collector.store.marks.version()
        (done,) = await collector.store.marks.set(["GPU-1"], RMA, by="dev")
        assert done.unchanged
        assert await collector.store.marks.version() == version

    async def test_a_gpu_named_twice_gets_one_mark(self, collector):
        await collector.store.marks.set(["serial-1", "GPU-1"], RMA, by="ops")
        assert len(await collector.store.marks.page(ended=True)) == 1

    async def test_a_mark_of_an_unknown_serial_ends_when_its_gpu_is_marked(self, collector):
        await collector.store.marks.set(["serial-7"], RMA, by="ops")
        collector.read("c", 20.0, "7")
        assert await collector.store.history_writer.flushed(10)
        (done,) = await collector.store.marks.set(["GPU-7"], WATCH, by="ops")
        assert done.former.uuid is None
        assert [mark.uuid for mark in await in_force(collector.store)] == ["GPU-7"]

    async def test_an_expired_mark_keeps_its_end(self, collector, clock):
        await collector.store.marks.set(["GPU-1"], NewMark(kind=MarkKind.WATCH, until=1500.0), by="ops")
        clock.time = 2000.0
        (done,) = await collector.store.marks.set(["GPU-1"], RMA, by="ops")
        assert done.former is None
        ended = (await collector.store.marks.of_gpu("GPU-1", None))[1]
        assert (ended.removed_at, ended.removed_by) == (1500.0, None)


class TestRefusing:
    async def test_a_serial_of_two_gpus_asks_for_the_uuid(self, collector):
        with pytest.raises(RefusedMarkError) as raised:
            await collector.store.marks.set(["serial-1", "board"], RMA, by="ops")
        assert str(raised.value) == "board: 2 GPUs have this serial (GPU-2, GPU-3); use the UUID"
        assert await in_force(collector.store) == []

    async def test_the_serial_of_a_chassis_matches_no_gpu(self, collector):
        with pytest.raises(RefusedMarkError, match="chassis-1: this is the serial of a chassis"):
            await collector.store.marks.set(["chassis-1"], RMA, by="ops")

    def test_more_marks_than_the_limit_are_refused(self):
        book = Book([], KnownGpus(), 0.0, "ops", most=2)
        for name in ("1", "2", "3"):
            book.mark(name, RMA)
        with pytest.raises(RefusedMarkError, match="3 GPUs would be marked, and at most 2 can be"):
            book.check()

    def test_an_ended_mark_makes_room_for_another(self):
        old = Mark(id=1, uuid="GPU-1", kind=MarkKind.RMA, set_at=0.0, set_by="ops", until=5.0)
        book = Book([old], KnownGpus(), 10.0, "ops", most=1)
        book.mark("2", RMA)
        book.check()


class TestRemoving:
    async def test_a_mark_is_removed_by_either_name(self, collector, clock):
        for name in ("serial-1", "gpu-1"):
            await collector.store.marks.set(["GPU-1"], RMA, by="ops")
            clock.time += 100.0
            (done,) = await collector.store.marks.remove([name], by="dev")
            assert done.mark.kind is MarkKind.RMA
            assert await in_force(collector.store) == []
            ended = (await collector.store.marks.page(ended=True))[0]
            assert (ended.removed_at, ended.removed_by) == (clock.time, "dev")

    async def test_the_answer_says_when_and_by_whom_it_ended(self, collector, clock):
        await collector.store.marks.set(["GPU-1"], RMA, by="ops")
        clock.time = 2000.0
        (done,) = await collector.store.marks.remove(["GPU-1"], by="ann")
        assert done.mark is not None
        assert (done.mark.removed_at, done.mark.removed_by) == (2000.0, "ann")

    async def test_a_mark_of_a_serial_of_several_gpus_is_removed_by_the_serial_alone(self, collector):
        store = collector.store.marks
        await store.set(["board-9"], RMA, by="ops")  # before any of its GPUs was seen
        collector.read("c", 20.0, gpu("GPU-8", "board-9"), gpu("GPU-9", "board-9"))
        assert await collector.store.history_writer.flushed(10)
        with pytest.raises(RefusedMarkError, match="marked by its serial board-9, as every GPU with it is"):
            await store.remove(["GPU-8"], by="ops")
        await store.set(["GPU-8"], WATCH, by="ops")
        (done,) = await store.remove(["GPU-8"], by="ops")
        assert done.mark is not None
        assert done.still is not None
        assert (done.mark.kind, done.still.kind, done.still.serial) == (MarkKind.WATCH, MarkKind.RMA, "board-9")
        (done,) = await store.remove(["board-9"], by="ops")
        assert done.mark is not None
        assert await in_force(collector.store) == []

    async def test_a_serial_mark_under_a_uuid_mark_is_kept(self, collector):
        store = collector.store.marks
        await store.set(["GPU-9"], WATCH, by="ops")  # before it was seen
        await store.set(["serial-9"], RMA, by="ops")
        collector.read("c", 20.0, gpu("GPU-9", "serial-9"))
        assert await collector.store.history_writer.flushed(10)
        (done,) = await store.remove(["GPU-9"], by="ops")
        assert done.still is not None
        assert done.still.kind is MarkKind.RMA
        (done,) = await store.remove(["GPU-9"], by="ops")
        assert done.still is None
        assert await in_force(collector.store) == []

    async def test_unmarked_gpus_do_not_stop_the_removal(self, collector):
        await collector.store.marks.set(["GPU-1"], RMA, by="ops")
        done = await collector.store.marks.remove(["GPU-2", "serial-1"], by="dev")
        assert [(one.name, one.mark is None) for one in done] == [("GPU-2", True), ("serial-1", False)]

    async def test_an_expired_mark_is_not_a_mark(self, collector, clock):
        await collector.store.marks.set(["GPU-1"], NewMark(kind=MarkKind.WATCH, until=1500.0), by="ops")
        clock.time = 2000.0
        (done,) = await collector.store.marks.remove(["GPU-1"], by="dev")
        assert done.mark is None

    async def test_two_marked_gpus_of_one_serial_ask_for_the_uuid(self, collector):
        await collector.store.marks.set(["GPU-2", "GPU-3"], RMA, by="ops")
        with pytest.raises(RefusedMarkError, match=r"2 marked GPUs have this serial \(GPU-2, GPU-3\); use the UUID"):
            await collector.store.marks.remove(["board"], by="ops")
        await collector.store.marks.remove(["GPU-2"], by="ops")
        assert [mark.uuid for mark in await in_force(collector.store)] == ["GPU-3"]

    async def test_a_serial_that_was_marked_before_it_was_known_is_unmarked_by_the_uuid(self, collector):
        await collector.store.marks.set(["serial-7"], RMA, by="ops")
        collector.read("c", 20.0, "7")
        assert await collector.store.history_writer.flushed(10)
        (done,) = await collector.store.marks.remove(["GPU-7"], by="ops")
        assert done.mark.serial == "serial-7"
        assert await in_force(collector.store) == []

    async def test_a_uuid_that_was_marked_before_it_was_known_is_unmarked_by_the_serial(self, collector):
        await collector.store.marks.set(["GPU-7"], RMA, by="ops")
        collector.read("c", 20.0, "7")
        assert await collector.store.history_writer.flushed(10)
        (done,) = await collector.store.marks.remove(["serial-7"], by="ops")
        assert done.mark.uuid == "GPU-7"


class TestReading:
    async def test_pages_are_newest_first(self, collector, clock):
        for kind in (MarkKind.WATCH, MarkKind.QUARANTINE, MarkKind.RMA):
            clock.time += 1.0
            await collector.store.marks.set(["GPU-1"], NewMark(kind=kind), by="ops")
        first = await collector.store.marks.of_gpu("GPU-1", None, limit=2)
        rest = await collector.store.marks.of_gpu("GPU-1", None, before=first[-1].id, limit=2)
        assert [mark.kind for mark in (*first, *rest)] == ["rma", "quarantine", "watch"]
        assert [mark.kind for mark in await collector.store.marks.page()] == ["rma"]
        assert len(await collector.store.marks.page(ended=True, gpu="serial-1")) == 3
        assert await collector.store.marks.page(gpu="serial-2") == []

    async def test_a_gpus_marks_include_those_by_its_serial_before_it_was_known(self, collector):
        await collector.store.marks.set(["serial-7"], RMA, by="ops")
        assert [mark.serial for mark in await collector.store.marks.of_gpu("GPU-7", "serial-7")] == ["serial-7"]

    async def test_the_version_changes_with_every_write(self, collector):
        marks = collector.store.marks
        versions = [await marks.version()]
        await marks.set(["GPU-1"], RMA, by="ops")
        versions.append(await marks.version())
        await marks.remove(["GPU-1"], by="ops")
        versions.append(await marks.version())
        assert versions[0] == ""
        assert len(set(versions)) == 3

    async def test_a_damaged_kind_is_still_a_mark_that_can_be_removed(self, collector):
        await collector.store.marks.set(["GPU-1"], RMA, by="ops")
        async with collector.store.database.write() as connection:
            await connection.execute(update(schema.marks).values(kind="???"))
        assert [mark.kind for mark in await in_force(collector.store)] == [MarkKind.WATCH]
        assert (await collector.store.marks.remove(["GPU-1"], by="ops"))[0].mark is not None

    async def test_a_mark_whose_expiry_is_damaged_does_not_expire_and_can_be_removed(self, collector):
        await collector.store.marks.set(["GPU-1"], RMA, by="ops")
        await damage_expiry(collector.store, 1e300)
        assert [mark.until for mark in await in_force(collector.store)] == [None]
        assert (await collector.store.marks.remove(["GPU-1"], by="ops"))[0].mark is not None
        assert await in_force(collector.store) == []

    async def test_a_mark_that_expired_before_1970_has_expired(self, collector):
        await collector.store.marks.set(["GPU-1"], RMA, by="ops")
        await damage_expiry(collector.store, -5.0)
        assert await in_force(collector.store) == []
        (mark,) = await collector.store.marks.page(ended=True)
        assert not mark.in_force(1.0)


async def damage_expiry(store, until):
    async with store.database.write() as connection:
        await connection.execute(update(schema.marks).values(until=until))


class TestTogether:
    async def test_a_command_writes_while_a_collector_runs(self, collector, settings):
        async with Store.open(settings, OpenMode.OPERATOR) as command:
            await command.marks.set(["GPU-1"], RMA, by="ops")
        assert [mark.uuid for mark in await in_force(collector.store)] == ["GPU-1"]

    async def test_concurrent_writers_leave_one_mark_in_force(self, collector, settings):
        async with Store.open(settings, OpenMode.OPERATOR) as one, Store.open(settings, OpenMode.OPERATOR) as other:
            stores = [collector.store, one, other]
            async with anyio.create_task_group() as tasks:
                for number in range(12):
                    new = NewMark(kind=MarkKind.RMA, note=str(number))
                    for name in ("S9", "GPU-1"):
                        tasks.start_soon(functools.partial(stores[number % 3].marks.set, [name], new, by="ops"))
        assert len(await in_force(collector.store)) == 2
        assert len(await collector.store.marks.page(ended=True)) == 24

    async def test_no_two_rows_can_be_in_force(self, collector):
        await collector.store.marks.set(["GPU-1", "S9"], RMA, by="ops")
        fields = "uuid, serial, kind, note, ticket, set_at, set_by"
        for which in ("uuid = 'GPU-1'", "serial = 'S9'"):
            copy = text(f"INSERT INTO gpuid_marks ({fields}) SELECT {fields} FROM gpuid_marks WHERE {which}")
            with pytest.raises(StoreError, match=r"(?i)unique"):
                async with collector.store.database.write() as connection:
                    await connection.execute(copy)


class TestRetention:
    async def test_only_ended_marks_are_forgotten(self, collector, clock):
        await collector.store.marks.set(["GPU-1"], NewMark(kind=MarkKind.RMA), by="ops")  # without an end
        await collector.store.marks.set(["GPU-2"], NewMark(kind=MarkKind.WATCH, until=5000.0), by="ops")
        await collector.store.marks.set(["GPU-3"], NewMark(kind=MarkKind.WATCH), by="ops")
        clock.time = 2000.0
        await collector.store.marks.remove(["GPU-3"], by="ops")

        async def left(before):
            await prune(collector.store.database, before)
            return sorted(mark.uuid for mark in await collector.store.marks.page(ended=True))

        assert await left(2000.0) == ["GPU-1", "GPU-2", "GPU-3"]
        assert await left(2001.0) == ["GPU-1", "GPU-2"]
        assert await left(1e9) == ["GPU-1"]


class TestReplacingADamagedStore:
    async def test_the_marks_are_written_once(self, collector):
        mark = Mark(id=7, uuid="GPU-1", kind=MarkKind.RMA, set_at=5.0, set_by="ops")
        await collector.store.marks.refill(Marks([mark]))
        await collector.store.marks.refill(Marks([mark]))
        (found,) = await in_force(collector.store)
        assert (found.uuid, found.set_at, found.set_by) == ("GPU-1", 5.0, "ops")
