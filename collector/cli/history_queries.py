"""Queries of the history that several commands share: from the configured store, or from a running collector."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import click
import msgspec

from collector import config as configuration
from collector.cli.client import MAX_PAGE_SIZE, Client, connection_options
from collector.cli.options import found_config
from collector.cli.table import print_rows
from collector.store import History, OpenMode, PastPlacement, Position, Store, StoreSettings
from collector.text import counted
from collector.timestamps import rfc3339
from collector.views.alterations import as_field_changes, describe_changes
from collector.views.rows import change_row, placement_row

__all__ = ["HistoryQueries", "configured_store", "history_options", "print_placements"]

Row = dict[str, Any]
_T = TypeVar("_T")
_PlacementPage = Callable[[History, Position | None], Awaitable[list[PastPlacement]]]


class HistoryQueries:
    """The history, wherever it is kept; every query returns rows as the API does."""

    def __init__(self, options: Mapping[str, Any], *, page_size: int = MAX_PAGE_SIZE) -> None:
        self._options = dict(options)
        self._store = configured_store(options)
        self._page_size = page_size

    def gpu(self, term: str) -> list[Row]:
        """Return every placement of a serial, UUID or chassis, the present one first."""
        return self._placements(
            f"/api/v1/gpus/{quote(term, safe='')}/history",
            {},
            lambda history, after: history.where(term, after=after, limit=self._page_size),
        )

    def node(self, node: str, cluster: str | None) -> list[Row]:
        """Return every placement in a node, the present ones first."""
        return self._placements(
            f"/api/v1/nodes/{quote(node, safe='')}/history",
            _given(cluster=cluster),
            lambda history, after: history.node(node, cluster, after=after, limit=self._page_size),
        )

    def changes(self, since: float, cluster: str | None) -> list[Row]:
        """Return the changes since a time (Unix seconds), oldest first."""
        if self._store is None:
            return self._ask_collector("/api/v1/changes", _given(since=rfc3339(since), cluster=cluster), "changes")

        async def read(history: History) -> list[Row]:
            rows: list[Row] = []
            after: int | None = None
            while found := await history.changes(since=since, cluster=cluster, after=after, limit=self._page_size):
                rows += map(change_row, found)
                after = found[-1].id
            return rows

        return _ask_store(self._store, read)

    def _placements(self, path: str, params: Mapping[str, str], page: _PlacementPage) -> list[Row]:
        if self._store is None:
            return self._ask_collector(path, params, "placements")

        async def read(history: History) -> list[Row]:
            rows: list[Row] = []
            after: Position | None = None
            while found := await page(history, after):
                rows += map(placement_row, found)
                after = found[-1].position
            return rows

        return _ask_store(self._store, read)

    def _ask_collector(self, path: str, params: Mapping[str, str], key: str) -> list[Row]:
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
    next: str | int | None = None
    placements: list[Row] = []
    changes: list[Row] = []


def history_options(function: Any) -> Any:
    """Add `--json` and the options that choose the store or the collector."""
    function = click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, as the API returns them.")(
        function
    )
    return connection_options(function)


def print_placements(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool) -> None:
    """Print placements as a table or as JSON; in the table, a serial that is merely the last known one is marked."""
    shown = rows if as_json else [row | _described(row) for row in rows]
    print_rows(shown, columns, as_json=as_json, nothing="No GPUs found.")


def _described(row: Row) -> Row:
    """Return the cells of a placement that a table has in other words: of what was altered, the newest."""
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
    """Return the store that the options choose; None if they choose a running collector."""
    path: Path | None = options["config"] or found_config()
    return None if options["url"] is not None or path is None else configuration.load(path).store


def _ask_store(settings: StoreSettings, ask: Callable[[History], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with Store.open(settings, OpenMode.READER) as store:
            return await ask(store.history)

    return anyio.run(run)


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}
