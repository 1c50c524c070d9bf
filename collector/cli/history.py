"""`gpuid history`: lists the current and former GPUs of a node."""

from collections.abc import Sequence
from typing import Any

import click

from collector.cli.changes import CHANGE_LAYOUT, event_option, show_changes
from collector.cli.client import connection_options
from collector.cli.completion import complete_cluster, complete_node
from collector.cli.history_queries import HistoryQueries, show_placements
from collector.cli.options import PAST_TIME, TERM
from collector.cli.output import Layout, Output, Row, layout_of, output_options
from collector.timestamps import rfc3339
from collector.views.columns import PlacementRow

__all__ = ["history"]

_LAYOUT = layout_of(PlacementRow, ("cluster", "node", "serial", "model", "since", "until", "altered"))
_EITHER = Layout(
    _LAYOUT.table, _LAYOUT.wide, tuple({one.name: one for one in (*CHANGE_LAYOUT.every, *_LAYOUT.every)}.values())
)  # the options are the same for both lists


@click.command()
@click.argument("node", type=TERM, shell_complete=complete_node)
@click.option(
    "--cluster", metavar="NAME", shell_complete=complete_cluster, help="Only the node of this name in this cluster."
)
@click.option("--since", type=PAST_TIME, metavar="TIME", help="Only since this time, such as 2026-11-24 or 7d.")
@click.option("--until", type=PAST_TIME, metavar="TIME", help="Only before this time.")
@event_option
@output_options(_EITHER, watch=True)
@connection_options
def history(
    node: str,
    cluster: str | None,
    since: float | None,
    until: float | None,
    events: tuple[str, ...],
    output: Output,
    **options: Any,
) -> None:
    r"""List every GPU that is or was in a node, current ones first.

    With --event, list the changes there instead, with altered fields before and after.

    \b
    Examples:
      gpuid history gpu-node-7 --cluster prod
      gpuid history gpu-node-7 --since 2026-11-01 --until 2026-11-08
      gpuid history gpu-node-7 --event altered --event health --since 30d
    """
    queries = HistoryQueries(options)
    if events:
        show_changes(lambda: queries.changes(since or 0.0, cluster, events, until=until, node=node), events, output)
    else:
        show_placements(_LAYOUT, lambda: _within(queries.node(node, cluster), since, until), output)


def _within(rows: Sequence[Row], since: float | None, until: float | None) -> list[Row]:
    """Return the placements that were there at any time between two times (Unix seconds)."""
    start, end = rfc3339(since), rfc3339(until)
    return [
        row
        for row in rows
        if (end is None or str(row.get("since")) < end)
        and (start is None or row.get("until") is None or str(row.get("until")) >= start)
    ]
