"""Brings what the outbox holds to the sinks: in order, again until it is taken, each sink by itself."""

import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from collector.backoff import Backoff
from collector.config.sinks import SinkSettings
from collector.sinks import RejectedError, Sink, SinkError, UnavailableError, open_sink
from collector.store import Backlog, Batch, Store, StoreError, Subscription, Waiting

__all__ = ["Delivery", "DeliveryObserver", "closes_in"]

log = logging.getLogger(__name__)

_BACKOFF = Backoff(initial=1.0, maximum=300.0)
_STORE_BACKOFF = Backoff(initial=0.5, maximum=30.0)
_LOOK = 2.0  # seconds until a sink looks for what comes from outside: dead letters to be sent again, the lead
_BREATH = 0.05  # seconds between two looks at a batch that is filling
_DRAIN = 5.0  # seconds that the end of the process waits for what is owed
_REPORT = 10.0  # seconds between two reports of the backlog


class DeliveryObserver(Protocol):
    """Is told how it goes; every method returns at once."""

    def on_exported(self, sink: str, records: Mapping[str, int]) -> None:
        """Hear that a sink took this many records of each cluster."""

    def on_export_failure(self, sink: str, records: Mapping[str, int], reason: str) -> None:
        """Hear that a try failed that had this many records of each cluster; `reason` is of a small closed set."""

    def on_backlog(self, sink: str, backlog: Backlog) -> None:
        """Hear what a sink is still owed."""


def closes_in(waiting: Waiting, settings: SinkSettings, now: float) -> float | None:
    """Tell in how many seconds the next batch is to be sent, 0 for at once; None while there is nothing to send."""
    if waiting.closed or waiting.records >= settings.batch_records:
        return 0.0
    if waiting.oldest is None:
        return None
    # A clock that was set back must not hold a batch up for longer than its age.
    return min(max(0.0, waiting.oldest + settings.batch_age - now), settings.batch_age)


class Delivery:
    """One task per sink; a sink's failure delays no other and loses nothing.

    Of several collectors on one store, the one that leads delivers. One that loses the lead in the middle of a batch
    may send that batch beside the next leader, under the same idempotency key.

    `wait` sleeps for some seconds or until one of some events is set; tests give it together with `clock`.
    """

    def __init__(
        self,
        store: Store,
        observer: DeliveryObserver,
        *,
        open_sink: Callable[[str, SinkSettings], Sink] = open_sink,
        clock: Callable[[], float] = time.time,
        wait: Callable[..., Awaitable[None]] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.store = store
        self.observer = observer
        self.clock = clock
        self.wait = wait or _wait
        self.rng = rng
        self.ending = anyio.Event()
        self._open_sink = open_sink
        self._posts: dict[str, _Post] = {}
        self._tasks: TaskGroup | None = None

    async def follow(self, sinks: Mapping[str, SinkSettings]) -> None:
        """Put a configuration's sinks in force, also while running; those that did not change are left alone.

        Called before anything is recorded, it makes a new sink's share begin with the first record. Raises StoreError.
        """
        await self.store.reconcile({name: Subscription(one.emit, one.backfill) for name, one in sinks.items()})
        for name in [name for name, post in self._posts.items() if sinks.get(name) != post.settings]:
            await self._posts.pop(name).stop()
        for name in sinks.keys() - self._posts.keys():
            post = self._posts[name] = _Post(name, sinks[name], self._open_sink(name, sinks[name]), self)
            if self._tasks is not None:
                self._tasks.start_soon(post.run, name=f"sink {name}")

    async def run(self) -> None:
        """Deliver until cancelled; what is owed by then gets a few seconds more. Runs once."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run_posts, name="sinks")
            tasks.start_soon(self._report, name="sinks: backlog")
            try:
                await anyio.sleep_forever()
            finally:
                self.ending.set()

    async def _run_posts(self) -> None:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as self._tasks:
                for post in self._posts.values():
                    self._tasks.start_soon(post.run, name=f"sink {post.name}")
                await self.ending.wait()
                self._tasks.cancel_scope.deadline = anyio.current_time() + _DRAIN

    async def _report(self) -> None:
        while True:
            try:
                for name in list(self._posts):
                    backlog = await self.store.outbox.backlog(name)
                    if name in self._posts:  # it may have been removed meanwhile
                        self.observer.on_backlog(name, backlog)
            except StoreError as error:
                self.store.health.failed("outbox", str(error))
            else:
                self.store.health.succeeded("outbox")
            await anyio.sleep(_REPORT)


class _Post:
    """The way to one sink: takes batches from the outbox and brings each there until it is taken or refused."""

    def __init__(self, name: str, settings: SinkSettings, sink: Sink, delivery: Delivery) -> None:
        self.name = name
        self.settings = settings
        self._sink = sink
        self._delivery = delivery
        self._outbox = delivery.store.outbox
        self._store = delivery.store
        self._scope = anyio.CancelScope()
        self._started = False
        self._ended = anyio.Event()
        self._trouble = ""  # what the last try failed with

    async def run(self) -> None:
        """Deliver until stopped or until the delivery ends, then what is owed still; and let go of the sink."""
        self._started = True
        try:
            with self._scope:
                while not self._delivery.ending.is_set():
                    await self._guarded(self._turn)
                if not self._trouble:
                    await self._guarded(self._drain)
        finally:
            with anyio.move_on_after(_DRAIN, shield=True):
                await self._close()
            self._ended.set()

    async def stop(self) -> None:
        """End at once, and wait until nothing of it runs; what is under way stays in the outbox."""
        self._scope.cancel()
        if self._started:
            await self._ended.wait()
        else:
            await self._close()

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step; when the store fails it, or we ourselves do, the next one waits a little."""
        try:
            await step()
        except StoreError as error:
            log.warning("the outbox is out of reach: %s", error, extra={"sink": self.name})
        except Exception:
            log.exception("the delivery failed unexpectedly and goes on", extra={"sink": self.name})
        else:
            return
        await self._delivery.wait(_STORE_BACKOFF.delay(3, self._delivery.rng), self._delivery.ending)

    async def _turn(self) -> None:
        """Send the next batch as soon as it is full or old enough; else wait for what comes."""
        if not self._store.leadership.leads:
            await self._delivery.wait(_LOOK, self._delivery.ending)
            return
        committed = self._store.history_writer.committed.current  # before the look, so that nothing is missed after it
        waiting = await self._outbox.waiting(self.name, self.settings.batch_records)
        seconds = closes_in(waiting, self.settings, self._delivery.clock())
        if seconds == 0.0:
            batch = await self._outbox.next_batch(self.name, self.settings.batch_records)
            if batch is not None:
                await self._bring(batch)
            return
        wait = _LOOK if seconds is None else min(seconds, _LOOK)
        await self._delivery.wait(wait, committed, self._delivery.ending)
        if committed.is_set():
            await self._delivery.wait(_BREATH, self._delivery.ending)

    async def _drain(self) -> None:
        """Send what is owed, full batches or not, until a try fails."""
        await self._store.history_writer.flushed(_DRAIN)
        while not self._trouble and self._store.leadership.leads:
            batch = await self._outbox.next_batch(self.name, self.settings.batch_records)
            if batch is None:
                return
            await self._bring(batch)

    async def _bring(self, batch: Batch) -> None:
        """Try until the sink takes or refuses the batch, or the delivery ends."""
        records = Counter(record.cluster for record in batch.records)
        for attempt in itertools.count():
            least = 0.0
            try:
                await self._sink.send(batch.records, key=batch.key)
            except RejectedError as error:
                self._failed(records, error, error.reason.value)
                reason = str(error)
                await self._settle(lambda: self._outbox.dead_letter(batch, reason))  # noqa: B023  used at once
                log.error("the batch is among the dead letters now", extra={"sink": self.name})  # noqa: TRY400
                self._trouble = ""
                return
            except UnavailableError as error:
                self._failed(records, error, error.reason.value)
                least = error.retry_after or 0.0
            except Exception as error:
                self._failed(records, error, "internal")
            else:
                await self._settle(lambda: self._outbox.confirm(batch))
                if self._trouble:
                    log.info("the sink takes records again", extra={"sink": self.name})
                self._trouble = ""
                self._delivery.observer.on_exported(self.name, records)
                return
            await self._delivery.wait(max(_BACKOFF.delay(attempt, self._delivery.rng), least), self._delivery.ending)
            if self._delivery.ending.is_set() or not self._store.leadership.leads:
                return

    async def _settle(self, note: Callable[[], Awaitable[None]]) -> None:
        """Note in the outbox what became of a batch; until that succeeds, it is not sent again."""
        for attempt in itertools.count():
            try:
                await note()
            except StoreError as error:
                log.warning("what became of a batch cannot be noted: %s", error, extra={"sink": self.name})
            else:
                return
            await self._delivery.wait(_STORE_BACKOFF.delay(attempt, self._delivery.rng))

    def _failed(self, records: Mapping[str, int], error: Exception, reason: str) -> None:
        text = f"{type(error).__name__}: {error}"
        if self._trouble != text:  # once is enough to say it
            unexpected = error if not isinstance(error, SinkError) else None
            log.warning("the sink did not take a batch: %s", error, extra={"sink": self.name}, exc_info=unexpected)
        self._trouble = text
        self._delivery.observer.on_export_failure(self.name, records, reason)

    async def _close(self) -> None:
        try:
            await self._sink.aclose()
        except Exception:
            log.exception("the sink did not close in order", extra={"sink": self.name})


async def _wait(seconds: float, *events: anyio.Event) -> None:
    """Sleep until one of the events is set, at most for some seconds."""
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as tasks:

            async def until(event: anyio.Event) -> None:
                await event.wait()
                tasks.cancel_scope.cancel()

            for event in events:
                tasks.start_soon(until, event)
            if not events:
                await anyio.sleep_forever()
