"""The objects of one cluster with their resource versions, their recent history and the watches on them."""

import asyncio
import base64
import binascii
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from collector.simulator import errors
from collector.simulator.objects import Document, Resource
from collector.simulator.selection import Labels, label_selector, required_fields

__all__ = ["Entry", "Event", "Filter", "Page", "Storage", "WatchSubscription"]

HISTORY_EVENTS = 4096  # that watches and lists can go back

_TOKEN_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "  # noqa: S105
    "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
    "results."
)


class Entry:
    """One version of one object; its JSON is created when it is first needed."""

    __slots__ = ("_body", "_make", "key", "labels", "node", "version")

    def __init__(
        self,
        key: str,
        version: int,
        labels: Labels | None,
        node: str,
        *,
        make: Callable[[], Document] | None = None,
        body: bytes = b"",
    ) -> None:
        self.key = key  # `namespace/name`, or `name` where there are no namespaces
        self.version = version
        self.labels = labels  # None: still to be read from the body
        self.node = node  # `spec.nodeName`
        self._make = make
        self._body = body

    @property
    def body(self) -> bytes:
        """The object as JSON."""
        if self._make is not None:
            document = self._make()
            document["metadata"]["resourceVersion"] = str(self.version)
            self._body = msgspec.json.encode(document)
            self._make = None
        return self._body

    def document(self) -> Document:
        """Return a fresh copy of the object."""
        document: Document = msgspec.json.decode(self.body)
        return document

    def at(self, version: int) -> "Entry":
        """Return the object with another resource version, as in a DELETED event."""
        document = self.document()
        document["metadata"]["resourceVersion"] = str(version)
        return Entry(self.key, version, self.labels, self.node, body=msgspec.json.encode(document))

    def read_labels(self) -> Labels:
        """Return its labels."""
        if self.labels is None:
            self.labels = _LABELS.decode(self.body).metadata.labels
        return self.labels


class Event(NamedTuple):
    """One change of one object."""

    version: int
    resource: Resource
    entry: Entry | None  # None: deleted
    previous: Entry | None  # None: created


class Filter:
    """The selection of a list or watch: a namespace, labels, fields."""

    def __init__(self, resource: Resource, namespace: str, labels: str, fields: str) -> None:
        self.namespace = namespace
        self._labels = label_selector(labels)
        self._fields = required_fields(fields, resource.fields)
        self.everything = not (namespace or self._labels or self._fields)

    def matches(self, entry: Entry) -> bool:
        """Return whether an object is selected."""
        if self.namespace and not entry.key.startswith(self.namespace + "/"):
            return False
        if self._labels is not None and not self._labels(entry.read_labels()):
            return False
        return all((_field(entry, field) == value) is equal for field, value, equal in self._fields)


class Page(NamedTuple):
    """A part of a list, consistent at `version`."""

    version: int
    entries: list[Entry]
    token: str  # for the next page; empty on the last
    remaining: int | None


class WatchSubscription:
    """The pending events of one watch."""

    def __init__(self, resource: Resource, selected: Filter) -> None:
        self.resource = resource
        self.selected = selected
        self.failure: errors.ApiError | None = None
        self._pending: deque[Event] = deque()
        self._wakeup = asyncio.Event()

    def push(self, event: Event) -> None:
        """Queue an event."""
        self._pending.append(event)
        self._wakeup.set()

    def fail(self, error: errors.ApiError) -> None:
        """End the watch with an ERROR event."""
        self.failure = error
        self._wakeup.set()

    async def wait(self, seconds: float) -> None:
        """Wait until there is something to send, for at most `seconds`."""
        if not self._pending and self.failure is None:
            self._wakeup.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._wakeup.wait()
            except TimeoutError:
                pass

    @property
    def has_events(self) -> bool:
        """Whether events are queued."""
        return bool(self._pending)

    def take(self) -> Iterator[tuple[str, Entry]]:
        """Yield and remove the queued events, as (event type, object) as seen by the filter."""
        while self._pending:
            event = self._pending.popleft()
            before = event.previous is not None and self.selected.matches(event.previous)
            now = event.entry is not None and self.selected.matches(event.entry)
            if now and event.entry is not None:
                yield ("MODIFIED" if before else "ADDED"), event.entry
            elif before and event.previous is not None:
                yield "DELETED", event.previous.at(event.version)


class Storage:
    """Objects with one increasing resource version and a limited history."""

    def __init__(self, history: int = HISTORY_EVENTS) -> None:
        self.version = 1000
        self.compacted = self.version  # older versions are no longer available
        self._objects: defaultdict[Resource, dict[str, Entry]] = defaultdict(dict)
        self._sorted: dict[Resource, list[str]] = {}
        self._history: deque[Event] = deque()
        self.max_history = history
        self._subscriptions: set[WatchSubscription] = set()

    def seed(
        self, resource: Resource, key: str, labels: Labels | None, node: str, make: Callable[[], Document]
    ) -> None:
        """Add an initial object without history; `make` must return an equal document at every call."""
        self.version += 1
        self.compacted = self.version
        self._objects[resource][key] = Entry(key, self.version, labels, node, make=make)
        self._sorted.pop(resource, None)

    def get(self, resource: Resource, key: str) -> Entry | None:
        """Return the current version of an object."""
        return self._objects[resource].get(key)

    def entries(self, resource: Resource) -> Iterator[Entry]:
        """Return the current objects, sorted by key."""
        objects = self._objects[resource]
        return (objects[key] for key in self._keys(resource))

    def put(self, resource: Resource, document: Document) -> Entry:
        """Create or replace an object, set its resource version and return it."""
        metadata = document["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}" if resource.namespaced else metadata["name"]
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        entry = Entry(
            key,
            self.version,
            metadata.get("labels") or {},
            (document.get("spec") or {}).get("nodeName", ""),
            body=msgspec.json.encode(document),
        )
        previous = self._objects[resource].get(key)
        self._objects[resource][key] = entry
        if previous is None:
            self._sorted.pop(resource, None)
        self._record(Event(self.version, resource, entry, previous))
        return entry

    def delete(self, resource: Resource, key: str) -> Entry | None:
        """Delete an object and return it as in its DELETED event."""
        previous = self._objects[resource].pop(key, None)
        if previous is None:
            return None
        self._sorted.pop(resource, None)
        self.version += 1
        self._record(Event(self.version, resource, None, previous))
        return previous.at(self.version)

    def compact(self) -> None:
        """Drop the history, so that every resource version returned so far is too old."""
        self._history.clear()
        self.version += 2
        self.compacted = self.version - 1

    def restore(self, versions: int) -> None:
        """Go back by some versions, as after the restoration of a backup; the objects are what they are now."""
        self.version -= versions
        self.compacted = self.version
        self._history.clear()
        for objects in self._objects.values():
            for key, entry in objects.items():
                objects[key] = entry.at(min(entry.version, self.version))

    # Lists

    def page(self, resource: Resource, selected: Filter, *, limit: int, token: str, exactly: int | None) -> Page:
        """Return one page of a list; raises ApiError 410 for a compacted token or version, 400 for an invalid one."""
        version, start = _read_token(token) if token else (exactly or self.version, "")
        if version < 0:  # the token continues with the current version
            version = self.version
        if version > self.version:
            raise errors.too_large_version(version, self.version)
        if version < self.compacted:
            if not token:
                raise errors.expired(f"The resourceVersion for the provided list is too old: {version}")
            raise errors.expired(_TOKEN_TOO_OLD, **{"continue": _token(-1, start)})
        objects, keys = self._snapshot(resource, version)
        entries: list[Entry] = []
        for at in range(bisect_right(keys, start) if start else 0, len(keys)):
            entry = objects[keys[at]]
            if selected.everything or selected.matches(entry):
                if limit and len(entries) == limit:
                    left = len(keys) - at if selected.everything else None
                    return Page(version, entries, _token(version, entries[-1].key), left)
                entries.append(entry)
        return Page(version, entries, "", None)

    def _snapshot(self, resource: Resource, version: int) -> tuple[Mapping[str, Entry], list[str]]:
        """Return the objects as of `version`, and their keys in order."""
        if version == self.version:
            return self._objects[resource], self._keys(resource)
        past: dict[str, Entry] = dict(self._objects[resource])
        undone: set[str] = set()
        for event in self._history:
            if event.version <= version or event.resource is not resource:
                continue
            key = (event.entry or event.previous).key  # type: ignore[union-attr]  # an event has one or both
            if key in undone:
                continue
            undone.add(key)
            if event.previous is None:
                past.pop(key, None)
            else:
                past[key] = event.previous
        return past, sorted(past)

    def _keys(self, resource: Resource) -> list[str]:
        keys = self._sorted.get(resource)
        if keys is None:
            keys = self._sorted[resource] = sorted(self._objects[resource])
        return keys

    # Watches

    def watch(self, resource: Resource, selected: Filter, version: int) -> WatchSubscription:
        """Subscribe to all changes after `version`; raises ApiError 410 if that is too old."""
        if version > self.version:
            raise errors.too_large_version(version, self.version)
        if version < self.compacted:
            raise errors.expired(f"too old resource version: {version} ({self.compacted})")
        subscription = WatchSubscription(resource, selected)
        for event in self._history:
            if event.version > version and event.resource is resource:
                subscription.push(event)
        self._subscriptions.add(subscription)
        return subscription

    def unwatch(self, subscription: WatchSubscription) -> None:
        """End a watch."""
        self._subscriptions.discard(subscription)

    def fail_watches(self, error: errors.ApiError) -> None:
        """End every watch with an ERROR event."""
        for subscription in self._subscriptions:
            subscription.fail(error)

    def _record(self, event: Event) -> None:
        self._history.append(event)
        while len(self._history) > self.max_history:
            self.compacted = self._history.popleft().version
        for subscription in self._subscriptions:
            if subscription.resource is event.resource:
                subscription.push(event)


class _Metadata(msgspec.Struct):
    labels: dict[str, str] = {}


class _Labelled(msgspec.Struct):
    metadata: _Metadata


_LABELS = msgspec.json.Decoder(_Labelled)


def _field(entry: Entry, field: str) -> str:
    namespace, _, name = entry.key.rpartition("/")
    if field == "metadata.name":
        return name
    if field == "metadata.namespace":
        return namespace
    if field == "spec.nodeName":
        return entry.node
    if field == "spec.driver":
        return str(entry.document()["spec"]["driver"])
    phase = entry.document().get("status", {}).get("phase", "")
    return str(phase)


def _token(version: int, start: str) -> str:
    content: dict[str, Any] = {"v": "meta.k8s.io/v1", "rv": version, "start": start}
    return base64.urlsafe_b64encode(msgspec.json.encode(content)).rstrip(b"=").decode()


def _read_token(token: str) -> tuple[int, str]:
    try:
        content = msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(content["rv"]), str(content["start"])
    except (binascii.Error, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise errors.bad_request("continue key is not valid") from error
