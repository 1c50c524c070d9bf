"""Decodes the envelope of every Kubernetes list and watch: the pages, events and statuses around the objects.

The objects themselves stay raw: callers decode only the fields that they use.
"""

import functools
import re
from typing import Any, TypeVar

import msgspec

from collector.kube.errors import UNDECODABLE
from collector.kube.go_values import WrongTypeError, convert_json
from collector.model import GpuidError
from collector.text import one_line

__all__ = [
    "LineSplitter",
    "LongLineError",
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
MAX_PAGE_ITEMS = 10_000  # objects; we request 500 at most, which a server may ignore
MAX_WHY_LENGTH = 200  # characters of why something could not be decoded
MAX_TOKEN_LENGTH = 16_384  # characters of values that are put into a URL: continue tokens and resource versions

_T = TypeVar("_T")

# msgspec's message for a wrong type, and its type names in the words of `go_values`.
_MISMATCH = re.compile(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`(?: - at `\$\.?([^`]*)`)?")
_TYPES = {"object": "a mapping", "array": "a list", "str": "text", "int": "a number", "float": "a number"}


class MalformedError(GpuidError):
    """The API server sent something other than JSON of the Kubernetes API."""


class Page(msgspec.Struct, frozen=True, gc=False):
    """One page of a list; `next` is the token of the following one, empty on the last.

    `overfull`: the page has more than MAX_PAGE_ITEMS objects; the rest is not in `items`.
    """

    version: str
    next: str
    items: list[msgspec.Raw]
    overfull: bool = False


class WatchEvent(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch; the kind of `object` depends on `type`, so it is decoded in a second step."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct, frozen=True, gc=False):
    """A failure as reported by the API server."""

    code: int = 0
    reason: str = ""
    message: str = ""


def decode_page(body: bytes) -> Page:
    """Return a page of a list, its items not decoded; raises MalformedError.

    A list with neither a resource version nor items is rejected, although Go reads it as an empty one: it is not from
    an API server, and must not make every object disappear.
    """
    page = _decode_exactly(_list_decoder(), body)
    items: list[msgspec.Raw] = []
    for item in msgspec.structs.astuple(page.items) if page is not None and page.items is not None else ():
        if item is _NO_ITEM:
            break
        items.append(item)
    metadata = (page.metadata if page is not None else None) or _ListMeta()
    version, token = _token(metadata.version or ""), _token(metadata.next or "")
    if not version and not items:
        raise MalformedError("a list without metadata.resourceVersion and without items")
    return Page(version, token, items[:MAX_PAGE_ITEMS], len(items) > MAX_PAGE_ITEMS)


def decode_event(line: bytes) -> WatchEvent:
    """Return the event in a line of a watch, its object not decoded; raises MalformedError."""
    event = decode(_EVENT_DECODER, line)
    if not event.type:
        raise MalformedError("an event without a type")
    return event


def decode_version(raw: msgspec.Raw) -> str:
    """Return the resource version of any object, the only content of a bookmark; raises MalformedError."""
    return _token(decode(_VERSION_DECODER, raw).metadata.version)


def decode_status(raw: msgspec.Raw) -> Status:
    """Return the status in an ERROR event; raises MalformedError."""
    return decode(_STATUS_DECODER, raw)


def decode(decoder: "msgspec.json.Decoder[_T]", text: bytes | msgspec.Raw) -> _T:
    """Return the value that `decoder` reads, with nulls as zero values; raises MalformedError if it cannot."""
    try:
        return _decode_exactly(decoder, text)
    except MalformedError as malformed:
        if not isinstance(malformed.__cause__, msgspec.ValidationError):
            raise
        # A null may be a zero value to Go programs; this is rare, so it may be slower.
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
    """Return why a text could not be decoded, in our own words if the libraries' are unhelpful."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if str(error) == "Input data was truncated":
        return "JSON that is empty or cut off"
    if (mismatch := _MISMATCH.fullmatch(str(error))) is not None:
        expected, found, place = mismatch.groups()
        text = f"expected {_TYPES.get(expected, expected)}, got {_TYPES.get(found, found)}"
        return f"{place}: {text}" if place else text
    return one_line(error, MAX_WHY_LENGTH)  # it may have a path of thousands of levels


def _token(text: str) -> str:
    if len(text) > MAX_TOKEN_LENGTH:
        raise MalformedError(f"a resource version or continue token is longer than {MAX_TOKEN_LENGTH} characters")
    return text


class LongLineError(MalformedError):
    """A line of a watch is longer than allowed."""


class LineSplitter:
    """Cuts a stream of chunks into lines; a line may span any number of chunks, up to `limit` bytes."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._partial = bytearray()  # the incomplete line

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes, without line ends or empty lines.

        Raises LongLineError above the limit.
        """
        *lines, rest = chunk.split(b"\n")
        if lines and self._partial:
            self._partial += lines[0]
            lines[0] = bytes(self._partial)
            self._partial = bytearray()
        self._partial += rest
        if len(self._partial) > self._limit or any(len(line) > self._limit for line in lines):
            raise LongLineError(f"a line is longer than {self._limit} bytes")
        return [line for line in lines if line]


# As on the wire. Kubernetes omits empty values, and occasionally writes null.


class _ListMeta(msgspec.Struct, frozen=True, gc=False):
    version: str | None = msgspec.field(name="resourceVersion", default=None)
    next: str | None = msgspec.field(name="continue", default=None)


@functools.cache
def _list_decoder() -> "msgspec.json.Decoder[Any]":
    """Return the decoder of a page, created on first use.

    A list of any length would be built before its length is known, and `1,1,1,…`, two bytes each, takes thirty times
    its size in memory. So the items are decoded as a struct of MAX_PAGE_ITEMS fields and one more; the rest is skipped.
    """
    fields = [(f"item{number}", msgspec.Raw, _NO_ITEM) for number in range(MAX_PAGE_ITEMS + 1)]
    items = msgspec.defstruct("_Items", fields, array_like=True, frozen=True, gc=False)
    parts = [("metadata", _ListMeta | None, None), ("items", items | None, None)]
    return msgspec.json.Decoder(msgspec.defstruct("_List", parts, frozen=True, gc=False) | None)


class _VersionMeta(msgspec.Struct, frozen=True, gc=False):
    version: str = msgspec.field(name="resourceVersion", default="")


class _Versioned(msgspec.Struct, frozen=True, gc=False):
    metadata: _VersionMeta = _VersionMeta()


_NO_ITEM = msgspec.Raw(b"")
_EVENT_DECODER = msgspec.json.Decoder(WatchEvent)
_VERSION_DECODER = msgspec.json.Decoder(_Versioned)
_STATUS_DECODER = msgspec.json.Decoder(Status)
