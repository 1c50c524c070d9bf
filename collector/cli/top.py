"""`gpuid top`: a running collector's clusters and the latest changes, live."""

import contextlib
import itertools
import operator
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from collector.cli.client import MAX_PAGE_SIZE, Client, connection_options
from collector.cli.condition import level_style
from collector.cli.console import output_console
from collector.cli.options import DURATION, CommandError
from collector.cli.table import cut_table, event_style, print_table
from collector.config import Duration
from collector.health import Level
from collector.text import counted, one_line
from collector.timestamps import rfc3339
from collector.views.alterations import as_field_changes, describe_common_changes, fields_of

__all__ = ["top"]

_CLUSTER_COLUMNS = (
    "cluster",
    "state",
    "nodes",
    "nodes_read",
    "nodes_failing",
    "gpus",
    "degraded",
    "conflicts",
    "claims",
    "synced_at",
    "message",
)
_CHANGE_COLUMNS = ("time", "event", "gpu", "cluster", "node", "from", "changes", "uuid")
_STYLES = {
    "state": lambda text: "green" if text == "up" else "red",
    "degraded": level_style,
    "event": event_style,
}
_MAX_CHANGES = 500  # that are kept; those of one node at one time share a row
_MAX_CHANGE_ROWS = 50  # that are laid out; a terminal shows the first ones
_LOOK_BACK_SECONDS = 3600.0
Row = dict[str, Any]


@click.command()
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="Refresh interval.")
@connection_options
def top(interval: Duration, **options: Any) -> None:
    r"""Show the clusters of a running collector and the latest changes, live.

    The changes need a collector with a [store]. Press Ctrl-C to stop. If the output is not a terminal, the
    clusters are printed once.

    \b
    Examples:
      gpuid top
      gpuid top --url https://gpuid.example.com --interval 10s
    """
    with Client(**options) as client:
        clusters = client.clusters()
        if not sys.stdout.isatty():
            print_table(_CLUSTER_COLUMNS, _cells(clusters))
            return
        changes = _Changes(client)
        failure = ""
        with contextlib.suppress(KeyboardInterrupt), Live(console=output_console(), screen=True) as live:
            while True:
                live.update(_view(clusters, changes.latest, failure), refresh=True)
                time.sleep(interval)
                try:
                    clusters, failure = client.clusters(), ""
                    changes.update()
                except CommandError as error:
                    failure = error.format_message()


class _Page(msgspec.Struct):
    changes: list[dict[str, Any]]


class _Changes:
    """The latest changes of a collector; none if it has no store."""

    def __init__(self, client: Client) -> None:
        self.latest: deque[Row] = deque(maxlen=_MAX_CHANGES)
        self._client = client
        self._available = True
        self._newest = 0  # the greatest id
        self._start = {"since": rfc3339(time.time() - _LOOK_BACK_SECONDS)}
        try:
            self.update()
        except CommandError:
            self._available = False

    def update(self) -> None:
        """Append the changes that were recorded since the last time; raises CommandError."""
        while self._available:
            params = self._start | {"limit": str(MAX_PAGE_SIZE)}
            page = self._client.get("/api/v1/changes", params, _Page).changes
            self.latest.extend(page)
            if page:
                self._newest = max(self._newest, *(change["id"] for change in page))
                self._start |= {"after": str(page[-1]["id"])}
            if len(page) < MAX_PAGE_SIZE:
                if self._newest:  # from now on in the order in which changes are recorded
                    self._start = {"after": str(self._newest)}
                return


def _cells(clusters: Sequence[Row]) -> Iterator[list[object]]:
    rows = (cluster | {"degraded": _degraded(cluster)} for cluster in clusters)
    return ([row.get(column) for column in _CLUSTER_COLUMNS] for row in rows)


def _degraded(cluster: Row) -> str:
    """Return how many GPUs are degraded, by level: "1 replace, 2 reset"; an older collector says nothing."""
    counts = cluster.get("gpus_degraded")
    known = counts if isinstance(counts, Mapping) else {}
    return ", ".join(f"{known[level]} {level}" for level in Level if known.get(level))


def _view(clusters: Sequence[Row], changes: Sequence[Row], failure: str) -> Group:
    """Return one screen: a failure, the totals, the clusters (those that are down first), the newest changes."""
    ordered = sorted(clusters, key=lambda cluster: (cluster["up"], cluster["cluster"]))
    total = {name: sum(cluster[name] for cluster in clusters) for name in ("up", "nodes", "nodes_read", "gpus")}
    summary = (
        f"{total['up']} of {len(clusters)} clusters up, {total['nodes_read']} of {total['nodes']} nodes read, "
        f"{counted(total['gpus'], 'GPU')}  {datetime.now(UTC):%H:%M:%S}Z"
    )
    parts: list[Any] = [Text(one_line(failure), "red")] if failure else []
    parts += [
        Text(summary, "bold"),
        Text(),
        cut_table(_CLUSTER_COLUMNS, _cells(ordered), styles=_STYLES),
    ]
    if changes:
        parts += [Text(), cut_table(_CHANGE_COLUMNS, _first_rows(changes), styles=_STYLES)]
    return Group(*parts)


def _first_rows(changes: Sequence[Row]) -> Iterator[list[object]]:
    return itertools.islice(_grouped(changes), _MAX_CHANGE_ROWS)


def _grouped(changes: Sequence[Row]) -> Iterator[list[object]]:
    """Yield rows of changes, newest first; those of one node at one time, and of the same fields, share a row."""
    for (time_, event, cluster, node), group in itertools.groupby(
        reversed(changes), key=operator.itemgetter("time", "event", "cluster", "node")
    ):
        by_fields: dict[tuple[str, ...], list[Row]] = {}
        for change in group:
            by_fields.setdefault(fields_of(as_field_changes(change.get("changes"))), []).append(change)
        for ones in by_fields.values():
            yield _row(time_, event, cluster, node, ones)


def _row(time_: str, event: str, cluster: str, node: str, ones: Sequence[Row]) -> list[object]:
    what = ones[0]["serial"] if len(ones) == 1 else counted(len(ones), "GPU")
    origin = {f"{one['previous_node']} of {one['previous_cluster']}" for one in ones if one["previous_node"]}
    return [
        time_.partition("T")[2].partition(".")[0] + "Z",
        event,
        what,
        cluster,
        node,
        next(iter(origin)) if len(origin) == 1 else "",
        describe_common_changes([as_field_changes(one.get("changes")) for one in ones]),
        ones[0]["uuid"] if len(ones) == 1 else "",
    ]
