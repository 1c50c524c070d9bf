"""`gpuid clusters`: the clusters of a running collector."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from collector.cli.client import Client, check_clusters, connection_options
from collector.cli.completion import complete_cluster
from collector.cli.condition import level_style
from collector.cli.output import Output, Row, layout_of, output_options, show_rows
from collector.health import Level
from collector.text import one_line
from collector.views.columns import ClusterRow

__all__ = ["clusters"]

_LAYOUT = layout_of(ClusterRow)


@click.command()
@click.argument("names", metavar="[CLUSTER]...", nargs=-1, shell_complete=complete_cluster)
@output_options(_LAYOUT, watch=True)
@connection_options
def clusters(names: tuple[str, ...], output: Output, **options: Any) -> None:
    r"""List the clusters of a running collector, with their state and totals.

    \b
    Examples:
      gpuid clusters
      gpuid clusters prod-eu prod-us -o wide
      gpuid clusters -o json | jq -r '.[] | select(.up | not) | .cluster'
    """

    def ask() -> list[Row]:
        with Client(**options) as client:
            check_clusters(client, names)
            return [row for row in client.clusters() if not names or row["cluster"] in names]

    show_rows(_LAYOUT, ask, output, nothing="No clusters found.", cells=_cells, styles=_STYLES, footer=_reasons)


def _cells(cluster: Row) -> Row:
    """Return how many GPUs are degraded, by level: "1 replace, 2 reset"."""
    counts = cluster.get("gpus_degraded")
    known = counts if isinstance(counts, Mapping) else {}
    return {"gpus_degraded": ", ".join(f"{known[level]} {level}" for level in Level if known.get(level))}


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    """Yield why clusters are down."""
    for row in rows:
        if row.get("message"):
            yield one_line(f"{row['cluster']}: {row['message']}")


def _state_style(state: str) -> str:
    return "green" if state == "up" else "red"


_STYLES = {"state": _state_style, "gpus_degraded": level_style}
