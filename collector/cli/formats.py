"""The formats of a list: table and wide for people, json and csv for programs; sorted, limited, and ages of times."""

import csv
import itertools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import click

from collector.cli.console import encode_json
from collector.cli.table import Style, event_style, print_table, table_width
from collector.text import csv_text

__all__ = [
    "ROW_STYLES",
    "Cells",
    "Layout",
    "Output",
    "Row",
    "Sort",
    "age",
    "csv_cell",
    "print_rows",
    "row_cells",
    "sorted_rows",
    "taken",
]

_DIGITS = re.compile(r"(\d{1,18})", re.ASCII)
# Seconds up to which a unit is used, its seconds and its letter: as kubectl prints ages.
_AGE_UNITS = ((120, 1, "s"), (10_800, 60, "m"), (172_800, 3600, "h"), (63_072_000, 86_400, "d"))

Row = Mapping[str, Any]
Cells = Callable[[Row], Row]


class Layout(NamedTuple):
    """The columns of a list: those of a table, those of a wide table, and all of them, which json and csv have."""

    table: tuple[str, ...]
    wide: tuple[str, ...]
    every: tuple[str, ...]
    times: frozenset[str] = frozenset()  # of these, a table shows how long ago they were


class Sort(NamedTuple):
    """By which column rows are sorted."""

    key: str
    descending: bool

    def __str__(self) -> str:
        """Return it as `--sort` and the API's `sort` take it."""
        return f"-{self.key}" if self.descending else self.key


class Output(NamedTuple):
    """What the options of a list say."""

    format: str = "table"
    headers: bool = True
    sort: Sort | None = None
    limit: int | None = None
    watch: float | None = None  # seconds between two looks; None: look once


def print_rows(
    layout: Layout,
    rows: Iterable[Row],
    output: Output,
    *,
    nothing: str,
    cells: Cells | None = None,
    styles: Mapping[str, Style] | None = None,
    in_order: bool = False,
) -> int:
    """Print rows in the format that was chosen, and return how many.

    Without rows, `nothing` is printed on standard error. `cells` returns what tables say in other words, by column;
    `in_order` says that the rows are sorted as the options ask already. Nothing is printed before the first row is
    known, so that a failure prints nothing.
    """
    chosen = taken(rows, output, in_order=in_order)
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
    columns = layout.wide if wide else layout.table
    return print_table(
        columns,
        (row_cells(row, columns, layout, cells, wide=wide) for row in found),
        styles={**ROW_STYLES, **(styles or {})},
        headers=output.headers,
        width=None if wide else table_width(),
    )


def sorted_rows(rows: Iterable[Row], sort: Sort | None) -> Iterable[Row]:
    """Return the rows sorted by a column: numbers by size, texts in natural order, what is unknown last."""
    if sort is None:
        return rows
    known: list[Row] = []
    unknown: list[Row] = []
    for row in rows:
        (unknown if row.get(sort.key) in (None, "") else known).append(row)
    known.sort(key=lambda row: _sort_key(row[sort.key]), reverse=sort.descending)
    return known + unknown


def age(text: object, now: float) -> object:
    """Return how long ago a time in RFC 3339 was, such as "5m" or, ahead of now, "in 3d"; all else as it is."""
    try:
        seconds = now - datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return text
    size, letter = next(((size, letter) for end, size, letter in _AGE_UNITS if abs(seconds) < end), (31_536_000, "y"))
    count = f"{int(abs(seconds) // size)}{letter}"
    return f"in {count}" if seconds <= -1 else count


def csv_cell(value: object) -> object:
    """Return a value as a CSV file has it: texts that no spreadsheet obeys, lists joined by commas, objects as JSON."""
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return csv_text(",".join(value))
    if isinstance(value, Mapping | list | tuple):
        return csv_text(encode_json(value))
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return csv_text(str(value).lower() if isinstance(value, bool) else str(value))


def taken(rows: Iterable[Row], output: Output, *, in_order: bool = False) -> Iterator[Row]:
    """Return the rows that the options ask for, in their order; `in_order` says that they are sorted already."""
    return itertools.islice(rows if in_order else sorted_rows(rows, output.sort), output.limit)


def _sort_key(value: object) -> tuple[int, object]:
    if isinstance(value, int | float):
        return 0, value
    text = value if isinstance(value, str) else encode_json(value)
    parts = _DIGITS.split(text.casefold())
    return 1, [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def row_cells(row: Row, columns: Sequence[str], layout: Layout, cells: Cells | None, *, wide: bool) -> list[object]:
    """Return what a table has in a row: what `cells` says, else ages of times, else the values themselves."""
    now = time.time()
    told = cells(row) if cells is not None else {}
    return [
        told[column]
        if column in told
        else age(row.get(column), now)
        if column in layout.times and not wide
        else _cell(row.get(column))
        for column in columns
    ]


def _cell(value: object) -> object:
    """Return a value as a table has it."""
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
    table = csv.DictWriter(sys.stdout, layout.every, extrasaction="ignore", lineterminator="\n")
    if headers:
        table.writeheader()
    found = 0
    for row in rows:
        table.writerow({name: csv_cell(row.get(name)) for name in layout.every})
        found += 1
    return found


def _until_style(until: str) -> str:
    return "green" if until == "-" else "dim"  # what is still there stands out


ROW_STYLES: Mapping[str, Style] = MappingProxyType({"event": event_style, "until": _until_style})
