"""Tables on standard output: each row is one whole line that grep finds, in colour on a terminal."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from collector.cli.console import encode_json, output_console
from collector.text import one_line

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["Style", "cut_table", "event_style", "print_rows", "print_table", "result_style"]

_COLUMN_GAP = 2  # blanks between two columns
_PAGE_ROWS = 10_000  # rows that are aligned together, so that the first lines of a large fleet appear immediately
_TERMINAL_PAGE_ROWS = 200  # likewise on a terminal, where a person reads along

Rows = Iterable[Sequence[object]]
Style = Callable[[str], str]  # a cell's text -> its style as rich names it

_EVENT_STYLES = {
    "appeared": "green",
    "moved": "yellow",
    "vanished": "red",
    "altered": "cyan",
    "health": "magenta",
}

_PLAIN: Mapping[str, Style] = MappingProxyType({})


def print_table(columns: Sequence[str], rows: Rows, *, styles: Mapping[str, Style] = _PLAIN) -> int:
    """Print a heading and the rows, and return the number of rows; absent values are printed as `-`.

    `styles` colours the cells of some columns on a terminal. From one page of rows to the next, columns only widen.
    """
    if sys.stdout.isatty():
        return _print_coloured(_heading(columns), _texts(rows), [styles.get(column, _plain) for column in columns])
    return _print_lines(_heading(columns), _texts(rows))


def cut_table(columns: Sequence[str], rows: Rows, *, styles: Mapping[str, Style] = _PLAIN) -> "Group":
    """Return the same table for a live view, each row cut off at the right edge of the terminal."""
    from rich.console import Group

    heading, texts = _heading(columns), list(_texts(rows))
    widths = _widened(list(map(len, heading)), texts)
    chosen = [styles.get(column, _plain) for column in columns]
    return Group(_styled(heading, widths, [_bold] * len(columns)), *(_styled(row, widths, chosen) for row in texts))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, nothing: str) -> None:
    """Print rows as a table or, one per line, as a JSON array; without rows, print `nothing` on stderr."""
    if as_json:
        body = ",\n".join(map(encode_json, rows))
        click.echo(f"[\n{body}\n]" if rows else "[]")
    if not rows:
        click.echo(nothing, err=True)
    elif not as_json:
        print_table(columns, ([row.get(column) for column in columns] for row in rows), styles=_ROW_STYLES)


def event_style(event: str) -> str:
    """Return the style of an event's name."""
    return _EVENT_STYLES.get(event, "")


def result_style(result: str) -> str:
    """Return the style of a result: "ok", with or without a summary, or a problem."""
    return "green" if result == "ok" or result.startswith("ok (") else "red"


def _until_style(until: str) -> str:
    return "green" if until == "-" else "dim"  # what is still there stands out


_ROW_STYLES: Mapping[str, Style] = MappingProxyType({"event": event_style, "until": _until_style})


def _heading(columns: Sequence[str]) -> list[str]:
    return [column.removesuffix("_version").upper() for column in columns]


def _texts(rows: Rows) -> Iterator[list[str]]:
    return ([one_line(value) or "-" for value in row] for row in rows)


def _print_lines(heading: list[str], rows: Iterator[list[str]]) -> int:
    widths = list(map(len, heading))
    found = 0
    while page := list(itertools.islice(rows, _PAGE_ROWS)):
        widths = _widened(widths, page)
        lines = page if found else [heading, *page]
        click.echo("\n".join(_line(line, widths) for line in lines))
        found += len(page)
    if not found:
        click.echo(_line(heading, widths))
    return found


def _print_coloured(heading: list[str], rows: Iterator[list[str]], styles: Sequence[Style]) -> int:
    """Print for a terminal, which wraps long lines itself, so that a UUID can be copied in one piece."""
    console = output_console()
    widths = list(map(len, heading))
    found = 0
    while (page := list(itertools.islice(rows, _TERMINAL_PAGE_ROWS))) or not found:
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
            line.append(" " * (width - len(text) + _COLUMN_GAP))
    return line


def _bold(_text: str) -> str:
    return "bold"


def _plain(_text: str) -> str:
    return ""


def _widened(widths: Sequence[int], rows: Iterable[Sequence[str]]) -> list[int]:
    return [max(column) for column in zip(widths, *(map(len, row) for row in rows), strict=True)]


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * _COLUMN_GAP).join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
