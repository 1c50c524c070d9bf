"""`gpuid diff`: the latest changes."""

import time
from collections import Counter
from typing import Any

import click

from collector.cli.history_queries import HistoryQueries, history_options
from collector.cli.options import DURATION
from collector.cli.table import print_rows
from collector.config import Duration
from collector.model import CHANGE_EVENTS
from collector.views.alterations import as_field_changes, describe_changes

__all__ = ["diff"]

_COLUMNS = ("time", "event", "cluster", "node", "serial", "uuid", "previous_cluster", "previous_node", "changes")
_EVENTS = tuple(event.value for event in CHANGE_EVENTS)


@click.command()
@click.option("--since", type=DURATION, default="24h", show_default=True, help="How far to look back.")
@click.option("--cluster", metavar="NAME", help="Only changes in this cluster, and moves out of it.")
@click.option(
    "--event",
    "events",
    type=click.Choice(_EVENTS),
    metavar="EVENT",
    multiple=True,
    help=f"Only these events: {', '.join(_EVENTS)}.",
)
@history_options
def diff(since: Duration, cluster: str | None, events: tuple[str, ...], as_json: bool, **options: Any) -> None:
    r"""List the GPUs that appeared, moved, vanished or were altered, or whose health changed, and count them.

    The oldest change comes first. A counter that is less than it was "went back": another InfoROM or driver
    counts otherwise, and nothing has recovered.

    \b
    Examples:
      gpuid diff --since 7d --cluster prod
      gpuid diff --since 30d --event health
    """
    rows = HistoryQueries(options).changes(time.time() - since, cluster, events)
    shown = (
        rows if as_json else [row | {"changes": describe_changes(as_field_changes(row.get("changes")))} for row in rows]
    )
    print_rows(shown, _COLUMNS, as_json=as_json, nothing="No changes found.")
    if rows and not as_json:
        counts = Counter(row["event"] for row in rows)
        click.echo(", ".join(f"{counts[event]} {event}" for event in events or _EVENTS))
