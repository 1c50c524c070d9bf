"""`gpuid history`: what sat in a node."""

from typing import Any

import click

from collector.cli.options import TERM
from collector.cli.past import Past, past_options, print_rows

__all__ = ["history"]


@click.command()
@click.argument("node", type=TERM)
@click.option("--cluster", metavar="NAME", help="Only the node of this cluster.")
@past_options
def history(node: str, cluster: str | None, as_json: bool, **options: Any) -> None:
    r"""List every GPU that sits or sat in a node: what is there comes first.

    \b
    Examples:
      gpuid history gpu-node-7 --cluster prod
    """
    columns = ("cluster", "node", "serial", "uuid", "model", "chassis", "since", "until")
    print_rows(Past(options).node(node, cluster), columns, as_json=as_json, nothing="No GPUs found.")
