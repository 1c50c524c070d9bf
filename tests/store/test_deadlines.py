"""An HTTP answer waits for the store only for a limited time, and leaves nothing that blocks others."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from collector.store import Store, StoreError, StoreSettings
from collector.store.database import ANSWER_CONNECTIONS
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SHORT = 0.5  # seconds
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"


async def refused(store: Store) -> str:
    """Ask until the deadline, and return the error."""
    with anyio.fail_after(30), pytest.raises(StoreError) as caught:
        await store.history.within(SHORT).changes()
    return str(caught.value)


async def test_a_frozen_server_does_not_block_answers(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Store.open(StoreSettings(url=postgres_server.new_database())) as store:
        async with anyio.create_task_group() as tasks:  # so that there are connections already
            for _ in range(8):
                tasks.start_soon(store.history.within(60).changes)
        with postgres_server.frozen(), caplog.at_level(logging.WARNING):
            started = time.monotonic()
            for _ in range(3):
                async with anyio.create_task_group() as tasks:
                    for _ in range(20):
                        tasks.start_soon(refused, store)
            assert time.monotonic() - started < 20
            assert "the server did not respond in time" in await refused(store)
        await eventually(lambda: answers(store))
        await store.history.changes()  # and the others' connections were never touched
        await eventually(lambda: answerer(store).pool.checkedout(), 0)  # type: ignore[attr-defined]
        assert caplog.text == ""


async def answers(store: Store) -> bool:
    try:
        await store.history.within(SHORT).changes()
    except StoreError:
        return False
    return True


async def test_a_query_that_takes_too_long_is_ended(settings: StoreSettings, caplog: pytest.LogCaptureFixture) -> None:
    async with Store.open(settings) as store:
        for _ in range(6):
            with pytest.raises(StoreError, match=r"in time|timed out"):
                await ask(store, text(ENDLESS), SHORT)
            await eventually(lambda: answers(store))
        await eventually(lambda: answerer(store).pool.checkedout(), 0)  # type: ignore[attr-defined]
        assert caplog.text == ""


async def test_a_query_whose_deadline_passes_between_two_statements_is_ended(settings: StoreSettings) -> None:
    async with Store.open(settings) as store:
        with pytest.raises(StoreError, match=r"in time|timed out"):
            await ask(store, text(ENDLESS), SHORT, pause=2 * SHORT)
        await eventually(lambda: not store.database._answers)
        assert await answers(store)


async def test_a_query_whose_deadline_passes_while_it_is_queued_never_begins(settings: StoreSettings) -> None:
    begun = False

    async with Store.open(settings) as store, occupied(store):
        deadline = anyio.current_time() + SHORT

        async def late() -> None:
            nonlocal begun
            async with store.database.answer(deadline) as connection:
                begun = True
                await connection.execute(text(ENDLESS))

        with pytest.raises(StoreError, match=r"in time|timed out"):
            await store.database.within(deadline, late())
    assert not begun


async def test_answers_do_not_use_the_recorders_connections(settings: StoreSettings) -> None:
    async with Store.open(settings) as store, occupied(store):
        started = anyio.current_time()
        async with store.database.read() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
        assert anyio.current_time() - started < 20  # less than anybody waits for a connection


async def test_no_query_continues_after_the_store_has_closed(settings: StoreSettings) -> None:
    async with Store.open(settings) as store:
        pausing = anyio.Event()
        tasks = store.database._answers

        async def run() -> None:
            async with store.database.answer(anyio.current_time() + 600) as connection:
                pausing.set()
                await anyio.sleep(SHORT)  # the store closes meanwhile
                await connection.execute(text(ENDLESS))

        query = asyncio.create_task(store.database.within(anyio.current_time() + 600, run()))
        await pausing.wait()
    assert not tasks
    with pytest.raises(StoreError):
        await query


async def test_a_query_never_runs_without_a_limit(postgres_server: PostgresServer) -> None:
    async with Store.open(StoreSettings(url=postgres_server.new_database())) as store:

        @event.listens_for(answerer(store).sync_engine, "before_cursor_execute")
        def cut(connection: Any, _cursor: Any, statement: str, *_others: object) -> None:
            if "statement_timeout" in statement:
                connection.connection.driver_connection.terminate()

        with pytest.raises(StoreError):
            await ask(store, text(ENDLESS), SHORT)
        await eventually(lambda: not store.database._answers)


@contextlib.asynccontextmanager
async def occupied(store: Store) -> AsyncIterator[None]:
    """Have all the connections for answers in use during the block."""
    over = anyio.Event()

    async def occupy(*, task_status: TaskStatus[None]) -> None:
        async with store.database.answer(anyio.current_time() + 600) as connection:
            await connection.execute(text("SELECT 1"))
            task_status.started()
            await over.wait()

    async with anyio.create_task_group() as tasks:
        for _ in range(ANSWER_CONNECTIONS):
            await tasks.start(occupy)
        try:
            yield
        finally:
            over.set()


async def test_a_hanging_file_system_blocks_few_threads(sqlite_settings: StoreSettings) -> None:
    answered = threading.Event()

    def hang() -> int:
        return int(answered.wait())

    async with Store.open(sqlite_settings) as store:

        @event.listens_for(answerer(store).sync_engine, "connect")
        def connected(connection: Any, _record: object) -> None:
            connection.create_function("hang", 0, hang)

        await answerer(store).dispose()  # connections that do not know it
        others = database_threads()
        try:
            for _ in range(12):
                with pytest.raises(StoreError, match="timed out reading the file"):
                    await ask(store, text("SELECT hang()"), 0.1)
            assert 1 <= len(database_threads() - others) <= ANSWER_CONNECTIONS
        finally:  # or closing the store, and the event loop, would wait for them forever
            answered.set()
        await eventually(lambda: answers(store))
        await eventually(lambda: not store.database._answers)


def database_threads() -> set[threading.Thread]:
    """Return aiosqlite's threads, one for each connection; other tests' threads come and go."""
    return {thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name}


def answerer(store: Store) -> AsyncEngine:
    assert store.database._answerer is not None
    return store.database._answerer


async def ask(store: Store, query: Any, seconds: float, *, pause: float = 0.0) -> None:
    """Ask the database anything, as the history asks it, after a first statement and a pause."""
    deadline = anyio.current_time() + seconds

    async def run() -> None:
        async with store.database.answer(deadline) as connection:
            if pause:
                await connection.execute(text("SELECT 1"))
                await anyio.sleep(pause)
            await connection.execute(query)

    await store.database.within(deadline, run())


async def test_a_restarted_server_is_queried_again_immediately(postgres_server: PostgresServer) -> None:
    async with Store.open(StoreSettings(url=postgres_server.new_database())) as store:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(store.history.within(60).changes)
        await anyio.to_thread.run_sync(postgres_server.stop)
        await anyio.to_thread.run_sync(postgres_server.start)
        assert await store.history.within(60).changes() == []
