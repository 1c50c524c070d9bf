"""An SQLite file stores once what repeats; its views show and take what PostgreSQL's tables do."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text

from collector.model import CHANGE_EVENTS, Gpu
from collector.store import OpenMode, Store, StoreSettings, schema
from collector.store import retention as retained
from collector.store.change_queries import ChangeFilter
from collector.store.compact_rows import insert_compact
from collector.store.database import Database
from collector.store.identifiers import packed, unpacked
from collector.store.past import GpuPosition
from collector.store.retention import prune
from collector.store.snapshots import deflated, inflated
from tests.benchmarks import history as benchmark
from tests.support.query_plans import plans_of

pytestmark = pytest.mark.anyio

EVENTS = [event.value for event in CHANGE_EVENTS]
names = st.sampled_from(["", "a", "b", "ü", "GPU-1", "x" * 40])
optional = st.none() | names
canonical = st.uuids().map(lambda one: f"GPU-{one}")
uuids = canonical | canonical.map(str.upper) | st.sampled_from(["GPU-1", "MIG-1", "", "0" * 32])
times = st.floats(0, 4e9)
previous = st.none() | st.tuples(names, names)
placements = st.fixed_dictionaries(
    dict.fromkeys(("cluster", "node", "machine"), names)
    | dict.fromkeys(("serial", "chassis", "model", "last_known", *["tray", "slot", "module", "pci_bus_id"]), optional)
    | {"uuid": uuids, "since": times, "until": st.none() | times, "confirmed": st.none() | times}
)
changes = st.builds(
    lambda row, place: row | dict(zip(("previous_cluster", "previous_node"), place or (None, None), strict=True)),
    st.fixed_dictionaries(
        dict.fromkeys(("cluster", "node", "machine", "source"), names)
        | dict.fromkeys(("serial", "chassis", "model", "changes", "last_known", "mark"), optional)
        | {
            "uuid": uuids,
            "time": times,
            "event": st.sampled_from(EVENTS),
        }
        | {"first_sight": st.booleans()}
    ),
    previous,
)


@given(st.lists(placements, max_size=4), st.lists(changes, max_size=4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_rows_are_read_as_they_were_written(sqlite_settings, placed, changed):
    async with (
        Database.open(sqlite_settings, OpenMode.COLLECTOR) as database,
        database.write() as connection,
    ):
        for table, rows in ((schema.placements, placed), (schema.changes, changed)):
            for compact in (True, False):
                await connection.execute(delete(table))
                if compact:
                    of_placements = table is schema.placements
                    await insert_compact(connection, rows if of_placements else (), () if of_placements else rows)
                elif rows:
                    await connection.execute(insert(table), rows)
                columns = [column for column in table.c if column.name != "id"]
                found = await connection.execute(select(*columns).order_by(table.c.id))
                assert [dict(row) for row in found.mappings()] == rows


@given(uuids)
def test_a_uuid_is_unpacked_as_it_was(uuid):
    assert unpacked(packed(uuid)) == uuid


@given(canonical)
def test_a_uuid_in_the_tools_form_takes_16_bytes(uuid):
    assert len(packed(uuid)) == 16


@given(st.binary(max_size=2000).map(lambda rest: b"\x8b" + rest))  # a map
def test_a_snapshot_is_inflated_as_it_was(snapshot):
    assert inflated(deflated(snapshot)) == snapshot
    assert inflated(snapshot) == snapshot  # of an older version


def test_a_damaged_snapshot_is_refused():
    whole = deflated(b"\x8b" + bytes(range(100)))
    for damaged in (whole[:-1], whole[:10], whole[:1], whole[:1] + b"\xff" * 20):
        with pytest.raises(ValueError, match=r"."):
            inflated(damaged)


def gpu(number: int) -> Gpu:
    return Gpu(uuid=f"GPU-{number:08x}-0000-4000-8000-{number:012x}", serial=f"S{number}", model="H100")


async def test_only_a_file_has_deflated_snapshots(settings, collecting):
    """Collectors of an older version share a server with newer ones while they are updated one after the other."""
    async with collecting(settings) as one:
        one.read("n", 10.0, gpu(1))
        assert await one.store.history_writer.flushed(10)
        async with one.store.database.read() as connection:
            snapshot = bytes(await connection.scalar(select(schema.nodes.c.snapshot)))
    assert (inflated(snapshot) != snapshot) == settings.url.startswith("sqlite")


async def test_pages_of_gpus_follow_each_other(settings, collecting):
    async with collecting(settings) as one:
        for node in range(3):
            one.read(f"n{node}", 10.0, *(gpu(node * 20 + number) for number in range(20)))
        assert await one.store.history_writer.flushed(10)
        found: list[Any] = []
        after = None
        while page := await one.store.past.gpus(20.0, after=after, limit=7):
            assert len(page) <= 7
            found += page
            after = GpuPosition(page[-1].cluster, page[-1].node, page[-1].uuid)
        assert [row.uuid for row in found] == [gpu(number).uuid for number in range(60)]


async def test_a_page_of_the_past_reads_no_more_than_its_nodes(sqlite_settings, collecting):
    async with collecting(sqlite_settings) as one:
        one.read("n", 10.0, gpu(1))
        assert await one.store.history_writer.flushed(10)
        past, where = one.store.past, {"cluster": ["prod"]}
        for query in (past.gpus, past.nodes):
            of_nodes = await plans_of(one.store, query(20.0, where), of="SELECT DISTINCT gpuid_placements")
            assert any("USING COVERING INDEX gpuid_places_cluster (cluster=?" in plan for plan in of_nodes)
            assert any("USING COVERING INDEX gpuid_placements_place (place=?" in plan for plan in of_nodes)
            assert not any(
                name in plan for plan in of_nodes for name in ("SCAN", "PRIMARY KEY")
            )  # as of a GPU or a text
            of_gpus = await plans_of(one.store, query(20.0, where), of="SELECT gpuid_placements")
            assert any("p USING INTEGER PRIMARY KEY" in plan for plan in of_gpus)
            assert any("r USING INDEX gpuid_placements_place (place=?" in plan for plan in of_gpus)


async def test_changes_are_found_by_any_part_of_a_uuid(settings, collecting):
    uuid = "GPU-0a1b2c3d-4e5f-6789-abcd-ef0123456789"
    parts = [uuid[start : start + size] for size in (2, 5, 11) for start in range(0, len(uuid) - size, 3)]
    missed = ["GPU-1a", "0a1b2c3d4", "4e5f6", "uuid", "PU-0a1c", "g-0a"]
    async with collecting(settings) as one:
        one.read("n", 10.0, Gpu(uuid=uuid), Gpu(uuid="MIG-of-another-form"))
        assert await one.store.history_writer.flushed(10)

        async def found(part: str) -> set[str]:
            return {row.uuid for row in await one.store.history.latest_changes(ChangeFilter(text=part))}

        assert [part for part in [*parts, uuid, uuid.upper()] if uuid not in await found(part)] == []
        assert [part for part in missed if await found(part)] == []
        assert await found("another-FORM") == {"MIG-of-another-form"}


async def test_what_nothing_uses_any_more_is_forgotten(sqlite_settings, collecting, monkeypatch):
    monkeypatch.setattr(retained, "KEYS_SWEPT_SECONDS", 0.0)
    async with collecting(sqlite_settings) as one:
        one.read("old", 10.0, gpu(1), gpu(2))
        one.read("new", 20.0, gpu(1))
        one.remove("old", 30.0)
        one.read("new", 40.0, gpu(1), gpu(3))
        assert await one.store.history_writer.flushed(10)
        await prune(one.store.database, before=35.0)

        async def column(query: str) -> list[Any]:
            async with one.store.database.read() as connection:
                return sorted(await connection.scalars(text(query)))

        assert await column("SELECT node FROM gpuid_places") == ["new"]
        assert await column("SELECT serial FROM gpuid_gpus") == ["S1", "S3"]
        texts = await column("SELECT text FROM gpuid_texts")
        assert not any("old" in text for text in texts)
        assert [(row.uuid, row.node) for row in await one.store.history.node("new")] == [
            (gpu(3).uuid, "new"),
            (gpu(1).uuid, "new"),
        ]
        one.read("old", 50.0, gpu(2))
        assert await one.store.history_writer.flushed(10)
        assert [row.node for row in await one.store.history.where(gpu(2).uuid)] == ["old"]


async def test_a_placement_with_its_changes_takes_350_bytes(tmp_path):
    """The same as 350 MB for a million; small files have a few pages that are not full."""
    path, nodes = tmp_path / "gpuid.db", 400
    await benchmark.fill(path, nodes)
    assert path.stat().st_size <= 400 * nodes * 10
    async with Store.open(StoreSettings(url=f"sqlite://{path}"), OpenMode.READER) as store:
        assert (await store.history.where(str(benchmark.gpu(9).serial)))[0].uuid == benchmark.gpu(9).uuid
