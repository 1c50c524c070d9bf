"""One collector at a time delivers from a PostgreSQL store."""

import contextlib

import pytest

from collector.store import Store, StoreError, StoreSettings

pytestmark = pytest.mark.anyio


async def cut(store):
    """End every connection of the database but the one that does it, as the server does when a client is gone."""
    async with store.database.write() as connection:
        await connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.fixture
async def two(postgres_server):
    settings = StoreSettings(url=postgres_server.new_database())
    async with Store.open(settings) as one, Store.open(settings) as other:
        yield one, other


async def test_the_first_that_asks_has_it_until_it_closes(postgres_server):
    settings = StoreSettings(url=postgres_server.new_database())
    async with Store.open(settings) as second:
        async with Store.open(settings) as first:
            assert await first.delivery_lock.held()
            assert not await second.delivery_lock.held()
            assert await first.delivery_lock.held()
        assert await second.delivery_lock.held()


async def test_one_that_lets_go_may_take_it_again_after_the_other(two):
    one, other = two
    assert await one.delivery_lock.held()
    await one.delivery_lock.release()
    assert await other.delivery_lock.held()
    assert not await one.delivery_lock.held()
    await other.delivery_lock.release()
    assert await one.delivery_lock.held()


async def test_one_whose_connection_is_gone_has_lost_it_to_whoever_asks_first(two):
    one, other = two
    assert await one.delivery_lock.held()
    await cut(other)
    assert await other.delivery_lock.held()
    assert not await one.delivery_lock.held()


async def test_without_a_server_nobody_has_it_and_afterwards_somebody_does(postgres_server):
    settings = StoreSettings(url=postgres_server.new_database())
    async with Store.open(settings) as one:
        assert await one.delivery_lock.held()
        postgres_server.stop()
        try:
            with pytest.raises(StoreError, match="the server cannot be reached"):
                await one.delivery_lock.held()
        finally:
            postgres_server.start()
        assert await one.delivery_lock.held()


async def test_stores_beside_each_other_in_one_database_have_each_their_own(postgres_server):
    url = postgres_server.new_database()
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(Store.open(StoreSettings(url=url)))
        async with one.database.write() as connection:
            await connection.exec_driver_sql("CREATE SCHEMA other")
        elsewhere = StoreSettings(url=f"{url}?options=-csearch_path%3Dother")
        other = await stack.enter_async_context(Store.open(elsewhere))
        assert other.database.id != one.database.id
        assert await one.delivery_lock.held()
        assert await other.delivery_lock.held()


async def test_a_file_s_collector_always_has_it(sqlite_settings):
    async with Store.open(sqlite_settings) as store:
        assert await store.delivery_lock.held()
