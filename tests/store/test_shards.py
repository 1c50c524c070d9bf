"""The clusters that a shard owns in the store: taken, proven by each commit, lost; and what shards ask each other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from collector.health import Health
from collector.model import (
    ClusterState,
    ClusterStatus,
    Failing,
    Gpu,
    NodeInfo,
    NodeState,
    Place,
    ReadFailure,
    Uncovered,
    Unread,
)
from collector.sharding import UNSHARDED, Shard
from collector.store import ClusterReport, Store, StoreError, StoreSettings
from collector.store.shards import LostClustersError, ShardStore, encode_unread, with_unread
from tests.support.recorded_fleet import RecordedFleet
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def shared(postgres_server: Any) -> StoreSettings:
    return StoreSettings(url=postgres_server.new_database())


@asynccontextmanager
async def shard(settings: StoreSettings, index: int) -> AsyncIterator[tuple[RecordedFleet, ShardStore]]:
    """Open a store as one of two shards does, and commit in the background."""
    async with Store.open(settings, shard=Shard(index, 2)) as store, anyio.create_task_group() as tasks:
        assert store.shards is not None
        tasks.start_soon(store.run)
        yield RecordedFleet(store), store.shards
        tasks.cancel_scope.cancel()


async def take(shards: ShardStore, *clusters: str) -> set[str]:
    taken = await shards.take(clusters)
    shards.owned.update(taken)
    return taken


async def expire(fleet: RecordedFleet, lease: str) -> None:
    async with fleet.store.database.write() as connection:
        await connection.exec_driver_sql(f"UPDATE gpuid_leases SET expires = 0 WHERE name = '{lease}'")


async def waiting(fleet: RecordedFleet) -> int:
    """Return how many transactions wait for their turn."""
    query = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
        " WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
    )
    async with fleet.store.database.read() as connection:
        return (await connection.exec_driver_sql(query)).scalar_one()


async def recorded(fleet: RecordedFleet) -> list[tuple[str, str]]:
    return [(one.event, one.cluster) for one in await fleet.store.history.changes()]


async def test_a_shard_takes_unowned_clusters(shared: StoreSettings) -> None:
    async with shard(shared, 0) as (_, first), shard(shared, 1) as (_, second):
        assert await take(first, "a", "b") == {"a", "b"}
        assert await take(second, "b", "c") == {"c"}
        await first.release({"b"})
        assert await take(second, "b") == {"b"}
        assert await take(first, "a", "b") == {"a"}  # its own, for the second time


async def test_a_commit_omits_clusters_taken_by_another_shard(shared: StoreSettings) -> None:
    async with shard(shared, 0) as (one, first), shard(shared, 1) as (other, second):
        await take(first, "a", "b")
        one.read("n1", 100.0, "1", cluster="a")
        one.read("n2", 100.0, "2", cluster="b")
        one.read("n3", 100.0, "3", cluster="c")  # which is not its own
        assert await one.store.history_writer.flushed(30)
        assert await recorded(one) == [("appeared", "a"), ("appeared", "b")]

        await expire(one, "shard-0")
        assert await take(second, "a") == {"a"}
        await one.store.leadership.ask()  # as a process does that was frozen
        one.read("n1", 200.0, cluster="a")
        one.read("n2", 200.0, cluster="b")
        assert await one.store.history_writer.flushed(30)
        assert await recorded(one) == [("appeared", "a"), ("appeared", "b"), ("vanished", "b")]
        assert first.lost == {"a"}
        other.read("n1", 300.0, "9", cluster="a")
        assert await other.store.history_writer.flushed(30)
        assert (await recorded(one))[3:] == [("appeared", "a")]
        with pytest.raises(LostClustersError):
            async with one.store.leadership.write() as connection:
                await first.begin(connection, {"a", "b"})


async def test_changes_queued_during_another_shards_ownership_are_dropped(shared: StoreSettings) -> None:
    async with shard(shared, 0) as (one, first), shard(shared, 1) as (other, _):
        await take(first, "a", "b")
        async with other.store.database.write():  # so the commit waits for its turn
            one.read("n1", 100.0, "1", cluster="a")
            one.read("n2", 100.0, "2", cluster="b")
            await eventually(lambda: waiting(other), 1)
            one.store.history_writer.lose({"a"})  # and by then it is this shard's for the second time
        assert await one.store.history_writer.flushed(30)
        assert await recorded(one) == [("appeared", "b")]


async def test_a_gpu_from_a_lost_cluster_does_not_change_it(shared: StoreSettings) -> None:
    async with shard(shared, 0) as (one, first), shard(shared, 1) as (_, second):
        await take(first, "a", "b")
        one.read("n1", 100.0, "1", cluster="a")
        assert await one.store.history_writer.flushed(30)
        await expire(one, "shard-0")
        assert await take(second, "a") == {"a"}
        await one.store.leadership.ask()
        one.read("n2", 200.0, "1", cluster="b")
        assert await one.store.history_writer.flushed(30)
        open_placements = "SELECT cluster FROM gpuid_placements WHERE until IS NULL ORDER BY cluster"
        async with one.store.database.read() as connection:
            assert (await connection.exec_driver_sql(open_placements)).scalars().all() == ["a", "b"]


async def moves(fleet: RecordedFleet) -> list[tuple[str, str, str | None]]:
    """Return the changes, oldest first, with the cluster from which a GPU came."""
    changes = await fleet.store.history.changes()
    return [(one.event, one.cluster, one.previous.cluster if one.previous else None) for one in changes]


class TestPreviousPlace:
    async def test_a_move_from_a_cluster_that_a_shard_does_not_know_is_a_move(self, shared: StoreSettings) -> None:
        async with shard(shared, 0) as (one, first), shard(shared, 1) as (other, second):
            await take(first, "a")
            await take(second, "b")
            for time, uuids in ((100.0, ("1", "2")), (200.0, ("2",))):
                one.read("n1", time, *uuids, cluster="a")
                assert await one.store.history_writer.flushed(30)
            other.read("n2", 201.0, "1", "2", "3", cluster="b")  # of which 2 is in conflict, and 3 is new
            assert await other.store.history_writer.flushed(30)
            _, _, vanished, *arrived = await moves(one)
            assert vanished == ("vanished", "a", None)
            assert arrived == [("moved", "b", "a"), ("appeared", "b", None), ("appeared", "b", None)]

    async def test_a_gpu_that_moved_twice_came_from_its_last_place(self, shared: StoreSettings) -> None:
        async with shard(shared, 0) as (one, first), shard(shared, 1) as (other, second):
            await take(first, "a", "b")
            await take(second, "c")
            other.inventory.restore([], {"GPU-1": Place("a", "n1")}, {"GPU-1": 110.0})  # all that it has seen
            for time, cluster, uuids in (
                (100.0, "a", ("1",)),
                (110.0, "a", ()),
                (111.0, "b", ("1",)),
                (112.0, "b", ()),
            ):
                one.read("n1", time, *uuids, cluster=cluster)
                assert await one.store.history_writer.flushed(30)
            other.read("n3", 112.5, "1", cluster="c")
            assert await other.store.history_writer.flushed(30)
            assert (await moves(one))[2:] == [("moved", "b", "a"), ("vanished", "b", None), ("moved", "c", "b")]

    async def test_a_gpu_that_a_node_claimed_came_from_its_home(self, shared: StoreSettings) -> None:
        async with shard(shared, 0) as (one, first):
            await take(first, "a", "b", "c")
            for time, cluster, uuids in (
                (100.0, "a", ("1",)),
                (110.0, "a", ()),
                (111.0, "b", ("1",)),
                (112.0, "c", ("1",)),  # a claim
                (113.0, "b", ()),  # which ends its placement there in the transaction that records the move
            ):
                one.read("n1", time, *uuids, cluster=cluster)
                assert await one.store.history_writer.flushed(30)
            assert (await moves(one))[2:] == [("moved", "b", "a"), ("moved", "c", "b")]


class TestPreviousHealth:
    """A GPU arrives in another shard's cluster, which has not seen the last that was recorded about it."""

    @pytest.mark.parametrize(
        ("last", "known", "arrives", "told"),
        [
            ("well", None, "well", []),
            ("pending", None, "well", [{"row_remap_pending": (True, False)}]),
            ("pending", "well", "well", [{"row_remap_pending": (True, False)}]),
            ("pending", "well", "pending", []),
            ("well", "pending", "well", []),
            ("pending", "pending", "well", [{"row_remap_pending": (True, False)}]),
            ("lost", None, "well", [{"lost": (True, False)}]),
            ("lost", "well", "well", [{"lost": (True, False)}]),
            ("lost", "well", "pending", [{"lost": (True, False), "row_remap_pending": (False, True)}]),
            ("silent", "pending", "well", []),
            ("silent", "pending", "pending", [{"row_remap_pending": (None, True)}]),
            ("silent", None, "pending", [{"row_remap_pending": (None, True)}]),
            ("lost", "lost", "lost", []),
            ("lost", "well", "lost", []),
            ("well", "lost", "lost", [{"lost": (False, True)}]),
            ("well", "lost", "well", []),
        ],
    )
    async def test_its_health_changed_from_what_was_recorded_last(
        self, shared: StoreSettings, last: str, known: str | None, arrives: str, told: list[dict[str, Any]]
    ) -> None:
        well = Gpu(uuid="GPU-1", serial="s1", health=Health(row_remap_pending=False))
        cards = {
            "well": well,
            "lost": well,
            "pending": msgspec.structs.replace(well, health=Health(row_remap_pending=True)),
            "silent": msgspec.structs.replace(well, health=None),
        }
        async with shard(shared, 0) as (one, first), shard(shared, 1) as (other, second):
            await take(first, "a")
            await take(second, "b")
            one.read("n1", 100.0, cards[last], "2", cluster="a")
            if last == "lost":
                one.read("n1", 110.0, "2", cluster="a", lost=["1"])
            one.remove("n1", 120.0, cluster="a")
            assert await one.store.history_writer.flushed(30)
            if known is not None:  # all that it has seen
                facts = {"GPU-1": cards[known]}
                lost = {"GPU-1"} if known == "lost" else set()
                other.inventory.restore([], {"GPU-1": Place("a", "n1")}, {"GPU-1": 105.0}, facts, lost)
            before = len(await one.store.history.changes())
            other.read("n2", 130.0, cards[arrives], cluster="b", lost=["1"] if arrives == "lost" else [])
            assert await other.store.history_writer.flushed(30)
            moved, *health = (await one.store.history.changes())[before:]
            assert (moved.event, moved.cluster, moved.previous) == ("moved", "b", Place("a", "n1"))
            assert [{one.field: (one.before, one.after) for one in change.changes} for change in health] == told
            assert {(one.event, one.uuid, one.cluster, one.node, one.time, one.previous) for one in health} <= {
                ("health", "GPU-1", "b", "n2", 130.0, None)
            }


async def test_shards_and_an_unsharded_collector_exclude_each_other(shared: StoreSettings) -> None:
    async with Store.open(shared) as alone:
        async with shard(shared, 0) as (one, _):
            assert (alone.leadership.leads, one.store.leadership.leads) == (True, False)
            assert one.store.leadership.status.holder
            async with alone.database.write() as connection:
                await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = 0")
            assert await one.store.leadership.ask()
            assert not await alone.leadership.ask()  # its token is void, whether or not it had been away
            with pytest.raises(StoreError):
                async with alone.leadership.write():
                    pass
        assert await alone.leadership.ask()


async def test_a_shard_takes_its_lease_while_others_write_without_a_pause(shared: StoreSettings) -> None:
    done = anyio.Event()

    async def write(store: Store) -> None:
        while not done.is_set():
            async with store.database.write():
                await anyio.sleep(0.1)  # with the other one waiting, the turn is never free

    async with (
        shard(shared, 0) as (one, _),
        shard(shared, 1) as (other, _),
        Store.open(shared, shard=Shard(2, 3)) as late,
        anyio.create_task_group() as tasks,
    ):
        await late.leadership.release()
        for fleet in (one, other):
            tasks.start_soon(write, fleet.store)
        await eventually(lambda: waiting(one), 1)
        with anyio.move_on_after(20):
            while not await late.leadership.ask():
                pass
        assert late.leadership.held
        done.set()


async def test_new_rows_are_found_by_commit_number(shared: StoreSettings) -> None:
    async with shard(shared, 0) as (one, first), shard(shared, 1) as (other, second):
        await take(first, "a")
        one.read("n1", 100.0, "1", cluster="a")
        one.read("n2", 100.0, "2", cluster="a")
        assert await one.store.history_writer.flushed(30)
        cursor = await second.version()
        one.read("n2", 200.0, "2", "3", cluster="a")
        one.remove("n1", 200.0, cluster="a")
        await first.report({"a": ClusterReport(status=ClusterStatus(cluster="a", state=ClusterState.UP, since=1.0))})
        assert await one.store.history_writer.flushed(30)
        async with second.snapshot() as connection:
            news = await second.news(connection, cursor)
            found = [node async for part in other.store.nodes_since(connection, cursor) for node in part]
            own = [part async for part in other.store.nodes_since(connection, cursor, without={"a"})]
            names = await second.names(connection, "a")
        assert [(node.place.node, len(node.gpus)) for node in found] == [("n2", 2)]
        assert (own, names) == ([], {"n2"})
        row = news.clusters["a"]
        assert row.report is not None
        assert (row.lease, row.report.status.state, row.removed > cursor) == ("shard-0", ClusterState.UP, True)
        assert (news.leases["shard-0"].held, news.leases["shard-0"].token == row.token) == (True, True)


async def test_a_request_is_answered_only_by_the_next_reading(shared: StoreSettings) -> None:
    place = Place("a", "n1")
    async with shard(shared, 0) as (one, first), shard(shared, 1) as (_, second):
        await take(first, "a")
        one.read("n1", 100.0, "1", cluster="a")
        assert await one.store.history_writer.flushed(30)
        cursor = await first.version()
        number = await second.ask({place})
        async with first.snapshot() as connection:
            assert (await first.news(connection, cursor)).asked == {place: number}
            assert await first.questions(connection, {"a"}) == {place: number}
        assert first.question(place, number, 50.0)
        assert not first.question(place, number, 51.0)
        assert first.question(place, number, 90.0)  # nothing has answered it for long
        one.read("n1", 200.0, "1", cluster="a")
        assert not first.question(place, number, 130.0)  # its answer is about to be recorded
        assert await one.store.history_writer.flushed(30)
        async with second.snapshot() as connection:
            news = await second.news(connection, cursor)
        assert (news.asked, news.answered) == ({}, {place: number})
        await first.forget_questions()  # while neither shard may have seen the answer
        async with first.snapshot() as connection:
            assert (await first.news(connection, 0)).answered == {place: number}
        await first.forget_questions()
        async with first.snapshot() as connection:
            assert (await first.news(connection, 0)).answered == {}


async def test_each_shard_numbers_its_own_commits(shared: StoreSettings) -> None:
    async with shard(shared, 0) as (one, first), shard(shared, 1) as (other, second):
        await take(first, "a")
        await take(second, "b")
        for number in range(5):
            one.read("n1", 100.0 + number, str(number), cluster="a")
            other.read("n1", 100.0 + number, f"b{number}", cluster="b")
            assert await one.store.history_writer.flushed(30)
            assert await other.store.history_writer.flushed(30)
        names = "SELECT name FROM gpuid_facts WHERE name LIKE 'commit%' ORDER BY name"
        async with one.store.database.read() as connection:
            found = (await connection.exec_driver_sql(names)).scalars().all()
        assert found == ["commit shard-0", "commit shard-1"]
        assert len(await recorded(one)) == 18


async def test_sqlite_does_not_support_shards(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^shards require a shared store; set store.url to a PostgreSQL"):
        async with Store.open(StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db"), shard=Shard(0, 2)):
            pass


async def test_without_shards_nothing_is_numbered(shared: StoreSettings) -> None:
    async with Store.open(shared, shard=UNSHARDED) as store, anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        fleet = RecordedFleet(store)
        fleet.read("n1", 100.0, "1")
        await eventually(lambda: store.history_writer.pending, 0)
        async with store.database.read() as connection:
            assert (await connection.exec_driver_sql("SELECT version FROM gpuid_nodes")).scalars().all() == [0]
        tasks.cancel_scope.cancel()


def test_the_reason_a_node_is_unread_is_kept() -> None:
    node = NodeState(place=Place("a", "n"), node=NodeInfo(name="n"))
    failing = Failing(ReadFailure.TIMEOUT, 5.0, "no answer", 7, 99.0)
    for uncovered in (None, Unread(Uncovered.NO_POD, 3.0), Unread(ReadFailure.NO_CONTAINER, None)):
        state = NodeState(place=node.place, node=node.node, failing=failing, uncovered=uncovered)
        found = with_unread(node, encode_unread(state))
        assert (found.failing, found.uncovered) == (failing._replace(tries=1, next_try=None), uncovered)
    assert encode_unread(node) is None
    assert with_unread(node, b"damaged") == node
