"""`gpuid diff`: the latest changes."""

import time
from typing import Any

import click

from collector.cli.changes import CHANGE_LAYOUT, event_option, show_changes
from collector.cli.client import connection_options
from collector.cli.completion import complete_cluster
from collector.cli.history_queries import HistoryQueries
from collector.cli.options import DURATION
from collector.cli.output import Output, output_options
from collector.config import Duration

__all__ = ["diff"]


@click.command()
@click.option("--since", type=DURATION, default="24h", show_default=True, help="How far to look back.")
@click.option(
    "--cluster",
    metavar="NAME",
    shell_complete=complete_cluster,
    help="Only changes in this cluster, and moves out of it.",
)
@event_option
@output_options(CHANGE_LAYOUT)
@connection_options
def diff(since: Duration, cluster: str | None, events: tuple[str, ...], output: Output, **options: Any) -> None:
    r"""List the GPUs that appeared, moved, vanished or were altered, or whose health changed, and count them.

    The oldest change comes first. A counter that is less than it was "went back": another InfoROM or driver
    counts otherwise, and nothing has recovered.

    \b
    Examples:
      gpuid diff --since 7d --cluster prod
      gpuid diff --since 30d --event health
    """
    show_changes(lambda: HistoryQueries(options).changes(time.time() - since, cluster, events), events, output)
