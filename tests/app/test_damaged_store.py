"""`gpuid run` with an SQLite file that is damaged, or whose disk is read-only: it publishes and says so."""

import functools
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from collector.simulator import Simulator
from tests.support import waiting
from tests.support.processes import CollectorProcess
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.anyio


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(clusters=1, nodes=5, gpus=4, latency=0.01, directory=tmp_path / "simulator") as simulator:
        yield simulator


@pytest.fixture
async def collector(simulator: Simulator, tmp_path: Path) -> AsyncIterator[CollectorProcess]:
    collector = CollectorProcess(tmp_path)
    configure(collector, simulator, tmp_path)
    yield collector
    await anyio.to_thread.run_sync(functools.partial(collector.stop, signal.SIGKILL))


def configure(collector: CollectorProcess, simulator: Simulator, folder: Path, more: str = "") -> None:
    collector.configure(
        list(simulator.clusters),
        before=f'[defaults]\nkubeconfig = "{simulator.kubeconfig}"\n',
        after=f'[store]\nurl = "sqlite://{folder}/gpuid.db"\n{more}[sinks.log]\ntype = "stdout"\nbatch_age = "50ms"\n',
    )


async def eventually(answer: Callable[[], object], expected: object) -> None:
    """Wait until the collector answers this, asked in a thread: the simulator runs in this one's event loop."""
    await waiting.eventually(functools.partial(anyio.to_thread.run_sync, answer), expected)


def history(collector: CollectorProcess) -> list[str]:
    """Return the UUIDs of the changes that the API has, sorted."""
    answer = httpx.get(f"{collector.url}/api/v1/changes?limit=1000", timeout=30)
    return sorted(change["uuid"] for change in answer.json()["changes"]) if answer.is_success else []


def spoil(path: Path) -> None:
    """Overwrite all but the first page, under a collector too, and have its next reading of the log see it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))


async def test_a_damaged_store_is_replaced_at_start_and_while_running(
    collector: CollectorProcess, simulator: Simulator, tmp_path: Path
) -> None:
    path, expected = tmp_path / "gpuid.db", simulator.fleet.expected
    uuids = sorted(one.uuid for one in expected())
    path.write_bytes(b"no database at all\n" * 1000)
    collector.start()
    await eventually(collector.gpus, expected())
    await eventually(lambda: history(collector), uuids)
    assert collector.total("gpuid_store_damaged_files") == 1
    page = await anyio.to_thread.run_sync(collector.text, "/problems")
    assert "The store was damaged, and a new history was started" in page
    assert "1 damaged file (" in page

    await anyio.to_thread.run_sync(spoil, path)
    simulator.clusters["sim-0"].add_node("late")
    simulator.clusters["sim-0"].move_gpu("gpu-0001", "gpu-0002")
    await eventually(collector.gpus, expected())
    await eventually(lambda: collector.total("gpuid_store_damaged_files"), 2)
    await eventually(lambda: collector.total("gpuid_store_up"), 1)
    await eventually(lambda: collector.total("gpuid_store_pending_records"), 0)
    uuids = sorted(one.uuid for one in expected())
    await eventually(lambda: set(uuids) <= set(history(collector)), True)
    assert await anyio.to_thread.run_sync(collector.gpus) == expected()
    assert collector.logged("store damaged; set the file aside") == 2

    await anyio.to_thread.run_sync(functools.partial(collector.stop, signal.SIGKILL))
    collector.start()
    await eventually(collector.gpus, expected())
    await eventually(lambda: {record["uuid"] for record in collector.records()}, set(uuids))


async def test_a_damaged_strict_store_stops_the_collector(
    collector: CollectorProcess, simulator: Simulator, tmp_path: Path
) -> None:
    configure(collector, simulator, tmp_path, "strict = true\n")
    (tmp_path / "gpuid.db").write_bytes(b"no database at all\n" * 1000)
    collector.start()
    await eventually(lambda: collector.running, False)
    assert collector.stop() == 2
    assert "not a database; move it away (with its -wal and -shm) to start afresh" in collector.tail()


async def test_a_read_only_disk_stops_only_recording(simulator: Simulator, tmp_path: Path) -> None:
    collector, expected = CollectorProcess(tmp_path), simulator.fleet.expected
    with small_disk(tmp_path / "disk", megabytes=4) as disk:
        configure(collector, simulator, disk.path)
        collector.command = disk.command(*collector.command)
        try:
            await recover_from_read_only(collector, disk, expected)
        finally:
            await anyio.to_thread.run_sync(functools.partial(collector.stop, signal.SIGKILL))


async def recover_from_read_only(collector: CollectorProcess, disk: SmallDisk, expected: Callable[[], object]) -> None:
    collector.start()
    await eventually(collector.gpus, expected())
    await eventually(lambda: collector.total("gpuid_store_pending_records"), 0)
    await anyio.to_thread.run_sync(collector.stop)
    disk.make_read_only()
    collector.start()
    await eventually(collector.gpus, expected())
    assert collector.total("gpuid_store_up") == 0
    assert collector.logged("its file system is read-only; check the disk and mount it for writing")
    disk.make_read_only(False)
    await eventually(lambda: collector.total("gpuid_store_up"), 1)
    await eventually(lambda: len(history(collector)), len(expected()))  # type: ignore[arg-type]
    assert collector.total("gpuid_store_damaged_files") == 0
