"""`gpuid nodes`: lists the GPU nodes of a running collector."""

import itertools
from collections.abc import Iterator
from typing import Any

import click

from collector.cli.client import Client, check_clusters, connection_options
from collector.cli.completion import complete_cluster, complete_node
from collector.cli.output import Output, Row, layout_of, output_options, page_size, show_rows
from collector.views.columns import NodeRow

__all__ = ["nodes"]

_FILTERS = ("cluster", "machine", "chassis")
_LAYOUT = layout_of(NodeRow)


def _filter_options(function: Any) -> Any:
    for name in reversed(_FILTERS):
        complete = complete_cluster if name == "cluster" else None
        function = click.option(
            f"--{name}", metavar="VALUE", multiple=True, shell_complete=complete, help=f"Filter by {name}."
        )(function)
    return function


@click.command()
@click.argument("names", metavar="[NODE]...", nargs=-1, shell_complete=complete_node)
@_filter_options
@output_options(_LAYOUT, watch=True)
@connection_options
def nodes(names: tuple[str, ...], output: Output, **options: Any) -> None:
    r"""List the GPU nodes of a running collector, including unreadable ones.

    A filter given several times matches any of its values; different filters must all match.

    \b
    Examples:
      gpuid nodes --cluster prod --sort -lost
      gpuid nodes gpu-0003 -o json | jq '.[].lost_gpus'
      gpuid nodes -o csv --sort node > nodes.csv
    """
    filters = {name: values for name in _FILTERS if (values := options.pop(name))} | ({"node": names} if names else {})

    def ask() -> Iterator[Row]:
        with Client(**options, page_size=page_size(output)) as client:
            check_clusters(client, filters.get("cluster", ()))
            yield from itertools.chain.from_iterable(client.nodes(filters))

    show_rows(_LAYOUT, ask, output, nothing="No nodes found.", styles=_STYLES)


def _unread_style(reason: str) -> str:
    return "" if reason == "-" else "red"


def _lost_style(count: str) -> str:
    return "" if count in {"0", "-"} else "red"


_STYLES = {"unread_reason": _unread_style, "lost": _lost_style}
