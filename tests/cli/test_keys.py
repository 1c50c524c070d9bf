"""Single keys of a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.cli.keys import keys_in


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA", ["up"]),
        (b"\x1b[5~j\x1b[6~", ["page up", "j", "page down"]),
        (b"\x1b[1~\x1b[F", ["home", "end"]),
        (b"\x1b[99;5~q", ["q"]),  # an unknown key
        (b"\x1bq", ["q"]),
        (b"", []),
    ],
)
def test_terminal_input_is_decoded_into_keys(sent: bytes, keys: list[str]) -> None:
    assert keys_in(sent) == (keys, b"")


@given(
    sent=st.lists(st.sampled_from([b"q", b"j", b"\x1b[A", b"\x1b[6~", b"\x1bOB", b"\x1b[99;5~"])), cut=st.integers(0)
)
def test_a_sequence_may_come_in_two_parts(sent: list[bytes], cut: int) -> None:
    whole = b"".join(sent)
    at = cut % (len(whole) + 1)
    first, rest = keys_in(whole[:at])
    second, left = keys_in(rest + whole[at:])
    assert (first + second, left) == (keys_in(whole)[0], b"")


@given(sent=st.binary(max_size=60))
def test_any_input_is_accepted(sent: bytes) -> None:
    keys, rest = keys_in(sent)
    assert len(keys) <= len(sent)
    assert sent.endswith(rest)
    assert len(rest) <= 16
