"""`gpuid diff`: what changed between two times."""

from typing import Any

import click

from collector.cli.changes import CHANGE_LAYOUT, event_option, show_changes
from collector.cli.client import connection_options
from collector.cli.completion import complete_cluster
from collector.cli.history_queries import HistoryQueries
from collector.cli.options import PAST_TIME
from collector.cli.output import Output, output_options

__all__ = ["diff"]


@click.command()
@click.option(
    "--from",
    "--since",
    "since",
    metavar="TIME",
    type=PAST_TIME,
    default="24h",
    show_default=True,
    help="Start: how long ago, such as 2h or 7d, or a time such as 2026-11-24T12:00:00Z or yesterday.",
)
@click.option("--to", metavar="TIME", type=PAST_TIME, help="End, in the same form. Default: now.")
@click.option(
    "--cluster",
    metavar="NAME",
    shell_complete=complete_cluster,
    help="Only changes in this cluster, and moves out of it.",
)
@event_option
@output_options(CHANGE_LAYOUT, watch=True)
@connection_options
def diff(
    since: float, to: float | None, cluster: str | None, events: tuple[str, ...], output: Output, **options: Any
) -> None:
    r"""List the GPUs that appeared, moved, vanished or were altered, or whose health changed, and count them.

    The oldest change comes first. A counter that decreased is listed as "went back": a different InfoROM or
    driver counts differently; it does not mean that anything recovered.

    \b
    Examples:
      gpuid diff --since 7d --cluster prod
      gpuid diff --from 2026-11-01 --to 2026-11-08 -o csv
      gpuid diff --since 30d --event health
      gpuid diff --since 1h --watch
    """
    if to is not None and to <= since:
        raise click.UsageError("--to: expected a later time than --from")
    show_changes(lambda: HistoryQueries(options).changes(since, cluster, events, until=to), events, output)
