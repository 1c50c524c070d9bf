"""The update of an SQLite file to the compact tables: killed on its way, and without the room to shrink the file."""

import logging
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
from tests.support.old_store import create_tables

pytestmark = pytest.mark.anyio

BEFORE = "0010"
GPUS = 4000
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
# The snapshots of nodes are rewritten last, when all rows are in the new tables and the old ones are gone.
_KILLED = """
import os, signal, sys, anyio
from collector.store import Store, StoreSettings, snapshots

def die(_snapshot):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    snapshots.deflated = die
    async with Store.open(StoreSettings(url=sys.argv[1])):
        pass

anyio.run(main)
"""


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


async def test_a_killed_update_is_begun_again(old: Path, sqlite_settings: StoreSettings) -> None:
    before = recorded(old)
    killed = subprocess.run([sys.executable, "-c", _KILLED, sqlite_settings.url], check=False)  # noqa: ASYNC221
    assert killed.returncode == -signal.SIGKILL
    assert recorded(old) == before  # nothing of it was committed
    async with Store.open(sqlite_settings) as store:
        assert len(await store.history.where("S7")) == 1
    assert recorded(old) == before


async def test_without_room_the_file_keeps_its_size(
    old: Path, sqlite_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = recorded(old)
    usage = shutil.disk_usage(old.parent)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    async with Store.open(sqlite_settings):
        pass
    assert warned(caplog) == ["no room to shrink the store's file after the update"]
    assert recorded(old) == before
    assert free_pages(old) > 0


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
    assert [one.startswith("cannot shrink the store's file after the update: ") for one in warned(caplog)] == [True]
    assert recorded(old) == before


async def test_a_downgrade_has_all_rows_again(old: Path, sqlite_settings: StoreSettings) -> None:
    before = recorded(old)
    async with Store.open(sqlite_settings) as store, store.database.read() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM gpuid_gpus")) == GPUS
    await downgrade(sqlite_settings, BEFORE)
    assert recorded(old) == before
