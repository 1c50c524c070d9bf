"""The files of an SQLite store are their owner's alone, whatever the umask and whatever they were."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from collector.store import OpenMode, Store, StoreError, StoreSettings

FILES = {"gpuid.db", "gpuid.db-wal", "gpuid.db-shm", "gpuid.db.lock"}


def modes(folder: Path) -> dict[str, str]:
    return {file.name: f"{file.stat().st_mode & 0o777:o}" for file in folder.iterdir()}


@pytest.fixture(params=["0", "22", "77"])
def umask(request):
    before = os.umask(int(request.param, 8))
    yield
    os.umask(before)


@pytest.mark.anyio
@pytest.mark.usefixtures("umask")
async def test_files_are_private_with_any_umask(sqlite_settings, collecting, tmp_path):
    async with collecting(sqlite_settings) as one:
        one.read("a", 10.0, "1")
        assert await one.store.history_writer.flushed(10)
        assert modes(tmp_path) == dict.fromkeys(FILES, "600")


@pytest.mark.anyio
async def test_files_of_an_earlier_version_become_private(sqlite_settings, collecting, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with collecting(sqlite_settings) as one:
        one.read("a", 10.0, "1")
        assert await one.store.history_writer.flushed(10)
        copies = {file.name: file.read_bytes() for file in tmp_path.iterdir()}  # as kill -9 leaves them
    for name, content in copies.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o664)
    async with collecting(sqlite_settings) as one:
        assert modes(tmp_path) == dict.fromkeys(FILES, "600")
        assert len(await one.store.history.where("GPU-1")) == 1
    assert "restricted the permissions of a store file" in caplog.text


def test_files_are_private_from_creation(tmp_path):
    """Look at every open() that creates a file; the umask would let others in."""
    program = """
import os, sys, anyio
from collector.store import Store, StoreSettings
os.umask(0)
created = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and ".db" in arguments[0]:
        if os.path.exists(arguments[0]):
            created.append((arguments[0], os.stat(arguments[0]).st_mode & 0o077))
    elif event == "sqlite3.connect":
        path = str(arguments[0]).removeprefix("file:").partition("?")[0]
        assert os.path.exists(path), "SQLite would make it, for everybody to read"
        created.append((path, os.stat(path).st_mode & 0o077))
sys.addaudithook(watch)
async def main():
    async with Store.open(StoreSettings(url="sqlite://" + sys.argv[1])):
        pass
anyio.run(main)
assert created and not any(mode for _, mode in created), created
"""
    subprocess.run([sys.executable, "-c", program, tmp_path / "gpuid.db"], check=True, cwd=Path(__file__).parents[2])


def test_another_user_gets_a_remedy(anyio_backend, tmp_path):
    folder = Path("/tmp") / f"gpuid-private-{os.getpid()}"
    folder.mkdir(mode=0o755)
    settings = StoreSettings(url=f"sqlite://{folder}/gpuid.db")

    async def message() -> str:
        try:
            async with Store.open(settings, OpenMode.READER):
                return ""
        except StoreError as error:
            return str(error)

    async def create() -> None:
        async with Store.open(settings):
            pass

    try:
        if os.geteuid() != 0:
            pytest.skip("only root can be another user")
        anyio.run(create)
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                os.write(write, anyio.run(message).encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as answer:
            assert answer.read() == (
                f"store {folder}/gpuid.db: only the collector's own user may read it; run this command as that user,"
                " or ask the running collector with --url"
            )
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
