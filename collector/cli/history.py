"""`gpuid history`: the GPUs that are and were in a node."""

from typing import Any

import click

from collector.cli.history_queries import HistoryQueries, history_options, print_placements
from collector.cli.options import TERM

__all__ = ["history"]

_COLUMNS = ("cluster", "node", "serial", "uuid", "model", "chassis", "since", "until", "altered")


@click.command()
@click.argument("node", type=TERM)
@click.option("--cluster", metavar="NAME", help="Only the node in this cluster.")
@history_options
def history(node: str, cluster: str | None, as_json: bool, **options: Any) -> None:
    r"""List every GPU that is or was in a node, the present ones first.

    \b
    Examples:
      gpuid history gpu-node-7 --cluster prod
    """
    print_placements(HistoryQueries(options).node(node, cluster), _COLUMNS, as_json=as_json)
