"""`gpuid top`: shows a running collector's problems, clusters and latest changes, live."""

import contextlib
import sys
import threading
import time
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.live import Live

from collector.cli.client import MAX_PAGE_SIZE, Client, connection_options
from collector.cli.console import output_console
from collector.cli.errors import CommandError
from collector.cli.keys import Keys
from collector.cli.options import DURATION
from collector.cli.table import print_table, table_width
from collector.cli.top_view import Row, Scroll, Seen, cluster_cells, cluster_columns, screen, worst_first
from collector.config import Duration
from collector.timestamps import rfc3339

__all__ = ["top"]

_MAX_CHANGES = 500  # kept; changes of one node at one time share a row
_MAX_PAGES = 10  # changes per request
_LOOK_BACK = "1h"
_OVERLAP_SECONDS = 60.0  # changes of this long are requested again: one may be recorded after a later one
_REDRAW_SECONDS = 1.0  # without a key press; the clock keeps running


@click.command()
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="Refresh interval.")
@connection_options
def top(interval: Duration, **options: Any) -> None:
    r"""Show a running collector's problems, clusters and latest changes, live.

    Changes need a collector with a [store]. The arrow and page keys scroll; q quits. If the output is not a
    terminal, this prints the clusters once.

    \b
    Examples:
      gpuid top
      gpuid top --url https://gpuid.example.com --interval 10s
    """
    with Client(**options) as client:
        feed = _Feed(client)
        if not sys.stdout.isatty():
            columns, now = cluster_columns(table_width()), time.time()
            rows = [cluster_cells(one, columns, now) for one in worst_first(feed.seen.clusters)]
            print_table(columns, rows, width=table_width())
            return
        with contextlib.suppress(KeyboardInterrupt):
            _show(feed, interval)


def _show(feed: "_Feed", interval: float) -> None:
    """Show the feed until the user quits."""
    console, scroll = output_console(), Scroll()
    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        threading.Thread(target=feed.follow, args=(interval,), daemon=True).start()
        while True:
            live.update(screen(feed.seen, scroll, console.width, console.height), refresh=True)
            for key in keys.pressed(min(_REDRAW_SECONDS, interval)):
                if key in ("q", "Q"):
                    return
                scroll.press(key)


class _Feed:
    """A collector's answers, refreshed periodically; a failure keeps the last answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._changes: dict[int, _Change] = {}  # by id
        self._has_changes = True
        self._since = _LOOK_BACK  # by the collector's clock, like the times below
        self.seen = self._ask()
        with contextlib.suppress(CommandError):
            self._update_changes()
        self.seen = self.seen._replace(changes=self._latest())

    def follow(self, interval: float) -> None:
        """Refresh for as long as the process runs."""
        while True:
            time.sleep(interval)
            try:
                seen = self._ask()
                if self._has_changes:
                    self._update_changes()
                self.seen = seen._replace(changes=self._latest())
            except CommandError as error:
                self.seen = self.seen._replace(failure=error.format_message())

    def _ask(self) -> Seen:
        clusters = self._client.clusters()
        try:
            problems = self._client.problems(())
        except CommandError:  # of an older collector
            problems = []
        return Seen(clusters, problems, time=time.time())

    def _update_changes(self) -> None:
        """Fetch changes recorded since the last time; raises CommandError."""
        params = {"since": self._since, "limit": str(MAX_PAGE_SIZE)}
        try:
            for _page in range(_MAX_PAGES):
                page = self._client.get("/api/v1/changes", params, _Page)
                self._changes |= {change.id: change for change in page.changes}
                if page.next is None:
                    break
                params["after"] = str(page.next)
        except CommandError:
            self._has_changes = bool(self._changes)  # else there is no store
            raise
        latest = sorted(self._changes.values(), key=lambda change: (change.time, change.id))[-_MAX_CHANGES:]
        self._changes = {change.id: change for change in latest}
        if latest:
            self._since = rfc3339(latest[-1].time.timestamp() - _OVERLAP_SECONDS)

    def _latest(self) -> list[Row]:
        return [msgspec.to_builtins(change) for change in self._changes.values()]


class _Change(msgspec.Struct):
    id: int
    time: datetime
    event: str
    cluster: str
    node: str
    uuid: str
    serial: str | None = None
    previous_cluster: str | None = None
    previous_node: str | None = None
    changes: Any = None
    first_sight: bool = False


class _Page(msgspec.Struct):
    changes: list[_Change]
    next: int | str | None = None
