"""Tables on standard output: one full line a row that grep finds, with colours on a terminal."""

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from collector.text import one_line

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

__all__ = ["cut_table", "event_style", "output_console", "print_table", "result_style"]


Rows = Iterable[Sequence[object]]
Style = Callable[[str], str]  # a cell's text -> its style as rich names it

_PLAIN: Mapping[str, Style] = MappingProxyType({})
_GAP = 2  # blanks between two columns
_PAGE = 10_000  # rows that are fitted together, so that a large fleet's first lines come at once
_TERMINAL_PAGE = 200  # likewise on a terminal, where a person reads along


def print_table(columns: Sequence[str], rows: Rows, *, styles: Mapping[str, Style] = _PLAIN) -> int:
    """Print a heading and the rows, and return how many there were; absent values are shown as `-`.

    `styles` colours the cells of some columns on a terminal. Columns only ever widen from one page
    of rows to the next.
    """
    if sys.stdout.isatty():
        return _print_coloured(_heading(columns), _texts(rows), [styles.get(column, _plain) for column in columns])
    return _print_lines(_heading(columns), _texts(rows))


def cut_table(columns: Sequence[str], rows: Rows, *, styles: Mapping[str, Style] = _PLAIN) -> "Group":
    """Make the same table for a live view: a row is one line, whose end is cut off where the terminal ends."""
    from rich.console import Group

    heading, texts = _heading(columns), list(_texts(rows))
    widths = _widened(list(map(len, heading)), texts)
    chosen = [styles.get(column, _plain) for column in columns]
    return Group(_styled(heading, widths, [_bold] * len(columns)), *(_styled(row, widths, chosen) for row in texts))


def event_style(event: str) -> str:
    """Colour what happened to a GPU."""
    return {"appeared": "green", "moved": "yellow", "vanished": "red", "altered": "cyan"}.get(event, "")


def result_style(result: str) -> str:
    """Colour how something ended: ok, with or without more about it, or else what is wrong."""
    return "green" if result == "ok" or result.startswith("ok (") else "red"


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
    while (page := list(itertools.islice(rows, _TERMINAL_PAGE))) or not found:
        widths = _widened(widths, page)
        if not found:
            console.print(_styled(heading, widths, [_bold] * len(heading)), soft_wrap=True)
        for row in page:
            console.print(_styled(row, widths, styles), soft_wrap=True)
        found += len(page)
        if not page:
            break
    return found


def _styled(row: Sequence[str], widths: Sequence[int], styles: Sequence[Style]) -> "Text":
    from rich.text import Text

    line = Text(no_wrap=True, overflow="crop")
    for index, (text, width, style) in enumerate(zip(row, widths, styles, strict=True)):
        line.append(text, style(text))
        if index < len(row) - 1:
            line.append(" " * (width - len(text) + _GAP))
    return line


def _bold(_text: str) -> str:
    return "bold"


def _plain(_text: str) -> str:
    return ""


def _widened(widths: Sequence[int], rows: Iterable[Sequence[str]]) -> list[int]:
    return [max(column) for column in zip(widths, *(map(len, row) for row in rows), strict=True)]


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
