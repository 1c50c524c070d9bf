"""List formats: table and wide for people, json and csv for programs; sorting, limits, and ages of times."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import click
import msgspec

from collector.cli.console import encode_json
from collector.cli.table import Style, event_style, print_table, table_width
from collector.text import natural_key
from collector.views.columns import Column, Shown, columns, flat_columns
from collector.views.csv_files import csv_header, csv_lines, value_at

__all__ = [
    "ROW_STYLES",
    "Cells",
    "Layout",
    "Output",
    "Row",
    "Sort",
    "age",
    "cells_of",
    "layout_of",
    "print_rows",
    "sorted_rows",
    "taken",
]

_CSV_ROWS = 1000  # written together
# Up to how many seconds a unit is used, its length in seconds and its letter, as kubectl prints ages.
_AGE_UNITS = ((120, 1, "s"), (10_800, 60, "m"), (172_800, 3600, "h"), (63_072_000, 86_400, "d"))

Row = Mapping[str, Any]
Cells = Callable[[Row], Row]


class Layout(NamedTuple):
    """The columns of a list: for table, for wide, and all of them for json and csv."""

    table: tuple[str, ...]
    wide: tuple[str, ...]
    every: tuple[Column, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the columns by which rows can be sorted."""
        return tuple(column.name for column in self.every if column.kind not in ("list", "object"))

    @property
    def times(self) -> frozenset[str]:
        """The columns that a table shows as ages."""
        return frozenset(column.name for column in self.every if column.kind == "time")


def layout_of(row_type: type[msgspec.Struct], table: Sequence[str] = ()) -> Layout:
    """Return the columns of a row type; `table` replaces the type's own table columns."""
    shown = columns(row_type)
    chosen = tuple(table) or tuple(one.name for one in shown if one.shown is Shown.TABLE)
    more = (one.name for one in shown if one.shown is not Shown.REST and one.name not in chosen)
    return Layout(chosen, (*chosen, *more), flat_columns(row_type))


class Sort(NamedTuple):
    """The column by which rows are sorted."""

    key: str
    descending: bool

    def __str__(self) -> str:
        """Return it in the form of `--sort` and the API's `sort`."""
        return f"-{self.key}" if self.descending else self.key


class Output(NamedTuple):
    """The options of a list."""

    format: str = "table"
    headers: bool = True
    sort: Sort | None = None
    limit: int | None = None
    watch: float | None = None  # seconds between two queries; None: query once


def print_rows(
    layout: Layout,
    rows: Iterable[Row],
    output: Output,
    *,
    nothing: str,
    cells: Cells | None = None,
    styles: Mapping[str, Style] | None = None,
) -> int:
    """Print rows in the chosen format and return their number.

    Without rows, `nothing` is printed on standard error. `cells` returns the values that tables word differently, by
    column. Nothing is printed before the first row is known, so that a failure prints nothing.
    """
    chosen = taken(rows, output)
    first = list(itertools.islice(chosen, 1))
    if not first:
        click.echo(nothing, err=True)
    found = itertools.chain(first, chosen)
    if output.format == "json":
        return _print_json(found)
    if output.format == "csv":
        return _print_csv(layout, found, headers=output.headers)
    if not first:
        return 0
    wide = output.format == "wide"
    names = layout.wide if wide else layout.table
    return print_table(
        names,
        map(cells_of(layout, cells, wide=wide), found),
        styles={**ROW_STYLES, **(styles or {})},
        headers=output.headers,
        width=None if wide else table_width(),
    )


def sorted_rows(rows: Iterable[Row], sort: Sort | None) -> Iterable[Row]:
    """Return the rows sorted by a column: numbers by size, texts in natural order, unknown values last."""
    if sort is None:
        return rows
    known: list[Row] = []
    unknown: list[Row] = []
    for row in rows:
        (unknown if value_at(row, sort.key) in (None, "") else known).append(row)
    known.sort(key=lambda row: _sort_key(value_at(row, sort.key)), reverse=sort.descending)
    return known + unknown


def age(text: object, now: float) -> object:
    """Return an RFC 3339 time as an age such as "5m" or, in the future, "in 3d"; other values unchanged."""
    try:
        seconds = now - datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return text
    size, letter = next(((size, letter) for end, size, letter in _AGE_UNITS if abs(seconds) < end), (31_536_000, "y"))
    count = f"{int(abs(seconds) // size)}{letter}"
    return f"in {count}" if seconds <= -1 else count


def taken(rows: Iterable[Row], output: Output) -> Iterator[Row]:
    """Return the rows selected by the options, in their order."""
    return itertools.islice(sorted_rows(rows, output.sort), output.limit)


def _sort_key(value: object) -> tuple[int, object]:
    if isinstance(value, int | float):
        return 0, value
    text = value if isinstance(value, str) else encode_json(value)
    return 1, natural_key(text.casefold())


def cells_of(layout: Layout, cells: Cells | None, *, wide: bool) -> Callable[[Row], list[object]]:
    """Return a row's table cells: from `cells`, else ages for times, else the values."""
    names, now = layout.wide if wide else layout.table, time.time()
    times = frozenset() if wide else layout.times

    def line(row: Row) -> list[object]:
        told = cells(row) if cells is not None else {}
        return [
            told[name] if name in told else age(row.get(name), now) if name in times else _cell(value_at(row, name))
            for name in names
        ]

    return line


def _cell(value: object) -> object:
    """Return a value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ",".join(one if isinstance(one, str) else encode_json(one) for one in value)
    return value


def _print_json(rows: Iterable[Row]) -> int:
    """Print one array with one row per line: jq and grep can read it, and it need not fit into memory."""
    found = 0
    for found, row in enumerate(rows, 1):
        click.echo(("[\n" if found == 1 else ",\n") + encode_json(row), nl=False)
    click.echo("\n]" if found else "[]")
    return found


def _print_csv(layout: Layout, rows: Iterable[Row], *, headers: bool) -> int:
    if headers:
        click.echo(csv_header(layout.every), nl=False)
    rows, found = iter(rows), 0
    while part := list(itertools.islice(rows, _CSV_ROWS)):
        click.echo(csv_lines(part, layout.every), nl=False)
        found += len(part)
    return found


def _until_style(until: str) -> str:
    return "green" if until == "-" else "dim"  # current placements stand out


ROW_STYLES: Mapping[str, Style] = MappingProxyType({"event": event_style, "until": _until_style})
