"""What clients send to the simulator in forms of its own: protobuf, and the frames of SPDY."""

import struct
import zlib
from collections.abc import Iterator

import msgspec
from hypothesis import strategies as st

from collector.simulator import protobuf
from collector.simulator.errors import ApiError
from collector.simulator.spdy import DICTIONARY, PING, SYN_STREAM, Frame, Framer
from tests.fuzz.documents import damaged
from tests.fuzz.target import Target, Targets, refusing

__all__ = ["TARGETS"]


def _protobuf(body: bytes) -> None:
    """What is accepted can be stored as JSON."""
    document = protobuf.decode(body)
    assert msgspec.json.decode(msgspec.json.encode(document)) == document


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


leaves = st.one_of(
    st.sampled_from([b"gpuid", b"\xff", b"", 0, 7, 1 << 40, 1 << 63, _field(1, 1764000000), _field(1, 1 << 60)]),
    st.binary(max_size=6),
)
messages = st.recursive(
    leaves,
    lambda inner: st.lists(st.tuples(st.integers(1, 12), inner), max_size=4).map(
        lambda fields: b"".join(_field(*one) for one in fields)
    ),
    max_leaves=8,
)
objects = st.builds(
    lambda kind, message: b"k8s\0" + _field(1, _field(1, b"v1") + _field(2, kind)) + _field(2, message),
    st.sampled_from([b"Lease", b"SelfSubjectAccessReview", b"SelfSubjectReview", b"DeleteOptions", b"Pod"]),
    messages,
).flatmap(damaged)


def _spdy(data: bytes) -> None:
    """However a client's bytes are divided, they are the same frames."""
    frames = [*_frames(data, len(data) or 1)]
    with refusing(ValueError, zlib.error, struct.error):
        assert [*_frames(data, 3)] == frames


def _frames(data: bytes, size: int) -> Iterator[Frame]:
    framer = Framer()
    for at in range(0, len(data), size):
        yield from framer.feed(data[at : at + size])


def _opened(name: bytes) -> bytes:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    block = struct.pack(">II", 1, 10) + b"streamtype" + struct.pack(">I", len(name)) + name
    packed = deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return Framer.control(SYN_STREAM, struct.pack(">IIH", 1, 0, 0) + packed)


spdy = st.lists(
    st.sampled_from(
        [_opened(b"stdout"), _opened(b""), Framer.data(1, b"hello", last=True), Framer.control(PING, b"\0\0\0\1")]
    ).flatmap(damaged),
    max_size=3,
).map(b"".join)

TARGETS: Targets = {
    "protobuf": Target(_protobuf, objects, (ApiError,)),
    "spdy": Target(_spdy, spdy, (ValueError, zlib.error, struct.error)),
}
