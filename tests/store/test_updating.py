"""Updating the tables of an older version: on PostgreSQL while others read and record, and after an interruption."""

import time
from contextlib import asynccontextmanager

import anyio
import asyncpg
import pytest
from sqlalchemy import text

from collector.store import Store, StoreError, StoreSettings, check, schema
from collector.store.leadership import LEASE_SECONDS
from tests.support.old_store import create_tables
from tests.support.pgbouncer import pgbouncer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SECOND_SIGHTS = "event = 'appeared' AND time > 1000"
FILL = (
    "INSERT INTO gpuid_placements (uuid, cluster, node, machine, since)"
    " SELECT 'GPU-' || n, 'prod', 'node-' || n %% {nodes}, '', 1000 + 1000 * (n / ({rows} / 2))"
    " FROM generate_series(0, {rows} - 1) AS n",
    "INSERT INTO gpuid_changes (time, event, uuid, cluster, node, machine, source)"
    " SELECT since, 'appeared', uuid, cluster, node, '', 'x/y' FROM gpuid_placements ORDER BY id",
    "ANALYZE",
)
INDEX_BEGUN = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('gpuid_changes_uuid')"
OLD_SNAPSHOT = "SELECT pg_current_snapshot()"
WAIT_AT_12000 = (
    "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$",
    "CREATE TRIGGER wait BEFORE UPDATE ON gpuid_changes FOR EACH ROW WHEN (NEW.id = 12000) EXECUTE FUNCTION wait()",
)
RECORD = (
    "INSERT INTO gpuid_placements (uuid, cluster, node, machine, since) VALUES ('GPU-late', 'prod', 'late', '', 9000)",
    "INSERT INTO gpuid_changes (time, event, uuid, cluster, node, machine, source)"
    " VALUES (9000, 'moved', 'GPU-late', 'prod', 'late', '', 'x/y')",
)


@pytest.fixture
def filled(postgres_server):
    """Make a store of version 0006 with as many placements and changes, half of them first sights of a node."""

    async def filled(rows, nodes=100):
        settings = StoreSettings(url=postgres_server.new_database())
        statements = (one.format(rows=rows, nodes=nodes).replace("%%", "%") for one in FILL)
        await create_tables(settings, "0006", *statements)
        return settings

    return filled


@asynccontextmanager
async def connected(settings):
    connection = await asyncpg.connect(settings.url)
    try:
        yield connection
    finally:
        await connection.close()


async def opened(settings):
    async with Store.open(settings):
        pass


async def refused(settings):
    with pytest.raises(StoreError):
        await opened(settings)


async def check_updated(settings, rows, nodes=100):
    async with connected(settings) as connection:
        assert await connection.fetchval("SELECT version_num FROM gpuid_schema") == schema.HEAD
        assert await connection.fetchval("SELECT count(*) FROM gpuid_changes WHERE first_sight") == rows // 2
        assert not await connection.fetchval(
            f"SELECT count(*) FROM gpuid_changes WHERE first_sight AND {SECOND_SIGHTS}"
        )
        counted = await connection.fetchrow("SELECT day, cluster, nodes, gpus, until FROM gpuid_first_sights")
        assert tuple(counted) == (0, "prod", nodes, rows // 2, 1000.0)
        assert await connection.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0
        indexes = {
            row[0] for row in await connection.fetch("SELECT indexname FROM pg_indexes WHERE tablename LIKE 'gpuid%'")
        }
        assert {index.name for table in schema.METADATA.sorted_tables for index in table.indexes} <= indexes
        assert not {"gpuid_changes_altered", "gpuid_changes_health"} & indexes


@pytest.mark.parametrize("changes", [0, 1])
async def test_the_start_of_complete_history_is_recorded(settings, changes):
    await create_tables(settings, "0006", *RECORD[: 2 * changes])
    async with Store.open(settings) as store, store.database.read() as connection:
        facts = {row[0]: row[1] for row in await connection.execute(text("SELECT name, value FROM gpuid_facts"))}
    assert set(facts) == {"id", "history_begins", "health_begins"} if changes else {"id"}
    assert facts.get("history_begins") == ("9000.0" if changes else None)


async def test_others_read_and_record_during_an_update(filled):
    settings = await filled(200_000, nodes=12_500)
    seen, recorded, longest = set(), 0, 0.0
    async with connected(settings) as reader, connected(settings) as leader, anyio.create_task_group() as tasks:
        for connection in (reader, leader):
            await connection.execute(f"SET statement_timeout = '{LEASE_SECONDS:.0f}s'")

        async def read():
            nonlocal longest
            while True:
                began = time.monotonic()
                assert await reader.fetchval("SELECT count(*) FROM gpuid_placements WHERE node = 'node-1'") == 16
                assert await reader.fetchval("SELECT count(*) FROM gpuid_changes WHERE time = 5") == 0
                seen.add(await reader.fetchval("SELECT version_num FROM gpuid_schema"))
                longest = max(longest, time.monotonic() - began)
                await anyio.sleep(0.01)

        async def record():
            nonlocal longest, recorded
            while True:
                began = time.monotonic()
                async with leader.transaction():
                    await leader.execute(f"SELECT pg_advisory_xact_lock({schema.APPLICATION_ID})")
                    for statement in RECORD:
                        await leader.execute(statement)
                longest = max(longest, time.monotonic() - began)
                recorded += 1
                await anyio.sleep(0.01)

        tasks.start_soon(read)
        tasks.start_soon(record)
        await opened(settings)
        tasks.cancel_scope.cancel()
    assert seen & {"0007", "0008"}  # that is, while it was under way
    assert recorded > 3
    assert longest < LEASE_SECONDS
    await check_updated(settings, 200_000, nodes=12_500)


async def test_an_interrupted_update_resumes_where_it_stopped(filled):
    settings = await filled(25_000)
    async with connected(settings) as other, connected(settings) as admin:
        for statement in WAIT_AT_12000:
            await admin.execute(statement)

        async with anyio.create_task_group() as tasks, other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock(1)")
            tasks.start_soon(refused, settings)
            waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE gpuid_changes%'"
            await eventually(lambda: admin.fetchval(f"SELECT count(*) {waiting}"))
            await admin.execute(f"SELECT pg_terminate_backend(pid) {waiting}")
            await eventually(lambda: admin.fetchval(f"SELECT count(*) {waiting}"), 0)
        assert await admin.fetchval("SELECT version_num FROM gpuid_schema") == "0007"
        assert await admin.fetchval("SELECT count(*) FROM gpuid_changes WHERE first_sight") == 10_000
    await opened(settings)
    await check_updated(settings, 25_000)


async def leave_incomplete_index(settings, other, admin):
    async with other.transaction(isolation="repeatable_read"):
        await other.execute(OLD_SNAPSHOT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused, settings)
            await eventually(lambda: admin.fetchval(INDEX_BEGUN), False)
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%'"
            )
    assert await admin.fetchval(INDEX_BEGUN) is False


async def test_an_incomplete_index_is_rebuilt(filled):
    settings = await filled(200)
    async with connected(settings) as other, connected(settings) as admin:
        await leave_incomplete_index(settings, other, admin)
    await opened(settings)
    await check_updated(settings, 200)


async def test_an_index_that_the_server_is_still_completing_is_retried(filled, caplog):
    settings = await filled(200)
    dropping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%DROP INDEX CONC%' AND wait_event_type = 'Lock'"
    async with connected(settings) as other, connected(settings) as admin, anyio.create_task_group() as tasks:
        await leave_incomplete_index(settings, other, admin)
        async with other.transaction():
            # The last step of CREATE INDEX CONCURRENTLY, after it has unlocked the table.
            await other.execute("UPDATE pg_index SET indisvalid = true WHERE NOT indisvalid")
            tasks.start_soon(opened, settings)
            await eventually(lambda: admin.fetchval(dropping))
    assert "retrying the update" in caplog.text
    await check_updated(settings, 200)


async def test_timeouts_of_the_role_do_not_interrupt_it(filled):
    settings = await filled(200)
    long = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%' AND now() - query_start > '3 s'"
    async with connected(settings) as other, connected(settings) as admin:
        await admin.execute("DROP ROLE IF EXISTS hurried")
        await admin.execute("CREATE ROLE hurried LOGIN SUPERUSER")
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            await admin.execute(f"ALTER ROLE hurried SET {name} = '2s'")
        async with anyio.create_task_group() as tasks, other.transaction(isolation="repeatable_read"):
            await other.execute(OLD_SNAPSHOT)
            tasks.start_soon(opened, StoreSettings(url=settings.url.replace("gpuid@", "hurried@")))
            await eventually(lambda: admin.fetchval(long), 1)
    await check_updated(settings, 200)


async def test_a_busy_lock_is_retried(filled, caplog):
    settings = await filled(200)
    async with (
        connected(settings) as other,
        connected(settings) as reader,
        anyio.create_task_group() as tasks,
        other.transaction(),
    ):
        await other.fetchval("SELECT count(*) FROM gpuid_placements")
        tasks.start_soon(opened, settings)
        await eventually(lambda: "retrying the update" in caplog.text)
        assert await reader.fetchval("SELECT count(*) FROM gpuid_placements") == 200
    await check_updated(settings, 200)


async def test_a_second_collector_waits_for_its_turn(filled, caplog):
    caplog.set_level("INFO")
    settings = await filled(200)
    async with connected(settings) as other, anyio.create_task_group() as tasks, other.transaction():
        await other.fetchval(f"SELECT pg_advisory_xact_lock({schema.APPLICATION_ID + 1})")
        tasks.start_soon(opened, settings)
        await eventually(lambda: "waiting for another collector" in caplog.text)
        assert await other.fetchval("SELECT version_num FROM gpuid_schema") == "0006"
    await check_updated(settings, 200)


async def test_a_pooler_with_one_connection_is_enough(filled, caplog):
    settings = await filled(200)
    with pgbouncer(settings.url, pool_mode="transaction", pool_size=1) as url, anyio.fail_after(90):
        await opened(StoreSettings(url=url))
    assert "no second connection" in caplog.text
    await check_updated(settings, 200)


async def test_a_pooler_with_a_few_connections_is_enough(filled, caplog):
    settings = await filled(200)
    with pgbouncer(settings.url, pool_mode="transaction") as url, anyio.fail_after(90):
        await opened(StoreSettings(url=url))
    assert "no second connection" not in caplog.text
    await check_updated(settings, 200)


async def test_a_check_does_not_touch_the_tables(filled):
    settings = await filled(200)
    async with connected(settings) as other, other.transaction():
        await other.execute("LOCK TABLE gpuid_placements, gpuid_changes IN ROW EXCLUSIVE MODE")  # as a commit does
        with anyio.fail_after(30):
            assert await check(settings) == "tables updated by the collector at its next start"


async def test_a_check_says_that_a_user_may_not_alter_the_tables(filled):
    settings = await filled(200)
    async with connected(settings) as admin:
        for statement in (
            "DROP ROLE IF EXISTS renter",
            "CREATE ROLE renter LOGIN",
            "GRANT CREATE ON SCHEMA public TO renter",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO renter",
        ):
            await admin.execute(statement)
    rented = StoreSettings(url=settings.url.replace("gpuid@", "renter@"))
    for denied in (check(rented), opened(rented)):
        with pytest.raises(StoreError, match="grant the user the role that owns them"):
            await denied


async def test_a_restart_while_the_server_still_builds_an_index_ends_well(filled):
    settings = await filled(200)
    dropping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%DROP INDEX CONC%' AND pid <> pg_backend_pid()"
    async with (
        connected(settings) as other,
        connected(settings) as admin,
        anyio.create_task_group() as tasks,
        other.transaction(isolation="repeatable_read"),
    ):
        await other.execute(OLD_SNAPSHOT)
        async with anyio.create_task_group() as first:
            first.start_soon(opened, settings)
            await eventually(lambda: admin.fetchval(INDEX_BEGUN), False)
            first.cancel_scope.cancel()
        tasks.start_soon(opened, settings)
        await eventually(lambda: admin.fetchval(dropping))
    await check_updated(settings, 200)
