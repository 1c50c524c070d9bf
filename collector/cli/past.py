"""The look back that several commands share: from the configured store, or from a running collector."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import click
import msgspec

from collector import config as configuration
from collector.cli.client import Client, connection_options
from collector.cli.options import found_config
from collector.cli.table import EVENT_STYLES, print_table
from collector.store import Access, History, Store, StoreSettings
from collector.web.history import change_row, placement_row

__all__ = ["Past", "past_options", "print_rows"]

_PAGE = 10_000
_STYLES = {
    "event": EVENT_STYLES,
    "until": {"-": "green", "": "dim"},  # what is still there stands out
}
Row = dict[str, Any]
_T = TypeVar("_T")


class Past:
    """The history, wherever it is: rows as the API gives them."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._store = _store(options)

    def where(self, term: str) -> list[Row]:
        """Find every placement of a serial, UUID or chassis."""
        if self._store is None:
            return self._ask(f"/api/v1/gpus/{quote(term, safe='')}/history", {}, "placements")
        found = _query(self._store, lambda history: history.where(term, limit=_PAGE))
        return [placement_row(placement) for placement in found]

    def node(self, node: str, cluster: str | None) -> list[Row]:
        """Find all that ever sat in a node."""
        if self._store is None:
            return self._ask(f"/api/v1/nodes/{quote(node, safe='')}/history", _given(cluster=cluster), "placements")
        found = _query(self._store, lambda history: history.node(node, cluster, limit=_PAGE))
        return [placement_row(placement) for placement in found]

    def changes(self, since: float, iso: str, cluster: str | None) -> list[Row]:
        """List what happened since a time, oldest first."""
        rows: list[Row] = []
        after: int | None = None
        while True:
            if self._store is None:
                params = _given(since=iso, cluster=cluster, after=None if after is None else str(after))
                page = self._ask("/api/v1/changes", params, "changes")
            else:
                found = _query(self._store, _page(since, cluster, after))
                page = [change_row(change) for change in found]
            rows += page
            if len(page) < _PAGE:
                return rows
            after = page[-1]["id"]

    def _ask(self, path: str, params: Mapping[str, str], key: str) -> list[Row]:
        with Client(**self._options) as client:
            return client.get(path, {**params, "limit": str(_PAGE)}, dict[str, Any])[key]  # type: ignore[no-any-return]


def past_options(function: Any) -> Any:
    """Add `--json` and the options that choose the store or the collector."""
    function = click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, as the API gives them.")(
        function
    )
    return connection_options(function)


def print_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool, nothing: str) -> None:
    """Print a table or one JSON array with a row a line; a note on stderr when there are none."""
    if as_json:
        body = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
        click.echo(f"[\n{body}\n]" if rows else "[]")
    if not rows:
        click.echo(nothing, err=True)
    elif not as_json:
        print_table(columns, ([row[column] for column in columns] for row in rows), styles=_STYLES)


def _store(options: Mapping[str, Any]) -> StoreSettings | None:
    path: Path | None = options["config"] or found_config()
    return None if options["url"] is not None or path is None else configuration.load(path).store


def _query(settings: StoreSettings, ask: Callable[[History], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with Store.open(settings, Access.READER) as store:
            return await ask(store.history)

    return anyio.run(run)


def _page(since: float, cluster: str | None, after: int | None) -> Callable[[History], Awaitable[Any]]:
    return lambda history: history.changes(since=since, cluster=cluster, after=after, limit=_PAGE)


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}
