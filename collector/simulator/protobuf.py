"""Decodes the few objects that clients send as Kubernetes protobuf, into the same documents as from JSON."""

import operator
import time
from collections.abc import Iterator
from typing import Any

from collector.simulator.errors import bad_request
from collector.simulator.objects import Document

__all__ = ["MEDIA_TYPE", "decode"]

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"

# Field number -> (name, type), as in the generated.proto files of k8s.io/api and k8s.io/apimachinery.
_Schema = dict[int, tuple[str, Any]]
_METADATA: _Schema = {
    1: ("name", "text"), 2: ("generateName", "text"), 3: ("namespace", "text"), 5: ("uid", "text"),
    6: ("resourceVersion", "text"), 8: ("creationTimestamp", "time"), 11: ("labels", "map"),
    12: ("annotations", "map"),
}  # fmt: skip
_ATTRIBUTES: _Schema = {
    1: ("namespace", "text"), 2: ("verb", "text"), 3: ("group", "text"), 4: ("version", "text"),
    5: ("resource", "text"), 6: ("subresource", "text"), 7: ("name", "text"),
}  # fmt: skip
_REVIEW: _Schema = {
    1: ("resourceAttributes", _ATTRIBUTES),
    2: ("nonResourceAttributes", {1: ("path", "text"), 2: ("verb", "text")}),
}
_LEASE: _Schema = {
    1: ("holderIdentity", "text"), 2: ("leaseDurationSeconds", "number"), 3: ("acquireTime", "microtime"),
    4: ("renewTime", "microtime"), 5: ("leaseTransitions", "number"), 6: ("strategy", "text"),
    7: ("preferredHolder", "text"),
}  # fmt: skip
_SCHEMAS: dict[str, _Schema] = {
    "Lease": {1: ("metadata", _METADATA), 2: ("spec", _LEASE)},
    "SelfSubjectAccessReview": {1: ("metadata", _METADATA), 2: ("spec", _REVIEW)},
    "SelfSubjectReview": {1: ("metadata", _METADATA)},
    "DeleteOptions": {},
}


def decode(body: bytes) -> Document:
    """Return one object; raises ApiError 400 if it is not protobuf or of an unknown kind."""
    if not body.startswith(_MAGIC):
        raise bad_request("the provided data does not appear to be a protobuf message")
    try:
        envelope = dict(_fields(body[len(_MAGIC) :]))
        kind = _message(envelope[1], {1: ("apiVersion", "text"), 2: ("kind", "text")})
        schema = _SCHEMAS.get(kind.get("kind", ""))
        if schema is None:
            raise bad_request(f"kind {kind.get('kind')!r} is not supported as protobuf")
        return kind | _message(envelope.get(2, b""), schema)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        raise bad_request("the provided data is not a complete protobuf message") from error


def _message(data: Any, schema: _Schema) -> Document:
    document: Document = {}
    for number, value in _fields(data):
        if number not in schema:
            continue
        name, kind = schema[number]
        if isinstance(kind, dict):
            document[name] = _message(value, kind)
        elif kind == "map":
            pair = dict(_fields(value))
            document.setdefault(name, {})[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
        elif kind == "number":
            document[name] = operator.index(value)
        elif kind == "text":
            if value:
                document[name] = value.decode()
        elif value:
            document[name] = _time(dict(_fields(value)), micro=kind == "microtime")
    return document


def _time(parts: dict[int, Any], *, micro: bool) -> str:
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(parts.get(1, 0)))
    return text + (f".{parts.get(2, 0) // 1000:06d}Z" if micro else "Z")


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the (number, value) pairs of a message; a value is an int or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        length, at = {1: (8, at), 5: (4, at)}[kind] if kind != 2 else _varint(data, at)
        if at + length > len(data):
            raise ValueError("cut short")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if value >> 64:
            raise ValueError("a number of more than 64 bits")
        if byte < 0x80:
            return value, at
        shift += 7
