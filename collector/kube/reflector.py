"""Mirrors one kind of object of one API server, as client-go's reflector does: list, then watch, and so on.

What a watch missed is noticed: an expired version leads to a new list, which also removes what has vanished. The
library's own `Watch` never lists again.
"""

import logging
import random
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from collector.backoff import Backoff
from collector.kube.client import ApiClient, ApiMethod
from collector.kube.errors import (
    ClusterError,
    CredentialPluginFailedError,
    CredentialPluginMissingError,
    ForbiddenError,
    GoneError,
    ServerError,
    SilentWatchError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
)
from collector.kube.wire import (
    LineSplitter,
    MalformedError,
    decode_event,
    decode_page,
    decode_status,
    decode_version,
)
from collector.model import WatchRestart
from collector.redaction import redact
from collector.text import one_line

__all__ = ["HasKey", "Reflector", "Resource", "WatchIntervals", "list_all"]

log = logging.getLogger(__name__)

LIST_PAGE_SIZE = 100  # objects: a node may have 20 kB, and a hundred clusters list at the same time when all start
OBJECTS_PER_TURN = 100  # decoded between two turns of the event loop, so that other clusters wait no longer
REFUSALS_BEFORE_LIST = 3  # of a watch from one version; then a list shows whether another one is accepted
MIN_WATCH_SECONDS = 1.0  # a watch that ends sooner and empty must not be repeated at full speed

_RESTART_REASONS: tuple[tuple[type[ClusterError], WatchRestart], ...] = (
    (GoneError, WatchRestart.EXPIRED),
    (SilentWatchError, WatchRestart.SILENT),
    (UnreachableError, WatchRestart.CONNECTION),
    (UnauthorizedError, WatchRestart.UNAUTHORIZED),
    (CredentialPluginMissingError, WatchRestart.UNAUTHORIZED),
    (CredentialPluginFailedError, WatchRestart.UNAUTHORIZED),
    (ForbiddenError, WatchRestart.FORBIDDEN),
)


class HasKey(Protocol):
    """What a reflector needs to know about the objects that it keeps."""

    @property
    def key(self) -> str:
        """What identifies an object among those of its resource."""

    @property
    def version(self) -> str:
        """The resource version."""


T = TypeVar("T", bound=HasKey)


class Resource(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What to mirror."""

    name: str  # such as `pods`
    method: ApiMethod  # of a generated API class, `CoreV1Api(client).list_…`, with what selects the objects bound
    decode: Callable[[msgspec.Raw], T]  # one object; raises MalformedError


class WatchIntervals(msgspec.Struct, frozen=True, kw_only=True):
    """The timing of a reflector, in seconds."""

    watch: tuple[float, float] = (300.0, 600.0)  # the server is asked to end each watch after a time between these
    slack: float = 30.0  # for the answer to a list's page or a watch, and for a watch to end after its time
    healthy: float = 5.0  # a watch that lasted this long ends a series of failures: the next retry comes in a second
    backoff: Backoff = Backoff(initial=1.0, maximum=15.0, jitter=0.5)


class Reflector(Generic[T]):
    """Keeps `objects` as the API server has them and reports to its owner; no callback may block.

    `on_change(before, after)`: an object came (before is None), changed, or went (after is None).
    `on_proof()`: the view is current: a list is complete, or an event or a bookmark came.
    `on_restart(reason)`: list and watch had to start over; a watch that ends when it was asked to does not count.
    `on_health(error)`: None when the watch is open; else why the list or the watch failed.
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
        self.objects: dict[str, T] = {}
        self._client = client
        self._resource = resource
        self._on_change = on_change
        self._on_proof = on_proof
        self._on_restart = on_restart
        self._on_health = on_health
        self._timing = timing or WatchIntervals()
        self._rng = rng or random.Random()  # noqa: S311, spreads load and keeps no secret
        self._version = ""  # the last one seen; empty when a list is due
        self._opened: float | None = None

    async def run(self) -> None:
        """Mirror until cancelled; no failure of the API server ends it."""
        failures = refusals = 0
        while True:
            self._opened = None
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                failures = refusals = 0
                continue
            except MalformedError as failure:
                self._version = ""
                error: ClusterError = _not_kubernetes(self._client, failure)
            except ClusterError as failure:
                error = failure
            expired = isinstance(error, GoneError)
            if expired:
                self._version = ""
            elif self._opened is None:
                self._on_health(error)
            refusals = refusals + _refused(error) if self._opened is None and self._version else 0
            if refusals == REFUSALS_BEFORE_LIST:  # the server may object to the version
                self._version = ""
            if self._opened is not None and anyio.current_time() - self._opened >= self._timing.healthy:
                failures = 0
            log.debug("restarting watch of %s: %s", self._resource.name, error)
            self._on_restart(_reason(error))
            # A version expires on a healthy server too; the next list waits only if that happens again immediately.
            delay = 0.0 if expired and failures == 0 else self._timing.backoff.delay(failures, self._rng)
            failures += 1
            await anyio.sleep(max(delay, getattr(error, "retry_after", None) or 0.0))

    async def _list(self) -> None:
        found, version = await list_all(self._client, self._resource, timeout=self._timing.slack)
        for count, after in enumerate(found.values()):
            if count % OBJECTS_PER_TURN == 0:
                await anyio.lowlevel.checkpoint()
            self._put(after)
        for key in self.objects.keys() - found.keys():  # last, so that a successor is known before its predecessor goes
            self._on_change(self.objects.pop(key), None)
        self._version = version
        self._on_proof()

    async def _watch(self) -> None:
        seconds = self._rng.uniform(*self._timing.watch)
        splitter, heard = LineSplitter(), False
        with anyio.CancelScope() as scope:
            async with self._client.stream(
                self._resource.method,
                watch=True,
                allow_watch_bookmarks=True,
                resource_version=self._version,
                timeout_seconds=max(1, round(seconds)),
                timeout=self._timing.slack,
            ) as chunks:
                self._opened = anyio.current_time()
                scope.deadline = self._opened + seconds + self._timing.slack
                self._on_health(None)
                async for chunk in chunks:
                    heard = True
                    for line in splitter.feed(chunk):
                        self._receive(line)
            if not heard and anyio.current_time() - self._opened < MIN_WATCH_SECONDS:
                raise UnreachableError(f"{self._client.session.host}: the watch was closed as soon as it was open")
            return
        raise SilentWatchError(f"{self._client.session.host}: the watch did not end on time")

    def _receive(self, line: bytes) -> None:
        event = decode_event(line)
        if event.type in ("ADDED", "MODIFIED"):
            after = self._resource.decode(event.object)
            self._version = after.version
            self._put(after)
        elif event.type == "DELETED":
            gone = self._resource.decode(event.object)
            self._version = gone.version
            if (before := self.objects.pop(gone.key, None)) is not None:
                self._on_change(before, None)
        elif event.type == "BOOKMARK":
            self._version = decode_version(event.object)
        elif event.type == "ERROR":
            self._version = ""  # a watch from here might fail the same way
            status = decode_status(event.object)
            text = f"{self._client.session.host}: the watch failed: {redact(status.message or status.reason, 200)}"
            kind = GoneError if status.code == 410 or status.reason in ("Expired", "Gone") else ServerError
            raise kind(text, status=status.code)
        self._on_proof()

    def _put(self, after: T) -> None:
        if not after.key:  # without a name it can be neither read nor told from others
            return
        before = self.objects.get(after.key)
        if before is None or before.version != after.version:
            self.objects[after.key] = after
            self._on_change(before, after)


async def list_all(client: ApiClient, resource: Resource[T], *, timeout: float = 30.0) -> tuple[dict[str, T], str]:
    """Return every object by its key, and the resource version of the list; raises ClusterError.

    `timeout` is for each page, in seconds.
    """
    try:
        try:
            return await _pages(client, resource, {"limit": LIST_PAGE_SIZE}, timeout)
        except GoneError:  # the continue token has expired, which a list in one piece has not
            return await _pages(client, resource, {}, timeout)
    except MalformedError as error:
        raise _not_kubernetes(client, error) from error


async def _pages(
    client: ApiClient, resource: Resource[T], arguments: dict[str, Any], timeout: float
) -> tuple[dict[str, T], str]:
    found: dict[str, T] = {}
    while True:
        page = decode_page(await client.read(resource.method, **arguments, timeout=timeout))
        for count, raw in enumerate(page.items):
            if count % OBJECTS_PER_TURN == 0:
                await anyio.lowlevel.checkpoint()
            one = resource.decode(raw)
            if one.key:
                found[one.key] = one
        if not page.next:
            return found, page.version
        arguments = arguments | {"_continue": page.next}


def _not_kubernetes(client: ApiClient, error: MalformedError) -> ServerError:
    """Return the failure of a server that answers with something else, such as the page of a proxy."""
    text = f"{client.session.host}: not an answer of the Kubernetes API: {one_line(str(error), 200)}"
    return ServerError(text, status=200)


def _refused(error: ClusterError) -> bool:
    """Return whether the server refused the watch itself; one that throttles would only get more load from a list."""
    return isinstance(error, (ServerError, ForbiddenError)) and not isinstance(error, ThrottledError)


def _reason(error: ClusterError) -> WatchRestart:
    return next((reason for kind, reason in _RESTART_REASONS if isinstance(error, kind)), WatchRestart.SERVER_ERROR)
