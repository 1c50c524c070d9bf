"""One cluster's task: it ends only when it is stopped, whatever happens in it."""

import logging
import time
from collections.abc import Callable

import anyio

from collector.backoff import Backoff
from collector.collect.watcher import ClusterWatcher
from collector.config import ClusterSettings
from collector.model import ClusterState, ClusterStatus

__all__ = ["ClusterSupervisor"]

log = logging.getLogger(__name__)

_RESTART = Backoff(initial=1.0, maximum=60.0)
_HEALTHY = 60.0  # seconds after which a failure of ours counts as the first one again


class ClusterSupervisor:
    """One watcher after the other; `new_watcher` makes one that takes up what is known."""

    def __init__(
        self,
        cluster: ClusterSettings,
        new_watcher: Callable[[ClusterSettings], ClusterWatcher],
        on_status: Callable[[ClusterStatus], None],
    ) -> None:
        self.cluster = cluster
        self._new_watcher = new_watcher
        self._on_status = on_status
        self._scope = anyio.CancelScope()
        self._turn = anyio.CancelScope()  # the watcher's
        self._free = anyio.Event()  # whether a watcher may be at work
        self._free.set()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Watch until stopped; an error of our own is logged, and the watch starts again from what is known."""
        try:
            with self._scope:
                attempt = 0
                while True:
                    while not self._free.is_set():  # it may be paused again before this task has its turn
                        await self._free.wait()
                    started = time.monotonic()
                    try:
                        with anyio.CancelScope() as self._turn:
                            await self._new_watcher(self.cluster).run()
                        continue
                    except Exception as error:
                        attempt = attempt + 1 if time.monotonic() - started < _HEALTHY else 1
                        self._failed(error)
                    await anyio.sleep(_RESTART.delay(attempt - 1))
        finally:
            self._ended.set()

    def pause(self) -> None:
        """End the watcher, until `resume` lets another one begin."""
        if self._free.is_set():
            self._free = anyio.Event()
        self._turn.cancel()

    def renew(self) -> None:
        """Have another watcher take up what is known, unless paused."""
        self._turn.cancel()

    def resume(self) -> None:
        """Begin anew from what is known."""
        self._free.set()

    async def stop(self) -> None:
        """End the task and wait until nothing of it runs."""
        self._scope.cancel()
        await self._ended.wait()

    def _failed(self, error: Exception) -> None:
        name = self.cluster.name
        log.exception("the cluster's task failed and starts again", extra={"cluster": name})
        message = f"the collector failed with {type(error).__name__} and starts again; its log has more"
        status = ClusterStatus(cluster=name, state=ClusterState.SERVER_ERROR, message=message, since=time.time())
        self._on_status(status)
