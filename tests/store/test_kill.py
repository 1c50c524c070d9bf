"""SIGSTOP and kill -9 at any instant: no commit is lost, nothing is recorded twice, sinks get everything."""

import logging
import os
import random
import signal
import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from collector.inventory import Inventory
from collector.model import Event
from collector.store import OpenMode, Store
from tests.support.processes import Process
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

log = logging.getLogger(__name__)

ROUNDS = 8


async def test_committed_changes_survive_once_and_in_order(settings, tmp_path):
    seed = int(os.environ.get("GPUID_TEST_SEED", random.randrange(10**9)))
    log.warning("GPUID_TEST_SEED=%d makes the same choices again", seed)  # shown when it fails
    rng = random.Random(seed)
    acknowledged, received = tmp_path / "acknowledged", tmp_path / "received"
    command = [sys.executable, Path(__file__).with_name("killed.py"), settings.url, acknowledged, received]
    child = Process(command, tmp_path / "log", env={"PYTHONPATH": str(Path(__file__).parents[2])})
    written = 0
    for number in range(ROUNDS):
        child.command[len(command) :] = [f"{seed}-{number}"]
        child.start()
        await eventually(lambda: size(acknowledged) > written or not child.running)  # noqa: B023  awaited at once
        await anyio.sleep(rng.random() * 0.4)
        if number % 2:
            child.send(signal.SIGSTOP)
            await anyio.sleep(rng.random() * 0.2)
            child.send(signal.SIGCONT)
            await anyio.sleep(rng.random() * 0.1)
        assert child.running, child.tail()
        child.stop(signal.SIGKILL)
        assert size(acknowledged) > written, child.tail()
        written = size(acknowledged)
        await last_commit_over(settings)
        await agree(settings, acknowledged.read_text())
    child.start()  # for the rest of the sink's backlog
    changes = await recorded(settings)
    await eventually(lambda: len(unique(received)) >= len(changes))
    child.stop(signal.SIGKILL)
    got = unique(received)
    assert len(got) >= len(changes) > 100
    assert [(r["event"], r["uuid"], r["node"]) for r in got[: len(changes)]] == [
        (c.event, c.uuid, c.node) for c in changes
    ]


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def last_commit_over(settings) -> None:
    """Wait for what a killed process had under way, and let its lease expire.

    PostgreSQL ends it by itself, and there is one writer at a time.
    """
    async with Store.open(settings, OpenMode.OPERATOR) as store, store.database.write() as connection:
        await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = 0")


async def recorded(settings):
    async with Store.open(settings, OpenMode.READER) as store:
        found = await store.history.changes(limit=1_000_000)
    return sorted(found, key=lambda change: change.id)


async def agree(settings, acknowledged: str) -> None:
    changes = await recorded(settings)
    lines = [f"{c.event} {c.uuid} {c.node} {c.time!r}" for c in changes]
    assert len(set(lines)) == len(lines), "a change was recorded twice"
    durable = [line for line in acknowledged.splitlines(keepends=True) if line.endswith("\n")]
    there = iter(lines)
    assert all(line.rstrip("\n") in there for line in durable), "a committed change is missing or out of order"
    assert [c.time for c in changes] == sorted(c.time for c in changes)
    held: dict[str, set[str]] = {}
    for change in changes:
        match change.event:
            case Event.APPEARED:
                held.setdefault(change.uuid, set()).add(change.node)
            case Event.MOVED:
                held[change.uuid] = {change.node}
            case Event.VANISHED:
                held[change.uuid].remove(change.node)
    inventory = Inventory()
    async with Store.open(settings, OpenMode.READER) as store:
        remembered = await store.load()
        inventory.restore(remembered.nodes, remembered.absent)
        for uuid, nodes in held.items():
            assert {p.place.node for p in inventory.find(uuid=uuid)} == nodes
            assert {p.node for p in await store.history.where(uuid) if p.until is None} == nodes
            assert (uuid in remembered.absent) == (not nodes)


def unique(received: Path) -> list[dict[str, str]]:
    """All records in order, each batch once; the same key always has the same content."""
    batches: dict[str, list[dict[str, str]]] = {}
    if received.exists():
        for line in received.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                key, records = msgspec.json.decode(line)
                assert batches.setdefault(key, records) == records
    return [record for records in batches.values() for record in records]
