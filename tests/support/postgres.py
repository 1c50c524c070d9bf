"""A real PostgreSQL for the tests of the store: started once, a fresh database for each test."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.processes import free_ports
from tests.support.small_disk import SmallDisk, small_disk

__all__ = [
    "PostgresServer",
    "new_database",
    "postgres_at",
    "postgres_on_small_disk",
    "postgres_running",
    "postgres_server",
]


class PostgresServer:
    """One server on 127.0.0.1 that trusts everybody; it can be stopped and started.

    With an address and a password it is the one that others know by that address, port 5432 and the password.
    """

    def __init__(
        self,
        programs: Path,
        folder: Path,
        account: str | None,
        *,
        disk: SmallDisk | None = None,
        address: str = "127.0.0.1",
        password: str = "",
    ) -> None:
        self._programs = programs
        self._folder = folder
        self._account = account
        self._disk = disk  # which the folder is on
        self._address, self._password = address, password
        (self.port,) = (5432,) if password else free_ports(1)
        self._numbers = itertools.count(1)

    def create(self) -> None:
        """Make the data and start the server."""
        data = self._folder / "data"
        segments = () if self._disk is None else ("--wal-segsize=1",)  # MB
        how: tuple[object, ...] = ("-A", "trust")
        if self._password:
            (self._folder / "password").write_text(self._password)
            (self._folder / "password").chmod(0o644)
            how = ("-A", "scram-sha-256", "--pwfile", self._folder / "password")
        self._run("initdb", "-D", data, "-U", "gpuid", *how, "-N", "--no-locale", "-E", "UTF8", *segments)
        settings = f"listen_addresses='{self._address}'\nport={self.port}\nunix_socket_directories=''\nfsync=off\n"
        if self._disk is not None:
            settings += "min_wal_size=2MB\nmax_wal_size=4MB\n"
            data = self._disk.seen_from_outside / "data"
        (data / "postgresql.auto.conf").write_text(settings)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run("pg_ctl", "-D", self._folder / "data", "-w", "-t", "60", "-l", self._folder / "log", "start")

    def stop(self) -> None:
        """Stop it as a crash would, and wait until it is gone."""
        self._run("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "-w", "stop")

    def kill(self) -> None:
        """End its first process, after which the others end as soon as they notice."""
        os.kill(int((self._folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test{next(self._numbers)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "gpuid", name)
        return f"postgresql://gpuid@127.0.0.1:{self.port}/{name}"

    def make_database(self, name: str) -> None:
        """Make an empty database of this name, as the server's user with its password."""
        self._run("createdb", "-h", self._address, "-U", "gpuid", name, env={"PGPASSWORD": self._password})

    @property
    def running(self) -> bool:
        """Whether it takes connections."""
        try:
            self._run("pg_isready", "-h", "127.0.0.1", "-p", self.port)
        except subprocess.CalledProcessError:
            return False
        return True

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process of the server, as a machine that hangs does."""
        postmaster = (self._folder / "data" / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        processes = [int(postmaster), *map(int, children)]

        def send(number: signal.Signals) -> None:
            for pid in processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

        send(signal.SIGSTOP)
        try:
            yield
        finally:
            send(signal.SIGCONT)

    def _run(self, program: str, *arguments: object, env: Mapping[str, str] = {}) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        account = self._account
        if self._disk is not None:
            entry = None if account is None else pwd.getpwnam(account)
            command = self._disk.command(*command, user=entry and entry.pw_uid, group=entry and entry.pw_gid)
            account = None
        subprocess.run(
            command,
            check=True,
            user=account,
            cwd="/",
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of the whole run; skips where its programs are absent."""
    with postgres_running() as server:
        yield server


@contextmanager
def postgres_running() -> Iterator[PostgresServer]:
    """Run a server of its own; skips where its programs are absent."""
    programs, account = _programs_and_account()
    folder = Path(tempfile.mkdtemp(prefix="gpuid-store-postgres-", dir="/tmp"))
    try:
        if account is not None:
            shutil.chown(folder, account)
        server = PostgresServer(programs, folder, account)
        server.create()
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):  # it may be stopped already
                server.stop()
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgres_on_small_disk(*, megabytes: int) -> Iterator[tuple[PostgresServer, SmallDisk]]:
    """Run a server of its own whose data are on a small disk; skips where either is impossible."""
    programs, account = _programs_and_account()
    folder = Path(tempfile.mkdtemp(prefix="gpuid-store-disk-", dir="/tmp"))
    owner = None if account is None else pwd.getpwnam(account).pw_uid
    try:
        with small_disk(folder, megabytes=megabytes, owner=owner) as disk:
            server = PostgresServer(programs, folder, account, disk=disk)
            server.create()
            try:
                yield server, disk
            finally:
                if server.running:
                    server.stop()
    finally:
        folder.rmdir()


@contextmanager
def postgres_at(address: str, password: str) -> Iterator[PostgresServer]:
    """Run a server of its own, for the user gpuid with a password, at port 5432 of a loopback address."""
    programs, account = _programs_and_account()
    with tempfile.TemporaryDirectory(prefix="gpuid-postgres-", dir="/tmp") as name:
        folder = Path(name)
        if account is not None:
            shutil.chown(folder, account)
        server = PostgresServer(programs, folder, account, address=address, password=password)
        server.create()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """What makes an empty database and returns its URL."""
    return postgres_server.new_database


def _programs_and_account() -> tuple[Path, str | None]:
    """Return where the programs are, and as whom root runs them, which postgres refuses to run as; skips without."""
    programs = _programs()
    if programs is None:
        pytest.skip("no postgres in /usr/lib/postgresql or on PATH: install Debian's package postgresql")
    if os.geteuid() != 0:
        return programs, None
    return programs, "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if (program := shutil.which("initdb")) is not None:
        found.append(Path(program).resolve().parent)
    return found[-1] if found else None
