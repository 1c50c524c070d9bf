"""How the health of a GPU changed as it arrived, compared with what another shard recorded last."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from collector.health import Health
from collector.model import Change, Event, FieldChange, Gpu, Place
from collector.store import Store, StoreSettings, schema
from collector.store.codec import decode_changes, encode_facts
from collector.store.plan import plan
from collector.store.previous_health import correct_previous_health

pytestmark = pytest.mark.anyio

A, B = Place("a", "n1"), Place("b", "n2")  # of which this shard owns b
WELL = Gpu(uuid="GPU-1", serial="s1", health=Health(row_remap_pending=False))
PENDING = msgspec.structs.replace(WELL, health=Health(row_remap_pending=True))
GROWS, RECOVERS = FieldChange("row_remap_pending", False, True), FieldChange("row_remap_pending", True, False)
LOSES, FINDS = FieldChange("lost", False, True), FieldChange("lost", True, False)


def arrived(gpu: Gpu, *told: FieldChange, time: float = 5.0, lost: bool = False, place: Place = B) -> list[Change]:
    """The changes by which a GPU comes to a node, and by which its health changed, if it did."""
    came = Change(event=Event.MOVED, time=time, gpu=gpu, place=place, machine="i", source="x/y", previous=A, lost=lost)
    health = msgspec.structs.replace(came, event=Event.HEALTH, previous=None, changes=told, lost=False)
    return [came, health] if told else [came]


async def corrected(
    settings: StoreSettings,
    changes: list[Change],
    recorded: dict[str, Gpu | None],
    *,
    place: Place = A,
    lost: bool = False,
) -> list[tuple[str, str, dict[str, tuple[Any, Any]]]]:
    """Return event, UUID and altered fields of changes recorded after GPUs, by UUID, that left a place for these."""
    planned = plan(changes, owned={"b"})
    rows = [dict(row) for row in planned.changes]
    async with Store.open(settings) as store, store.database.write() as connection:
        for uuid, gpu in recorded.items():
            facts = None if gpu is None and not lost else encode_facts(gpu or Gpu(uuid=uuid), 1.0, lost=lost)
            away = {"uuid": uuid, "cluster": place.cluster, "node": place.node, "facts": facts}
            await connection.execute(insert(schema.absent), away)
        found = await correct_previous_health(connection, rows, planned.arrivals, {"b"})
    assert rows == planned.changes  # for another attempt
    return [
        (row["event"], row["uuid"], {one.field: (one.before, one.after) for one in decode_changes(row["changes"])})
        for row in found
    ]


async def test_what_was_recorded_last_decides(sqlite_settings: StoreSettings) -> None:
    found = await corrected(sqlite_settings, arrived(PENDING, RECOVERS), {"GPU-1": WELL})
    assert found == [("moved", "GPU-1", {}), ("health", "GPU-1", {"row_remap_pending": (False, True)})]


async def test_a_change_of_health_is_added(sqlite_settings: StoreSettings) -> None:
    later = Change(event=Event.VANISHED, time=9.0, gpu=WELL, place=B, machine="i", source="x/y")
    found = await corrected(sqlite_settings, [*arrived(WELL), later], {"GPU-1": WELL}, lost=True)
    assert found == [
        ("moved", "GPU-1", {}),
        ("health", "GPU-1", {"lost": (True, False)}),
        ("vanished", "GPU-1", {}),
    ]


async def test_an_added_change_is_of_the_place_and_time_of_the_arrival(sqlite_settings: StoreSettings) -> None:
    planned = plan(arrived(PENDING), owned={"b"})
    async with Store.open(sqlite_settings) as store, store.database.write() as connection:
        away = {"uuid": "GPU-1", "cluster": "a", "node": "n1", "facts": encode_facts(WELL, 1.0)}
        await connection.execute(insert(schema.absent), away)
        came, health = await correct_previous_health(connection, planned.changes, planned.arrivals, {"b"})
    assert (came["previous_cluster"], came["previous_node"]) == A
    assert health == {
        **came,
        "event": "health",
        "previous_cluster": None,
        "previous_node": None,
        "changes": '{"row_remap_pending":{"before":false,"after":true}}',
    }


async def test_a_change_of_health_that_was_none_is_left_out(sqlite_settings: StoreSettings) -> None:
    assert await corrected(sqlite_settings, arrived(PENDING, GROWS), {"GPU-1": PENDING}) == [("moved", "GPU-1", {})]


async def test_only_the_change_that_came_with_the_arrival_is_corrected(sqlite_settings: StoreSettings) -> None:
    came = arrived(PENDING, GROWS)
    others = [
        msgspec.structs.replace(came[1], time=6.0),
        msgspec.structs.replace(came[1], place=Place("b", "n3")),
        msgspec.structs.replace(came[1], place=Place("c", "n2")),
        msgspec.structs.replace(came[1], changes=(RECOVERS,)),
        msgspec.structs.replace(came[1], event=Event.ALTERED),
    ]
    found = await corrected(sqlite_settings, [*came, *others], {"GPU-1": PENDING})
    assert [(event, *changes) for event, _, changes in found] == [
        ("moved",),
        *[("health", "row_remap_pending")] * 4,
        ("altered", "row_remap_pending"),
    ]


async def test_a_second_arrival_is_as_it_was(sqlite_settings: StoreSettings) -> None:
    again = arrived(WELL, RECOVERS, time=9.0, place=Place("b", "n3"))
    found = await corrected(sqlite_settings, [*arrived(PENDING), *again], {"GPU-1": WELL})
    assert [(event, changes) for event, _, changes in found] == [
        ("moved", {}),
        ("health", {"row_remap_pending": (False, True)}),
        ("moved", {}),
        ("health", {"row_remap_pending": (True, False)}),
    ]


@pytest.mark.parametrize("place", [B, None])
async def test_a_gpu_from_an_own_cluster_or_of_which_nothing_is_recorded(
    sqlite_settings: StoreSettings, place: Place | None
) -> None:
    recorded: dict[str, Gpu | None] = {} if place is None else {"GPU-1": WELL}
    found = await corrected(sqlite_settings, arrived(PENDING, RECOVERS), recorded, place=place or A, lost=True)
    assert found == [("moved", "GPU-1", {}), ("health", "GPU-1", {"row_remap_pending": (True, False)})]


@pytest.mark.parametrize(
    ("was_lost", "told", "lost", "changes"),
    [
        (True, [FINDS, RECOVERS], False, {"lost": (True, False), "row_remap_pending": (True, False)}),
        (True, [], False, {"lost": (True, False)}),
        (True, [RECOVERS], True, {"row_remap_pending": (True, False)}),
        (False, [LOSES], True, {"lost": (False, True)}),
        (False, [], True, {"lost": (False, True)}),
        (False, [FINDS], False, {}),
    ],
)
async def test_a_gpu_of_which_only_is_recorded_whether_it_responded(
    sqlite_settings: StoreSettings, was_lost: bool, told: list[FieldChange], lost: bool, changes: dict[str, Any]
) -> None:
    found = await corrected(sqlite_settings, arrived(WELL, *told, lost=lost), {"GPU-1": None}, lost=was_lost)
    assert found == [("moved", "GPU-1", {}), *([("health", "GPU-1", changes)] if changes else [])]


async def test_many_gpus_of_which_one_is_corrected(sqlite_settings: StoreSettings) -> None:
    gpus = [msgspec.structs.replace(WELL, uuid=f"GPU-{number}") for number in range(2500)]
    recorded: dict[str, Gpu | None] = {gpu.uuid: msgspec.structs.replace(gpu) for gpu in gpus}
    recorded["GPU-999"] = msgspec.structs.replace(PENDING, uuid="GPU-999")
    found = await corrected(sqlite_settings, [one for gpu in gpus for one in arrived(gpu)], recorded)
    assert [uuid for event, uuid, _ in found if event == "moved"] == [gpu.uuid for gpu in gpus]
    assert [(uuid, changes) for event, uuid, changes in found if event == "health"] == [
        ("GPU-999", {"row_remap_pending": (True, False)})
    ]
