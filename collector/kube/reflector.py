"""Mirrors one kind of object of one API server: list, then watch, for ever."""

import logging
import random
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from collector.backoff import Backoff
from collector.kube.client import ApiClient
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
from collector.text import one_line

__all__ = ["HasKey", "Reflector", "Resource", "WatchIntervals", "list_all"]

log = logging.getLogger(__name__)


class HasKey(Protocol):
    """What a reflector must know of the objects that it keeps."""

    @property
    def key(self) -> str:
        """What tells objects of one resource apart."""

    @property
    def version(self) -> str:
        """The resource version."""


T = TypeVar("T", bound=HasKey)


class Resource(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What to mirror: a path of the API, the selection, and how to decode one object (Malformed where it cannot be)."""

    name: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    decode: Callable[[msgspec.Raw], T]


class WatchIntervals(msgspec.Struct, frozen=True, kw_only=True):
    """How a reflector spends its time, in seconds."""

    watch: tuple[float, float] = (300.0, 600.0)  # the server is asked to end each watch after a time between these
    slack: float = 30.0  # a list's page and a watch must be answered so soon, and a watch end so soon after it was to
    healthy: float = 5.0  # a watch that lasted this long ends a series of failures: the next one is noticed in a second
    backoff: Backoff = Backoff(initial=1.0, maximum=15.0, jitter=0.5)


class Reflector(Generic[T]):
    """Keeps `objects` as the API server has them and tells its owner; every callback must return at once.

    `on_change(before, after)`: an object came (before is None), changed, or went (after is None).
    `on_proof()`: the view is current: a list is complete, or an event or a bookmark came.
    `on_restart(reason)`: list and watch had to start over; a watch that ends when it was asked to does not count.
    `on_health(error)`: None when the watch is open; else why it could not be opened.
    """

    def __init__(
        self,
        session: ApiClient,
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
        self._session = session
        self._resource = resource
        self._on_change = on_change
        self._on_proof = on_proof
        self._on_restart = on_restart
        self._on_health = on_health
        self._timing = timing or WatchIntervals()
        self._rng = rng or random.Random()  # noqa: S311, spreads load and keeps no secret
        self._version = ""  # of the last thing that was seen; empty when a list is due
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
                error: ClusterError = ServerError(
                    f"{self._session.host}: not an answer of the Kubernetes API: {one_line(str(failure), 200)}",
                    status=200,
                )
            except ClusterError as failure:
                error = failure
            expired = isinstance(error, GoneError)
            if expired:
                self._version = ""
            elif self._opened is None:
                self._on_health(error)
            refusals = refusals + _refused(error) if self._opened is None and self._version else 0
            if refusals == _REFUSALS:  # it may be the version that the server does not like
                self._version = ""
            if self._opened is not None and anyio.current_time() - self._opened >= self._timing.healthy:
                failures = 0
            log.debug("the watch of %s starts over: %s", self._resource.name, error)
            self._on_restart(_reason(error))
            # A version expires in the best of health; to list again only waits if that happens again at once.
            delay = 0.0 if expired and failures == 0 else self._timing.backoff.delay(failures, self._rng)
            failures += 1
            await anyio.sleep(max(delay, getattr(error, "retry_after", None) or 0.0))

    async def _list(self) -> None:
        found, version = await list_all(self._session, self._resource, timeout=self._timing.slack)
        for count, after in enumerate(found.values()):
            if count % _YIELD == 0:
                await anyio.lowlevel.checkpoint()
            self._put(after)
        for key in self.objects.keys() - found.keys():  # last, so that a successor is known before its predecessor goes
            self._on_change(self.objects.pop(key), None)
        self._version = version
        self._on_proof()

    async def _watch(self) -> None:
        seconds = self._rng.uniform(*self._timing.watch)
        params = [
            *self._resource.params,
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", self._version),
            ("timeoutSeconds", str(max(1, round(seconds)))),
        ]
        splitter, heard = LineSplitter(), False
        with anyio.CancelScope() as scope:
            async with self._session.stream(self._resource.path, params, timeout=self._timing.slack) as chunks:
                self._opened = anyio.current_time()
                scope.deadline = self._opened + seconds + self._timing.slack
                self._on_health(None)
                async for chunk in chunks:
                    heard = True
                    for line in splitter.feed(chunk):
                        self._receive(line)
            if not heard and anyio.current_time() - self._opened < _SHORT:
                raise UnreachableError(f"{self._session.host}: the watch was closed as soon as it was open")
            return
        raise SilentWatchError(f"{self._session.host}: the watch did not end when it was due to")

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
            self._version = ""  # what else would not be repeated from here
            status = decode_status(event.object)
            text = f"{self._session.host}: the watch failed: {one_line(status.message or status.reason, 200)}"
            kind = GoneError if status.code == 410 or status.reason in ("Expired", "Gone") else ServerError
            raise kind(text, status=status.code)
        self._on_proof()

    def _put(self, after: T) -> None:
        before = self.objects.get(after.key)
        if before is None or before.version != after.version:
            self.objects[after.key] = after
            self._on_change(before, after)


async def list_all(session: ApiClient, resource: Resource[T], *, timeout: float = 30.0) -> tuple[dict[str, T], str]:
    """List every object by its key, and give the resource version of the list; raises ClusterError and Malformed.

    `timeout` is for each page, in seconds.
    """
    try:
        return await _pages(session, resource, {"limit": str(_PAGE)}, timeout)
    except GoneError:  # the continue token has expired; in one piece a list cannot
        return await _pages(session, resource, {}, timeout)


async def _pages(
    session: ApiClient, resource: Resource[T], params: dict[str, str], timeout: float
) -> tuple[dict[str, T], str]:
    found: dict[str, T] = {}
    token: dict[str, str] = {}
    while True:
        query = [*resource.params, *(params | token).items()]
        page = decode_page(await session.get(resource.path, query, timeout=timeout))
        for count, raw in enumerate(page.items):
            if count % _YIELD == 0:
                await anyio.lowlevel.checkpoint()
            one = resource.decode(raw)
            found[one.key] = one
        if not page.next:
            return found, page.version
        token = {"continue": page.next}


_PAGE = 100  # objects a request: a node may have 20 kB, and a hundred clusters list at once when all are started
_YIELD = 100  # objects between two turns of the event loop; other clusters wait no longer
_REFUSALS = 3  # of a watch from one version; then a list shows whether another one is accepted
_SHORT = 1.0  # seconds; a watch that ends sooner, without a word, must not be repeated at full speed

_REASONS: tuple[tuple[type[ClusterError], WatchRestart], ...] = (
    (GoneError, WatchRestart.EXPIRED),
    (SilentWatchError, WatchRestart.SILENT),
    (UnreachableError, WatchRestart.CONNECTION),
    (UnauthorizedError, WatchRestart.UNAUTHORIZED),
    (CredentialPluginMissingError, WatchRestart.UNAUTHORIZED),
    (CredentialPluginFailedError, WatchRestart.UNAUTHORIZED),
    (ForbiddenError, WatchRestart.FORBIDDEN),
)


def _refused(error: ClusterError) -> bool:
    """Tell whether the server answered, and not to slow down: then a list would only add to its load."""
    return isinstance(error, (ServerError, ForbiddenError)) and not isinstance(error, ThrottledError)


def _reason(error: ClusterError) -> WatchRestart:
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), WatchRestart.SERVER_ERROR)
