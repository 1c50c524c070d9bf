"""What every list and watch of Kubernetes sends, decoded from the bytes: pages, events and statuses around the objects.

The objects themselves stay raw: who lists or watches them decodes only the fields that it uses.
"""

from collections.abc import Collection
from typing import TypeVar

import msgspec

from collector.kube.errors import UNDECODABLE
from collector.kube.go_values import WrongTypeError, convert_json
from collector.model import GpuidError

__all__ = [
    "LineSplitter",
    "MalformedError",
    "Page",
    "Status",
    "WatchEvent",
    "decode",
    "decode_event",
    "decode_page",
    "decode_status",
    "decode_version",
]

MAX_LINE_BYTES = 64 << 20

_T = TypeVar("_T")


class MalformedError(GpuidError):
    """The API server sent something that is not the JSON of the Kubernetes API."""


class Page(msgspec.Struct, frozen=True, gc=False):
    """One page of a list; `next` is the token of the following one, empty on the last."""

    version: str
    next: str
    items: Collection[msgspec.Raw]


class WatchEvent(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch; what `object` is depends on `type`, so it is decoded in a second step."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct, frozen=True, gc=False):
    """How the API server reports a failure."""

    code: int = 0
    reason: str = ""
    message: str = ""


def decode_page(body: bytes) -> Page:
    """Return a page of a list, its items not decoded; raises MalformedError.

    A list that has neither a resource version nor items is refused, though Go takes it as an empty one: whatever
    answers so is no API server, and must not make every object disappear.
    """
    page = decode(_LIST_DECODER, body)
    if not page.metadata.version and not page.items:
        raise MalformedError("a list without metadata.resourceVersion and without items")
    return Page(page.metadata.version, page.metadata.next or "", page.items or ())


def decode_event(line: bytes) -> WatchEvent:
    """Return the event of a watch's line, its object not decoded; raises MalformedError."""
    event = decode(_EVENT_DECODER, line)
    if not event.type:
        raise MalformedError("an event without a type")
    return event


def decode_version(raw: msgspec.Raw) -> str:
    """Return the resource version of any object, which is all that a bookmark has; raises MalformedError."""
    return decode(_VERSION_DECODER, raw).metadata.version


def decode_status(raw: msgspec.Raw) -> Status:
    """Return the status that an ERROR event carries; raises MalformedError."""
    return decode(_STATUS_DECODER, raw)


def decode(decoder: "msgspec.json.Decoder[_T]", text: bytes | msgspec.Raw) -> _T:
    """Return what `decoder` reads, with nulls as zero values; raises MalformedError where it cannot."""
    try:
        return _decode_exactly(decoder, text)
    except MalformedError as malformed:
        if not isinstance(malformed.__cause__, msgspec.ValidationError):
            raise
        # There may be a null that is a zero value to a Go program; seldom, so that this may cost more.
        try:
            return convert_json(text, decoder.type)
        except WrongTypeError as error:
            raise MalformedError(str(error)) from error
        except UNDECODABLE as error:
            raise MalformedError(_why(error)) from error


def _decode_exactly(decoder: "msgspec.json.Decoder[_T]", text: bytes | msgspec.Raw) -> _T:
    try:
        return decoder.decode(text)
    except UNDECODABLE as error:
        raise MalformedError(_why(error)) from error


def _why(error: Exception) -> str:
    """Return why a text could not be decoded, in words of ours where the libraries' say little."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if str(error) == "Input data was truncated":
        return "JSON that is empty or cut off"
    return str(error)


class LineSplitter:
    """Cuts a stream of chunks into lines; a line may span any number of chunks, up to `limit` bytes."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # of the line that is not complete yet; joined once, when it is
        self._length = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes, without their ends, none empty.

        Raises MalformedError past the limit.
        """
        *lines, rest = chunk.split(b"\n")
        if lines:
            self._pieces.append(lines[0])
            lines[0] = b"".join(self._pieces)
            self._pieces, self._length = [], 0
        if rest:
            self._pieces.append(rest)
            self._length += len(rest)
            if self._length > self._limit:
                raise MalformedError(f"a line is longer than {self._limit} bytes")
        return [line for line in lines if line]


# As on the wire. Kubernetes leaves out what is empty, and now and then writes null.


class _ListMeta(msgspec.Struct, frozen=True, gc=False):
    version: str = msgspec.field(name="resourceVersion", default="")
    next: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct, frozen=True, gc=False):
    metadata: _ListMeta = _ListMeta()
    items: list[msgspec.Raw] | None = None


class _VersionMeta(msgspec.Struct, frozen=True, gc=False):
    version: str = msgspec.field(name="resourceVersion", default="")


class _Versioned(msgspec.Struct, frozen=True, gc=False):
    metadata: _VersionMeta = _VersionMeta()


_LIST_DECODER = msgspec.json.Decoder(_List)
_EVENT_DECODER = msgspec.json.Decoder(WatchEvent)
_VERSION_DECODER = msgspec.json.Decoder(_Versioned)
_STATUS_DECODER = msgspec.json.Decoder(Status)
