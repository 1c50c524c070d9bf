"""Builds a collector from a configuration and runs it in one task group."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from collector import gc_freeze
from collector.app.once import complete_round
from collector.app.outcome import Outcome
from collector.app.parts import Parts
from collector.app.recording import Recording
from collector.app.reload import Reloader
from collector.app.round import Round
from collector.app.view import LiveCollector
from collector.config import Config
from collector.end_deadline import EndDeadline
from collector.model import Change
from collector.sharding import UNSHARDED, Shard
from collector.store import Store, Unstored
from collector.web import serve

__all__ = ["Service"]


class Service:
    """One collector: the configured clusters, their inventory, its history, the sinks, and HTTP.

    `listeners` get every change of the inventory; they are called on the event loop and must return immediately.
    With `once`, the collector is for `run_once`.
    """

    def __init__(
        self,
        config: Config,
        *,
        shard: Shard = UNSHARDED,
        listeners: Sequence[Callable[[Change], None]] = (),
        once: Round | None = None,
    ) -> None:
        self.end = EndDeadline()
        self._config = config
        self._round = Round() if once is None else once
        self._parts = Parts(config, shard, listeners, once)
        self._recording: Recording | None = None  # None without a store
        self._reloader = Reloader(config, self._apply)
        self.inventory = self._parts.inventory
        self.clusters = self._parts.clusters
        self.observer = self._parts.observer
        self.exposition = self._parts.exposition
        self.metrics = self._parts.metrics
        self.metrics.register_config(
            successful=lambda: self._reloader.status.ok,
            loaded=lambda: self._reloader.status.loaded,
            restart_required=lambda: bool(self._reloader.status.restart),
        )

    async def run(self, *, ready: Callable[[str], None], reload_from: Path | None = None) -> None:
        """Serve until cancelled; `ready` gets the URL once HTTP is up.

        With `reload_from`, clusters and sinks are reloaded whenever that file changes. Raises ConfigError if HTTP
        cannot start, and StoreError if the store cannot be opened.
        """
        async with self._collecting():
            self._tasks.start_soon(self.exposition.run, name="exposition")
            if reload_from is not None:
                self._tasks.start_soon(self._reloader.run, reload_from, name="configuration")
            await serve(
                self.view(),
                self._config.server,
                ready=ready,
                on_certificate=self.metrics.server_certificate,
                end=self.end,
            )

    async def run_once(self, *, timeout: float) -> Outcome:
        """Read every node of every cluster, record and deliver the changes, and return the outcome.

        After `timeout` seconds, everything not yet read or delivered is abandoned. Raises StoreError if the store
        cannot be opened.
        """
        async with self._collecting():
            recording = self._recording
            return await complete_round(
                self._round,
                self.clusters,
                self.inventory,
                store=None if recording is None else recording.store,
                delivery=None if recording is None else recording.delivery,
                sinks=self._parts.sink_statuses,
                timeout=timeout,
            )

    @asynccontextmanager
    async def _collecting(self) -> AsyncIterator[None]:
        """Collect, record and deliver during the block."""
        async with AsyncExitStack() as stack:
            if self._config.store is not None:
                parts = self._parts
                opened = Store.open(self._config.store, end=self.end, shard=parts.shard, owned=parts.owned)
                self._recording = Recording(await stack.enter_async_context(opened), parts)
                await self._recording.start(self._config)
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(gc_freeze.run, name="garbage collection")
                for task, name in self._recording.tasks if self._recording is not None else ():
                    self._tasks.start_soon(task, name=name)
                await self._run_clusters(self._config)
                self._reloader.ready.set()
                try:
                    yield
                finally:
                    self.end.begin()
                    self._tasks.cancel_scope.cancel()

    async def reload(self, path: Path) -> None:
        """Apply the clusters and sinks of the file at `path`; an invalid one is rejected and the current ones stay."""
        await self._reloader.reload(path)

    def unstored(self) -> tuple[Unstored, str]:
        """Return what has happened and is not in the store, and the reason if known."""
        if self._recording is None:
            return Unstored(), ""
        store = self._recording.store
        return store.history_writer.unstored, store.health.status.message

    def view(self) -> LiveCollector:
        """Return what API and page see of this collector."""
        parts, recording = self._parts, self._recording
        return LiveCollector(
            inventory=parts.inventory,
            marks=parts.marks,
            exposition=parts.exposition,
            clusters=parts.clusters,
            recent_changes=parts.recent,
            sink_statuses=parts.sink_statuses,
            store=None if recording is None else recording.store,
            mark_follower=None if recording is None else recording.mark_follower,
            cluster_label=self._config.metrics.cluster_label,
            config_status=lambda: self._reloader.status,
            shard=parts.shard,
            fleet=parts.fleet,
        )

    async def _apply(self, config: Config) -> None:
        if self._recording is not None:
            await self._recording.reconcile_sinks(config)
        await self._run_clusters(config)

    async def _run_clusters(self, config: Config) -> None:
        if self._recording is None:
            await self._parts.cluster_tasks.reconcile(config.clusters, self._tasks)
        else:
            await self._recording.reconcile_clusters(config.clusters, self._tasks)
