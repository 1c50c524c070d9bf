"""`gpuid where`: where a GPU is, and every place it was."""

from typing import Any

import click

from collector.cli.options import TERM
from collector.cli.past import Past, past_options, print_rows

__all__ = ["where"]


@click.command()
@click.argument("term", type=TERM)
@past_options
def where(term: str, as_json: bool, **options: Any) -> None:
    r"""Tell where a serial, UUID or chassis is and was: the present place first, then the newest.

    \b
    Examples:
      gpuid where 1652922001234
      gpuid where --json GPU-5c1fe5e8-3b1f-4a9b-9d3e-0d7c2f7f3a11
    """
    columns = ("cluster", "node", "since", "until", "confirmed", "serial", "uuid", "chassis")
    print_rows(Past(options).where(term), columns, as_json=as_json, nothing="No GPUs found.")
