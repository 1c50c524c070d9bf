"""Progress bars, drawn on standard error if that is a terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import anyio

from collector.app.service import Service
from collector.cli.console import error_console
from collector.inventory import Inventory
from collector.model import ClusterState

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["counting_bar", "show_first_inventory"]

_POLL_SECONDS = 0.25
_STALL_SECONDS = 10.0  # the bar ends after this time without a new reading


async def show_first_inventory(service: Service) -> None:
    """Draw a progress bar until all readable nodes have been read, or none has been for a while."""
    if not sys.stderr.isatty():
        return
    with contextlib.suppress(OSError), _bar("reading nodes") as progress:  # a closed terminal ends only the bar
        task = progress.add_task("", total=None)
        done, since = -1, time.monotonic()
        while time.monotonic() - since < _STALL_SECONDS:
            before, (done, total) = done, _read(service.inventory)
            if done != before:
                since = time.monotonic()
            progress.update(task, completed=done, total=total or None)
            states = {status.state for status in service.clusters.statuses.values()}
            if done == total and states and ClusterState.STARTING not in states:
                return
            await anyio.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def counting_bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Draw a progress bar for the block, and yield a function that advances it by one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with _bar(text) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def _bar(text: str) -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=error_console(), transient=True, redirect_stdout=False)


def _read(inventory: Inventory) -> tuple[int, int]:
    """Return the number of nodes read, and of all nodes with a ready pod."""
    entries = [
        entry.time is not None
        for cluster in inventory.clusters()
        for entry in inventory.nodes(cluster).values()
        if entry.uncovered is None
    ]
    return sum(entries), len(entries)
