"""The progress of the first inventory, drawn on a terminal's standard error and nowhere else."""

import contextlib
import os
import sys
import time

import anyio

from collector.app.service import Service
from collector.inventory import Inventory
from collector.model import ClusterState

__all__ = ["show_first_inventory"]

_LOOK = 0.25  # seconds between two looks
_STUCK = 10.0  # seconds without a new reading after which the rest is left to the log


async def show_first_inventory(service: Service) -> None:
    """Draw a bar until every node that is known has been read; nodes that fail do not hold it for ever."""
    if not sys.stderr.isatty():
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # Log lines go through this console while the bar is there, and must stay whole.
    console = Console(stderr=True, soft_wrap=True, color_system=None if os.environ.get("NO_COLOR") else "auto")
    columns = (TextColumn("reading nodes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False)
    with contextlib.suppress(OSError), bar as progress:  # a terminal that is closed takes the bar with it, no more
        task = progress.add_task("", total=None)
        done, since = -1, time.monotonic()
        while time.monotonic() - since < _STUCK:
            before, (done, total) = done, _read(service.inventory)
            if done != before:
                since = time.monotonic()
            progress.update(task, completed=done, total=total or None)
            states = {status.state for status in service.clusters.statuses.values()}
            if done == total and states and ClusterState.STARTING not in states:
                return
            await anyio.sleep(_LOOK)


def _read(inventory: Inventory) -> tuple[int, int]:
    """Count the nodes that have been read, and all that are known."""
    entries = [
        entry.time is not None for cluster in inventory.clusters() for entry in inventory.nodes(cluster).values()
    ]
    return sum(entries), len(entries)
