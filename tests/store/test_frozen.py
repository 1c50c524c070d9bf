"""A leader that is frozen, or whose connections are, is followed within the time of a lease and a little more."""

import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from anyio.abc import ByteStream, SocketStream

from collector.store import Store, StoreSettings
from collector.store.leadership import LEASE_SECONDS
from collector.store.schema import APPLICATION_ID
from tests.support.processes import Process
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

FOLLOWED_SECONDS = 20.0
SLOW_MACHINE_SECONDS = 40.0  # more, for a machine that has other work


class FrozenProxy:
    """A TCP proxy that can stop forwarding while every connection stays open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._open = anyio.Event()
        self._open.set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self, url: str) -> AsyncIterator[None]:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            self.url = url.replace(f":{self._port}/", f":{port}/")
            tasks.start_soon(listener.serve, self._forward)
            yield
            tasks.cancel_scope.cancel()

    def freeze(self) -> None:
        self._open = anyio.Event()

    def thaw(self) -> None:
        self._open.set()

    async def _forward(self, client: SocketStream) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            async with (
                client,
                await anyio.connect_tcp(self._host, self._port) as server,
                anyio.create_task_group() as both,
            ):
                both.start_soon(self._pump, client, server)
                both.start_soon(self._pump, server, client)

    async def _pump(self, source: ByteStream, target: ByteStream) -> None:
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await source.receive()
                await self._open.wait()
                await target.send(data)
        await target.aclose()


async def test_a_leader_with_stuck_connections_is_replaced(postgres_server, collecting):
    url = postgres_server.new_database()
    proxy = FrozenProxy(url)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(proxy.serving(url))
        one = await stack.enter_async_context(collecting(StoreSettings(url=proxy.url)))
        other = await stack.enter_async_context(collecting(StoreSettings(url=url)))
        for each in (one, other):
            each.read("a", 10.0, "1", "2")
        assert await one.store.history_writer.flushed(30)
        await eventually(lambda: other.store.leadership.status.holder)
        proxy.freeze()
        start = time.monotonic()
        for each in (one, other):
            each.read("b", 20.0, "1")
        await eventually(lambda: other.store.leadership.leads, seconds=FOLLOWED_SECONDS + SLOW_MACHINE_SECONDS)
        logging.getLogger(__name__).warning("followed after %.1f s", time.monotonic() - start)
        assert not one.store.leadership.leads
        assert await other.store.history_writer.flushed(30)
        expected = [("appeared", "GPU-1"), ("appeared", "GPU-2"), ("moved", "GPU-1")]
        assert [(c.event, c.uuid) for c in await other.store.history.changes()] == expected
        proxy.thaw()
        await eventually(lambda: not one.store.leadership.recording)
        for each in (one, other):
            each.read("c", 30.0, "2")
        assert await other.store.history_writer.flushed(30)
        await eventually(lambda: one.store.leadership.status.has_leader and one.store.health.status.up)
        expected.append(("moved", "GPU-2"))
        assert [(c.event, c.uuid) for c in await other.store.history.changes()] == expected


async def test_a_process_stopped_while_writing_is_replaced(postgres_server, tmp_path):
    settings = StoreSettings(url=postgres_server.new_database())
    acknowledged = tmp_path / "acknowledged"
    command = [sys.executable, Path(__file__).with_name("killed.py"), settings.url, acknowledged, tmp_path / "got", "7"]
    child = Process(command, tmp_path / "log", env={"PYTHONPATH": str(Path(__file__).parents[2])})
    child.start()
    try:
        await eventually(lambda: (acknowledged.exists() and acknowledged.stat().st_size) or not child.running)
        async with Store.open(settings) as store:
            assert not store.leadership.leads
            while not await in_transaction(store, child):
                child.send(signal.SIGCONT)
            start = time.monotonic()
            limit = FOLLOWED_SECONDS + SLOW_MACHINE_SECONDS
            await eventually(store.leadership.ask, seconds=limit)
            logging.getLogger(__name__).warning("followed after %.1f s", time.monotonic() - start)
            assert time.monotonic() - start < limit
            store.history_writer.begin({})
            async with store.leadership.write():
                pass
    finally:
        child.stop(signal.SIGKILL)


async def in_transaction(store, child: Process) -> bool:
    """Stop the process; True if it has a transaction open that keeps every other writer waiting."""
    await anyio.sleep(0.003)
    child.send(signal.SIGSTOP)
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
        " AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
    )
    async with store.database.read() as connection:
        for _ in range(2):  # what it had sent is done by the second time
            found = await connection.exec_driver_sql(query)
            await anyio.sleep(0.05)
        return bool(found.scalar_one())


async def test_a_missing_leader_is_logged_once(postgres_server, collecting, caplog):
    settings = StoreSettings(url=postgres_server.new_database())
    caplog.set_level(logging.INFO)
    said = "no collector leads: nothing is recorded or delivered"
    async with Store.open(settings):
        pass
    blocker = await asyncpg.connect(settings.url)
    await blocker.execute(f"SELECT pg_advisory_lock({APPLICATION_ID})")
    async with collecting(settings) as one:
        clock = one.store.leadership._clock
        one.store.leadership._clock = lambda: clock() + LEASE_SECONDS + 1
        await eventually(lambda: said in caplog.messages)
        assert not one.store.leadership.status.has_leader
        await blocker.close()
        await eventually(lambda: one.store.leadership.leads)
        assert one.store.leadership.status.has_leader
        await eventually(lambda: "leading: recording into the store and delivering to the sinks" in caplog.messages)
    assert caplog.messages.count(said) == 1
