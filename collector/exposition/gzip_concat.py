"""Concatenates separately compressed blocks into one gzip member without decompressing them.

Each block is raw deflate that ends on a byte boundary and refers to nothing outside itself, so blocks can follow each
other in one deflate stream (RFC 1951, section 3.2.3). The member's checksum is computed from those of the blocks, since
a CRC-32 is a remainder of polynomials over GF(2). A stream of several gzip members (RFC 1952, section 2.2) would be
simpler, but many clients decode only the first member.
"""

import functools
import zlib
from collections.abc import Iterable
from itertools import accumulate, repeat
from typing import NamedTuple, Self

__all__ = ["EMPTY", "FOOTER_BYTES", "HEADER", "Checksum", "deflate", "footer"]

_POLYNOMIAL = 0xEDB88320  # of CRC-32, with its bits reversed: the highest bit is x^0
_ONE = 0x80000000  # x^0

# Magic number, deflate, no flags, no time, no extra flags, unknown operating system (RFC 1952, section 2.3).
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_FINAL_BLOCK = b"\x03\x00"  # an empty last block with fixed Huffman codes
FOOTER_BYTES = len(_FINAL_BLOCK) + 8


class Checksum(NamedTuple):
    """What is needed to concatenate some bytes with others."""

    crc: int  # CRC-32 of the bytes
    length: int  # in bytes
    shift: int  # x^(8·length) modulo the polynomial: what appending `length` bytes does to a CRC

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the checksum of some bytes."""
        return cls(zlib.crc32(data), len(data), _power(len(data)))

    @classmethod
    def concat(cls, checksums: Iterable["Checksum"]) -> "Checksum":
        """Return the checksum of the concatenated bytes."""
        crc = length = 0
        for one in checksums:
            crc = _multiply(one.shift, crc) ^ one.crc
            length += one.length
        return Checksum(crc, length, _power(length))


def deflate(data: bytes) -> bytes:
    """Return bytes as a block that can appear anywhere in a stream of such blocks.

    Most of a fleet's text is long repetitions with random digits between them. For these, zlib's strategy for filtered
    data takes a fifth less time than its defaults and leaves a tenth less, since it does not repeat a few digits.
    """
    compressor = zlib.compressobj(4, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def footer(checksum: Checksum) -> bytes:
    """Return the end of a gzip member whose uncompressed bytes have this checksum."""
    return _FINAL_BLOCK + checksum.crc.to_bytes(4, "little") + (checksum.length & 0xFFFFFFFF).to_bytes(4, "little")


def _multiply(a: int, b: int) -> int:
    """Return the product of two polynomials over GF(2), modulo that of CRC-32."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


@functools.lru_cache(maxsize=4096)  # many texts of a fleet have the same length
def _power(length: int) -> int:
    """Return x^(8·length) modulo the polynomial of CRC-32."""
    result = _ONE
    for powers in _POWERS:
        if not length:
            break
        if digit := length & 15:
            result = powers[digit] if result == _ONE else _multiply(powers[digit], result)
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
