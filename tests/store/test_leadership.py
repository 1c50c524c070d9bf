"""One collector at a time leads on a PostgreSQL store."""

import contextlib

import pytest
from sqlalchemy import text

from collector.store import Store, StoreError, StoreSettings
from collector.store.errors import LostLeadershipError

pytestmark = pytest.mark.anyio


async def cut(store):
    """End every other connection to the database, as the server does when a client is gone, and wait for that."""
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


async def test_the_first_that_opens_leads_until_it_closes(postgres_server):
    settings = StoreSettings(url=postgres_server.new_database())
    async with contextlib.AsyncExitStack() as stack:
        async with Store.open(settings) as first:
            second = await stack.enter_async_context(Store.open(settings))
            assert (first.leadership.leads, second.leadership.leads) == (True, False)
            assert not await second.leadership.ask()
            assert await first.leadership.ask()
        assert await second.leadership.ask()


async def test_a_former_leader_may_lead_again(two):
    one, other = two
    await one.leadership.release()
    assert not one.leadership.leads
    assert await other.leadership.ask()
    assert not await one.leadership.ask()
    await other.leadership.release()
    assert await one.leadership.ask()


async def test_losing_the_connection_loses_the_leadership(two):
    one, other = two
    await cut(other)
    assert await other.leadership.ask()
    assert not await one.leadership.ask()


async def test_a_leader_that_reconnects_unchallenged_still_leads(two):
    one, other = two
    await cut(other)
    assert await one.leadership.ask()
    assert one.leadership.leads
    async with one.leadership.write():
        pass


async def test_a_superseded_leader_writes_nothing(two):
    one, other = two
    await cut(other)
    assert await other.leadership.ask()
    assert one.leadership.leads
    with pytest.raises(LostLeadershipError, match="another collector leads now"):
        async with one.leadership.write():
            pytest.fail("it may write")
    await other.leadership.release()
    assert await one.leadership.ask()
    assert not one.leadership.leads  # before it has caught up with what the other one recorded


async def test_asking_again_and_again_uses_one_connection(two):
    one, other = two
    assert not await other.leadership.ask()
    async with one.database.read() as connection:
        before = await backends(connection)
        for _ in range(5):
            assert not await other.leadership.ask()
        assert await backends(connection) == before


async def backends(connection):
    query = text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    return set(await connection.scalars(query))


async def test_without_a_server_nobody_leads_and_afterwards_somebody_does(postgres_server):
    settings = StoreSettings(url=postgres_server.new_database())
    async with Store.open(settings) as one:
        assert one.leadership.leads
        postgres_server.stop()
        try:
            with pytest.raises(StoreError, match="the server cannot be reached"):
                await one.leadership.ask()
            assert not one.leadership.leads
        finally:
            postgres_server.start()
        assert await one.leadership.ask()
        assert one.leadership.leads


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


async def test_a_file_s_collector_always_leads(sqlite_settings):
    async with Store.open(sqlite_settings) as store:
        assert await store.leadership.ask()
        assert store.leadership.leads
