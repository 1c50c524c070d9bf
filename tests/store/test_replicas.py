"""Two collectors of the same clusters on one PostgreSQL store: one leads, and the other takes over when it is gone."""

import contextlib
import functools

import anyio
import pytest

from collector.config import Duration
from collector.config.sinks import StdoutSettings
from collector.delivery.delivery import Delivery
from collector.model import Gpu, Place
from collector.store import StoreSettings, Subscription
from tests.store.killed import Silent
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class Receiver:
    """One sink as both collectors see it; remembers who brought what."""

    def __init__(self) -> None:
        self.brought: list[tuple[str, str, str]] = []

    def seen_by(self, who: str) -> "Sent":
        return Sent(self, who)


class Sent:
    def __init__(self, receiver: Receiver, who: str) -> None:
        self._receiver, self._who = receiver, who

    async def send(self, records, *, key):
        self._receiver.brought += [(self._who, record.event, record.uuid) for record in records]

    async def check(self):
        return ""

    async def aclose(self): ...


class Replica:
    """A collector that runs until it is ended."""

    def __init__(self, one, ending, ended):
        self.one, self._ending, self._ended = one, ending, ended
        self.store, self.read, self.remove = one.store, one.read, one.remove

    async def end(self):
        self._ending.set()
        await self._ended.wait()

    async def lead(self):
        await eventually(lambda: self.store.leadership.leads)
        assert await self.store.history_writer.flushed(30)

    async def recorded(self):
        return [(c.event, c.uuid, c.node, c.time) for c in await self.store.history.changes()]

    async def present(self):
        found = [await self.store.history.node(node) for node in "abcd"]
        return {(p.uuid, p.node, p.since) for page in found for p in page if p.until is None}


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
async def replica(postgres_server, collecting, receiver):
    """Start a collector on the store that all replicas share."""
    settings = StoreSettings(url=postgres_server.new_database())
    sink = StdoutSettings(batch_records=10, batch_age=Duration(0.05))

    async def run(who, sinks, ending, ended, *, task_status):
        async with collecting(settings) as one, anyio.create_task_group() as tasks:
            delivery = Delivery(one.store, Silent(), open_sink=lambda *_: receiver.seen_by(who))
            await delivery.reconcile(dict.fromkeys(sinks, sink))
            tasks.start_soon(delivery.run)
            task_status.started(one)
            await ending.wait()
            tasks.cancel_scope.cancel()
        ended.set()

    async with anyio.create_task_group() as replicas:

        async def replica(who, *sinks):
            ending, ended = anyio.Event(), anyio.Event()
            one = await replicas.start(functools.partial(run, who, sinks or ("lake",), ending, ended))
            return Replica(one, ending, ended)

        yield replica
        replicas.cancel_scope.cancel()


async def test_a_change_both_see_is_recorded_and_delivered_once(replica, receiver):
    first, second = await replica("first"), await replica("second")
    for who, time in ((first, 10.0), (second, 10.5)):
        who.read("a", time, "1", "2")
        who.read("b", time + 10, "2")
    assert await first.store.history_writer.flushed(30)
    await eventually(lambda: len(receiver.brought) == 3)
    assert not second.store.leadership.leads
    await first.end()
    await second.lead()
    second.read("c", 50.0, "3")
    await eventually(lambda: len(receiver.brought) == 4)
    assert receiver.brought == [
        ("first", "appeared", "GPU-1"),
        ("first", "appeared", "GPU-2"),
        ("first", "moved", "GPU-2"),
        ("second", "appeared", "GPU-3"),
    ]
    assert await second.present() == {("GPU-1", "a", 10.0), ("GPU-2", "b", 20.0), ("GPU-3", "c", 50.0)}


async def test_changes_without_a_leader_are_recorded_by_the_next(replica):
    first, second = await replica("first"), await replica("second")
    for one in (first, second):
        one.read("a", 10.0, "1", "2", "3")
        one.read("b", 10.0, "4")
    assert await first.store.history_writer.flushed(30)
    await second.store.leadership._asking.acquire()  # so that it does not take the lead before this
    await first.end()
    second.read("c", 20.0, "1")
    second.read("a", 21.0, "2")
    second.remove("b", 22.0)
    second.store.leadership._asking.release()
    await second.lead()
    assert [(event, uuid, node) for event, uuid, node, _ in (await second.recorded())[4:]] == [
        ("moved", "GPU-1", "c"),
        ("vanished", "GPU-3", "a"),
        ("vanished", "GPU-4", "b"),
    ]
    assert await second.present() == {("GPU-2", "a", 10.0), ("GPU-1", "c", 20.0)}


async def test_a_new_leader_knows_absent_gpus_of_earlier_leaders(replica):
    first, second = await replica("first"), await replica("second")
    first.read("a", 10.0, "1", "2")
    second.read("a", 10.5, Gpu(uuid="GPU-1"), "2")  # as if it had begun when GPU-1 no longer said so
    second.read("a", 20.5)
    first.remove("a", 21.0)
    assert await first.store.history_writer.flushed(30)
    await first.end()
    await second.lead()
    second.read("b", 30.0, Gpu(uuid="GPU-1"), Gpu(uuid="GPU-2"))
    states = {gpu.uuid: gpu for gpu in second.one.inventory.node(Place("prod", "b")).gpus}
    assert (states["GPU-1"].serial, dict(states["GPU-1"].last_known)["serial"]) == ("serial-1", 10.0)
    assert (states["GPU-2"].serial, states["GPU-2"].model) == ("serial-2", "NVIDIA H100")


async def test_a_new_leader_does_not_undo_the_last_changes(replica):
    first, second = await replica("first"), await replica("second")
    for one in (first, second):
        one.read("a", 10.0, "1", "2")
        one.read("b", 10.0)
    first.read("b", 20.0, "1")
    first.read("c", 20.0, "5")
    assert await first.store.history_writer.flushed(30)
    before = await first.recorded()
    await first.end()
    await second.lead()
    assert await second.recorded() == before
    assert {p.place for p in second.one.inventory.find(uuid="GPU-1")} == {Place("prod", "b")}
    assert {p.place for p in second.one.inventory.find(uuid="GPU-5")} == {Place("prod", "c")}
    second.read("a", 30.0, "2")
    second.read("b", 30.0, "1")
    second.read("c", 30.0, "5")
    assert await second.store.history_writer.flushed(30)
    assert await second.recorded() == before


async def test_broken_connections_lose_and_duplicate_nothing(replica, receiver):
    first, second = await replica("first"), await replica("second")
    for number in range(5):
        for one in (first, second):
            one.read("a", 10.0 + number, *map(str, range(number + 1)))
        await eventually(lambda: len({uuid for _, _, uuid in receiver.brought}), number + 1)
        with contextlib.suppress(Exception):
            async with second.store.database.write() as connection:
                await connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
    await eventually(lambda: first.store.leadership.leads or second.store.leadership.leads)
    assert await first.recorded() == [("appeared", f"GPU-{number}", "a", 10.0 + number) for number in range(5)]
    assert {uuid for _, _, uuid in receiver.brought} == {f"GPU-{number}" for number in range(5)}


async def test_only_the_leader_configures_sinks(replica):
    first = await replica("first", "lake")
    second = await replica("second", "lake", "hook")
    assert [one.sink for one in await second.store.outbox.sinks()] == ["lake"]
    await second.store.reconcile({"hook": Subscription("changes", False)})
    assert [one.sink for one in await second.store.outbox.sinks()] == ["lake"]
    await first.end()
    await second.lead()
    found = {one.sink: one.configured for one in await second.store.outbox.sinks()}
    assert found == {"hook": True, "lake": False}
