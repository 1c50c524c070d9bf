"""Mirrors one kind of object of one API server, as client-go's reflector does: list, then watch, and repeat.

Missed events are detected: an expired version leads to a new list, which also removes deleted objects. The library's
own `Watch` never lists again.

An open watch proves nothing: proxies open watches that stay silent, and servers end some immediately. The view is
proven current by an event, a bookmark, a complete list, or a watch that the server ends at the requested time. A watch
with none of these for `silence` is considered broken, and only an event, a bookmark or an end on time proves that the
next one works; lists keep the view current until then.
"""

import logging
import math
import random
from collections.abc import AsyncIterator, Callable
from typing import Generic

import anyio
import msgspec

from collector.backoff import Backoff
from collector.kube.client import ApiClient
from collector.kube.errors import (
    ClusterError,
    CredentialPluginFailedError,
    CredentialPluginMissingError,
    FailedWatchError,
    ForbiddenError,
    GoneError,
    LimitExceededError,
    ServerError,
    SilentWatchError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
    from_answer,
)
from collector.kube.lister import HasKey, Kept, Resource, T, check_size, collect, list_all, not_kubernetes
from collector.kube.wire import (
    LineSplitter,
    LongLineError,
    MalformedError,
    decode_event,
    decode_status,
    decode_version,
)
from collector.model import WatchRestart

__all__ = ["HasKey", "Reflector", "Resource", "WatchIntervals", "list_all"]

log = logging.getLogger(__name__)

FRUITLESS_WATCHES_BEFORE_LIST = 3  # in a row; then a list shows whether the server accepts another version
ON_TIME_SHARE = 0.9  # share of the requested duration after which an end counts as on time
EVENT_ENVELOPE_BYTES = 64  # bytes around the object in a line of a watch

_RESTART_REASONS: tuple[tuple[type[ClusterError], WatchRestart], ...] = (
    (GoneError, WatchRestart.EXPIRED),
    (SilentWatchError, WatchRestart.SILENT),
    (UnreachableError, WatchRestart.CONNECTION),
    (UnauthorizedError, WatchRestart.UNAUTHORIZED),
    (CredentialPluginMissingError, WatchRestart.UNAUTHORIZED),
    (CredentialPluginFailedError, WatchRestart.UNAUTHORIZED),
    (ForbiddenError, WatchRestart.FORBIDDEN),
    (LimitExceededError, WatchRestart.LIMIT_EXCEEDED),
)


class WatchIntervals(msgspec.Struct, frozen=True, kw_only=True):
    """The timing of a reflector, in seconds.

    A Kubernetes API server sends a bookmark every minute, and one before it ends a watch: `silence` is three of them.
    Old and non-standard servers send none. For them `watch` is shorter than `silence`: on a quiet cluster the end of a
    watch proves in time that the view is current. A watch whose view was not proven for half of `silence` is preceded
    by a list, so that every watch has the other half to deliver something.
    """

    watch: tuple[float, float] = (100.0, 150.0)  # range of the duration requested for each watch
    slack: float = 30.0  # timeout of a page of a list, and of the start of a watch
    silence: float = 180.0  # without a proof that the view is current
    listing: float = 600.0  # for all pages of a list; a continue token expires after five minutes
    trust: float = 0.25  # a watch without events counts as working once it was open for this long …
    # … or this long, after one that ended too soon; earlier failures are then forgotten. Load balancers close idle
    # connections after 30 s at the earliest.
    healthy: float = 20.0
    pause: float = 1.0  # minimum delay before reopening a watch that ended too soon
    backoff: Backoff = Backoff(initial=1.0, maximum=15.0, jitter=0.5)
    limited: Backoff = Backoff(initial=5.0, maximum=300.0)  # after exceeding a limit, which only a person can raise


class _Watch:
    """One open watch: its start, its requested duration, and whether anything arrived."""

    def __init__(self, asked: int) -> None:
        self.opened = anyio.current_time()
        self.asked = asked
        self.heard = False  # an event or a bookmark
        self.works = False  # the owner knows that it works

    @property
    def lasted(self) -> float:
        """Seconds since it was opened."""
        return anyio.current_time() - self.opened


class Reflector(Generic[T]):
    """Keeps `objects` in sync with the API server and reports to its owner; no callback may block.

    `on_change(before, after)`: an object was added (before is None), changed, or deleted (after is None).
    `on_proof()`: the view is current: a list completed, an event or a bookmark arrived, or a watch ended on time.
    `on_restart(reason)`: list and watch had to start over; a watch that ends on time does not count.
    `on_health(error)`: None when the watch works; otherwise why the list or the watch fails.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource[T],
        *,
        on_change: Callable[[T | None, T | None], None],
        on_proof: Callable[[], None],
        on_restart: Callable[[WatchRestart], None],
        on_health: Callable[[ClusterError | None], None],
        timing: WatchIntervals | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._resource = resource
        self._on_change = on_change
        self._on_proof = on_proof
        self._on_restart = on_restart
        self._on_health = on_health
        self._timing = timing or WatchIntervals()
        self._rng = rng or random.Random()  # noqa: S311, spreads load and keeps no secret
        self._kept = Kept[T](client, resource.name)
        self._version = ""  # the last one seen; empty when a list is due
        self._open: _Watch | None = None  # the current one, once it is open
        self._fruitless = 0  # consecutive watches that were refused, ended too soon or delivered nothing
        self._trust = self._timing.trust  # seconds after which a watch without events is assumed to work
        self._proven_at = 0.0  # when the view was last proven current
        self._told: bool | None = None  # whether a broken watch was reported to the owner; None: nothing yet
        self._lists_may_work = False  # the owner knows nothing else

    @property
    def objects(self) -> dict[str, T]:
        """The API server's objects, by key."""
        return self._kept.objects

    async def run(self) -> None:
        """Mirror until cancelled, whatever the API server does."""
        self._proven_at = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._guard, name=f"guard of {self._resource.name}")
            await self._mirror()

    async def _guard(self) -> None:
        """Report a stale view to the owner even if nothing has failed.

        A list may take that long, or wait for a server that asked us to slow down.
        """
        patience = self._timing.silence + self._timing.slack
        while True:
            await anyio.sleep_until(self._proven_at + patience)
            if self._age >= patience:
                if not self._told or self._lists_may_work:
                    name, age = self._resource.name, self._age
                    what = f"no proof for {age:.0f} s that the view of the {name} is current"
                    self._tell(UnreachableError(f"{self._host}: {what}"))
                await anyio.sleep(patience)

    async def _mirror(self) -> None:
        failures, expired = 0, False  # how many in a row; whether the last one was an expired version
        while True:
            self._open = None
            try:
                if self._age >= self._timing.silence / 2:
                    self._version = ""
                if not self._version:
                    await self._list()
                await self._watch()
                failures, expired = 0, False
                self._fruitless, self._trust = 0, self._timing.trust
                continue
            except MalformedError as failure:
                error: ClusterError = not_kubernetes(self._client, failure)
            except ClusterError as failure:
                error = failure
            log.debug("restarting watch of %s: %s", self._resource.name, error)
            if self._open is not None and self._open.lasted >= self._timing.healthy:
                failures, expired = 0, False
            # Versions expire on healthy servers too, or are ahead of a restored one: a list is enough, whatever failed
            # before. It is delayed only if the next version expires immediately as well.
            delay = 0.0 if isinstance(error, GoneError) and not expired else self._delay(error, failures)
            expired = isinstance(error, GoneError)
            self._take_failure(error)
            self._on_restart(_reason(error))
            failures += 1
            await anyio.sleep(delay)

    def _delay(self, error: ClusterError, failures: int) -> float:
        """Return how long to wait after an error that follows `failures` consecutive ones."""
        if isinstance(error, LimitExceededError):
            return self._timing.limited.delay(failures, self._rng)
        delay = self._timing.backoff.delay(failures, self._rng)
        if self._open is not None:
            delay = max(delay, self._timing.pause)
        return max(delay, getattr(error, "retry_after", None) or 0.0)

    def _take_failure(self, error: ClusterError) -> None:
        """Decide, after an error, whether a list is due and whether to report a broken watch."""
        watch, listing = self._open, not self._version
        if isinstance(error, SilentWatchError):
            list_due, report = self._take_silence()
        elif isinstance(error, LimitExceededError):
            list_due = report = True
        elif watch is not None:
            list_due, report = self._take_end(watch)
            list_due = list_due or _is_refusal(error)  # a watch from here might fail the same way
        elif listing:
            list_due = report = True
        elif _is_refusal(error):
            self._fruitless += 1
            hopeless = self._fruitless >= FRUITLESS_WATCHES_BEFORE_LIST
            list_due, report = _list_may_help(self._fruitless), hopeless or not isinstance(error, GoneError)
        else:
            list_due, report = False, True
        if report or getattr(error, "retry_after", None) is not None:
            self._tell(error)
        if list_due or isinstance(error, GoneError):
            self._version = ""

    def _take_silence(self) -> tuple[bool, bool]:
        """Return whether a list is due, and whether to report it, after a watch closed for its silence."""
        if self._age < self._timing.silence:  # it merely failed to end on time
            return False, False
        self._trust = math.inf
        return True, True

    def _take_end(self, watch: _Watch) -> tuple[bool, bool]:
        """Return whether a list is due, and whether to report it, after a watch that ended early."""
        fruitful = watch.heard and watch.lasted >= self._timing.pause
        self._fruitless = 0 if fruitful else self._fruitless + 1
        if not fruitful:
            self._trust = max(self._trust, self._timing.healthy)
        hopeless = self._fruitless >= FRUITLESS_WATCHES_BEFORE_LIST
        # If a proxy closes idle connections, lists keep the view current: no reason to be down.
        report = hopeless and not watch.heard and watch.lasted < self._timing.healthy
        return _list_may_help(self._fruitless), report

    async def _list(self) -> None:
        """Replace everything by a new list."""
        with anyio.CancelScope(deadline=anyio.current_time() + self._timing.listing) as scope:
            kept, version = await collect(self._client, self._resource, timeout=self._timing.slack)
        if scope.cancelled_caught:
            what = f"listing {self._resource.name} timed out after {self._timing.listing:g} s"
            raise UnreachableError(f"{self._host}: {what}")
        share, before = self._client.session.share, self._kept.objects
        self._kept = kept
        started = share.clock()
        for key, after in kept.objects.items():
            old = before.get(key)
            if old is not None and old == after:
                kept.objects[key] = old  # shared with the owner
            else:
                self._on_change(old, after)
            if share.over(started):
                started = await share.pause(started)
        for key in before.keys() - kept.objects.keys():  # last: a successor is known before its predecessor is removed
            self._on_change(before[key], None)
            if share.over(started):
                started = await share.pause(started)
        await share.pause(started)
        self._version = version
        self._prove()

    async def _watch(self) -> None:
        """Watch until the server ends it on time; raises ClusterError for any other end."""
        asked = max(1, round(self._rng.uniform(*self._timing.watch)))
        with anyio.CancelScope() as scope:
            async with self._client.stream(
                self._resource.method,
                watch=True,
                allow_watch_bookmarks=True,
                resource_version=self._version,
                timeout_seconds=asked,
                timeout=self._timing.slack,
            ) as chunks:
                watch = self._open = _Watch(asked)
                await self._receive_all(chunks, watch, scope)
        if scope.cancelled_caught:
            what = f"no event, bookmark or other proof that the watch of {self._resource.name} works"
            raise SilentWatchError(f"{self._host}: {what} for {self._age:.0f} s")
        if watch.lasted < ON_TIME_SHARE * asked:
            what = f"the watch of {self._resource.name} ended after {watch.lasted:.1f} s instead of {asked} s"
            raise FailedWatchError(f"{self._host}: {what}")
        self._note_works(watch)
        self._prove()

    async def _receive_all(self, chunks: AsyncIterator[bytes], watch: _Watch, scope: anyio.CancelScope) -> None:
        """Handle the events of an open watch until it ends; `scope` is cancelled after too long a silence."""
        share = self._client.session.share
        splitter = LineSplitter(self._client.session.cluster.max_object_size + EVENT_ENVELOPE_BYTES)
        trusted_at = watch.opened + self._trust
        scope.deadline = self._patience(watch)
        while True:
            chunk: bytes | None = b""
            if watch.works:
                chunk = await anext(chunks, None)
            else:
                with anyio.CancelScope(deadline=trusted_at):
                    chunk = await anext(chunks, None)
                if not chunk and chunk is not None:
                    self._note_works(watch)
            if chunk is None:
                return
            started = share.clock()
            proven_at = self._proven_at
            for line in self._lines(splitter, chunk):
                self._receive(line, watch)
                if share.over(started):
                    started = await share.pause(started)
            if self._proven_at != proven_at:
                scope.deadline = self._patience(watch)
            await share.pause(started)

    def _patience(self, watch: _Watch) -> float:
        """Return until when a watch may stay silent: until the view is stale, or the watch should have ended."""
        overdue = max(watch.opened + watch.asked, self._proven_at) + self._timing.slack
        return min(self._proven_at + self._timing.silence, overdue)

    def _lines(self, splitter: LineSplitter, chunk: bytes) -> list[bytes]:
        try:
            return splitter.feed(chunk)
        except LongLineError:
            check_size(self._client, self._resource.name, self._client.session.cluster.max_object_size + 1)
            raise

    def _receive(self, line: bytes, watch: _Watch) -> None:
        event = decode_event(line)
        if event.type in ("ADDED", "MODIFIED"):
            after = self._resource.decode(event.object)
            self._version = after.version
            before = self._kept.put(after)
            if before != after:
                self._on_change(before, after)
        elif event.type == "DELETED":
            gone = self._resource.decode(event.object)
            self._version = gone.version
            if (before := self._kept.pop(gone.key)) is not None:
                self._on_change(before, None)
        elif event.type == "BOOKMARK":
            self._version = decode_version(event.object)
        elif event.type == "ERROR":
            status = decode_status(event.object)
            raise from_answer(f"{self._host}: the watch failed", status.code or 500, bytes(event.object))
        else:  # an unknown type, and so proof of nothing
            return
        watch.heard, self._trust = True, self._timing.trust
        self._note_works(watch)
        self._prove()

    def _note_works(self, watch: _Watch) -> None:
        if not watch.works:
            watch.works = True
            self._tell(None)

    def _tell(self, error: ClusterError | None) -> None:
        self._told = error is not None
        self._lists_may_work = isinstance(error, FailedWatchError)
        self._on_health(error)

    def _prove(self) -> None:
        self._proven_at = anyio.current_time()
        self._on_proof()

    @property
    def _age(self) -> float:
        """Seconds since the view was last proven current."""
        return anyio.current_time() - self._proven_at

    @property
    def _host(self) -> str:
        return self._client.session.host


def _is_refusal(error: ClusterError) -> bool:
    """Return whether the server itself refuses; a list would only burden one that asks us to slow down."""
    return isinstance(error, (ServerError, ForbiddenError)) and not isinstance(error, ThrottledError)


def _list_may_help(fruitless: int) -> bool:
    """Return whether a list is due after this many failed watches: after 3, 6, 12, 24, and so on."""
    series, rest = divmod(fruitless, FRUITLESS_WATCHES_BEFORE_LIST)
    return rest == 0 and series.bit_count() == 1


def _reason(error: ClusterError) -> WatchRestart:
    return next((reason for kind, reason in _RESTART_REASONS if isinstance(error, kind)), WatchRestart.SERVER_ERROR)
