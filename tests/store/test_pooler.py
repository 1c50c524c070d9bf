"""A PostgreSQL store behind pgbouncer: whatever the pooler gives out, a session or only a transaction, is enough."""

import anyio
import asyncpg
import pytest

from collector.store import Store, StoreError, StoreSettings, Subscription, check
from tests.support.pgbouncer import pgbouncer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def behind(postgres_server, request):
    """Settings of an empty database behind a pooler in some mode."""

    def behind(mode):
        pooler = pgbouncer(postgres_server.new_database(), pool_mode=mode, pool_size=3 if mode == "transaction" else 20)
        url = pooler.__enter__()
        request.addfinalizer(lambda: pooler.__exit__(None, None, None))
        return StoreSettings(url=url)

    return behind


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_collectors_record_and_take_over_behind_a_pooler(behind, collecting, mode):
    settings = behind(mode)
    assert await check(settings) == "tables created by the collector at its first start"
    async with collecting(settings) as one:
        assert await check(settings) == "tables are up to date"
        await one.store.reconcile({"lake": Subscription("changes", False)})
        if mode == "transaction":  # else there are fewer sessions than two collectors use
            async with collecting(settings) as other:
                assert not other.store.leadership.leads
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                one.read("a", 10.0 + number, *map(str, range(number)))
                tasks.start_soon(one.store.history.where, f"GPU-{number}")
                tasks.start_soon(one.store.outbox.next_batch_state, "lake", 100)
                await anyio.sleep(0.01)
        assert await one.store.history_writer.flushed(30)
        batch = await one.store.outbox.next_batch("lake", 100)
        assert [record.uuid for record in batch.records] == [f"GPU-{number}" for number in range(19)]
        await one.store.outbox.confirm(batch)
    async with collecting(settings) as again:
        await eventually(lambda: again.store.leadership.leads)
        assert len(await again.store.history.changes()) == 19


async def test_a_lock_kept_by_a_pooler_blocks_nobody(behind):
    """A collector that knew only the session's lock left it behind in a connection of the pooler's."""
    settings = behind("transaction")
    connection = await asyncpg.connect(settings.url, statement_cache_size=0)
    try:
        await connection.execute("SELECT pg_advisory_lock(1735423337, 4711)")
        async with Store.open(settings) as store:
            assert store.leadership.leads
    finally:
        await connection.close()


async def test_a_statement_pooler_is_refused_by_check_and_run(behind):
    settings = behind("statement")
    said = []
    for refused in (check(settings), opened(settings)):
        with pytest.raises(StoreError) as caught:
            await refused
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "transaction blocks not allowed in statement pooling mode" in said[0]
    assert "statement mode; use session or transaction mode" in said[0]


async def opened(settings):
    async with Store.open(settings):
        pass
