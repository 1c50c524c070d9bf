"""The update of an SQLite file to the compact tables: with odd rows, killed on its way, and on a disk without room."""

import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from collector.store import Store, StoreSettings, files
from collector.store.downgrade import downgrade
from collector.store.errors import FULL_DISK
from collector.store.identifiers import unpacked
from collector.store.schema import METADATA
from collector.store.snapshots import inflated
from tests.support.old_store import create_tables
from tests.support.small_disk import small_disk

pytestmark = pytest.mark.anyio

BEFORE = "0010"
GPUS = 4000
ROOM = 256 << 10  # bytes on a disk, on which a file can be opened but not updated
# As many placements and changes, each with texts of its own.
_NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {GPUS})"
_FILLED = (
    "INSERT INTO gpuid_placements (uuid, serial, model, cluster, node, machine, since)"
    f" {_NUMBERS} SELECT printf('GPU-%08x-0000-4000-8000-000000000000', i), 'S' || i, 'H100', 'prod',"
    " 'node-with-a-long-name-' || i / 8, 'machine-with-a-long-name-' || i / 8, i FROM n",
    "INSERT INTO gpuid_changes (time, event, uuid, serial, model, cluster, node, machine, source, first_sight)"
    " SELECT since, 'appeared', uuid, serial, model, cluster, node, machine, 'pod-with-a-long-name-' || node, 1"
    " FROM gpuid_placements",
    "INSERT INTO gpuid_nodes (cluster, node, read_at, snapshot) VALUES ('prod', 'n', 1.0, x'80')",
)
# Killed as the last rows are written, when all are in the new tables and the old ones are gone; between the commit and
# the rewriting of the file; and during that.
_KILLED = """
import os, signal, sys, anyio
from collector.store import Store, StoreSettings, database, files, snapshots

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

connect = files._connection

def dying(path, mode):
    connection = connect(path, mode)
    connection.set_authorizer(lambda action, name, *_: watch(connection, name) or 0)
    return connection

def watch(connection, name):
    if name == "":  # the temporary file that VACUUM attaches
        connection.set_progress_handler(die, 3000)

async def main():
    match sys.argv[2]:
        case "update":
            snapshots.deflated = die
        case "before shrinking":
            database.shrink = die
        case "shrinking":
            files._connection = dying
    async with Store.open(StoreSettings(url=sys.argv[1])):
        pass

anyio.run(main)
"""
_REFUSED = """
import sys, anyio
from collector.store import Store, StoreError, StoreSettings

async def main():
    try:
        async with Store.open(StoreSettings(url=sys.argv[1], strict=True)):
            print("updated")
    except StoreError as error:
        print(error)

anyio.run(main)
"""
# Of any column of that type. The last text is damaged: it is no UTF-8.
_ODD: dict[str, list[Any]] = {
    "TEXT": ["", " ", "a", "A", "ü", "\U0001f600", "x" * 70_000, "0", "1e3", "GPU-1", b"\xff\xfea"],
    "DOUBLE": [0.0, -1.0, -0.5, 1e-9, 1.5, 1795751151.2917092, 4e9, 1e300],
    "BLOB": [b"", b"\x80", b"\x01", b"x", b"\x8b" * 900, bytes(range(256))],
}
_UUIDS: list[str | bytes] = [
    *(f"GPU-{number:08x}-0000-4000-8000-00000000000a" for number in range(40)),
    *("GPU-0000000A-0000-4000-8000-00000000000A", "GPU-0000000g-0000-4000-8000-00000000000a", "", "MIG-1", "0" * 32),
    *(b"GPU-\xff", "GPU-00000001-0000-4000-8000-00000000000a\n", "GPU-00000001-0000-4000-8000-00000000000\u0661"),
]


class Recorded(NamedTuple):
    """What a file has, whichever version wrote it."""

    placements: list[Any]
    changes: list[Any]


@pytest.fixture
async def old(sqlite_settings: StoreSettings, tmp_path: Path) -> Path:
    """Return a file of the version before."""
    await create_tables(sqlite_settings, BEFORE, *_FILLED)
    return tmp_path / "gpuid.db"


def recorded(path: Path) -> Recorded:
    with closing(sqlite3.connect(path)) as connection:
        placements = connection.execute("SELECT serial, node, machine, since FROM gpuid_placements ORDER BY id")
        changes = connection.execute("SELECT time, event, serial, node, source, first_sight FROM gpuid_changes")
        return Recorded(placements.fetchall(), sorted(changes.fetchall()))


def fill_oddly(path: Path) -> None:
    """Fill all tables with values that the version before could have had, if only by damage."""
    chosen = random.Random(17)

    def value(column: str, kind: str, nullable: bool) -> Any:
        if nullable and chosen.random() < 0.3:
            return None
        if column == "uuid":
            return chosen.choice(_UUIDS)
        return chosen.choice(_ODD[kind]) if kind in _ODD else chosen.randrange(2 if kind == "BOOLEAN" else 1 << 40)

    with closing(sqlite3.connect(path)) as connection, connection:
        for table, columns in tables(connection).items():
            types = [(name, kind, not required and not key) for _, name, kind, required, _, key in columns]
            names = ", ".join(name for name, _, _ in types)
            # A damaged text is given as its bytes, which are cast; a blob is not.
            marks = ", ".join("CAST(? AS TEXT)" if kind == "TEXT" else "?" for _, kind, _ in types)
            rows = [[value(*one) for one in types] for _ in range(300)]
            connection.executemany(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", rows)
        connection.execute("UPDATE gpuid_placements SET confirmed = since WHERE id % 2")  # as most rows have it


def tables(connection: sqlite3.Connection) -> dict[str, list[Any]]:
    """Return the columns of all tables of the version before except the facts, of which the file's id is one."""
    return {
        name: connection.execute(f"PRAGMA table_info({name})").fetchall()
        for name in METADATA.tables
        if name != "gpuid_facts"
    }


def content(path: Path, *, compact: bool = False) -> dict[str, list[Any]]:
    """Return all rows of a file of before, or a compact one, as they were before, with the type of each value."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        found = {}
        for table in tables(connection):
            names = list(METADATA.tables[table].c.keys())
            columns = ", ".join(f"typeof({name}), {name}" for name in names)
            rows = []
            for row in connection.execute(f"SELECT {columns} FROM {table}"):
                values = zip(names, row[::2], row[1::2], strict=True)
                rows.append(tuple(as_before(*one) if compact else one[1:] for one in values))
            found[table] = sorted(rows, key=repr)
        return found


def as_before(name: str, kind: bytes, value: Any) -> tuple[bytes, Any]:
    if kind == b"blob" and name == "uuid":
        return b"text", unpacked(value).encode()
    return kind, inflated(value) if name == "snapshot" else value


def size_of(path: Path) -> int:
    return path.stat().st_size


def free_pages(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


async def test_the_file_shrinks(old: Path, sqlite_settings: StoreSettings) -> None:
    before, size = recorded(old), size_of(old)
    async with Store.open(sqlite_settings):
        pass
    assert recorded(old) == before
    assert size_of(old) < size / 2
    assert free_pages(old) == 0


async def test_every_row_is_the_same_after_the_update_and_after_a_downgrade(
    sqlite_settings: StoreSettings, tmp_path: Path
) -> None:
    path = tmp_path / "gpuid.db"
    await create_tables(sqlite_settings, BEFORE)
    fill_oddly(path)
    before = content(path)
    assert min(map(len, before.values())) > 1
    assert len(before["gpuid_placements"]) == len(before["gpuid_changes"]) == 300
    async with Store.open(sqlite_settings):
        pass
    assert content(path, compact=True) == before
    await downgrade(sqlite_settings, BEFORE)
    assert content(path) == before


@pytest.mark.parametrize("when", ["update", "before shrinking", "shrinking"])
async def test_a_start_after_a_killed_one_completes_it(when: str, old: Path, sqlite_settings: StoreSettings) -> None:
    before, size = recorded(old), size_of(old)
    killed = subprocess.run([sys.executable, "-c", _KILLED, sqlite_settings.url, when], check=False)  # noqa: ASYNC221
    assert killed.returncode == -signal.SIGKILL
    assert recorded(old) == before
    async with Store.open(sqlite_settings) as store:
        assert len(await store.history.where("S7")) == 1
    assert recorded(old) == before
    assert size_of(old) < size / 2
    assert free_pages(old) == 0


async def test_a_full_disk_leaves_the_file_to_the_version_before(old: Path, tmp_path: Path) -> None:
    before = content(old)
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        file = disk.seen_from_outside / "gpuid.db"
        shutil.copy(old, file)
        filled = disk.fill()
        os.truncate(disk.seen_from_outside / "filler", filled - ROOM)
        started = disk.command(sys.executable, "-c", _REFUSED, f"sqlite://{disk.path}/gpuid.db")
        for _ in range(2):
            said = subprocess.run(started, capture_output=True, text=True, check=True)  # noqa: ASYNC221
            assert said.stdout == f"store {disk.path}/gpuid.db: {FULL_DISK}\n"
            shutil.copy(file, tmp_path / "copy.db")
            with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
                assert connection.execute("SELECT version_num FROM gpuid_schema").fetchall() == [(BEFORE,)]
            assert content(tmp_path / "copy.db") == before


async def test_without_room_the_file_keeps_its_size(
    old: Path, sqlite_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = recorded(old)
    usage = shutil.disk_usage(old.parent)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    async with Store.open(sqlite_settings):
        pass
    told = "no room to shrink the store's file after the update; free some space and restart to try again"
    assert warned(caplog) == [told]
    assert recorded(old) == before
    assert free_pages(old) > 0
    monkeypatch.undo()
    async with Store.open(sqlite_settings):
        pass
    assert recorded(old) == before
    assert free_pages(old) == 0


async def test_a_file_that_cannot_be_shrunk_stays_as_it_is(
    old: Path, sqlite_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = recorded(old)
    connect = files._connection

    def without_attaching(path: Path, mode: str) -> sqlite3.Connection:  # as VACUUM does with its temporary file
        connection = connect(path, mode)
        connection.set_authorizer(lambda action, *_: int(action == sqlite3.SQLITE_ATTACH))
        return connection

    monkeypatch.setattr(files, "_connection", without_attaching)
    async with Store.open(sqlite_settings):
        pass
    (told,) = warned(caplog)
    assert told.startswith("cannot shrink the store's file after the update; the next start tries again: ")
    assert recorded(old) == before


async def test_a_downgrade_has_all_rows_again(old: Path, sqlite_settings: StoreSettings) -> None:
    before = recorded(old)
    async with Store.open(sqlite_settings) as store, store.database.read() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM gpuid_gpus")) == GPUS
    await downgrade(sqlite_settings, BEFORE)
    assert recorded(old) == before
