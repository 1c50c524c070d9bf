"""Lists one kind of object of one API server, page by page, within the limits of the cluster's settings."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from collector.kube.client import ApiClient, ApiMethod
from collector.kube.errors import GoneError, LimitExceededError, ServerError, UnreachableError
from collector.kube.wire import MAX_PAGE_ITEMS, MalformedError, Page, decode_page
from collector.text import one_line

__all__ = ["HasKey", "Kept", "Resource", "check_size", "collect", "list_all", "not_kubernetes"]

# A node may have 20 kB, and a hundred clusters list at the same time when all start. Most objects are smaller: the next
# page has as many as fit into the same bytes, judging by the largest so far, and at most twice as many as the page
# before, up to what other clients request.
FIRST_PAGE_OBJECTS, MAX_PAGE_OBJECTS, PAGE_BYTES = 100, 500, 2_000_000
MAX_EMPTY_PAGES = 100  # in a row; an API server fills each page but the last

_ENCODER = msgspec.msgpack.Encoder()  # only measures


class HasKey(Protocol):
    """What a reflector needs to know about its objects."""

    @property
    def key(self) -> str:
        """The unique key of an object within its resource."""

    @property
    def version(self) -> str:
        """The resource version."""


T = TypeVar("T", bound=HasKey)


class Resource(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What to mirror."""

    name: str  # such as `pods`
    method: ApiMethod  # of a generated API class, `CoreV1Api(client).list_…`, with what selects the objects bound
    decode: Callable[[msgspec.Raw], T]  # one object; raises MalformedError


class Kept(Generic[T]):
    """Objects of one resource by key, no more and no larger than the cluster's settings allow.

    An object that would exceed the limits raises LimitExceededError and is not kept. The size of an object is that of
    the fields we use; in memory it takes two to five times as much.
    """

    def __init__(self, client: ApiClient, name: str) -> None:
        self.objects: dict[str, T] = {}
        self._client = client
        self._name = name
        self._size = 0

    def put(self, one: T) -> T | None:
        """Keep an object; return the previous one of the same key, if any, which is kept if it is equal.

        Equal means in every field, not just in the version: a server may send different objects with the same version.
        Raises MalformedError for a number that no API server has.
        """
        if not one.key:  # without a name it can be neither read nor distinguished
            return one
        before = self.objects.get(one.key)
        if before == one:
            return before
        size = self._size + _size(one) - (_size(before) if before is not None else 0)
        cluster, host = self._client.session.cluster, self._client.session.host
        if before is None and len(self.objects) >= cluster.max_objects:
            raise LimitExceededError.of(
                host, f"there are more than {cluster.max_objects:,} {self._name}", "max_objects"
            )
        if size > cluster.max_kept_size:
            what = f"what is kept of {len(self.objects) + 1:,} {self._name} is larger than {cluster.max_kept_size}"
            raise LimitExceededError.of(host, what, "max_kept_size")
        self.objects[one.key] = one
        self._size = size
        return before

    def pop(self, key: str) -> T | None:
        """Remove an object and return it; None if there is no such key."""
        one = self.objects.pop(key, None)
        if one is not None:
            self._size -= _size(one)
        return one


async def list_all(client: ApiClient, resource: Resource[T], *, timeout: float = 30.0) -> tuple[dict[str, T], str]:
    """Return every object by its key, and the resource version of the list; raises ClusterError.

    `timeout` is for each page, in seconds.
    """
    try:
        kept, version = await collect(client, resource, timeout=timeout)
    except MalformedError as error:
        raise not_kubernetes(client, error) from error
    return kept.objects, version


async def collect(client: ApiClient, resource: Resource[T], *, timeout: float) -> tuple[Kept[T], str]:
    """Return the result of `list_all` in a form to which changes can be applied.

    Raises ClusterError and MalformedError.
    """
    try:
        return await _collect(client, resource, timeout, MAX_PAGE_OBJECTS)
    except GoneError:  # the continue token has expired; a list in one piece needs none
        try:
            return await _collect(client, resource, timeout, 0)
        except LimitExceededError:  # in one piece the response is too large
            return await _collect(client, resource, timeout, MAX_PAGE_OBJECTS)


async def _collect(client: ApiClient, resource: Resource[T], timeout: float, most: int) -> tuple[Kept[T], str]:
    """List in pages of `most` objects at most; in one piece if it is 0."""
    kept, pages = Kept[T](client, resource.name), _Pages(client, resource.name)
    limit, largest, token = min(FIRST_PAGE_OBJECTS, most), 0.0, ""  # `largest` in bytes per object of a page
    share = client.session.share
    while True:
        try:
            body = await client.read(resource.method, limit=limit or None, _continue=token or None, timeout=timeout)
        except (LimitExceededError, UnreachableError):  # too large for the cluster's settings, or for a slow connection
            if limit <= FIRST_PAGE_OBJECTS:
                raise
            limit = most = FIRST_PAGE_OBJECTS
            continue
        except ServerError as error:
            if limit <= FIRST_PAGE_OBJECTS or error.status not in (400, 504):
                raise
            # A gateway timed out, or the server is strict: by the API's documentation, the limit may not change.
            kept, pages = Kept[T](client, resource.name), _Pages(client, resource.name)
            limit = most = FIRST_PAGE_OBJECTS
            token = ""
            continue
        started = share.clock()
        page = decode_page(body)
        pages.check(page)
        for raw in page.items:
            check_size(client, resource.name, memoryview(raw).nbytes)
            kept.put(resource.decode(raw))
            if share.over(started):
                started = await share.pause(started)
        await share.pause(started)
        if not page.next:
            return kept, page.version
        token = page.next
        if page.items:
            largest = max(largest, len(body) / len(page.items))
            limit = min(max(FIRST_PAGE_OBJECTS, int(PAGE_BYTES / largest)), 2 * limit, most)


class _Pages:
    """The pages of a list so far, to notice one that never ends."""

    def __init__(self, client: ApiClient, name: str) -> None:
        self._host, self._name, self._max_pages = client.session.host, name, client.session.cluster.max_list_pages
        self._tokens: set[str] = set()
        self._empty = 0  # in a row

    def check(self, page: Page) -> None:
        """Count a page; raises LimitExceededError if it has too many objects or comes after too many others."""
        if page.overfull:
            what = f"a page of {self._name} has more than {MAX_PAGE_ITEMS:,} objects"
            raise LimitExceededError(f"{self._host}: {what}, though at most {MAX_PAGE_OBJECTS} were asked for")
        if not page.next:
            return
        endless = f"the list of {self._name} is endless"
        if page.next in self._tokens:
            what = f"page {len(self._tokens) + 1:,} repeats an earlier continue token"
            raise LimitExceededError(f"{self._host}: {endless}: {what}")
        self._tokens.add(page.next)
        self._empty = 0 if page.items else self._empty + 1
        if self._empty >= MAX_EMPTY_PAGES:
            raise LimitExceededError(f"{self._host}: {endless}: {self._empty} consecutive pages are empty")
        if len(self._tokens) >= self._max_pages:
            what = f"the list of {self._name} has more than {self._max_pages:,} pages"
            raise LimitExceededError.of(self._host, what, "max_list_pages")


def not_kubernetes(client: ApiClient, error: MalformedError) -> ServerError:
    """Return the error for a server that responds with something else, such as a proxy's error page."""
    text = f"{client.session.host}: not a Kubernetes API response: {one_line(str(error), 200)}"
    return ServerError(text, status=200)


def check_size(client: ApiClient, name: str, size: int) -> None:
    """Raise LimitExceededError for an object of this resource that is larger than allowed, as it is sent."""
    limit = client.session.cluster.max_object_size
    if size > limit:
        what = f"an object of the {name} is larger than {limit}"
        raise LimitExceededError.of(client.session.host, what, "max_object_size")


def _size(one: object) -> int:
    try:
        return len(_ENCODER.encode(one))
    except OverflowError as error:
        raise MalformedError("a number does not fit into 64 bits") from error
