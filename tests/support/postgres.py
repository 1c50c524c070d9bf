"""A real PostgreSQL for the tests of the store: started once, a fresh database for each test."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import free_ports

__all__ = ["PostgresServer", "new_database", "postgres_server"]


class PostgresServer:
    """One server on 127.0.0.1 that trusts everybody; it can be stopped and started."""

    def __init__(self, programs: Path, folder: Path, account: str | None) -> None:
        self._programs = programs
        self._folder = folder
        self._account = account
        (self.port,) = free_ports(1)
        self._numbers = itertools.count(1)

    def create(self) -> None:
        """Make the data and start the server."""
        data = self._folder / "data"
        self._run("initdb", "-D", data, "-U", "gpuid", "-A", "trust", "-N", "--no-locale", "-E", "UTF8")
        (data / "postgresql.auto.conf").write_text(
            f"listen_addresses='127.0.0.1'\nport={self.port}\nunix_socket_directories=''\nfsync=off\n"
        )
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run("pg_ctl", "-D", self._folder / "data", "-w", "-t", "60", "-l", self._folder / "log", "start")

    def stop(self) -> None:
        """Stop it as a crash would, and wait until it is gone."""
        self._run("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "-w", "stop")

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test{next(self._numbers)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "gpuid", name)
        return f"postgresql://gpuid@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [str(self._programs / program), *map(str, arguments)],
            check=True,
            user=self._account,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of the whole run; skips where its programs are absent."""
    programs = _programs()
    if programs is None:
        pytest.skip("no postgres in /usr/lib/postgresql or on PATH: install Debian's package postgresql")
    account = None
    if os.geteuid() == 0:  # which postgres refuses to run as
        account = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
    folder = Path(tempfile.mkdtemp(prefix="gpuid-store-postgres-", dir="/tmp"))
    try:
        if account is not None:
            shutil.chown(folder, account)
        server = PostgresServer(programs, folder, account)
        server.create()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """What makes an empty database and returns its URL."""
    return postgres_server.new_database


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if (program := shutil.which("initdb")) is not None:
        found.append(Path(program).resolve().parent)
    return found[-1] if found else None
