"""A damaged row affects no other data, on either engine; its content is restored from other rows."""

import functools
import itertools
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from collector.model import Gpu, LastReport, NodeInfo, NodeState, Place
from collector.store import OpenMode, Store, StoreError, Subscription
from collector.store.codec import decode_node, encode_node
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SINKS = {"lake": Subscription("readings", backfill=True), "hook": Subscription("changes", backfill=True)}


@pytest.fixture
async def recorded(settings, collecting):
    """Settings of a store with two nodes, three GPUs, their changes and two sinks."""
    async with collecting(settings) as one:
        await one.store.reconcile(SINKS)
        one.read("a", 10.0, "1", "2")
        one.read("b", 11.0, "3")
        assert await one.store.history_writer.flushed(10)
    return settings


async def execute(settings, statement: str, **values: object) -> None:
    async with Store.open(settings, OpenMode.OPERATOR) as store, store.database.write() as connection:
        await connection.execute(text(statement), values)


DEEP = b"\x81\xa1x" + b"\x91" * 100_000  # in a field that no version writes


@pytest.mark.parametrize("snapshot", [b"no node", b"", b"\x80", b"\x81\xa4node\x81\xa4name\xa1\xff", DEEP])
async def test_a_node_is_known_from_its_placements(recorded, collecting, snapshot, caplog):
    await execute(recorded, "UPDATE gpuid_nodes SET snapshot = :bytes WHERE node = 'a'", bytes=snapshot)
    async with collecting(recorded) as one:
        assert "damaged row in the store" in caplog.text
        for uuid, node in (("GPU-1", "a"), ("GPU-2", "a"), ("GPU-3", "b")):
            assert [found.place.node for found in one.inventory.find(uuid=uuid)] == [node]
        (gpu,) = (gpu for gpu in one.inventory.node(Place("prod", "a")).gpus if gpu.uuid == "GPU-1")
        assert gpu == Gpu(uuid="GPU-1", serial="serial-1", model="NVIDIA H100", chassis="chassis-1")
        assert one.inventory.node(Place("prod", "a")).fingerprint is None  # so it is read at once
        one.read("a", 20.0, "1")
        assert await one.store.history_writer.flushed(10)
        assert [(p.since, p.until) for p in await one.store.history.where("GPU-1")] == [(10.0, None)]
        assert [(p.since, p.until) for p in await one.store.history.where("GPU-2")] == [(10.0, 20.0)]
    caplog.clear()
    async with collecting(recorded) as one:
        assert "damaged" not in caplog.text


async def test_a_new_leader_skips_damaged_rows(recorded, collecting):
    await execute(recorded, "UPDATE gpuid_nodes SET snapshot = :bytes WHERE node = 'a'", bytes=b"no node")
    async with Store.open(recorded, OpenMode.READER) as store:
        nodes = [node.place.node for part in [part async for part in store.nodes()] for node in part]
    assert sorted(nodes) == ["a", "b"]


@pytest.mark.parametrize("byte", [0x00, 0x80, 0xC0, 0xC1, 0xFF])
def test_no_damaged_byte_gives_values_of_another_type(byte, recorded_node):
    """Every byte replaced: the node is refused, or all values are of their types."""
    place, written = recorded_node
    types = dict(Gpu.__annotations__) | {"last_known": tuple}
    for position in range(len(written)):
        changed = written[:position] + bytes([byte]) + written[position + 1 :]
        try:
            node = decode_node(place, 10.0, changed)
        except ValueError:
            continue
        assert len(node.since) == len(node.gpus)
        for gpu, name in itertools.product(node.gpus, types):
            assert isinstance(getattr(gpu, name), types[name]), (position, name)
        for report in itertools.chain.from_iterable(gpu.last_known for gpu in node.gpus):
            assert (type(report.field), type(report.time)) == (str, float), position


@pytest.fixture
def recorded_node():
    gpus = tuple(
        Gpu(
            uuid=f"GPU-{number}",
            serial=f"{number}",
            model="NVIDIA H100",
            minor_number=number,
            mig=bool(number % 2),
            last_known=(LastReport("serial", 5.0),),
        )
        for number in range(3)
    )
    place = Place("prod", "a")
    return place, encode_node(NodeState(place=place, node=NodeInfo(name="a"), time=10.0, gpus=gpus, since=(1.0,) * 3))


@pytest.mark.parametrize(
    "written",
    [
        *("no JSON", "{", "[]", '{"serial": {}, "x": 1e300}', '{"serial": ["S", -5]}', ""),
        *('{"health": [{"row_remap_pending": 7}, 5]}', '{"health": {}}', '{"health": [{}]}', '{"lost": "maybe"}'),
        '{"health": [{"recovery_action": "Reset"}, -5], "last_known": {"recovery_action": 1e300}, "lost": true}',
        '{"health": [{"ecc_dram_uncorrectable": 1}, 1e300], "ecc_growth": -1e300}',
        '{"health": [{"ecc_dram_uncorrectable": 99999999999999999999999}, 1], "ecc_growth": "now"}',
    ],
)
async def test_damaged_details_do_not_affect_other_values(recorded, collecting, written):
    for column in ("changes.changes", "changes.last_known", "placements.last_known"):
        table, name = column.split(".")
        await execute(recorded, f"UPDATE gpuid_{table} SET {name} = :text", text=written)
    await execute(recorded, "UPDATE gpuid_changes SET event = 'altered' WHERE uuid = 'GPU-1'")
    await execute(recorded, "INSERT INTO gpuid_ghosts VALUES ('GPU-9', 'prod', 'a', :text)", text=written)
    await execute(recorded, "UPDATE gpuid_nodes SET snapshot = :bytes WHERE node = 'a'", bytes=b"no node")
    async with collecting(recorded) as one:
        for history in (one.store.history, one.store.history.within(60)):
            (placement,) = await history.where("GPU-1")
            assert (placement.serial, placement.node) == ("serial-1", "a")
            assert all(0 <= time < 1e12 for _, time in placement.last_known)
            assert [change.uuid for change in await history.changes()] == ["GPU-1", "GPU-2", "GPU-3"]
        batch = await one.store.outbox.next_batch("hook", 10)
        assert batch is not None
        assert [record.uuid for record in batch.records] == ["GPU-1", "GPU-2", "GPU-3"]
        remembered = await one.store.load()
        assert sorted(gpu.uuid for node in remembered.nodes for gpu in node.gpus) == ["GPU-1", "GPU-2", "GPU-3"]
        assert remembered.absent == {"GPU-9": Place("prod", "a")}
        if (facts := remembered.facts.get("GPU-9")) is not None:
            moments = [time for _, time in facts.last_known] + [facts.ecc_growth or 0.0]
            assert all(0 <= time < 1e12 for time in moments)
        one.read("a", 20.0, "1")
        one.store.history_writer.begin({place: one.inventory.node(place) for place in (Place("prod", "a"),)})
        assert await one.store.history_writer.flushed(10)
        assert [(p.since, p.until) for p in await one.store.history.where("GPU-2")] == [(10.0, 20.0)]


@pytest.mark.parametrize("records", [b"\xff", DEEP])
async def test_damaged_records_do_not_block_a_sink(recorded, collecting, records, caplog):
    await execute(recorded, "UPDATE gpuid_readings SET records = :bytes WHERE id = 1", bytes=records)
    async with collecting(recorded) as one:
        outbox = one.store.outbox
        batch = await outbox.next_batch("lake", 1)
        assert batch is not None
        assert [record.uuid for record in batch.records] == ["GPU-3"]
        assert "records of a reading lost" in caplog.text
        await outbox.dead_letter(batch, "too large")
        (letter,) = await outbox.dead_letters()
        await execute(recorded, "UPDATE gpuid_dead_letters SET records = :bytes", bytes=b"\xff")
        assert (await outbox.show(letter.id)).records == []
        await outbox.replay([letter.id])
        assert await outbox.next_batch("lake", 10) is None
        (letter,) = await outbox.dead_letters()
        assert (letter.replay, letter.reason) == (False, "its records are damaged")


@pytest.mark.parametrize("value", ["DELETE FROM gpuid_facts", "UPDATE gpuid_facts SET value = 'x' WHERE name = 'id'"])
async def test_a_store_without_an_id_gets_a_new_one(recorded, collecting, value):
    await execute(recorded, value)
    async with Store.open(recorded, OpenMode.READER) as store:
        assert len(await store.outbox.sinks()) == 2
    async with collecting(recorded) as one:
        assert len(one.store.database.id) == 32
        batch = await one.store.outbox.next_batch("hook", 10)
        assert batch is not None
        assert len(batch.records) == 3
        one.read("b", 21.0, "3", "4")
        assert await one.store.history_writer.flushed(10)


class TestSqlite:
    """Which keeps a value of any type in any column."""

    @pytest.mark.parametrize("value", ["x'ff41'", "CAST(x'ff41' AS TEXT)", "1e300", "'later'", "-5"])
    async def test_the_history_shows_what_is_readable(self, value, sqlite_settings, collecting, tmp_path):
        async with collecting(sqlite_settings) as one:
            await one.store.reconcile(SINKS)
            one.read("a", 10.0, "1", "2")
            assert await one.store.history_writer.flushed(10)
        with closing(sqlite3.connect(tmp_path / "gpuid.db", isolation_level=None)) as connection:
            for column in ("serial", "model", "since", "confirmed", "machine"):
                connection.execute(f"UPDATE gpuid_placements SET {column} = {value} WHERE uuid = 'GPU-1'")
            connection.execute(f"UPDATE gpuid_placements SET last_known = {value}")
            connection.execute(f"UPDATE gpuid_changes SET changes = {value}, last_known = {value}")
            connection.execute(f"INSERT INTO gpuid_ghosts VALUES ('GPU-9', 'prod', 'a', {value})")
            connection.execute(f"UPDATE gpuid_readings SET count = {value}, time = {value}")
            for column in ("serial", "event", "time", "source", "previous_cluster"):
                connection.execute(f"UPDATE gpuid_changes SET {column} = {value} WHERE uuid = 'GPU-1'")
            connection.execute(f"UPDATE gpuid_nodes SET read_at = {value}")
        async with collecting(sqlite_settings) as one:
            (placement,) = await one.store.history.where("GPU-1")
            assert (placement.uuid, placement.node) == ("GPU-1", "a")
            assert 0 <= placement.since <= placement.confirmed < 1e12
            changes = await one.store.history.changes()
            assert [change.uuid for change in changes] == ["GPU-1", "GPU-2"]
            assert all(isinstance(change.event, str) and 0 <= change.time < 1e12 for change in changes)
            batch = await one.store.outbox.next_batch("hook", 10)
            assert batch is not None
            assert [record.uuid for record in batch.records] == ["GPU-1", "GPU-2"]
            assert {found.place.node for found in one.inventory.find(uuid="GPU-1")} == {"a"}
            outbox = one.store.outbox
            for sink in SINKS:
                for waiting in (await outbox.next_batch_state(sink, 10), await outbox.backlog(sink)):
                    assert waiting.records >= 1
                    assert 0 <= waiting.oldest < 1e12
            batch = await outbox.next_batch("lake", 10)
            assert batch is not None
            assert [record.uuid for record in batch.records] == ["GPU-1", "GPU-2"]
            await outbox.dead_letter(batch, "too large")
            async with one.store.database.write() as connection:
                for column in ("key", "time", "reason", "count"):
                    await connection.execute(text(f"UPDATE gpuid_dead_letters SET {column} = {value}"))
            (letter,) = await outbox.dead_letters()
            assert 0 <= letter.time < 1e12
            assert letter.count >= 1
            await outbox.replay([letter.id])
            batch = await outbox.next_batch("lake", 10)
            assert batch is not None
            half = await outbox.halve(batch, "too large")
            assert half is not None
            assert [record.uuid for record in half.records] == ["GPU-1"]
            one.store.history_writer.begin({Place("prod", "a"): one.inventory.node(Place("prod", "a"))})
            assert await one.store.history_writer.flushed(10)

    @pytest.mark.parametrize("change", ["cursor = 'x'", "upto = x'ff'", "emit = 'nothing'", "gone = 'x'"])
    async def test_a_sink_starts_like_a_new_one(self, change, sqlite_settings, collecting, tmp_path, caplog):
        async with collecting(sqlite_settings) as one:
            await one.store.reconcile(SINKS)
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
        with closing(sqlite3.connect(tmp_path / "gpuid.db", isolation_level=None)) as connection:
            connection.execute(f"UPDATE gpuid_sinks SET {change} WHERE name = 'hook'")
        async with collecting(sqlite_settings) as one:
            await one.store.prune()
            await one.store.reconcile(SINKS)
            assert "damaged row in the store: treating the sink as a new one" in caplog.text
            batch = await one.store.outbox.next_batch("hook", 10)
            assert batch is not None
            assert [record.uuid for record in batch.records] == ["GPU-1"]

    async def test_a_collector_survives_any_page(self, sqlite_settings, collecting, tmp_path):
        """Random bytes of a closed file are replaced: a collector starts, records and starts again."""
        rng = random.Random(int(os.environ.get("GPUID_TEST_SEED", "20261126")))
        async with collecting(sqlite_settings) as one:
            for number in range(30):
                one.read(f"n{number}", 10.0 + number, f"{number}a", f"{number}b")
            assert await one.store.history_writer.flushed(10)
        good = (tmp_path / "gpuid.db").read_bytes()
        for _ in range(25):
            spoil(tmp_path, good, rng)
            for start in range(2):
                async with collecting(sqlite_settings) as one:
                    one.read("new", 100.0 + start, "new")
                    await eventually(lambda: one.store.history_writer.pending == 0)
                    await eventually(functools.partial(asked, one.store))


def spoil(folder: Path, good: bytes, rng: random.Random) -> None:
    for file in folder.glob("gpuid.db*"):
        file.unlink()
    damaged = bytearray(good)
    for _ in range(rng.choice((1, 3, 20))):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    (folder / "gpuid.db").write_bytes(damaged)


async def asked(store: Store) -> bool:
    """Return whether the history answers; a question may be what finds the damage."""
    try:
        found = await store.history.where("GPU-new")
        await store.history.changes()
    except StoreError:
        return False
    return bool(found) and store.health.status.up
