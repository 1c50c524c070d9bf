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
from collector.cli.table import event_style, print_table
from collector.store import History, OpenMode, PastPlacement, Position, Store, StoreSettings
from collector.views.rows import change_row, placement_row

__all__ = ["Past", "chosen_store", "past_options", "print_rows"]

_PAGE = 10_000
_STYLES = {
    "event": event_style,
    "until": lambda text: "green" if text == "-" else "dim",  # what is still there stands out
}
Row = dict[str, Any]
_T = TypeVar("_T")
_PlacementPage = Callable[[History, Position | None], Awaitable[list[PastPlacement]]]


class Past:
    """The history, wherever it is: rows as the API gives them."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._store = chosen_store(options)

    def where(self, term: str) -> list[Row]:
        """Find every placement of a serial, UUID or chassis."""
        return self._placements(
            f"/api/v1/gpus/{quote(term, safe='')}/history",
            {},
            lambda history, after: history.where(term, after=after, limit=_PAGE),
        )

    def node(self, node: str, cluster: str | None) -> list[Row]:
        """Find all that ever sat in a node."""
        return self._placements(
            f"/api/v1/nodes/{quote(node, safe='')}/history",
            _given(cluster=cluster),
            lambda history, after: history.node(node, cluster, after=after, limit=_PAGE),
        )

    def changes(self, since: float, iso: str, cluster: str | None) -> list[Row]:
        """List what happened since a time, oldest first."""
        if self._store is None:
            return self._ask("/api/v1/changes", _given(since=iso, cluster=cluster), "changes")

        async def read(history: History) -> list[Row]:
            rows: list[Row] = []
            after: int | None = None
            while found := await history.changes(since=since, cluster=cluster, after=after, limit=_PAGE):
                rows += map(change_row, found)
                after = found[-1].id
            return rows

        return _query(self._store, read)

    def _placements(self, path: str, params: Mapping[str, str], page: _PlacementPage) -> list[Row]:
        if self._store is None:
            return self._ask(path, params, "placements")

        async def read(history: History) -> list[Row]:
            rows: list[Row] = []
            after: Position | None = None
            while found := await page(history, after):
                rows += map(placement_row, found)
                after = found[-1].position
            return rows

        return _query(self._store, read)

    def _ask(self, path: str, params: Mapping[str, str], key: str) -> list[Row]:
        """Ask a collector for every page."""
        rows: list[Row] = []
        after: dict[str, str] = {}
        with Client(**self._options) as client:
            while True:
                page = client.get(path, {**params, **after, "limit": str(_PAGE)}, dict[str, Any])
                rows += page[key]
                if page.get("next") is None:
                    return rows
                after = {"after": str(page["next"])}


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


def chosen_store(options: Mapping[str, Any]) -> StoreSettings | None:
    """Find the store that the options choose; None where it is a collector that is to be asked."""
    path: Path | None = options["config"] or found_config()
    return None if options["url"] is not None or path is None else configuration.load(path).store


def _query(settings: StoreSettings, ask: Callable[[History], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with Store.open(settings, OpenMode.READER) as store:
            return await ask(store.history)

    return anyio.run(run)


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}
