"""`gpuid history`: the GPUs that are and were in a node."""

from typing import Any

import click

from collector.cli.client import connection_options
from collector.cli.history_queries import PLACEMENT_TIMES, HistoryQueries, show_placements
from collector.cli.options import TERM
from collector.cli.output import Layout, Output, output_options

__all__ = ["history"]

_COLUMNS = ("cluster", "node", "serial", "uuid", "model", "chassis", "since", "until", "altered")
_LAYOUT = Layout(
    ("cluster", "node", "serial", "model", "since", "until", "altered"), _COLUMNS, _COLUMNS, PLACEMENT_TIMES
)


@click.command()
@click.argument("node", type=TERM)
@click.option("--cluster", metavar="NAME", help="Only the node in this cluster.")
@output_options(_LAYOUT)
@connection_options
def history(node: str, cluster: str | None, output: Output, **options: Any) -> None:
    r"""List every GPU that is or was in a node, the present ones first.

    \b
    Examples:
      gpuid history gpu-node-7 --cluster prod
    """
    show_placements(_LAYOUT, lambda: HistoryQueries(options).node(node, cluster), output)
