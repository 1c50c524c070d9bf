"""`gpuid top`: a running collector's clusters and what happens in them, as it happens."""

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
from rich.console import Group
from rich.live import Live
from rich.text import Text

from collector.cli.client import Client, connection_options
from collector.cli.options import DURATION, CommandError
from collector.cli.table import cut_table, event_style, output_console, print_table
from collector.config import Duration

__all__ = ["top"]

_CLUSTERS = ("cluster", "state", "nodes", "nodes_read", "nodes_failing", "gpus", "conflicts", "synced", "message")
_CHANGES = ("time", "event", "gpu", "cluster", "node", "from", "uuid")
_STYLES = {"state": lambda text: "green" if text == "up" else "red", "event": event_style}
_LATEST = 500  # changes that are kept; those of one node at one time are shown as one
_ROWS = 50  # of changes; a terminal shows the first ones
_LOOK_BACK = 3600.0  # seconds
_PAGE = 10_000
Row = Mapping[str, Any]


@click.command()
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="How often to look.")
@connection_options
def top(interval: Duration, **options: Any) -> None:
    r"""Watch a running collector: its clusters with their state, and the latest changes.

    The changes need a collector with a [store]. Ctrl-C ends it. Where the output is no terminal, the
    clusters are printed once.

    \b
    Examples:
      gpuid top
      gpuid top --url https://gpuid.example.com --interval 10s
    """
    with Client(**options) as client:
        clusters = _clusters(client)
        if not sys.stdout.isatty():
            print_table(_CLUSTERS, _cells(clusters, _CLUSTERS))
            return
        changes = _Changes(client)
        trouble = ""
        with contextlib.suppress(KeyboardInterrupt), Live(console=output_console(), screen=True) as live:
            while True:
                live.update(_view(clusters, changes.latest, trouble), refresh=True)
                time.sleep(interval)
                try:
                    clusters, trouble = _clusters(client), ""
                    changes.look()
                except CommandError as failure:
                    trouble = failure.format_message()


class _Changes:
    """The latest changes, looked for from the last one that is known; none without a store."""

    def __init__(self, client: Client) -> None:
        self.latest: deque[Row] = deque(maxlen=_LATEST)
        self._client = client
        self._kept = True
        self._newest = 0  # the greatest id
        self._from = {"since": datetime.fromtimestamp(time.time() - _LOOK_BACK, UTC).isoformat()}
        try:
            self.look()
        except CommandError:
            self._kept = False

    def look(self) -> None:
        while self._kept:
            page = self._client.get("/api/v1/changes", self._from | {"limit": str(_PAGE)}, dict[str, Any])["changes"]
            self.latest.extend(page)
            if page:
                self._newest = max(self._newest, *(change["id"] for change in page))
                self._from |= {"after": str(page[-1]["id"])}
            if len(page) < _PAGE:
                if self._newest:  # from now on in the order in which changes are recorded
                    self._from = {"after": str(self._newest)}
                return


def _clusters(client: Client) -> Sequence[Row]:
    found: Sequence[Row] = client.get("/api/v1/clusters", {"limit": str(_PAGE)}, dict[str, Any])["clusters"]
    return found


def _cells(rows: Iterator[Row] | Sequence[Row], columns: Sequence[str]) -> Iterator[list[object]]:
    return ([row[column] for column in columns] for row in rows)


def _view(clusters: Sequence[Row], changes: Sequence[Row], trouble: str) -> Group:
    """Lay out one screen: what is wrong, a line of totals, the clusters that need a look first, the newest change."""
    ailing = sorted(clusters, key=lambda cluster: (cluster["up"], cluster["cluster"]))
    total = {name: sum(cluster[name] for cluster in clusters) for name in ("up", "nodes", "nodes_read", "gpus")}
    summary = (
        f"{total['up']} of {len(clusters)} clusters up, {total['nodes_read']} of {total['nodes']} nodes read, "
        f"{total['gpus']} GPUs  {datetime.now(UTC):%H:%M:%S}Z"
    )
    parts: list[Any] = [Text(trouble, "red")] if trouble else []
    parts += [Text(summary, "bold"), Text(), cut_table(_CLUSTERS, _cells(ailing, _CLUSTERS), styles=_STYLES)]
    if changes:
        parts += [Text(), cut_table(_CHANGES, itertools.islice(_grouped(changes), _ROWS), styles=_STYLES)]
    return Group(*parts)


def _grouped(changes: Sequence[Row]) -> Iterator[list[object]]:
    """Lay out changes, newest first, those that happened to one node at one time in one row."""
    for (time_, event, cluster, node), group in itertools.groupby(
        reversed(changes), key=operator.itemgetter("time", "event", "cluster", "node")
    ):
        ones = list(group)
        what = ones[0]["serial"] if len(ones) == 1 else f"{len(ones)} GPUs"
        origin = {f"{one['previous_node']} of {one['previous_cluster']}" for one in ones if one["previous_node"]}
        yield [
            time_.partition("T")[2].partition(".")[0] + "Z",
            event,
            what,
            cluster,
            node,
            next(iter(origin)) if len(origin) == 1 else "",
            ones[0]["uuid"] if len(ones) == 1 else "",
        ]
