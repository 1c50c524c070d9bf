"""Tables for people: one greppable line per row, coloured on a terminal and never wider than it."""

import bisect
import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from collector.cli.console import output_console
from collector.text import one_line

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = [
    "Style",
    "cell_width",
    "cut_middle",
    "cut_table",
    "event_style",
    "print_table",
    "result_style",
    "table_width",
]

TABLE_WIDTH = 80  # cells of a table that is not on a terminal
MIN_TEXT_WIDTH = 30  # cells of a sentence on a very narrow terminal
_COLUMN_GAP = 2  # blanks between two columns
_MIN_CUT_WIDTH = 8  # fewest cells of a cut column
_PAGE_ROWS = 10_000  # rows aligned together, so that the first lines of a large fleet appear immediately
_TERMINAL_PAGE_ROWS = 200  # likewise, on a terminal
_CUT = "…"

Rows = Iterable[Sequence[object]]
Style = Callable[[str], str]  # cell text -> rich style

_EVENT_STYLES = {
    "appeared": "green",
    "moved": "yellow",
    "replaced": "yellow",
    "first seen": "green",
    "vanished": "red",
    "altered": "cyan",
    "health": "magenta",
}
_UNCUT: Mapping[str, int] = MappingProxyType(  # columns to search and copy from: never cut below this many cells
    {"serial": 24, "state": 24, "uuid": 64, "id": 64, "gpu": 64, "next": 64}
)

_PLAIN: Mapping[str, Style] = MappingProxyType({})


def print_table(
    columns: Sequence[str],
    rows: Rows,
    *,
    styles: Mapping[str, Style] = _PLAIN,
    headers: bool = True,
    width: int | None = None,
) -> int:
    """Print a header and the rows, and return the number of rows; absent values are printed as `-`.

    `styles` colours cells of some columns on a terminal. With `width`, the widest columns are cut in the middle
    until each line fits. From one page of rows to the next, columns only get wider.
    """
    terminal = sys.stdout.isatty()
    console = output_console() if terminal else None
    layout = _Widths(columns, width)
    heading, texts = _heading(columns), _texts(rows)
    chosen = [styles.get(column, _plain) for column in columns]
    found = 0
    while (page := list(itertools.islice(texts, _TERMINAL_PAGE_ROWS if terminal else _PAGE_ROWS))) or not found:
        widths = layout.widened(page)
        first = headers and not found
        if console is None:
            lines = [heading, *page] if first else page
            if lines:
                click.echo("\n".join(_line(line, widths) for line in lines))
        else:  # which wraps long lines itself, so that UUIDs can be copied in one piece
            if first:
                console.print(_styled(heading, widths, [_bold] * len(heading)), soft_wrap=True)
            for row in page:
                console.print(_styled(row, widths, chosen), soft_wrap=True)
        found += len(page)
        if not page:
            break
    return found


def cut_table(
    columns: Sequence[str],
    rows: Rows,
    *,
    styles: Mapping[str, Style] = _PLAIN,
    headers: bool = True,
    width: int | None = None,
) -> "Group":
    """Return the same table for a live view, with rows cut off at the terminal's right edge."""
    from rich.console import Group

    texts = list(_texts(rows))
    widths = _Widths(columns, table_width() if width is None else width).widened(texts)
    chosen = [styles.get(column, _plain) for column in columns]
    head = [_styled(_heading(columns), widths, [_bold] * len(columns))] if headers else []
    return Group(*head, *(_styled(row, widths, chosen) for row in texts))


def table_width() -> int:
    """Return the width of a table in cells: that of the terminal, or 80 without one."""
    return shutil.get_terminal_size((TABLE_WIDTH, 24)).columns


def wrapped(text: str, margin: int = 0, *, cut: bool = False) -> str:
    """Return a sentence wrapped to the width of tables, less a margin in cells.

    Words are never broken, so that names can be copied; with `cut`, a word longer than a line loses its middle.
    """
    width, lines = max(MIN_TEXT_WIDTH, table_width() - margin), [""]
    for word in (cut_middle(word, width) if cut else word for word in text.split()):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_width(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def cell_width(text: str) -> int:
    """Return the width of a text in terminal cells."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # here, because most tables are printed faster without it

    return cell_len(text)


def cut_middle(text: str, width: int) -> str:
    """Return a text of at most `width` cells; a longer one has an ellipsis in the middle."""
    if cell_width(text) <= width:
        return text
    if width <= 1:
        return _CUT[:width]
    head, tail = width // 2, (width - 1) // 2
    if text.isascii():
        return text[:head] + _CUT + text[len(text) - tail :]
    positions = range(len(text) + 1)
    end = bisect.bisect_right(positions, head, key=lambda end: cell_width(text[:end])) - 1
    start = bisect.bisect_left(positions, -tail, key=lambda start: -cell_width(text[start:]))
    return text[:end] + _CUT + text[start:]


def event_style(event: str) -> str:
    """Return the style of an event's name."""
    return _EVENT_STYLES.get(event, "")


def result_style(result: str) -> str:
    """Return the style of a result: "ok", with or without a summary, or a problem."""
    return "green" if result == "ok" or result.startswith("ok (") else "red"


class _Widths:
    """The column widths of a table, page by page."""

    def __init__(self, columns: Sequence[str], width: int | None) -> None:
        self._least = [cell_width(text) for text in _heading(columns)]
        self._widest = list(self._least)
        self._uncut = {index: _UNCUT[column] for index, column in enumerate(columns) if column in _UNCUT}
        self._copied = not {"id", "uuid", "gpu"}.isdisjoint(
            columns
        )  # to fit these, other columns shrink to their headers
        self._room = None if width is None else width - _COLUMN_GAP * (len(columns) - 1)

    def widened(self, rows: Iterable[Sequence[str]]) -> list[int]:
        """Return widths that align and fit these rows and earlier ones."""
        cells = (map(cell_width, row) for row in rows)
        self._widest = [max(column) for column in zip(self._widest, *cells, strict=True)]
        if self._room is None or sum(self._widest) <= self._room:
            return self._widest
        others = set(range(len(self._widest))) - self._uncut.keys()
        low = 1 if self._copied else _MIN_CUT_WIDTH
        widths = self._capped(others, self._widest, low)
        if sum(widths) <= self._room:
            return widths
        long = {index for index, limit in self._uncut.items() if widths[index] > limit}
        return self._capped(others, self._capped(long, self._widest, _MIN_CUT_WIDTH), low)

    def _capped(self, cut: set[int], widths: list[int], low: int) -> list[int]:
        """Return the widths with some columns capped at one width, the greatest that fits."""
        assert self._room is not None  # noqa: S101
        high = max((widths[index] for index in cut), default=0)

        def capped(cap: int) -> list[int]:
            return [
                min(width, max(cap, self._least[index])) if index in cut else width
                for index, width in enumerate(widths)
            ]

        while low < high:  # the greatest cap that fits
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sum(capped(middle)) <= self._room else (low, middle - 1)
        return capped(low)


def _heading(columns: Sequence[str]) -> list[str]:
    return [column.upper() for column in columns]


def _texts(rows: Rows) -> Iterator[list[str]]:
    return ([one_line(value) or "-" for value in row] for row in rows)


def _styled(row: Sequence[str], widths: Sequence[int], styles: Sequence[Style]) -> "Text":
    from rich.text import Text

    line = Text(no_wrap=True, overflow="crop")
    for index, (text, width, style) in enumerate(zip(row, widths, styles, strict=True)):
        cell = cut_middle(text, width)
        line.append(cell, style(text))
        if index < len(row) - 1:
            line.append(" " * (width - cell_width(cell) + _COLUMN_GAP))
    return line


def _bold(_text: str) -> str:
    return "bold"


def _plain(_text: str) -> str:
    return ""


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    cells = (_padded(cut_middle(text, width), width) for text, width in zip(texts, widths, strict=True))
    return (" " * _COLUMN_GAP).join(cells).rstrip()


def _padded(text: str, width: int) -> str:
    return text.ljust(width) if text.isascii() else text + " " * (width - cell_width(text))
