"""Cursors of the API's lists are read back as they were written, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.timestamps import MAX_TIME
from collector.web.cursors import ChangeCursor, row_id

ids = st.integers(0, 10**18 - 1)


@given(number=ids, time=st.none() | st.floats(1.0, MAX_TIME))
def test_a_cursor_is_read_as_it_was_written(number: int, time: float | None) -> None:
    cursor = ChangeCursor(number, time)
    assert ChangeCursor.parse(str(cursor)) == cursor


def test_a_cursor_without_a_time_is_an_id() -> None:
    assert str(ChangeCursor(7, None)) == "7"
    assert str(ChangeCursor(7, 1764000000.5)) == "7-1764000000.5"


@pytest.mark.parametrize("text", ["", "-", "7-", "-1.0", "x", "7-x", "7 ", "\u0667", "1" * 19, "7-" + "1" * 16])
def test_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="or the id of a change"):
        ChangeCursor.parse(text)


def test_only_a_cursor_with_a_time_is_a_place_in_a_page_sorted_by_time() -> None:
    assert ChangeCursor(7, 5.0).moment == 5.0
    with pytest.raises(ValueError, match="next"):
        _ = ChangeCursor(7, None).moment


@given(ids)
def test_a_row_has_an_id_of_up_to_18_digits(number: int) -> None:
    assert row_id(str(number)) == number


@pytest.mark.parametrize("text", ["", "-7", "7.0", "x", "\u0667", "²", "1" * 19])
def test_other_text_is_no_id_of_a_row(text: str) -> None:
    with pytest.raises(ValueError, match="next"):
        row_id(text)
