"""Tables on standard output: one full line a row that grep finds, with colours on a terminal."""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from collector.text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["EVENT_STYLES", "fitted", "output_console", "print_table"]

EVENT_STYLES = {"appeared": "green", "moved": "yellow", "vanished": "red", "altered": "cyan"}

Rows = Iterable[Sequence[object]]
Style = Mapping[str, str]

_PLAIN: Mapping[str, Style] = MappingProxyType({})
_GAP = 2  # blanks between two columns
_PAGE = 10_000  # rows that are fitted together, so that a large fleet's first lines come at once
_TERMINAL_PAGE = 200  # likewise on a terminal, where a person reads along


def print_table(columns: Sequence[str], rows: Rows, *, styles: Mapping[str, Style] = _PLAIN) -> int:
    """Print a heading and the rows, and return how many there were; absent values are shown as `-`.

    `styles` colours cells on a terminal: column -> text -> style as rich names it; the text "" stands for any other.
    Columns only ever widen from one page of rows to the next.
    """
    if sys.stdout.isatty():
        return _print_coloured(_heading(columns), _texts(rows), [styles.get(column, {}) for column in columns])
    return _print_lines(_heading(columns), _texts(rows))


def fitted(columns: Sequence[str], rows: Rows, *, styles: Mapping[str, Style] = _PLAIN) -> "Table":
    """Make the same table for a terminal, to be part of something else there."""
    return _table(
        _heading(columns), _texts(rows), [styles.get(column, {}) for column in columns], [0] * len(columns), shown=True
    )


def output_console() -> "Console":
    """Make the console of standard output; NO_COLOR takes all styles from it."""
    from rich.console import Console

    return Console(color_system=None if os.environ.get("NO_COLOR") else "auto", highlight=False)


def _heading(columns: Sequence[str]) -> list[str]:
    return [column.removesuffix("_version").upper() for column in columns]


def _texts(rows: Rows) -> Iterator[list[str]]:
    return ([one_line(value) or "-" for value in row] for row in rows)


def _print_lines(heading: list[str], rows: Iterator[list[str]]) -> int:
    widths = list(map(len, heading))
    found = 0
    while page := list(itertools.islice(rows, _PAGE)):
        widths = _widened(widths, page)
        lines = page if found else [heading, *page]
        click.echo("\n".join(_line(line, widths) for line in lines))
        found += len(page)
    if not found:
        click.echo(_line(heading, widths))
    return found


def _print_coloured(heading: list[str], rows: Iterator[list[str]], styles: Sequence[Style]) -> int:
    """Print for a person; what is wider than the terminal is left to it, so that a UUID can be copied in one piece."""
    console = output_console()
    widths = list(map(len, heading))
    found = 0
    while page := list(itertools.islice(rows, _TERMINAL_PAGE)):
        widths = _widened(widths, page)
        table = _table(heading, page, styles, widths, shown=not found)
        console.print(table, width=sum(widths) + _GAP * len(widths), crop=False)
        found += len(page)
    if not found:
        console.print(_table(heading, [], styles, widths, shown=True), crop=False)
    return found


def _table(
    heading: Sequence[str],
    rows: Iterable[Sequence[str]],
    styles: Sequence[Style],
    widths: Sequence[int],
    *,
    shown: bool,
) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=shown, header_style="bold")
    for text, width in zip(heading, widths, strict=True):
        table.add_column(text, overflow="fold", min_width=width)
    for row in rows:
        cells = zip(row, styles, strict=True)
        table.add_row(*(Text(text, style.get(text, style.get("", ""))) for text, style in cells))
    return table


def _widened(widths: Sequence[int], rows: Iterable[Sequence[str]]) -> list[int]:
    return [max(map(len, column), default=0) for column in zip(*rows, ["x" * width for width in widths], strict=True)]


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
