"""Supervises one worker per configured sink, and reports each backlog."""

import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import anyio
from anyio.abc import TaskGroup

from collector.config.sinks import SinkSettings
from collector.delivery.observer import DeliveryObserver
from collector.delivery.worker import SinkWorker, Wait, wait_for_any
from collector.end_deadline import Stage
from collector.sinks import Sink, open_sink
from collector.store import SinkBacklog, Store, StoreError, Subscription

__all__ = ["Delivery", "DeliveryObserver"]

REPORT_SECONDS = 10.0  # between two reports of backlogs
FLUSH_INTERVAL_SECONDS = 0.2  # between two looks at what still waits

log = logging.getLogger(__name__)


class Delivery:
    """Runs a task per sink; a failing sink neither delays others nor loses records.

    Among several collectors on one store, the leader delivers. A collector that loses the lead during a batch may send
    it at the same time as the next leader, with the same idempotency key.

    `clock` returns Unix seconds and `wait` sleeps, as `SinkWorker` says; tests replace both together.
    """

    def __init__(
        self,
        store: Store,
        observer: DeliveryObserver,
        *,
        open_sink: Callable[[str, SinkSettings], Sink] = open_sink,
        clock: Callable[[], float] = time.time,
        wait: Wait = wait_for_any,
        rng: random.Random | None = None,
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        self._store = store
        self._outbox = store.outbox
        self._health = store.health
        self._observer = observer
        self._open_sink = open_sink
        self._clock = clock
        self._wait = wait
        self._rng = rng
        self._deadline = store.database.end
        self._report_seconds = report_seconds
        self._ending = anyio.Event()
        self._hurry = anyio.Event()
        self._workers: dict[str, SinkWorker] = {}
        self._tasks: TaskGroup | None = None

    async def reconcile(self, sinks: Mapping[str, SinkSettings]) -> None:
        """Adapt the workers to a configuration's sinks; those of unchanged sinks keep running.

        A new sink gets records from this call on. Raises StoreError.
        """
        await self._store.reconcile({name: Subscription(one.emit, one.backfill) for name, one in sinks.items()})
        for name in [name for name, worker in self._workers.items() if sinks.get(name) != worker.settings]:
            await self._workers.pop(name).stop()
        for name in sinks.keys() - self._workers.keys():
            self._workers[name] = self._new_worker(name, sinks[name])
            self._start(self._workers[name])

    async def run(self) -> None:
        """Deliver until cancelled, then drain the outbox while shutdown leaves time. May be called once."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run_workers, name="sinks")
            tasks.start_soon(self._report_backlogs, name="sinks: backlog")
            try:
                await anyio.sleep_forever()
            finally:
                self._deadline.begin()
                self._ending.set()

    async def deliver_all(
        self, patience: float, *, interval: float = FLUSH_INTERVAL_SECONDS
    ) -> Mapping[str, SinkBacklog]:
        """Deliver what waits, full batches or not; return what remains, by sink.

        Returns once nothing waits, or once the sinks for which something waits have failed for `patience` seconds
        without a delivery. Raises StoreError.
        """
        self._hurry.set()
        before: list[int] = []
        since = anyio.current_time()
        while True:
            left = {name: await self._outbox.backlog(name) for name in list(self._workers)}
            waiting = {name for name, backlog in left.items() if backlog.records}
            records = [left[name].records for name in left]
            if records != before:
                before, since = records, anyio.current_time()
            stuck = [self._workers[name] for name in waiting if name in self._workers]
            # An attempt that has neither succeeded nor failed may take as long as the sink's settings allow.
            slowest = max((0.0 if worker.failing else _timeout(worker.settings) for worker in stuck), default=0.0)
            if not waiting or anyio.current_time() - since >= patience + slowest:
                return left
            await anyio.sleep(interval)

    def _new_worker(self, name: str, settings: SinkSettings) -> SinkWorker:
        return SinkWorker(
            name,
            settings,
            self._open_sink(name, settings),
            outbox=self._outbox,
            store=_WorkersView(self._store),
            observer=self._observer,
            ending=self._ending,
            clock=self._clock,
            wait=self._wait,
            rng=self._rng,
            deadline=self._deadline,
            hurry=self._hurry,
        )

    def _start(self, worker: SinkWorker) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(worker.run, name=f"sink {worker.name}")

    async def _run_workers(self) -> None:
        """Run the workers shielded from cancellation, so that they can drain the outbox."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as self._tasks:
                for worker in self._workers.values():
                    self._start(worker)
                await self._ending.wait()
                self._tasks.cancel_scope.deadline = anyio.current_time() + self._deadline.left(Stage.DELIVER)
            await self._report_undelivered()

    async def _report_undelivered(self) -> None:
        """Log each sink's backlog, which is not lost."""
        with anyio.move_on_after(self._deadline.left(Stage.STORE)), suppress(StoreError):
            for name in self._workers if self._store.delivery.leads else ():
                if records := (await self._outbox.backlog(name)).records:
                    log.info("undelivered records stay in the outbox", extra={"sink": name, "records": records})

    async def _report_backlogs(self) -> None:
        while True:
            try:
                for name in list(self._workers):
                    backlog = await self._outbox.backlog(name)
                    if name in self._workers:  # it may have been removed
                        self._observer.on_backlog(name, backlog)
            except StoreError as error:
                self._health.failed("outbox", str(error))
            else:
                self._health.succeeded("outbox")
            await anyio.sleep(self._report_seconds)


def _timeout(settings: SinkSettings) -> float:
    """Return how long one attempt may take, as far as a sink's settings say."""
    return float(getattr(settings, "timeout", 0.0))


class _WorkersView:
    """The workers' view of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def leads(self) -> bool:
        return self._store.delivery.leads

    def next_commit(self) -> anyio.Event:
        return self._store.history_writer.committed.current

    async def flushed(self, timeout: float) -> bool:
        return await self._store.history_writer.flushed(timeout)
