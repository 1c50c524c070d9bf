"""`gpuid diff`: the latest changes."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from collector.cli.client import connection_options
from collector.cli.history_queries import HistoryQueries
from collector.cli.options import DURATION
from collector.cli.output import Layout, Output, output_options, show_rows
from collector.config import Duration
from collector.model import CHANGE_EVENTS
from collector.views.alterations import as_field_changes, describe_changes

__all__ = ["diff"]

_COLUMNS = ("time", "event", "cluster", "node", "serial", "uuid", "previous_cluster", "previous_node", "changes")
_LAYOUT = Layout(
    ("time", "event", "cluster", "node", "serial", "previous_node", "changes"), _COLUMNS, _COLUMNS, frozenset({"time"})
)
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
@output_options(_LAYOUT)
@connection_options
def diff(since: Duration, cluster: str | None, events: tuple[str, ...], output: Output, **options: Any) -> None:
    r"""List the GPUs that appeared, moved, vanished or were altered, or whose health changed, and count them.

    The oldest change comes first. A counter that is less than it was "went back": another InfoROM or driver
    counts otherwise, and nothing has recovered.

    \b
    Examples:
      gpuid diff --since 7d --cluster prod
      gpuid diff --since 30d --event health
    """

    def totals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        counts = Counter(row["event"] for row in rows)
        return [", ".join(f"{counts[event]} {event}" for event in events or _EVENTS)]

    show_rows(
        _LAYOUT,
        lambda: HistoryQueries(options).changes(time.time() - since, cluster, events),
        output,
        nothing="No changes found.",
        cells=lambda row: {"changes": describe_changes(as_field_changes(row.get("changes")))},
        footer=totals,
    )
