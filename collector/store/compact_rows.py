"""Writes new placements and changes into the tables of an SQLite file, many at once.

The triggers of the views would do the same, but look up the same texts and nodes again for every row.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import CHANGE_EVENTS
from collector.store.identifiers import packed

__all__ = ["CompactRows"]

Row = Mapping[str, Any]
_Key = tuple[Any, ...]

ROWS_AT_ONCE = 500
_EVENTS = {event.value: number for number, event in enumerate(CHANGE_EVENTS, 1)}  # as in the view: for good


class CompactRows:
    """Writes the rows of one transaction, in which it remembers the numbers that it has looked up."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._texts: dict[Any, Any] = {None: None}
        self._places: dict[_Key, Any] = {_NOWHERE: None}  # by cluster and node
        self._gpus: dict[_Key, Any] = {}  # by UUID, serial, chassis and model
        self._seats: dict[_Key, Any] = {_NO_SEAT: None}  # by `_seat`

    async def insert_placements(self, rows: Sequence[Row]) -> None:
        """Insert placements, by the columns of the view."""
        for some in _parts(rows):
            await self._look_up(some, _PLACEMENT_TEXTS)
            await self._look_up_seats(set(map(_seat, some)))
            gpus, places, texts, seats = self._gpus, self._places, self._texts, self._seats
            values = [
                (gpus[_gpu(row)], places[_place(row)], texts[row["machine"]], *_stay(row), seats[_seat(row)])
                for row in some
            ]
            await self._connection.exec_driver_sql(_INSERT_PLACEMENT, values)

    async def insert_changes(self, rows: Sequence[Row]) -> None:
        """Insert changes, by the columns of the view."""
        for some in _parts(rows):
            await self._look_up(some, _CHANGE_TEXTS)
            await self._look_up_places(set(map(_previous, some)))
            gpus, places, texts = self._gpus, self._places, self._texts
            values = [
                (
                    *(row["time"], _EVENTS.get(row["event"], row["event"]), gpus[_gpu(row)], places[_place(row)]),
                    *(texts[row["cluster"]], texts[row["machine"]], texts[row["source"]]),
                    *(places[_previous(row)], texts[row["previous_cluster"]], *_details(row)),
                )
                for row in some
            ]
            await self._connection.exec_driver_sql(_INSERT_CHANGE, values)

    async def _look_up(self, rows: Sequence[Row], texts: Callable[[Row], _Key]) -> None:
        """Look up the numbers of texts in some columns, of nodes and of GPUs, which are added if they are missing."""
        new = set(itertools.chain.from_iterable(map(texts, rows))) - self._texts.keys()
        numbers = await self._numbers("gpuid_texts", ("text",), {(text,) for text in new}, "text IN ({})")
        self._texts |= {text: number for (text,), number in numbers.items()}
        await self._look_up_places(set(map(_place, rows)))
        stored = {
            (packed(uuid), serial, chassis, self._texts[model]): (uuid, serial, chassis, model)
            for uuid, serial, chassis, model in set(map(_gpu, rows)) - self._gpus.keys()
        }
        columns = ("uuid", "serial", "chassis", "model")
        numbers = await self._numbers("gpuid_gpus", columns, set(stored), "uuid IN ({})", key=slice(1))
        self._gpus |= {stored[gpu]: number for gpu, number in numbers.items() if gpu in stored}

    async def _look_up_places(self, places: set[_Key]) -> None:
        new = places - self._places.keys()
        here = "(cluster, node) IN (VALUES {})"
        self._places |= await self._numbers("gpuid_places", ("cluster", "node"), new, here, mark="(?, ?)")

    async def _look_up_seats(self, seats: set[_Key]) -> None:
        new = seats - self._seats.keys()
        here = "pci_bus_id IN ({}) OR pci_bus_id IS NULL"
        columns = ("pci_bus_id", "module", "slot", "tray")
        self._seats |= await self._numbers("gpuid_seats", columns, new, here, key=slice(1))

    async def _numbers(
        self,
        table: str,
        columns: Sequence[str],
        wanted: set[_Key],
        here: str,
        *,
        key: slice = slice(None),
        mark: str = "?",
    ) -> dict[_Key, Any]:
        """Return the numbers of rows of a table by these columns; adds the missing ones.

        The condition `here` finds rows by those columns that are in `key`, for each of which it has a `mark`.
        """
        run, names, found = self._connection.exec_driver_sql, ", ".join(columns), dict[_Key, Any]()
        asked = list({one[key] for one in wanted})
        for start in range(0, len(asked), ROWS_AT_ONCE):
            some = asked[start : start + ROWS_AT_ONCE]
            query = f"SELECT {names}, id FROM {table} WHERE {here.format(', '.join([mark] * len(some)))}"  # noqa: S608
            found |= {row[:-1]: row[-1] for row in map(tuple, await run(query, tuple(itertools.chain(*some))))}
        if new := [one for one in wanted if one not in found]:
            last = (await run(f"SELECT id FROM {table} ORDER BY id DESC LIMIT 1")).scalar() or 0  # noqa: S608
            rows = [(number, *one) for number, one in enumerate(new, last + 1)]
            marks = ", ".join("?" * (len(columns) + 1))
            await run(f"INSERT INTO {table} (id, {names}) VALUES ({marks})", rows)  # noqa: S608
            found |= {row[1:]: row[0] for row in rows}
        return found


def _parts(rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
    return (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))


_place = itemgetter("cluster", "node")
_previous = itemgetter("previous_cluster", "previous_node")
_gpu = itemgetter("uuid", "serial", "chassis", "model")
_seat = itemgetter("pci_bus_id", "module", "slot", "tray")
_stay = itemgetter("since", "until", "confirmed", "last_known")
_details = itemgetter("changes", "last_known", "mark", "first_sight")
_PLACEMENT_TEXTS = itemgetter("machine", "model")
_CHANGE_TEXTS = itemgetter("machine", "model", "source", "cluster", "previous_cluster")
_NOWHERE: _Key = (None, None)
_NO_SEAT: _Key = (None,) * 4
_INSERT_PLACEMENT = (
    "INSERT INTO gpuid_placement_rows (gpu, place, machine, since, until, confirmed, last_known, seat)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_CHANGE = (
    "INSERT INTO gpuid_change_rows (time, event, gpu, place, cluster, machine, source, previous, previous_cluster,"
    " changes, last_known, mark, first_sight) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
