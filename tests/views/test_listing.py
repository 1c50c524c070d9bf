"""Lists in natural order, page by page."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.text import natural_key
from collector.views.listing import Cursor, Sort, Value, Window

names = st.text("ab019-٣é", max_size=6)
values = st.none() | st.integers(-5, 5) | names | st.floats(allow_nan=False, allow_infinity=False, width=16)


def test_numbers_are_counted() -> None:
    found = ["sim-10", "sim-2", "sim", "10", "9", "a01", "a1", "sim-2b", ""]
    assert sorted(found, key=natural_key) == ["", "9", "10", "a01", "a1", "sim", "sim-2", "sim-2b", "sim-10"]


@given(one=names, other=names)
def test_only_equal_texts_are_equal(one: str, other: str) -> None:
    assert (natural_key(one) == natural_key(other)) == (one == other)


@given(
    rows=st.dictionaries(st.tuples(names, names), values, max_size=30),
    sort=st.sampled_from([Sort("x"), Sort("x", descending=True)]),
    limit=st.integers(1, 7),
    removed=st.sets(st.integers(0, 29)),
)
def test_pages_are_complete_and_ordered_despite_deletions(
    rows: dict[tuple[str, str], Value], sort: Sort, limit: int, removed: set[int]
) -> None:
    left = [row for index, row in enumerate(rows) if index not in removed]
    seen: list[tuple[str, str]] = []
    after: Cursor | None = None
    while True:
        window: Window[tuple[str, str]] = Window(sort, after, limit)
        for row, value in rows.items():
            if row in left or not seen:  # the others leave after the first page
                window.add(value, row, lambda row=row: row)  # type: ignore[misc]
        page = window.page(None)
        assert len(page.rows) <= limit
        seen += page.rows
        if page.next is None:
            break
        after = Cursor.parse(str(page.next))
    assert len(set(seen)) == len(seen)
    assert set(left) <= set(seen)
    known = [rows[row] for row in seen if rows[row] is not None]
    assert [rows[row] for row in seen][: len(known)] == known, "what is unknown comes last"
    numbers = [value for value in known if isinstance(value, int | float)]
    assert numbers == sorted(numbers, reverse=sort.descending)


@given(text=st.text(max_size=40) | st.binary(max_size=40).map(lambda some: some.hex()))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    found: Cursor | None = None
    with contextlib.suppress(ValueError):
        found = Cursor.parse(text)
    assert found is None or Cursor.parse(str(found)) == found


def test_an_invalid_cursor_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the `next` value of the previous page"):
        Cursor.parse("é")


def test_a_cursor_of_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="with the same `sort`"):
        Window(Sort("node"), Cursor("-node", "n1", ("a", "b")), 10)
