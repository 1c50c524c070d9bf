"""Writes new placements and changes into the tables of an SQLite file, in one call of the driver.

The triggers of the views would do the same, but look up the same texts and nodes again for every row.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import CHANGE_EVENTS
from collector.store.engines import run_in_driver
from collector.store.identifiers import packed

__all__ = ["insert_compact"]

Row = Mapping[str, Any]  # by the columns of the view
_Key = tuple[Any, ...]

_EVENTS = {event.value: number for number, event in enumerate(CHANGE_EVENTS, 1)}  # as in the view: for good


async def insert_compact(connection: AsyncConnection, placements: Iterable[Row], changes: Iterable[Row]) -> None:
    """Insert placements, then changes, in the connection's transaction."""
    await run_in_driver(connection, _insert, placements, changes)


def _insert(connection: sqlite3.Connection, placements: Iterable[Row], changes: Iterable[Row]) -> None:
    texts = _Numbers(connection, "texts", ("text",), "text = ?")
    places = _Numbers(connection, "places", ("cluster", "node"), "cluster IS ? AND node IS ?")
    # The UUID finds a GPU, of which few have had another serial, chassis or model.
    gpus = _Numbers(connection, "gpus", ("uuid", *_GPU), "uuid = ? AND +serial IS ? AND +chassis IS ? AND model IS ?")
    seats = _Numbers(connection, "seats", _SEAT, " AND ".join(f"{name} IS ?" for name in _SEAT))

    def gpu(row: Row) -> int | None:
        return gpus[packed(row["uuid"]), row["serial"], row["chassis"], texts[row["model"],]]

    def placement(row: Row) -> _Key:
        since, until, confirmed, last_known = _stay(row)
        stay = (since, until, _AS_SINCE if confirmed == since else confirmed, last_known)
        return (gpu(row), places[_place(row)], texts[row["machine"],], *stay, seats[_seat(row)])

    def change(row: Row) -> _Key:
        event, cluster, machine, source, previous_cluster = _texts(row)
        return (
            *(row["time"], _EVENTS.get(event, event), gpu(row), places[_place(row)]),
            *(texts[cluster,], texts[machine,], texts[source,], places[_previous(row)], texts[previous_cluster,]),
            *_details(row),
        )

    connection.executemany(_INSERT_PLACEMENT, list(map(placement, placements)))
    connection.executemany(_INSERT_CHANGE, list(map(change, changes)))


class _Numbers(dict[_Key, int | None]):
    """The numbers of a table's rows by their content; missing ones are looked up, and added to the table if new.

    Where all of the content is NULL, the number is as well.
    """

    def __init__(self, connection: sqlite3.Connection, table: str, columns: _Key, here: str) -> None:
        super().__init__({(None,) * len(columns): None})
        self._execute = connection.execute
        self._find = f"SELECT id FROM gpuid_{table} WHERE {here}"  # noqa: S608
        marks = ", ".join("?" * len(columns))
        self._add = f"INSERT INTO gpuid_{table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608

    def __missing__(self, key: _Key) -> int | None:
        found = self._execute(self._find, key).fetchone()
        number = self[key] = self._execute(self._add, key).lastrowid if found is None else found[0]
        return number


_AS_SINCE = ""  # of `confirmed`, and no time
_GPU = ("serial", "chassis", "model")
_SEAT = ("pci_bus_id", "module", "slot", "tray")
_place = itemgetter("cluster", "node")
_previous = itemgetter("previous_cluster", "previous_node")
_seat = itemgetter(*_SEAT)
_stay = itemgetter("since", "until", "confirmed", "last_known")
_texts = itemgetter("event", "cluster", "machine", "source", "previous_cluster")
_details = itemgetter("changes", "last_known", "mark", "first_sight")
_INSERT_PLACEMENT = (
    "INSERT INTO gpuid_placement_rows (gpu, place, machine, since, until, confirmed, last_known, seat)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_CHANGE = (
    "INSERT INTO gpuid_change_rows (time, event, gpu, place, cluster, machine, source, previous, previous_cluster,"
    " changes, last_known, mark, first_sight) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
