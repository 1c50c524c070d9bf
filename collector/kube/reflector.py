"""Mirrors one kind of object of one API server, as client-go's reflector does: list, then watch, and so on.

What a watch missed is noticed: an expired version leads to a new list, which also removes what has vanished. The
library's own `Watch` never lists again.

That a watch is open proves nothing: proxies open watches that never say a word, and servers end some at once. The view
is proven current by an event, a bookmark, a complete list, or a watch that the server ends when it was asked to. A
watch without any of them for `silence` does not work, and only an event, a bookmark or an end on time shows that the
next one does; lists keep the view current until then.
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

FRUITLESS_WATCHES_BEFORE_LIST = 3  # in a row; then a list shows whether another version is accepted
ON_TIME = 0.9  # of the time that a watch was asked to last: one that lasted as long was ended by that request
EVENT_ENVELOPE_BYTES = 64  # around the object in a line of a watch

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

    An API server of Kubernetes sends a bookmark a minute, and one before it ends a watch: `silence` is three of them.
    Old and foreign servers send none. For them `watch` is shorter than `silence`: on a quiet cluster the end of a watch
    proves in time that the view is current. No watch begins from a view that was not proven for half of `silence`, so
    that each has the other half to bring something: a list comes first.
    """

    watch: tuple[float, float] = (100.0, 150.0)  # the server is asked to end each watch after a time between these
    slack: float = 30.0  # for the answer to a list's page, and for a watch to begin
    silence: float = 180.0  # without a proof that the view is current
    listing: float = 600.0  # for all pages of a list; a continue token expires after five minutes
    trust: float = 0.25  # a watch that brought nothing works once it was open for this long …
    # … or this long, after one that ended too soon; failures before it are then forgotten. Load balancers end what is
    # idle after 30 s at the soonest.
    healthy: float = 20.0
    pause: float = 1.0  # at least, before a watch is opened again that did not last as long as it was asked to
    backoff: Backoff = Backoff(initial=1.0, maximum=15.0, jitter=0.5)
    limited: Backoff = Backoff(initial=5.0, maximum=300.0)  # after a limit was exceeded, which only people can change


class _Watch:
    """One open watch: since when, for how long it was asked to stay open, and what it brought."""

    def __init__(self, asked: int) -> None:
        self.opened = anyio.current_time()
        self.asked = asked
        self.heard = False  # an event or a bookmark
        self.works = False  # the owner knows that it does

    @property
    def lasted(self) -> float:
        """Seconds until now."""
        return anyio.current_time() - self.opened


class Reflector(Generic[T]):
    """Keeps `objects` as the API server has them and reports to its owner; no callback may block.

    `on_change(before, after)`: an object came (before is None), changed, or went (after is None).
    `on_proof()`: the view is current: a list is complete, an event or a bookmark came, or a watch ended when it was to.
    `on_restart(reason)`: list and watch had to start over; a watch that ends when it was asked to does not count.
    `on_health(error)`: None when the watch works; else why the list or the watch does not.
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
        self._fruitless = 0  # watches in a row that were refused, ended soon or brought nothing
        self._trust = self._timing.trust  # seconds after which a watch that brought nothing is believed to work
        self._proven_at = 0.0  # when the view was last proven current
        self._told: bool | None = None  # whether the owner knows that the watch does not work; None: nothing yet
        self._lists_may_work = False  # which is all that it knows

    @property
    def objects(self) -> dict[str, T]:
        """What the API server has, by key."""
        return self._kept.objects

    async def run(self) -> None:
        """Mirror until cancelled; no failure of the API server ends it."""
        self._proven_at = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._guard, name=f"guard of {self._resource.name}")
            await self._mirror()

    async def _guard(self) -> None:
        """Tell the owner when the view is stale though nothing has failed.

        A list may take that long, or wait for a server that has asked to slow down.
        """
        patience = self._timing.silence + self._timing.slack
        while True:
            await anyio.sleep_until(self._proven_at + patience)
            if self._age >= patience:
                if not self._told or self._lists_may_work:
                    name, age = self._resource.name, self._age
                    what = f"nothing has proven for {age:.0f} s that the view of the {name} is current"
                    self._tell(UnreachableError(f"{self._host}: {what}"))
                await anyio.sleep(patience)

    async def _mirror(self) -> None:
        failures, expired = 0, False  # how many in a row; whether the last one was that a version had expired
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
            # A version expires on a healthy server too, or is ahead of one that was restored: a list is all it takes,
            # whatever failed before. It waits only if the next version expires immediately as well.
            delay = 0.0 if isinstance(error, GoneError) and not expired else self._delay(error, failures)
            expired = isinstance(error, GoneError)
            self._take_failure(error)
            self._on_restart(_reason(error))
            failures += 1
            await anyio.sleep(delay)

    def _delay(self, error: ClusterError, failures: int) -> float:
        """Return how long to wait after an error, `failures` others in a row having come before it."""
        if isinstance(error, LimitExceededError):
            return self._timing.limited.delay(failures, self._rng)
        delay = self._timing.backoff.delay(failures, self._rng)
        if self._open is not None:
            delay = max(delay, self._timing.pause)
        return max(delay, getattr(error, "retry_after", None) or 0.0)

    def _take_failure(self, error: ClusterError) -> None:
        """Decide, after an error, whether a list is due and whether to report that the watch does not work."""
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
        """Return whether a list is due, and whether to report it, after a watch that was left for its silence."""
        if self._age < self._timing.silence:  # it only did not end when it should have
            return False, False
        self._trust = math.inf
        return True, True

    def _take_end(self, watch: _Watch) -> tuple[bool, bool]:
        """Return whether a list is due, and whether to report it, after a watch that ended before its time."""
        fruitful = watch.heard and watch.lasted >= self._timing.pause
        self._fruitless = 0 if fruitful else self._fruitless + 1
        if not fruitful:
            self._trust = max(self._trust, self._timing.healthy)
        hopeless = self._fruitless >= FRUITLESS_WATCHES_BEFORE_LIST
        # Where something ends whatever is idle for a while, lists keep the view current: no reason to be down.
        report = hopeless and not watch.heard and watch.lasted < self._timing.healthy
        return _list_may_help(self._fruitless), report

    async def _list(self) -> None:
        """Replace everything by a new list."""
        with anyio.CancelScope(deadline=anyio.current_time() + self._timing.listing) as scope:
            kept, version = await collect(self._client, self._resource, timeout=self._timing.slack)
        if scope.cancelled_caught:
            what = f"the list of {self._resource.name} did not end within {self._timing.listing:g} s"
            raise UnreachableError(f"{self._host}: {what}")
        share, before = self._client.session.share, self._kept.objects
        self._kept = kept
        started = share.clock()
        for key, after in kept.objects.items():
            old = before.get(key)
            if old is not None and old == after:
                kept.objects[key] = old  # which its owner has, too
            else:
                self._on_change(old, after)
            if share.over(started):
                started = await share.pause(started)
        for key in before.keys() - kept.objects.keys():  # last: a successor is known before its predecessor goes
            self._on_change(before[key], None)
            if share.over(started):
                started = await share.pause(started)
        await share.pause(started)
        self._version = version
        self._prove()

    async def _watch(self) -> None:
        """Watch until the server ends it when it was asked to; raises ClusterError for every other end."""
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
        if watch.lasted < ON_TIME * asked:
            what = f"the watch of {self._resource.name} ended after {watch.lasted:.1f} s instead of {asked} s"
            raise FailedWatchError(f"{self._host}: {what}")
        self._note_works(watch)
        self._prove()

    async def _receive_all(self, chunks: AsyncIterator[bytes], watch: _Watch, scope: anyio.CancelScope) -> None:
        """Handle what an open watch brings until it ends; `scope` is cancelled when it is silent for too long."""
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
        """Return until when a watch may be silent: until the view is stale, or the watch should have ended."""
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
        else:  # of no type that we know, and so no proof of anything
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
    """Return whether the server itself objects; a list would be more load for one that only asks to slow down."""
    return isinstance(error, (ServerError, ForbiddenError)) and not isinstance(error, ThrottledError)


def _list_may_help(fruitless: int) -> bool:
    """Return whether a list is due after a number of fruitless watches: after 3, 6, 12, 24, and so on."""
    series, rest = divmod(fruitless, FRUITLESS_WATCHES_BEFORE_LIST)
    return rest == 0 and series.bit_count() == 1


def _reason(error: ClusterError) -> WatchRestart:
    return next((reason for kind, reason in _RESTART_REASONS if isinstance(error, kind)), WatchRestart.SERVER_ERROR)
