"""Supervises the task of one cluster: restarts its watcher after a crash, and pauses or stops it on demand.

Failures of a cluster stop here: otherwise, an unexpected error in one would cancel the tasks of all.
"""

import logging
import time
from collections.abc import Callable

import anyio

from collector.backoff import Backoff
from collector.collect.context_logger import ContextLogger
from collector.collect.watcher import ClusterWatcher
from collector.config import ClusterSettings
from collector.events import ResettableEvent
from collector.model import ClusterState, ClusterStatus, LabelTrouble
from collector.shortage import why_short

__all__ = ["ClusterSupervisor"]

log = logging.getLogger(__name__)

_RESTART_BACKOFF = Backoff(initial=1.0, maximum=60.0)
_HEALTHY_SECONDS = 60.0  # a watcher that ran this long was healthy: its crash counts as the first one


class ClusterSupervisor:
    """Runs one watcher after another until stopped; `new_watcher` creates one that continues from the known state."""

    def __init__(
        self,
        cluster: ClusterSettings,
        new_watcher: Callable[[ClusterSettings], ClusterWatcher],
        on_status: Callable[[ClusterStatus], None],
        *,
        restart: Backoff = _RESTART_BACKOFF,
    ) -> None:
        self.cluster = cluster
        self._new_watcher = new_watcher
        self._on_status = on_status
        self._restart = restart
        self._log = ContextLogger(log, cluster=cluster.name)
        self._task_scope = anyio.CancelScope()
        self._watcher_scope = anyio.CancelScope()
        self._unpaused = ResettableEvent()
        self._unpaused.set()
        self._ended = anyio.Event()
        self._watcher: ClusterWatcher | None = None  # the current or last one

    async def run(self) -> None:
        """Watch until stopped; after a crash, log it and start another watcher."""
        try:
            with self._task_scope:
                crashes = 0  # in a row
                while True:
                    while not self._unpaused.is_set():  # it may be paused again before this task runs
                        await self._unpaused.wait()
                    started = time.monotonic()
                    try:
                        with anyio.CancelScope() as self._watcher_scope:
                            self._watcher = self._new_watcher(self.cluster)
                            await self._watcher.run()
                        continue
                    except Exception as error:
                        crashes = crashes + 1 if time.monotonic() - started < _HEALTHY_SECONDS else 1
                        self._report_crash(error)
                    await anyio.sleep(self._restart.delay(crashes - 1))
        finally:
            self._ended.set()

    def pause(self) -> None:
        """Stop the watcher, and start none until `resume`."""
        self._unpaused.clear()
        self._watcher_scope.cancel()

    def resume(self) -> None:
        """Start a watcher again after `pause`."""
        self._unpaused.set()

    def verify(self, node: str, delay: float = 0.0) -> bool:
        """Have a node read again in `delay` seconds; returns False if its watcher cannot."""
        return self._watcher is None or self._watcher.verify(node, delay)

    def relabel(self, node: str) -> None:
        """Handle a change of what is known about a node, and so of its labels."""
        if self._watcher is not None:
            self._watcher.relabel(node)

    @property
    def label_trouble(self) -> LabelTrouble | None:
        """Why the labels of some nodes are not as they should be, if there is an obstacle."""
        return None if self._watcher is None else self._watcher.label_trouble

    def labels_idle_for(self, seconds: float) -> bool:
        """Return whether no label write is due within this many seconds, as far as known."""
        return self._watcher is None or self._watcher.labels_idle_for(seconds)

    def renew(self) -> None:
        """Replace the watcher by a new one, unless paused."""
        self._watcher_scope.cancel()

    async def stop(self) -> None:
        """Stop the task, and wait until all of it has ended."""
        self._task_scope.cancel()
        await self._ended.wait()

    def _report_crash(self, error: Exception) -> None:
        self._log.exception("cluster task crashed; restarting")
        self._on_status(
            ClusterStatus(
                cluster=self.cluster.name,
                state=ClusterState.SERVER_ERROR,
                message=why_short(error)
                or f"the cluster's task crashed with {_cause(error)} and is restarting; see the log",
                since=time.time(),
            )
        )


def _cause(error: BaseException) -> str:
    """Return the name of the first error that is not a group; a watcher's task group raises its errors in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
