"""Joins separately compressed blocks into one gzip member, without touching the bytes that they stand for.

Each block is raw deflate that ends on a byte boundary and refers to nothing outside itself, so that blocks can follow
each other in one deflate stream (RFC 1951, section 3.2.3). The member's checksum is combined from the blocks' own, as a
CRC-32 is a remainder of polynomials over GF(2). A stream of several gzip members (RFC 1952, section 2.2) would be
simpler, but many clients decode only the first one.
"""

import zlib
from collections.abc import Iterable
from functools import reduce
from itertools import accumulate, repeat
from typing import NamedTuple, Self

__all__ = ["EMPTY", "FOOTER_BYTES", "HEADER", "Checksum", "deflate", "footer"]

_POLYNOMIAL = 0xEDB88320  # CRC-32's, its bits reversed: the highest bit is x^0
_ONE = 0x80000000

# Magic, deflate, no flags, no time, no extra flags, unknown operating system (RFC 1952, section 2.3).
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_FINAL_BLOCK = b"\x03\x00"  # an empty last block with fixed Huffman codes
FOOTER_BYTES = len(_FINAL_BLOCK) + 8


class Checksum(NamedTuple):
    """What is needed of some bytes in order to join them with others."""

    crc: int  # CRC-32 of the bytes
    length: int  # how many bytes
    shift: int  # x^(8·length) modulo CRC-32's polynomial: what following by `length` bytes does to a CRC

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Take the checksum of bytes."""
        return cls(zlib.crc32(data), len(data), _power(len(data)))

    @classmethod
    def joined(cls, checksums: Iterable["Checksum"]) -> "Checksum":
        """Take the checksum of bytes that stand one after the other."""
        return reduce(_join, checksums, EMPTY)


def deflate(data: bytes, level: int = 6) -> bytes:
    """Compress bytes into a block that can stand anywhere in a stream of such blocks."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def footer(checksum: Checksum) -> bytes:
    """End a gzip member whose uncompressed bytes have this checksum."""
    return _FINAL_BLOCK + checksum.crc.to_bytes(4, "little") + (checksum.length & 0xFFFFFFFF).to_bytes(4, "little")


def _join(first: Checksum, second: Checksum) -> Checksum:
    return Checksum(
        _multiply(second.shift, first.crc) ^ second.crc,
        first.length + second.length,
        _multiply(second.shift, first.shift),
    )


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials over GF(2) modulo CRC-32's."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


def _power(length: int) -> int:
    """Raise x^8 to a power modulo CRC-32's polynomial."""
    result = _ONE
    for powers in _POWERS:
        if not length:
            break
        if digit := length & 15:
            result = _multiply(powers[digit], result)
        length >>= 4
    return result


def _powers() -> Iterable[tuple[int, ...]]:
    base = _ONE >> 8  # x^8
    for _ in range(16):
        row = tuple(accumulate(repeat(base, 16), _multiply, initial=_ONE))
        yield row[:16]
        base = row[16]


_POWERS = tuple(_powers())  # x^(8·digit·16^place) modulo the polynomial, by place and digit

EMPTY = Checksum(0, 0, _ONE)
