"""Rows as CSV, with the same cell format for the API, the page and the command line."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from collector.text import csv_text, printable_json
from collector.views.columns import Column

__all__ = ["csv_cell", "csv_header", "csv_lines", "value_at", "values_of"]


def csv_header(columns: Sequence[Column]) -> str:
    """Return the first line of a CSV file."""
    return _lines([[column.name for column in columns]])


def csv_lines(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """Return the lines of rows given as decoded JSON."""
    return _lines([csv_cell(value) for value in values_of(row, columns)] for row in rows)


def csv_cell(value: object) -> str:
    """Return a value as a cell: lists of names separated by commas, other lists and objects as JSON, null as empty.

    Unprintable characters are dropped, and text that a spreadsheet would treat as a formula starts with an apostrophe.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return csv_text(",".join(value))
    if not isinstance(value, str):
        value = printable_json(msgspec.json.encode(value)).decode()
    return csv_text(value)


def values_of(row: Mapping[str, Any], columns: Sequence[Column]) -> list[Any]:
    """Return the values of some columns, nested ones by their paths; null if a row lacks one."""
    return [value_at(row, column.name) for column in columns]


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """Return one value, nested ones by path."""
    name, dot, rest = path.partition(".")
    value = row.get(name)
    if not dot:
        return value
    return value_at(value, rest) if isinstance(value, Mapping) else None


def _lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
