"""One collector at a time leads on a PostgreSQL store: by a lease that expires, and a token that its writes prove."""

import contextlib
import os
import socket
import time

import anyio
import asyncpg
import pytest
from sqlalchemy import text

from collector.end_deadline import Stage
from collector.store import LostLeadershipError, OpenMode, Store, StoreError, StoreSettings, Subscription
from collector.store.database import IDLE_TRANSACTION_SECONDS, Database
from collector.store.leadership import LEASE_SECONDS, Leadership
from collector.store.schema import APPLICATION_ID
from tests.support.old_store import to_first_version
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def expire(store):
    """Let the time of the lease be over."""
    async with store.database.write() as connection:
        await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = expires - 3600")


async def cut(store):
    """End every other connection to the database, and wait until the server has done so."""
    async with store.database.write() as connection:
        await connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.fixture
async def two(postgres_server):
    settings = StoreSettings(url=postgres_server.new_database())
    async with Store.open(settings) as one, Store.open(settings) as other:
        yield one, other


class Clock:
    """A clock that stands still until it is set."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
async def timed(postgres_server):
    """A leader and a standby whose own clocks the test sets; the server's keeps running."""
    settings = StoreSettings(url=postgres_server.new_database())
    clock = Clock()
    async with Store.open(settings):  # makes the tables, and gives the lead back
        pass
    async with (
        Database.open(settings, OpenMode.COLLECTOR) as first,
        Database.open(settings, OpenMode.COLLECTOR) as second,
    ):
        one, other = Leadership(first, holder="one", clock=clock), Leadership(second, holder="other", clock=clock)
        assert await one.ask()
        one.begin()
        assert await one.ask()
        assert not await other.ask()
        yield one, other, clock


async def test_the_first_that_opens_leads_until_it_closes(postgres_server):
    settings = StoreSettings(url=postgres_server.new_database())
    async with contextlib.AsyncExitStack() as stack:
        async with Store.open(settings) as first:
            second = await stack.enter_async_context(Store.open(settings))
            assert (first.leadership.leads, second.leadership.leads) == (True, False)
            assert not await second.leadership.ask()
            assert await first.leadership.ask()
        assert await second.leadership.ask()


async def test_a_slow_shutdown_still_releases_the_lease(two):
    one, other = two
    end = one.database.end
    end.begin(time.monotonic() - Stage.STORE.value)
    assert (end.left(Stage.STORE), end.left(Stage.RELEASE) > 0) == (0, True)
    await one.leadership.release()
    assert await other.leadership.ask()


async def test_a_former_leader_may_lead_again(two):
    one, other = two
    await one.leadership.release()
    assert not one.leadership.leads
    assert await other.leadership.ask()
    assert not await one.leadership.ask()
    await other.leadership.release()
    assert await one.leadership.ask()


async def test_a_leader_frozen_while_preparing_a_statement_is_replaced(postgres_server):
    url = postgres_server.new_database()
    async with Store.open(StoreSettings(url=url)) as one, Store.open(StoreSettings(url=url)) as other:
        frozen = await asyncpg.connect(url)
        await frozen.execute("BEGIN")
        await frozen.execute(f"SELECT pg_advisory_xact_lock({APPLICATION_ID})")
        await frozen.prepare("SELECT 1")
        async with other.database.read() as connection:
            found = await connection.execute(
                text(f"SELECT state, wait_event FROM pg_stat_activity WHERE pid = {frozen.get_server_pid()}")
            )
            assert found.one() == ("active", "ClientRead")  # and not idle in a transaction
        async with one.database.lease(5) as connection:
            await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = expires - 3600")
        await eventually(other.leadership.ask)
        frozen.terminate()


async def test_an_expired_lease_goes_to_another_collector(two):
    one, other = two
    assert not await other.leadership.ask()
    await expire(other)
    assert await other.leadership.ask()
    assert not await one.leadership.ask()
    assert not one.leadership.recording


async def test_a_late_but_unchallenged_leader_still_leads(two):
    one, other = two
    await expire(other)
    await cut(other)
    assert await one.leadership.ask()
    assert one.leadership.leads
    async with one.leadership.write():
        pass
    assert not await other.leadership.ask()


async def test_a_superseded_leader_writes_nothing(two):
    one, other = two
    await expire(other)
    assert await other.leadership.ask()
    assert one.leadership.leads
    with pytest.raises(LostLeadershipError, match="another collector leads now"):
        async with one.leadership.write():
            pytest.fail("it may write")
    await other.leadership.release()
    assert await one.leadership.ask()
    assert not one.leadership.leads  # before it has caught up with what the other one recorded


async def test_a_leader_that_cannot_renew_stops_before_its_lease_expires(timed):
    one, _other, clock = timed
    clock.now += LEASE_SECONDS - 2
    assert one.leads
    clock.now += 1
    assert not one.leads
    assert await one.ask()
    assert one.leads


async def test_a_leader_that_is_late_in_renewing_configures_its_sinks(two):
    one, _other = two
    clock = one.leadership._clock
    one.leadership._clock = lambda: clock() + LEASE_SECONDS
    assert not one.leadership.leads  # as after a start that took long
    await one.reconcile({"lake": Subscription("changes", False)})
    assert [state.sink for state in await one.outbox.sinks()] == ["lake"]


async def test_a_lease_expires_although_the_servers_clock_went_back(two):
    one, other = two
    async with other.database.write() as connection:
        await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = expires + 3600")
    assert await other.leadership.ask()
    assert not await one.leadership.ask()


async def test_every_collector_knows_who_leads(two):
    one, other = two
    assert await one.leadership.ask()
    assert not await other.leadership.ask()
    me = f"{socket.gethostname()} (pid {os.getpid()})"
    assert (one.leadership.status.leads, one.leadership.status.has_leader) == (True, True)
    status = other.leadership.status
    assert (status.leads, status.has_leader, status.holder) == (False, True, me)


async def test_a_holder_s_name_is_bounded(two, monkeypatch):
    one, other = two
    async with one.database.write() as connection:
        await connection.exec_driver_sql("UPDATE gpuid_leases SET holder = repeat(E'x\\n', 10000)")
    assert not await other.leadership.ask()
    assert len(other.leadership.status.holder) == 100
    assert other.leadership.status.holder.isprintable()


async def test_a_standby_notices_when_nobody_leads(timed):
    _one, other, clock = timed
    clock.now += LEASE_SECONDS
    assert other.status.has_leader
    clock.now += 1
    assert not other.status.has_leader
    assert not await other.ask()
    assert other.status.has_leader


async def test_a_holder_that_does_not_record_is_not_the_leader(timed):
    one, other, clock = timed
    one.stand_by()  # it cannot take over, for whatever reason, and keeps the lease
    assert await one.ask()
    clock.now += LEASE_SECONDS + 1
    assert await one.ask()
    assert not await other.ask()
    assert (one.status.has_leader, other.status.has_leader) == (False, False)
    assert other.status.holder == "one"


async def test_a_lease_outlives_the_connection(two):
    one, other = two
    await cut(other)
    assert not await other.leadership.ask()
    assert await one.leadership.ask()


async def test_readers_do_not_keep_a_leader_from_renewing(two):
    one, _other = two
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):  # all connections there are
            await stack.enter_async_context(one.database.read())
        assert await one.leadership.ask()


async def test_an_open_transaction_delays_the_next_leader_only_briefly(two):
    one, other = two
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(StoreError))
        connection = await stack.enter_async_context(one.leadership.write())
        limit = await connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
        assert limit == f"{IDLE_TRANSACTION_SECONDS}s"
        await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '1s'")  # so as not to wait
        await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = 0")
        assert not await other.leadership.ask()  # its last write may still come
        with anyio.fail_after(30):
            async with other.database.write():
                pass
        await connection.scalar(text("SELECT 1"))
    async with one.database.write():  # through another connection
        pass


async def test_repeated_attempts_use_one_connection(two):
    _one, other = two
    assert not await other.leadership.ask()
    async with other.database.read() as connection:
        before = await backends(connection)
        for _ in range(5):
            assert not await other.leadership.ask()
        assert await backends(connection) == before


async def backends(connection):
    query = text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    return set(await connection.scalars(query))


async def test_without_a_server_leadership_ends_and_later_returns(timed, postgres_server):
    one, other, clock = timed
    await anyio.to_thread.run_sync(postgres_server.stop)
    try:
        for each in (one, other):
            with pytest.raises(StoreError, match="cannot reach the server"):
                await each.ask()
        assert one.leads
        clock.now += LEASE_SECONDS + 1
        assert not one.leads
        assert not one.status.has_leader
        assert not other.status.has_leader
    finally:
        await anyio.to_thread.run_sync(postgres_server.start)
    assert await one.ask()
    assert one.leads


async def test_each_schema_of_a_database_has_its_own_leader(postgres_server):
    url = postgres_server.new_database()
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(Store.open(StoreSettings(url=url)))
        async with one.database.write() as connection:
            await connection.exec_driver_sql("CREATE SCHEMA other")
        elsewhere = StoreSettings(url=f"{url}?options=-csearch_path%3Dother")
        other = await stack.enter_async_context(Store.open(elsewhere))
        assert other.database.id != one.database.id
        assert one.leadership.leads
        assert other.leadership.leads


async def test_a_collector_with_only_the_old_lock_stops_recording(settings):
    async with Store.open(settings) as store, store.database.write() as connection:
        await to_first_version(connection)
        await connection.exec_driver_sql("INSERT INTO gpuid_facts VALUES ('leader', 'its token')")
    async with Store.open(settings) as store:
        assert store.leadership.leads
        async with store.database.read() as connection:
            assert await connection.scalar(text("SELECT value FROM gpuid_facts WHERE name = 'leader'")) is None


async def test_a_file_s_collector_always_leads(sqlite_settings):
    async with Store.open(sqlite_settings) as store:
        assert await store.leadership.ask()
        assert store.leadership.leads
        assert store.leadership.status.has_leader
