"""Two collectors on one PostgreSQL store, each with clusters of its own: one of them delivers what both record."""

import contextlib

import anyio
import pytest

from collector.config import Duration
from collector.config.sinks import Stdout
from collector.sinks.delivery import Delivery
from collector.store import StoreSettings
from tests.store.killed import Silent

pytestmark = pytest.mark.anyio


class Receiver:
    """One sink as both collectors see it; remembers who brought what."""

    def __init__(self) -> None:
        self.brought: list[tuple[str, str]] = []
        self.keys: list[str] = []

    def seen_by(self, who: str) -> "Sent":
        return Sent(self, who)


class Sent:
    def __init__(self, receiver: Receiver, who: str) -> None:
        self._receiver, self._who = receiver, who

    async def send(self, records, *, key):
        self._receiver.keys.append(key)
        self._receiver.brought += [(self._who, record.uuid) for record in records]

    async def check(self):
        return ""

    async def aclose(self): ...


@pytest.fixture
async def replica(postgres_server, collecting):
    """Start a collector on the store that all replicas share."""
    settings = StoreSettings(url=postgres_server.new_database())
    sink = Stdout(batch_records=10, batch_age=Duration(0.05))

    @contextlib.asynccontextmanager
    async def replica(receiver, who):
        async with collecting(settings) as one, anyio.create_task_group() as tasks:
            delivery = Delivery(one.store, Silent(), open_sink=lambda *_: receiver.seen_by(who))
            await delivery.follow({"lake": sink})
            tasks.start_soon(delivery.run)
            yield one
            tasks.cancel_scope.cancel()

    return replica


async def until(receiver, count):
    with anyio.fail_after(30):
        while len(receiver.brought) < count:  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_each_record_is_delivered_once_and_the_other_takes_over_when_the_first_ends(replica):
    receiver, over, ended = Receiver(), anyio.Event(), anyio.Event()

    async def run_first(*, task_status):
        async with replica(receiver, "first") as first:
            task_status.started(first)
            await over.wait()
        ended.set()

    async with anyio.create_task_group() as tasks:
        first = await tasks.start(run_first)
        first.read("a", 10.0, "1", "2", cluster="one")
        await until(receiver, 2)
        async with replica(receiver, "second") as second:
            second.read("b", 20.0, "3", cluster="two")
            await until(receiver, 3)
            first.read("a", 30.0, "1", "2", "4", cluster="one")
            await until(receiver, 4)
            over.set()
            await ended.wait()
            second.read("b", 40.0, "3", "5", cluster="two")
            await until(receiver, 5)
    assert receiver.brought == [
        ("first", "GPU-1"),
        ("first", "GPU-2"),
        ("first", "GPU-3"),
        ("first", "GPU-4"),
        ("second", "GPU-5"),
    ]
    assert len(receiver.keys) == len(set(receiver.keys))


async def test_when_the_first_loses_its_connections_nothing_is_lost(replica):
    receiver = Receiver()
    async with replica(receiver, "first") as first, replica(receiver, "second") as second:
        for number in range(5):
            first.read(f"a{number}", 10.0 + number, f"1{number}", cluster="one")
            second.read(f"b{number}", 10.0 + number, f"2{number}", cluster="two")
            await until(receiver, 2 * number + 2)
            async with second.store.database.write() as connection:
                await connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
    assert {uuid for _, uuid in receiver.brought} == {f"GPU-{row}{number}" for row in "12" for number in range(5)}
