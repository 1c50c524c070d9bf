"""The place from which a GPU came, according to the placements in the store."""

from collections.abc import Set as AbstractSet
from typing import Any

import pytest
from sqlalchemy import insert

from collector.model import Event
from collector.store import Store, StoreSettings, schema
from collector.store.previous import correct_previous

pytestmark = pytest.mark.anyio


def placed(node: str, since: float, until: float | None) -> dict[str, Any]:
    return {
        "uuid": "GPU-1",
        "cluster": "prod",
        "node": node,
        "machine": f"host of {node}",
        "since": since,
        "until": until,
    }


def change(event: Event, node: str, previous: str | None = None) -> dict[str, Any]:
    cluster = None if previous is None else "prod"
    here = {"uuid": "GPU-1", "cluster": "prod", "node": node, "machine": f"host of {node}"}
    return {"event": event.value, **here, "previous_cluster": cluster, "previous_node": previous}


async def corrected(
    settings: StoreSettings,
    placements: list[dict[str, Any]],
    changes: list[dict[str, Any]],
    owned: AbstractSet[str] = frozenset({"prod"}),
) -> list[tuple[str, str, str | None]]:
    """Return the event, node and previous node of changes that are recorded after placements."""
    async with Store.open(settings) as store, store.database.write() as connection:
        await connection.execute(insert(schema.placements), placements)
        found = await correct_previous(connection, changes, owned)
    assert [row["machine"] for row in found] == [f"host of {row['node']}" for row in found]
    return [(row["event"], row["node"], row["previous_node"]) for row in found]


async def test_a_gpu_that_was_in_two_places_came_from_where_it_left_last(sqlite_settings: StoreSettings) -> None:
    placements = [placed("a", 1.0, 5.0), placed("b", 2.0, 3.0)]
    found = await corrected(sqlite_settings, placements, [change(Event.APPEARED, "c")])
    assert found == [("moved", "c", "a")]


async def test_each_move_of_one_transaction_is_from_the_place_before(sqlite_settings: StoreSettings) -> None:
    placements = [placed("x", 1.0, 2.0), placed("a", 2.0, None)]
    moves = [change(Event.MOVED, "b", "a"), change(Event.MOVED, "c", "b")]
    assert await corrected(sqlite_settings, placements, moves) == [("moved", "b", "a"), ("moved", "c", "b")]


async def test_the_changes_stay_as_they_were_for_another_attempt(sqlite_settings: StoreSettings) -> None:
    changes = [change(Event.APPEARED, "b")]
    assert await corrected(sqlite_settings, [placed("a", 1.0, 2.0)], changes) == [("moved", "b", "a")]
    assert changes == [change(Event.APPEARED, "b")]


async def test_a_gpu_that_is_elsewhere_as_well_has_not_moved(sqlite_settings: StoreSettings) -> None:
    placements = [placed("a", 1.0, 2.0), placed("b", 5.0, None)]
    late = [change(Event.MOVED, "c", "a"), change(Event.VANISHED, "c")]
    assert await corrected(sqlite_settings, placements, late) == [("appeared", "c", None), ("vanished", "c", None)]


@pytest.mark.parametrize(("owned", "told"), [({"prod"}, [("vanished", "a", None)]), (set(), [])])
async def test_it_still_leaves_the_place_that_it_moved_from(
    sqlite_settings: StoreSettings, owned: set[str], told: list[tuple[str, str, str | None]]
) -> None:
    placements = [placed("a", 1.0, None), placed("b", 5.0, None)]
    found = await corrected(sqlite_settings, placements, [change(Event.MOVED, "c", "a")], owned)
    assert found == [*told, ("appeared", "c", None)]
