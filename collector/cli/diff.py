"""`gpuid diff`: what changed lately."""

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import click

from collector.cli.options import DURATION
from collector.cli.past import Past, past_options, print_rows
from collector.config import Duration

__all__ = ["diff"]


@click.command()
@click.option("--since", type=DURATION, default="24h", show_default=True, help="How far to look back.")
@click.option("--cluster", metavar="NAME", help="Only what happened in this cluster or led out of it.")
@past_options
def diff(since: Duration, cluster: str | None, as_json: bool, **options: Any) -> None:
    r"""List what appeared, moved, vanished and altered, oldest first, and how much of each.

    \b
    Examples:
      gpuid diff --since 7d --cluster prod
    """
    start = time.time() - since
    rows = Past(options).changes(start, datetime.fromtimestamp(start, UTC).isoformat(), cluster)
    columns = ("time", "event", "cluster", "node", "serial", "uuid", "previous_cluster", "previous_node")
    print_rows(rows, columns, as_json=as_json, nothing="No changes found.")
    if rows and not as_json:
        counts = Counter(row["event"] for row in rows)
        click.echo(", ".join(f"{counts[event]} {event}" for event in ("appeared", "moved", "vanished", "altered")))
