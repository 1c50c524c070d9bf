"""`gpuid where`: where a GPU is, and every place where it was."""

from typing import Any

import click

from collector.cli.client import connection_options
from collector.cli.completion import complete_id
from collector.cli.history_queries import HistoryQueries, show_placements
from collector.cli.options import TERM
from collector.cli.output import Output, layout_of, output_options
from collector.views.columns import PlacementRow

__all__ = ["where"]

_LAYOUT = layout_of(PlacementRow, ("cluster", "node", "serial", "since", "until", "confirmed_at", "altered"))


@click.command()
@click.argument("term", type=TERM, shell_complete=complete_id)
@output_options(_LAYOUT)
@connection_options
def where(term: str, output: Output, **options: Any) -> None:
    r"""Show where a serial, UUID or chassis is and was: the present place first, then the newest.

    \b
    Examples:
      gpuid where 1652922001234
      gpuid where -o json GPU-5c1fe5e8-3b1f-4a9b-9d3e-0d7c2f7f3a11
    """
    show_placements(_LAYOUT, lambda: HistoryQueries(options).gpu(term), output)
