"""Cursor-based paging of lists in natural order while the fleet changes."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from collector.text import natural_key

__all__ = [
    "EXPECTED_NEXT",
    "MAX_CURSOR_LENGTH",
    "Cursor",
    "Listed",
    "Sort",
    "Value",
    "Window",
    "row_key",
]

EXPECTED_NEXT = "expected the `next` value of the previous page"
MAX_CURSOR_LENGTH = 4096  # characters
_SLACK = 1000  # rows beyond its limit at which a window is cut

Value = str | int | float | bool | None  # by which rows are sorted
_Key = tuple[Any, ...]
_T = TypeVar("_T")


class Sort(NamedTuple):
    """The order of a list; unknown values come last either way."""

    key: str  # a column; empty: by place
    descending: bool = False

    def __str__(self) -> str:
        """Return it in the form of the API's `sort`."""
        return f"-{self.key}" if self.descending else self.key


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: the sort value and identity of its last row."""

    sort: str
    value: Value
    row: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as opaque text."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Return the cursor that `str` wrote; raises ValueError."""
        try:
            if len(text) > MAX_CURSOR_LENGTH:
                raise ValueError
            found: Cursor = msgspec.json.decode(
                base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), type=cls
            )
        except (ValueError, binascii.Error, RecursionError):
            raise ValueError(EXPECTED_NEXT) from None
        if "\0" in "".join(found.row):  # which PostgreSQL does not allow in text
            raise ValueError(EXPECTED_NEXT)
        return found

    def named(self, count: int, sort: str) -> tuple[str, ...]:
        """Return the `count` names that identify the row; raises ValueError for another list's cursor."""
        if self.sort != sort or len(self.row) != count:
            raise ValueError("expected the `next` value of a page with the same `state`, `at` and `sort`")
        return self.row


class Listed(NamedTuple, Generic[_T]):
    """One page of a list."""

    rows: list[_T]
    next: Any  # where it ended, as a Cursor or other value with a string form; None on the last page
    total: int | None  # rows of all pages; None: not counted


class Window(Generic[_T]):
    """Collects the rows of one page from all rows added, ordered by `sort` and then by identity."""

    def __init__(self, sort: Sort, after: Cursor | None, limit: int) -> None:
        """Raise ValueError for a cursor of a list with a different order."""
        if after is not None and after.sort != str(sort):
            raise ValueError("expected the `next` value of a page with the same `sort`")
        self._sort, self._limit = sort, limit
        self._after = None if after is None else (*self._rank(after.value), row_key(after.row))
        self._found: list[tuple[_Key, Value, Sequence[str], _T]] = []
        self._bound: _Key | None = None  # anything after it is on a later page

    def add(self, value: Value, row: Sequence[str], make: Callable[[], _T]) -> None:
        """Consider a row: its sort value, its identity, and how to build it if it may be on the page."""
        rank = self._rank(value)
        if self._bound is not None and self._before(self._bound[:2], rank):
            return
        key = (*rank, row_key(row))
        if self._after is not None and not self._before(self._after, key):
            return
        if self._bound is not None and self._before(self._bound, key):
            return
        self._found.append((key, value, row, make()))
        if len(self._found) > 2 * self._limit + _SLACK:
            self._cut()

    @property
    def full(self) -> bool:
        """Whether there are more rows than fit; if rows are added in order, the rest is on later pages."""
        return len(self._found) > self._limit or self._bound is not None

    def page(self, total: int | None) -> Listed[_T]:
        """Return the page."""
        more = self._bound is not None
        self._cut()
        more = more or self._bound is not None
        cursor = None
        if more:
            _, value, row, _ = self._found[-1]
            cursor = Cursor(str(self._sort), value, tuple(row))
        return Listed([one for *_, one in self._found], cursor, total)

    def _cut(self) -> None:
        self._found.sort(key=lambda one: one[0], reverse=self._sort.descending)
        if len(self._found) > self._limit:
            del self._found[self._limit :]
            self._bound = self._found[-1][0]

    def _before(self, one: _Key, other: _Key) -> bool:
        return other < one if self._sort.descending else one < other

    def _rank(self, value: Value) -> _Key:
        if value is None:
            return (not self._sort.descending, ())
        return (self._sort.descending, (1, natural_key(value)) if isinstance(value, str) else (0, value))


def row_key(row: Sequence[str]) -> tuple[Any, ...]:
    """Return the sort key of a row's identity, part by part in natural order."""
    return tuple(map(natural_key, row))
