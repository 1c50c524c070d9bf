"""Blocks compressed apart are one gzip member together."""

import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st

from collector.exposition.gzip_concat import EMPTY, FOOTER_BYTES, HEADER, Checksum, deflate, footer

blocks = st.lists(st.binary(max_size=300) | st.integers(0, 70_000).map(lambda length: b"gpu" * length), max_size=8)


def joined(parts: list[bytes]) -> bytes:
    checksum = Checksum.concat(Checksum.of(part) for part in parts)
    return HEADER + b"".join(deflate(part) for part in parts) + footer(checksum)


@given(blocks)
def test_the_result_decodes_to_the_concatenated_blocks(parts: list[bytes]) -> None:
    assert gzip.decompress(joined(parts)) == b"".join(parts)


@given(blocks)
def test_the_result_is_a_single_gzip_member(parts: list[bytes]) -> None:
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert decoder.decompress(joined(parts)) == b"".join(parts)
    assert decoder.eof
    assert decoder.unused_data == b""


@given(blocks)
def test_the_checksum_of_joined_blocks_is_that_of_their_bytes(parts: list[bytes]) -> None:
    assert Checksum.concat(map(Checksum.of, parts)) == Checksum.of(b"".join(parts))


@given(st.binary(), st.binary(), st.binary())
def test_joining_is_associative(a: bytes, b: bytes, c: bytes) -> None:
    first, second, third = map(Checksum.of, (a, b, c))
    assert Checksum.concat([Checksum.concat([first, second]), third]) == Checksum.concat(
        [first, Checksum.concat([second, third])]
    )


def test_no_blocks_give_an_empty_member() -> None:
    assert gzip.decompress(HEADER + footer(EMPTY)) == b""
    assert len(footer(EMPTY)) == FOOTER_BYTES
    assert Checksum.concat([]) == EMPTY == Checksum.of(b"")
