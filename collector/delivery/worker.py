"""Delivers the outbox's batches to one sink: in order, each until the sink accepts or rejects it.

A worker knows neither other sinks nor its supervisor. A batch leaves the outbox only when the sink has accepted it (it
is confirmed) or rejected it (it becomes a dead letter); after a crash in between it is sent again with the same key.
"""

import contextlib
import functools
import itertools
import logging
import operator
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from collector.backoff import Backoff
from collector.config.sinks import SinkSettings
from collector.delivery.observer import DeliveryObserver
from collector.end_deadline import EndDeadline, Stage
from collector.events import wait_any
from collector.sinks import KnownKeyError, RejectedError, Sink, SinkError, TooLargeError, UnavailableError
from collector.store import Batch, BatchState, Outbox, StoreError
from collector.text import one_line

__all__ = ["CLOSE_SECONDS", "POLL_SECONDS", "SETTLE_SECONDS", "SinkWorker", "StoreView", "closes_in", "wait_for_any"]

POLL_SECONDS = 2.0  # until the outbox is read again without a commit, for replayed dead letters and changes of the lead
SETTLE_SECONDS = 0.05  # between two reads of the outbox while commits add to a batch
CLOSE_SECONDS = 5.0  # for a sink to close
SINK_BACKOFF = Backoff(initial=1.0, maximum=300.0)
STORE_BACKOFF = Backoff(initial=0.5, maximum=30.0)  # to acknowledge a batch
ENOUGH_RECORDS_AHEAD = 4000  # in batches that are read ahead; with fewer, more are read while these are sent
GROW_AFTER_BATCHES = 100  # consecutive deliveries after which a reduced batch size is raised again
STEP_BACKOFF = Backoff(initial=4.0, maximum=4.0)  # after a step that failed before its batch was sent
INTERNAL_REASON = "internal"  # an internal error, in addition to the values of sinks.Reason

log = logging.getLogger(__name__)

Wait = Callable[..., Awaitable[None]]


class StoreView(Protocol):
    """What a worker needs from the store in addition to the outbox."""

    @property
    def leads(self) -> bool:
        """Whether this collector is the one that delivers."""

    def next_commit(self) -> anyio.Event:
        """Return an event that the next commit sets."""

    async def flushed(self, timeout: float) -> bool:
        """Wait until everything recorded so far is committed; return whether that took at most `timeout` seconds."""


def closes_in(
    waiting: BatchState, settings: SinkSettings, now: float, limit: int | None = None, *, seen: float | None = None
) -> float | None:
    """Return the seconds until the next batch is due, 0 if it is due now and None if there is nothing to send.

    `limit` is the maximum number of records, if different from the settings'. `seen` is when the batch was first found
    waiting (None: now): a clock that was ahead when it was recorded must not delay it by more than its age.
    """
    if waiting.closed or waiting.records >= (limit or settings.batch_records):
        return 0.0
    if waiting.oldest is None:
        return None
    return max(0.0, min(waiting.oldest, now if seen is None else seen) + settings.batch_age - now)


async def wait_for_any(seconds: float, *events: anyio.Event) -> None:
    """Return when one of the events is set, but at most after `seconds`."""
    with anyio.move_on_after(seconds):
        await wait_any(*events)


class SinkWorker:
    """Delivers to one sink until it is stopped or `ending` is set; then it drains the outbox and closes the sink.

    Once `hurry` is set, what waits is due at once, full batches or not.
    `clock` returns Unix seconds. `wait` sleeps for some seconds or until one of some events is set, as `wait_for_any`
    does; tests replace both together.
    """

    def __init__(
        self,
        name: str,
        settings: SinkSettings,
        sink: Sink,
        *,
        outbox: Outbox,
        store: StoreView,
        observer: DeliveryObserver,
        ending: anyio.Event,
        clock: Callable[[], float],
        wait: Wait = wait_for_any,
        rng: random.Random | None = None,
        deadline: EndDeadline,
        hurry: anyio.Event | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self._sink = sink
        self._outbox = outbox
        self._store = store
        self._observer = observer
        self._ending = ending
        self._clock = clock
        self._wait = wait
        self._rng = rng
        self._deadline = deadline
        self._hurry = hurry or anyio.Event()
        self._scope = anyio.CancelScope()
        self._started = False
        self._ended = anyio.Event()
        self._oldest: float | None = None  # when the oldest of the waiting records was recorded
        self._seen = 0.0  # and when it was first found waiting
        self._unanswered = ""  # the key of a batch that the sink may have without confirming it
        self._leading = False  # a batch was started since this process became leader
        self._in_flight: Batch | None = None
        self._ahead: list[Batch] = []  # the batches after the one in flight, as far as they have been read
        self._looking_after: Batch | None = None  # more of them are being read, after this one
        self._looked = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._trouble = ""  # the text of the last attempt's error; empty after a success
        self._limit = settings.batch_records  # of records per batch; reduced if the sink found one too large
        self._delivered = 0  # batches since the limit was changed

    @property
    def failing(self) -> bool:
        """Whether the last attempt to deliver has failed."""
        return bool(self._trouble)

    async def run(self) -> None:
        """Deliver until stopped, or until the delivery ends and the outbox is drained; then close the sink."""
        self._started = True
        try:
            with self._scope:
                async with anyio.create_task_group() as self._tasks:
                    while not self._ending.is_set():
                        await self._guarded(self._step)
                    if not self._trouble:
                        await self._guarded(self._drain)
        finally:
            await self._close()
            self._ended.set()

    async def stop(self) -> None:
        """Cancel the worker and wait until it has closed the sink; an unfinished batch stays in the outbox."""
        self._scope.cancel()
        if self._started:
            await self._ended.wait()
        else:
            await self._close()

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step; after a store or internal error, log it and pause."""
        try:
            await step()
        except StoreError as error:
            log.warning("cannot read the outbox: %s", error, extra={"sink": self.name})
        except Exception:
            log.exception("unexpected delivery error; continuing", extra={"sink": self.name})
        else:
            return
        await self._wait(STEP_BACKOFF.delay(0, self._rng), self._ending)

    async def _step(self) -> None:
        """Deliver the next batch if it is due; otherwise wait until it may be."""
        if not self._store.leads:
            self._leading = False
            await self._wait(POLL_SECONDS, self._ending)
            return
        committed = self._store.next_commit()  # before reading the outbox, so that no commit is missed
        waiting = await self._outbox.next_batch_state(self.name, self._limit)
        now = self._clock()
        seconds = closes_in(waiting, self.settings, now, self._limit, seen=self._first_seen(waiting, now))
        if seconds == 0.0 or (seconds is not None and self._hurry.is_set()):
            batch, begun = await self._next_batch(), waiting.closed
            try:
                while batch is not None:
                    batch, begun = await self._deliver(batch, begun=begun), False
            finally:
                self._forget()
            return
        sooner = () if self._hurry.is_set() else (self._hurry,)
        wait = POLL_SECONDS if seconds is None else min(seconds, POLL_SECONDS)
        await self._wait(wait, committed, *sooner, self._ending)
        if committed.is_set():
            await self._wait(SETTLE_SECONDS, self._ending)

    def _first_seen(self, waiting: BatchState, now: float) -> float:
        """Return when the oldest of the records was first found waiting, or else when the clock was set back."""
        if waiting.oldest != self._oldest or now < self._seen:
            self._oldest, self._seen = waiting.oldest, now
        return self._seen

    async def _drain(self) -> None:
        """Deliver the whole backlog, in full or partial batches, until an attempt fails."""
        await self._store.flushed(self._deadline.left(Stage.DELIVER))
        while not self._trouble and self._store.leads:
            waiting = await self._outbox.next_batch_state(self.name, self._limit)
            if (batch := await self._next_batch()) is None:
                return
            await self._deliver(batch, begun=waiting.closed)

    async def _next_batch(self) -> Batch | None:
        self._forget()
        return await self._outbox.next_batch(self.name, self._limit)

    def _forget(self) -> None:
        self._in_flight = None
        self._ahead.clear()

    async def _deliver(self, batch: Batch, *, begun: bool = False) -> Batch | None:
        """Send a batch until the sink accepts or rejects it, the lead is lost or the delivery ends.

        Returns the next batch if that is full, and was begun when this one was confirmed. One that was `begun` before
        this process became leader may have been sent by another process. If a batch is too large, its first half is
        sent instead; the second half is the next batch.
        """
        records = Counter(map(operator.attrgetter("cluster"), batch.records))
        if begun and not self._leading and not batch.rejected:
            self._unanswered = batch.key
        self._leading = True
        self._in_flight = batch
        for attempt in itertools.count():
            if not self._store.leads:  # the lease may have expired while this process was stopped
                return None
            self._look_ahead()
            error = await self._send(batch)
            if isinstance(error, KnownKeyError):
                error = self._known(batch, error)
            if isinstance(error, UnavailableError) and error.outcome_unknown:
                self._unanswered = batch.key
            if error is None:
                begun_now = await self._confirm(batch)
                self._succeeded(records)
                return begun_now
            if isinstance(error, TooLargeError) and len(batch.records) > 1:
                return await self._halve(batch, records, error)
            self._failed(records, error)
            if isinstance(error, RejectedError):
                await self._acknowledge(functools.partial(self._outbox.dead_letter, batch, str(error)))
                log.error("moved batch to dead letters", extra={"sink": self.name, "records": len(batch.records)})
                self._trouble = ""
                return None
            asked = error.retry_after if isinstance(error, UnavailableError) else None
            await self._wait(max(SINK_BACKOFF.delay(attempt, self._rng), asked or 0.0), self._ending)
            if self._ending.is_set():
                return None
        return None

    def _look_ahead(self) -> None:
        """Begin to read what comes after the batches that are known, unless there are enough.

        Nothing is read when the delivery ends: no batch is begun with the confirmation of another one then.
        """
        known, last = sum(len(one.records) for one in self._ahead), self._last_known
        if self._looking_after is not None or self._ending.is_set() or known >= ENOUGH_RECORDS_AHEAD or last is None:
            return
        assert self._tasks is not None  # noqa: S101  it runs
        self._looking_after, self._looked = last, anyio.Event()
        self._tasks.start_soon(self._read_ahead, last, name=f"sink {self.name}: next batches")

    async def _read_ahead(self, last: Batch) -> None:
        """Add the full batches after the last one that is known, unless that is another one by then; look again."""
        found: list[Batch] = []
        try:
            found = await self._outbox.following(last, self._limit)
            if last is self._last_known:
                self._ahead += found
        except StoreError:  # they are read again later
            pass
        except Exception:  # the batch in flight must be confirmed all the same
            log.exception("unexpected error while reading the next batches", extra={"sink": self.name})
        finally:
            self._looking_after = None
            self._looked.set()
        if found:
            self._look_ahead()

    @property
    def _last_known(self) -> Batch | None:
        return self._ahead[-1] if self._ahead else self._in_flight

    async def _confirm(self, batch: Batch) -> Batch | None:
        """Write that a batch was delivered, and begin the following one with it if possible; return that one."""
        if not self._ahead and self._looking_after is batch and not self._ending.is_set():
            await self._looked.wait()
        if self._ahead and self._store.leads and not self._ending.is_set():
            with contextlib.suppress(StoreError):  # confirmed below
                if await self._outbox.confirm_and_begin(batch, self._ahead[0]):
                    return self._ahead.pop(0)
        await self._acknowledge(functools.partial(self._outbox.confirm, batch))
        return None

    def _known(self, batch: Batch, error: KnownKeyError) -> SinkError | None:
        """Return the error if the receiver knows a batch's key; None if it has the batch."""
        if batch.key != self._unanswered:
            # It may also know the key of a batch that it rejected.
            rejected = RejectedError(f"{error}; it rejected a batch with this key before")
            return rejected if batch.rejected else error
        log.warning("receiver already has batch: %s", error, extra={"sink": self.name, "key": batch.key})
        return None

    async def _halve(self, batch: Batch, records: Mapping[str, int], error: TooLargeError) -> Batch | None:
        """Deliver the first half of a batch, like `_deliver`, and limit batches for a while; raises StoreError."""
        self._observer.on_export_failure(self.name, records, error.reason.value, one_line(error))
        self._forget()  # what is being read is discarded, and nothing is read after it
        if self._looking_after is not None:
            await self._looked.wait()
        half = await self._outbox.halve(batch, str(error))
        if half is None:
            return None
        log.info("batch too large, halved: %s", error, extra={"sink": self.name, "records": len(batch.records)})
        self._limit, self._delivered = max(1, min(self._limit, len(half.records))), 0
        return await self._deliver(half)

    async def _send(self, batch: Batch) -> Exception | None:
        """Make one attempt; return its error, if any."""
        try:
            await self._sink.send(batch.records, key=batch.key)
        except Exception as error:
            return error
        return None

    async def _acknowledge(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write a batch's outcome to the outbox, retrying here because the batch must not be sent again."""
        for attempt in itertools.count():
            try:
                await write()
            except StoreError as error:
                log.warning("cannot acknowledge batch: %s", error, extra={"sink": self.name})
            else:
                return
            await self._wait(STORE_BACKOFF.delay(attempt, self._rng))

    def _succeeded(self, records: Mapping[str, int]) -> None:
        if self._trouble:
            log.info("sink recovered", extra={"sink": self.name})
        self._trouble = ""
        self._delivered += 1
        if self._delivered >= GROW_AFTER_BATCHES:
            self._limit, self._delivered = min(self._limit * 2, self.settings.batch_records), 0
        self._observer.on_exported(self.name, records)

    def _failed(self, records: Mapping[str, int], error: Exception) -> None:
        expected = isinstance(error, SinkError)
        text = f"{type(error).__name__}: {error}"
        if self._trouble != text:  # the same error is not logged again for later attempts
            log.warning("delivery failed: %s", error, extra={"sink": self.name}, exc_info=None if expected else error)
        self._trouble = text
        reason = error.reason.value if isinstance(error, SinkError) else INTERNAL_REASON
        self._observer.on_export_failure(self.name, records, reason, one_line(error) if expected else "")

    async def _close(self) -> None:
        with anyio.move_on_after(min(CLOSE_SECONDS, self._deadline.left(Stage.STORE)), shield=True):
            try:
                await self._sink.aclose()
            except Exception:
                log.exception("error while closing sink", extra={"sink": self.name})
