"""Text from elsewhere on one line of an error, a log or a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.text import one_line


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("just so", "just so"),
        (" a\n\tb\r\nc ", "a b c"),
        ("a\x1b[31mred\x07", "a[31mred"),
        ("a \x00 b", "a b"),
        ("line\u2028break \u202eturned", "line break turned"),
        (None, ""),
        (7, "7"),
    ],
)
def test_whitespace_is_folded_and_unprintable_characters_are_dropped(value: object, shown: str) -> None:
    assert one_line(value) == shown


def test_what_is_longer_than_the_limit_is_cut() -> None:
    assert one_line("just so", 7) == "just so"
    assert one_line("just so!", 7) == "just s…"


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_any_text_fits_one_line_that_prints(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert one_line(line, limit) == line
