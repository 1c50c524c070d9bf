"""Delivery from a real store: every record reaches its sink, in order and at least once, whatever the sink does."""

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from collector.config import Duration
from collector.config.sinks import SinkSettings, StdoutSettings
from collector.delivery.delivery import Delivery
from collector.end_deadline import EndDeadline
from collector.inventory import Inventory
from collector.model import Fingerprint, Gpu, NodeInfo, Reading, SinkRecord
from collector.sinks import Reason, RejectedError, UnavailableError
from collector.store import SinkBacklog, Store, StoreSettings
from tests.support.clock import Clock
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

NOW = 1_780_000_000.0


Wait = Callable[..., Awaitable[None]]


class RecordingSink:
    """Keeps the batches that `answer`, called with the attempt's number, gives no error for."""

    def __init__(self, answer: Callable[[int], Any] = lambda _number: None) -> None:
        self.tries: list[tuple[str, list[str]]] = []
        self.taken: list[list[str]] = []
        self.closed = False
        self.answer = answer

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        uuids = [record.uuid for record in records]
        self.tries.append((key, uuids))
        answer = self.answer(len(self.tries))
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            await answer
        self.taken.append(uuids)

    async def check(self) -> str:
        return ""

    async def aclose(self) -> None:
        self.closed = True


class Observer:
    def __init__(self) -> None:
        self.exported: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.failed: list[tuple[str, dict[str, int], str]] = []
        self.backlogs: dict[str, SinkBacklog] = {}

    def on_exported(self, sink, records) -> None:
        self.exported[sink].update(records)

    def on_export_failure(self, sink, records, reason, message="") -> None:
        self.failed.append((sink, dict(records), reason))

    def on_backlog(self, sink, backlog) -> None:
        self.backlogs[sink] = backlog


class Desk:
    """A store, its delivery, and a fleet to read."""

    def __init__(self, store: Store, sinks: dict[str, RecordingSink], wait: Wait | None) -> None:
        self.store = store
        self.sinks = sinks
        self.clock = Clock(NOW)
        self.observer = Observer()
        self.delivery = Delivery(
            store,
            self.observer,
            open_sink=lambda name, _settings: self.sinks[name],
            clock=self.clock,
            wait=wait or self.clock.wait,
            rng=random.Random(1),
            report_seconds=0.02,
        )
        self.inventory = Inventory()
        self.nodes = 0

    async def read(self, *gpus: str, time: float = NOW - 100, cluster: str = "prod") -> None:
        """Find GPUs in a node that was not there before, and wait until that is committed."""
        self.nodes += 1
        reading = Reading(
            cluster=cluster,
            node=NodeInfo(name=f"n{self.nodes}"),
            source="x/y",
            fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
            time=time,
            driver_version=None,
            cuda_version=None,
            gpus=tuple(Gpu(uuid=uuid, serial=uuid.lower()) for uuid in gpus),
        )
        self.store.history_writer.append(self.inventory.apply(reading))
        assert await self.store.history_writer.flushed(10)

    @contextlib.asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.delivery.run)
            yield
            tasks.cancel_scope.cancel()


@pytest.fixture
def store_settings(tmp_path: Path) -> StoreSettings:
    return StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")


@pytest.fixture
def at_desk(store_settings: StoreSettings):
    """Open the store, and deliver to one sink for each keyword, all with these settings."""

    @contextlib.asynccontextmanager
    async def at_desk(
        settings: SinkSettings | None = None,
        wait: Wait | None = None,
        end_scale: float = 10.0,
        **sinks: RecordingSink,
    ) -> AsyncIterator[Desk]:
        end = EndDeadline(scale=end_scale)
        async with Store.open(store_settings, end=end) as store, anyio.create_task_group() as tasks:
            tasks.start_soon(store.run)
            desk = Desk(store, sinks, wait)
            await desk.delivery.reconcile(dict.fromkeys(sinks, settings or StdoutSettings(batch_records=2)))
            yield desk
            tasks.cancel_scope.cancel()

    return at_desk


async def stand_still(_seconds: float, *events: anyio.Event) -> None:
    """Wait only for the last event, which is the end."""
    await events[-1].wait()


def down(seconds: float, clock: Callable[[], float]) -> Callable[[int], Exception | None]:
    """Answer as a sink that is out of reach for some time."""
    return lambda _number: UnavailableError("gone", Reason.CONNECTION) if clock() < NOW + seconds else None


class TestASinkThatTakesAll:
    async def test_gets_every_record_once_and_in_order(self, at_desk):
        sink = RecordingSink()
        async with at_desk(lake=sink) as desk, desk.delivering():
            await desk.read("GPU-1", "GPU-2", "GPU-3")
            await desk.read("GPU-4", cluster="lab")
            await eventually(lambda: sum(map(len, sink.taken)) == 4)
            assert [uuid for batch in sink.taken for uuid in batch] == ["GPU-1", "GPU-2", "GPU-3", "GPU-4"]
            await eventually(lambda: desk.observer.exported["lake"] == {"prod": 3, "lab": 1})
            assert all(len(batch) <= 2 for batch in sink.taken)
        assert sink.closed

    async def test_a_young_batch_waits_for_its_age(self, at_desk):
        sink = RecordingSink()
        settings = StdoutSettings(batch_records=100, batch_age=Duration(60))
        async with at_desk(settings, lake=sink) as desk, desk.delivering():
            await desk.read("GPU-1", time=NOW)
            await eventually(lambda: sink.taken)
            assert desk.clock.now >= NOW + 60

    async def test_the_backlog_is_reported(self, at_desk):
        async with at_desk(lake=RecordingSink(lambda _: UnavailableError("gone", Reason.CONNECTION))) as desk:
            await desk.read("GPU-1", "GPU-2", "GPU-3")
            async with desk.delivering():
                await eventually(lambda: desk.observer.backlogs)
                assert desk.observer.backlogs == {"lake": SinkBacklog(3, NOW - 100)}


class TestASinkThatIsDown:
    async def test_for_a_day_gets_everything_in_order_afterwards(self, at_desk):
        sink = RecordingSink()
        async with at_desk(lake=sink) as desk:
            sink.answer = down(86_400, desk.clock)
            async with desk.delivering():
                for number in range(5):
                    await desk.read(f"GPU-{number}")
                await eventually(lambda: sum(map(len, sink.taken)) == 5)
            assert [uuid for batch in sink.taken for uuid in batch] == [f"GPU-{number}" for number in range(5)]
            assert desk.observer.failed[0] == ("lake", {"prod": len(sink.tries[0][1])}, "connection")
            # Four or five tries in the first half minute, then one in about five minutes.
            assert 280 < len(desk.observer.failed) < 380
            assert await desk.store.outbox.backlog("lake") == SinkBacklog(0, None)

    async def test_every_attempt_has_the_same_key_and_records(self, at_desk):
        sink = RecordingSink(lambda number: UnavailableError("gone", Reason.TIMEOUT) if number < 5 else None)
        async with at_desk(lake=sink) as desk, desk.delivering():
            await desk.read("GPU-1", "GPU-2")
            await eventually(lambda: sink.taken)
            assert len(sink.tries) == 5
            assert len({(key, *uuids) for key, uuids in sink.tries}) == 1

    async def test_delays_grow_with_jitter_up_to_five_minutes(self, at_desk):
        sink = RecordingSink(lambda number: UnavailableError("gone", Reason.TIMEOUT) if number < 13 else None)
        async with at_desk(lake=sink) as desk:
            await desk.read("GPU-1", "GPU-2")
            async with desk.delivering():
                await eventually(lambda: sink.taken)
            for wait, steady in zip(desk.clock.waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300], strict=False):
                assert 0.8 * steady <= wait <= 1.2 * steady

    async def test_it_is_not_retried_before_the_time_it_named(self, at_desk):
        busy = UnavailableError("busy", Reason.THROTTLED, retry_after=1234.0)
        sink = RecordingSink(lambda number: busy if number == 1 else None)
        async with at_desk(lake=sink) as desk:
            await desk.read("GPU-1", "GPU-2")
            async with desk.delivering():
                await eventually(lambda: sink.taken)
            assert desk.clock.waits[0] == 1234.0
            assert desk.observer.failed == [("lake", {"prod": 2}, "throttled")]

    async def test_other_sinks_are_not_delayed(self, at_desk):
        async def never() -> None:
            await anyio.sleep_forever()

        stuck, well = RecordingSink(lambda _: never()), RecordingSink()
        async with at_desk(end_scale=0.02, stuck=stuck, well=well) as desk, desk.delivering():
            for number in range(3):
                await desk.read(f"GPU-{number}", f"GPU-{number}x")
            await eventually(lambda: len(well.taken) == 3)
            assert stuck.taken == []

    async def test_a_sink_that_fails_unexpectedly_is_retried(self, at_desk):
        sink = RecordingSink(lambda number: RuntimeError("bug") if number == 1 else None)
        async with at_desk(lake=sink) as desk, desk.delivering():
            await desk.read("GPU-1", "GPU-2")
            await eventually(lambda: sink.taken)
            assert desk.observer.failed == [("lake", {"prod": 2}, "internal")]


class TestAnOutboxThatCannotBeRead:
    @pytest.fixture
    def store_settings(self, tmp_path: Path) -> StoreSettings:
        return StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db", strict=True)  # else a lost table begins a new store

    async def rename(self, desk: Desk, old: str, new: str) -> None:
        async with desk.store.database.write() as connection:
            await connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    async def test_the_store_is_unhealthy_until_it_can_be_read(self, at_desk):
        async with at_desk(lake=RecordingSink()) as desk:
            await self.rename(desk, "gpuid_sinks", "lost")
            async with desk.delivering():
                await eventually(lambda: not desk.store.health.status.up)
                assert "no such table: gpuid_sinks" in desk.store.health.status.message
                await self.rename(desk, "lost", "gpuid_sinks")
                await eventually(lambda: desk.store.health.status.up)


class TestAStoreThatCannotBeWritten:
    async def writable(self, desk: Desk, answer: bool) -> None:
        """Let writes of the outcome of a batch succeed or fail."""
        refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON gpuid_sinks BEGIN SELECT RAISE(ABORT, 'read-only'); END"
        async with desk.store.database.write() as connection:
            await connection.exec_driver_sql("DROP TRIGGER refuse" if answer else refuse)

    async def test_a_delivered_batch_is_not_sent_again(self, at_desk):
        sink = RecordingSink()
        async with at_desk(lake=sink) as desk, desk.delivering():
            sink.answer = lambda number: self.writable(desk, False) if number == 1 else None
            await desk.read("GPU-1", "GPU-2")
            await eventually(lambda: len(desk.clock.waits) > 5)
            assert len(sink.tries) == 1
            await self.writable(desk, True)
            await desk.read("GPU-3", "GPU-4")
            await eventually(lambda: len(sink.taken) == 2)
            assert sink.taken == [["GPU-1", "GPU-2"], ["GPU-3", "GPU-4"]]

    async def test_no_batch_is_sent_that_might_change(self, at_desk):
        sink = RecordingSink()
        async with at_desk(lake=sink) as desk:
            await desk.read("GPU-1", "GPU-2")
            await self.writable(desk, False)
            async with desk.delivering():
                await eventually(lambda: len(desk.clock.waits) > 5)
                assert sink.tries == []
                await self.writable(desk, True)
                await eventually(lambda: sink.taken)


class TestASinkThatRejects:
    async def test_the_batch_becomes_a_dead_letter_and_delivery_continues(self, at_desk):
        sink = RecordingSink(lambda number: RejectedError("sinks.lake: 400 Bad Request") if number == 1 else None)
        async with at_desk(lake=sink) as desk, desk.delivering():
            await desk.read("GPU-1", "GPU-2", "GPU-3", "GPU-4")
            await eventually(lambda: sink.taken)
            assert sink.taken == [["GPU-3", "GPU-4"]]
            (letter,) = await desk.store.outbox.dead_letters("lake")
            assert (letter.reason, letter.count) == ("sinks.lake: 400 Bad Request", 2)
            assert desk.observer.failed == [("lake", {"prod": 2}, "rejected")]

    async def test_a_replayed_dead_letter_is_sent_again(self, at_desk):
        sink = RecordingSink(lambda number: RejectedError("no") if number == 1 else None)
        async with at_desk(lake=sink) as desk, desk.delivering():
            await desk.read("GPU-1", "GPU-2")
            await eventually(lambda: sink.tries)
            await eventually(desk.store.outbox.dead_letters)
            (letter,) = await desk.store.outbox.dead_letters()
            await desk.store.outbox.replay([letter.id])
            await eventually(lambda: sink.taken)
            assert sink.tries[0] == sink.tries[1]


class TestTheEnd:
    async def test_a_partly_full_batch_is_delivered(self, at_desk):
        sink = RecordingSink()
        settings = StdoutSettings(batch_records=1000, batch_age=Duration(1e9))
        async with at_desk(settings, stand_still, lake=sink) as desk:
            async with desk.delivering():
                await desk.read("GPU-1", time=NOW)
                await anyio.sleep(0.05)
                assert sink.taken == []
            assert sink.taken == [["GPU-1"]]
            assert sink.closed

    async def test_it_does_not_wait_for_a_sink_that_is_down(self, at_desk):
        sink = RecordingSink(lambda _: UnavailableError("gone", Reason.CONNECTION))
        async with at_desk(wait=stand_still, lake=sink) as desk:
            await desk.read("GPU-1", "GPU-2")
            with anyio.fail_after(20):
                async with desk.delivering():
                    await eventually(lambda: sink.tries)
            assert len(sink.tries) == 1
            assert await desk.store.outbox.backlog("lake") == SinkBacklog(2, NOW - 100)


class TestANewConfiguration:
    async def test_unchanged_sinks_are_not_restarted(self, at_desk):
        old, kept, new = RecordingSink(), RecordingSink(), RecordingSink()
        async with at_desk(old=old, kept=kept) as desk, desk.delivering():
            await desk.read("GPU-1", "GPU-2")
            await eventually(lambda: old.taken and kept.taken)
            desk.sinks["new"] = new
            await desk.delivery.reconcile(
                {"kept": StdoutSettings(batch_records=2), "new": StdoutSettings(batch_records=2)}
            )
            assert (old.closed, kept.closed) == (True, False)
            await desk.read("GPU-3", "GPU-4")
            await eventually(lambda: len(kept.taken) == 2 and new.taken)
            assert kept.taken == [["GPU-1", "GPU-2"], ["GPU-3", "GPU-4"]]
            assert new.taken == [["GPU-3", "GPU-4"]]
            backlogs = await desk.store.outbox.sinks()
            assert [one.sink for one in backlogs if one.configured] == ["kept", "new"]

    async def test_a_changed_sink_continues_where_it_was(self, at_desk):
        broken, fixed = RecordingSink(lambda _: UnavailableError("gone", Reason.MISSING)), RecordingSink()
        async with at_desk(lake=broken) as desk, desk.delivering():
            await desk.read("GPU-1", "GPU-2")
            await eventually(lambda: broken.tries)
            desk.sinks["lake"] = fixed
            await desk.delivery.reconcile({"lake": StdoutSettings(batch_records=3)})
            await eventually(lambda: fixed.taken)
            assert fixed.tries[0] == broken.tries[0]  # an unfinished batch stays as it was
