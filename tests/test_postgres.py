"""Which of several PostgreSQL servers is connected to, as libpq does it."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import asyncpg
import pytest

from collector.config.libpq import connection_options
from collector.postgres import Connector
from tests.support.postgres import PostgresServer, new_database, postgres_server
from tests.support.processes import free_ports

__all__ = ["new_database", "postgres_server"]

pytestmark = pytest.mark.anyio

HANGS_SECONDS = 0.5
ANSWERS_SECONDS = 30.0


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of what connects and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def connector(url: str, ports: list[int], parameters: str = "", timeout: float = ANSWERS_SECONDS) -> Connector:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    database = url.rpartition("/")[2]
    return Connector(connection_options(f"postgresql://gpuid@{hosts}/{database}?{parameters}"), timeout=timeout)


async def port_of(connection: asyncpg.Connection) -> int:
    try:
        return int(await connection.fetchval("SELECT inet_server_port()"))
    finally:
        await connection.close()


async def read_only(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    await connection.close()


@pytest.mark.parametrize("attributes", ["", "target_session_attrs=read-write", "target_session_attrs=prefer-standby"])
async def test_each_host_has_its_own_time_limit(
    attributes: str, postgres_server: PostgresServer, new_database: Callable[[], str], silent: int
) -> None:
    (closed,) = free_ports(1)
    # Generous for a slow machine, and paid once for each pass over the hosts.
    made = connector(new_database(), [closed, silent, postgres_server.port], attributes, timeout=3.0)
    assert await port_of(await made.connect()) == postgres_server.port


async def test_an_error_is_raised_if_no_host_answers(silent: int) -> None:
    (closed,) = free_ports(1)
    with pytest.raises(TimeoutError):
        await connector("/none", [closed, silent], timeout=HANGS_SECONDS).connect()
    with pytest.raises(ConnectionRefusedError):
        await connector("/none", [silent, closed], timeout=HANGS_SECONDS).connect()


async def test_a_host_of_another_kind_is_skipped(
    postgres_server: PostgresServer, new_database: Callable[[], str]
) -> None:
    url = new_database()
    ports = [postgres_server.port, postgres_server.port]
    await read_only(url)
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await connector(url, ports, "target_session_attrs=read-write").connect()
    assert await port_of(await connector(url, ports, "target_session_attrs=read-only").connect())


async def test_a_refused_login_ends_the_search(new_database: Callable[[], str], postgres_server: Any) -> None:
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await connector("/nosuch", [postgres_server.port, 1]).connect()


async def test_a_short_deadline_still_reaches_the_next_host(
    postgres_server: PostgresServer, new_database: Callable[[], str], silent: int
) -> None:
    made = connector(new_database(), [silent, postgres_server.port])
    with anyio.move_on_after(HANGS_SECONDS) as scope:
        await made.connect()
    assert scope.cancelled_caught
    with anyio.fail_after(ANSWERS_SECONDS):
        assert await port_of(await made.connect()) == postgres_server.port
