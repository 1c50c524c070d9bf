"""`gpuid where`: where a GPU is, and every place where it was."""

from typing import Any

import click

from collector.cli.history_queries import HistoryQueries, history_options, print_placements
from collector.cli.options import TERM

__all__ = ["where"]

_COLUMNS = ("cluster", "node", "since", "until", "confirmed_at", "serial", "uuid", "chassis", "altered")


@click.command()
@click.argument("term", type=TERM)
@history_options
def where(term: str, as_json: bool, **options: Any) -> None:
    r"""Show where a serial, UUID or chassis is and was: the present place first, then the newest.

    \b
    Examples:
      gpuid where 1652922001234
      gpuid where --json GPU-5c1fe5e8-3b1f-4a9b-9d3e-0d7c2f7f3a11
    """
    print_placements(HistoryQueries(options).gpu(term), _COLUMNS, as_json=as_json)
