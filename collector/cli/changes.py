"""Prints changes for `gpuid diff` and `gpuid history --event`, with altered fields before and after."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import click

from collector.cli.output import Output, Row, layout_of, show_rows
from collector.model import CHANGE_EVENTS
from collector.text import counted
from collector.views.alterations import as_field_changes, describe_changes
from collector.views.columns import ChangeRow

__all__ = ["CHANGE_LAYOUT", "event_option", "show_changes"]

EVENTS = tuple(event.value for event in CHANGE_EVENTS)

CHANGE_LAYOUT = layout_of(ChangeRow, ("time", "event", "cluster", "node", "serial", "changes"))

event_option = click.option(
    "--event",
    "events",
    type=click.Choice(EVENTS),
    metavar="EVENT",
    multiple=True,
    help=f"Only these events: {', '.join(EVENTS)}.",
)


def show_changes(ask: Callable[[], Sequence[Row]], events: Sequence[str], output: Output) -> None:
    """Print changes in the chosen format, and a count per event."""
    every: Sequence[Row] = []

    def asked() -> Sequence[Row]:
        nonlocal every
        every = ask()
        return every

    def totals(rows: Sequence[Row]) -> list[str]:
        counts = Counter(row["event"] for row in every)
        text = ", ".join(f"{counts[event]} {event}" for event in events or EVENTS)
        more = f"; the first {len(rows):,} of {counted(len(every), 'change')} are shown"
        return [text + more if len(rows) < len(every) else text]

    def cells(row: Row) -> dict[str, Any]:
        return {"changes": describe_changes(as_field_changes(row.get("changes"))) or _origin(row, output)}

    show_rows(CHANGE_LAYOUT, asked, output, nothing="No changes found.", cells=cells, footer=totals)


def _origin(row: Row, output: Output) -> str:
    """Return where a GPU moved from, for tables without columns for it."""
    node, cluster = row.get("previous_node"), row.get("previous_cluster")
    if not node or output.format == "wide":
        return ""
    return f"from {node}" if cluster == row.get("cluster") else f"from {node} ({cluster})"
