"""History queries shared by several commands: from the configured store or a running collector."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import msgspec

from collector import config as configuration
from collector.cli.client import MAX_PAGE_SIZE, Client
from collector.cli.condition import mark_of, needs, reasons_of
from collector.cli.options import found_config
from collector.cli.output import Layout, Output, Row, show_rows, taken
from collector.cli.stored_fleet import StoredFleet
from collector.marks import Marks
from collector.store import ChangeFilter, History, OpenMode, PastPlacement, Position, Store, StoreSettings
from collector.text import counted, one_line
from collector.timestamps import rfc3339
from collector.views.alterations import as_field_changes, describe_changes
from collector.views.columns import row_object
from collector.views.lookup import lookup
from collector.views.lookup_rows import lookup_answer
from collector.views.rows import change_row, placement_row
from collector.views.terms import parse_terms

__all__ = [
    "HistoryQueries",
    "LookedUp",
    "LookedUpId",
    "configured_store",
    "describe_conditions",
    "described",
    "health_lines",
    "show_placements",
]

MAX_MATCHES = 100  # of one id, as in the API

_T = TypeVar("_T")
_PlacementPage = Callable[[History, Position | None], Awaitable[list[PastPlacement]]]


class LookedUpId(msgspec.Struct):
    """The matches of one id; a newer collector may have kinds and states that are unknown here."""

    id: str
    found: bool
    total: int
    matches: list[dict[str, Any]]
    note: str = ""


class Searched(msgspec.Struct):
    """Where the look-up searched."""

    history: bool
    text: str


class LookedUp(msgspec.Struct):
    """The part of a look-up's answer that commands need."""

    results: list[LookedUpId]
    found: int
    searched: Searched


class HistoryQueries:
    """The history, in the store or a collector; queries return rows like the API."""

    def __init__(self, options: Mapping[str, Any], *, page_size: int = MAX_PAGE_SIZE) -> None:
        self._options = dict(options)
        self._store = configured_store(options)
        self._page_size = page_size

    def gpu(self, term: str) -> list[Row]:
        """Return every placement of a serial, UUID or chassis, the current one first."""
        return self._placements(
            f"/api/v1/gpus/{quote(term, safe='')}/history",
            {},
            lambda history, after: history.where(term, after=after, limit=self._page_size),
        )

    def lookup(self, text: str) -> LookedUp:
        """Look up the ids in a text, like the API."""
        if self._store is None:
            with Client(**self._options) as client:
                return client.ask_text("/api/v1/gpus/lookup", text, LookedUp)
        terms = parse_terms(text)

        async def read(store: Store) -> LookedUp:
            fleet = await StoredFleet.load(store)
            answer = await lookup_answer(fleet, await lookup(fleet, terms, most=MAX_MATCHES))
            return msgspec.convert(row_object(answer), LookedUp)

        return _ask_store(self._store, read)

    def node(self, node: str, cluster: str | None) -> list[Row]:
        """Return every placement in a node, current ones first."""
        return self._placements(
            f"/api/v1/nodes/{quote(node, safe='')}/history",
            _given(cluster=cluster),
            lambda history, after: history.node(node, cluster, after=after, limit=self._page_size),
        )

    def changes(
        self,
        since: float,
        cluster: str | None,
        events: Sequence[str] = (),
        *,
        until: float | None = None,
        node: str | None = None,
    ) -> list[Row]:
        """Return the changes between two times (Unix seconds), oldest first; all of them, or those of some events."""
        if self._store is None:
            times = {"since": rfc3339(since), "until": rfc3339(until)}
            params: dict[str, str | Sequence[str]] = {**_given(**times, cluster=cluster, node=node)}
            if events:
                params["event"] = events
            return self._ask_collector("/api/v1/changes", params, "changes")

        async def read(store: Store) -> list[Row]:
            rows: list[Row] = []
            after: int | None = None
            wanted = ChangeFilter(since=since, until=until, cluster=cluster, node=node, events=events)
            while found := await store.history.changes(wanted, after=after, limit=self._page_size):
                rows += (row_object(change_row(one)) for one in found)
                after = found[-1].id
            return rows

        return _ask_store(self._store, read)

    def _placements(self, path: str, params: Mapping[str, str], page: _PlacementPage) -> list[Row]:
        if self._store is None:
            return self._ask_collector(path, params, "placements")

        async def read(store: Store) -> list[Row]:
            rows: list[Row] = []
            after: Position | None = None
            marks, now = Marks((await store.marks.in_force())[1]), time.time()
            while found := await page(store.history, after):
                conditions = await store.history.conditions({one.uuid for one in found})
                rows += (
                    row_object(placement_row(one, conditions.get(one.uuid), marks.of(one.uuid, one.serial, now)))
                    for one in found
                )
                after = found[-1].position
            return rows

        return _ask_store(self._store, read)

    def _ask_collector(self, path: str, params: Mapping[str, str | Sequence[str]], key: str) -> list[Row]:
        """Return the rows of every page."""
        rows: list[Row] = []
        after: dict[str, str] = {}
        with Client(**self._options) as client:
            while True:
                page = client.get(path, {**params, **after, "limit": str(self._page_size)}, _Page)
                rows += getattr(page, key)
                if page.next is None:
                    return rows
                after = {"after": str(page.next)}


class _Page(msgspec.Struct):
    next: str | None = None
    placements: list[Row] = []
    changes: list[Row] = []


def show_placements(layout: Layout, ask: Callable[[], Sequence[Row]], output: Output) -> None:
    """Print placements in the chosen format; without any, the command exits with code 1.

    A table marks serials that are only last known, and lists changes of a GPU's health below the place where it was
    then. Notes on the GPUs' present condition come last.
    """

    def lines() -> Iterator[Row]:
        for row in taken(ask(), output):
            yield row
            if output.format in {"table", "wide"}:
                yield from health_lines(row)

    found = output._replace(sort=None, limit=None)
    show_rows(layout, lines, found, nothing="No GPUs found.", cells=described, footer=describe_conditions)


def health_lines(row: Row) -> Iterator[Row]:
    """Yield the health changes during a placement as separate rows, newest first."""
    same = {name: row.get(name) for name in ("cluster", "node", "serial", "uuid", "model", "chassis")}
    for one in _list(row.get("health_changes")):
        if isinstance(one, Mapping):
            text = describe_changes(as_field_changes(one.get("changes")))
            yield same | {"since": one.get("time"), "until": one.get("time"), "altered": f"health: {text}"}


def describe_conditions(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence on each GPU that is degraded or marked, as of now or when last seen."""
    present = {str(row.get("uuid")) for row in rows if row.get("until") is None}
    newest = {str(row.get("uuid")): row for row in reversed(rows)}
    serials = Counter(row.get("serial") for row in newest.values())
    for uuid, row in reversed(newest.items()):
        words = []
        if needed := needs(row):
            reasons = f"({', '.join(reasons_of(row))})"
            past = needed.replace("needs", "needed", 1)
            words.append(f"{needed} {reasons}" if uuid in present else f"{past} {reasons} when last read")
        if mark := mark_of(row):
            words.append(_marked(mark))
        if words:
            serial = row.get("serial")
            yield one_line(f"{serial if serial and serials[serial] == 1 else uuid} {' and '.join(words)}")


def _marked(mark: Mapping[str, Any]) -> str:
    """Return a mark in words: "is marked rma by ann since 2026-11-26T08:00:00Z (OPS-12: falls off the bus)"."""
    said = ": ".join(str(mark[name]) for name in ("ticket", "note") if mark.get(name))
    until = f" until {mark['until']}" if mark.get("until") else ""
    return f"is marked {mark.get('kind')} by {mark.get('set_by')} since {mark.get('set_at')}{until}" + (
        f" ({said})" if said else ""
    )


def described(row: Row) -> Row:
    """Return the cells of a placement that a table words differently; of alterations, the newest."""
    if isinstance(row.get("altered"), str):  # a health change, which has its own row
        return {}
    altered = [one for one in _list(row.get("altered")) if isinstance(one, Mapping)]
    text = describe_changes(as_field_changes(altered[0].get("changes"))) if altered else ""
    more = f" (and {counted(len(altered) - 1, 'earlier change')})" if len(altered) > 1 else ""
    marks = row.get("last_known")
    marked = [name for name in ("serial", "chassis") if name in marks] if isinstance(marks, Mapping) else []
    known = {name: f"{row.get(name)} (last known)" for name in marked}
    return {"altered": text + more, **known}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def configured_store(options: Mapping[str, Any]) -> StoreSettings | None:
    """Return the store selected by the options; None for a running collector."""
    path: Path | None = options["config"] or found_config()
    return None if options["url"] is not None or path is None else configuration.load(path).store


def _ask_store(settings: StoreSettings, ask: Callable[[Store], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with Store.open(settings, OpenMode.READER) as store:
            return await ask(store)

    return anyio.run(run)


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}
