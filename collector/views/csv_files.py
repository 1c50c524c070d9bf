"""Rows as CSV: one place that decides what a cell looks like, for the API, the page and the command line."""

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
    """Return the lines of some rows, which are as decoded JSON has them."""
    return _lines([csv_cell(value) for value in values_of(row, columns)] for row in rows)


def csv_cell(value: object) -> str:
    """Return a value as a cell: a list of names joined by commas, any other list and an object as JSON, null as empty.

    What does not print is dropped, and a text that a spreadsheet would take for a formula begins with an apostrophe.
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
    """Return the values of some columns, those of objects by their paths; null for what a row does not have."""
    return [value_at(row, column.name) for column in columns]


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """Return one value; of an object in it, by its path."""
    name, dot, rest = path.partition(".")
    value = row.get(name)
    if not dot:
        return value
    return value_at(value, rest) if isinstance(value, Mapping) else None


def _lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
