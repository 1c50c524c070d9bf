"""Encodes records as JSON, JSON Lines, CSV and Parquet."""

import gzip as gzip_module
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import IO, Any, Self

import msgspec

from collector.model import SinkRecord
from collector.sinks.errors import Reason, RejectedError, UnavailableError
from collector.text import csv_text, printable_json

__all__ = [
    "COLUMNS",
    "FIELDS",
    "GO_GPUID_COLUMNS",
    "ParquetFile",
    "csv",
    "gzip",
    "json_array",
    "json_lines",
    "parquet",
    "parse_time",
]

FIELDS: tuple[str, ...] = SinkRecord.__struct_fields__
# Without fields for which files of older versions have no columns; two of them are objects.
COLUMNS: tuple[str, ...] = tuple(field for field in FIELDS if field not in ("changes", "last_known", "mark"))
GO_GPUID_COLUMNS: tuple[str, ...] = COLUMNS[:7]  # those of the Go program, in its order

_encode = msgspec.json.Encoder().encode
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_NEEDS_QUOTES = re.compile(r'[,"]|^ | \Z')


def json_array(records: Sequence[SinkRecord]) -> bytes:
    """Return a JSON array of objects, with unprintable characters escaped."""
    return printable_json(_encode(records))


def json_lines(records: Sequence[msgspec.Struct]) -> bytes:
    """Return one JSON object per line, with unprintable characters escaped."""
    return printable_json(b"".join(_encode(record) + b"\n" for record in records))


def csv(records: Sequence[msgspec.Struct], *, columns: Sequence[str] = COLUMNS, header: bool = False) -> bytes:
    """Return RFC 4180 CSV in UTF-8 with bare line feeds, as consumers of the Go program's files expect.

    Unprintable characters are dropped, and text that a spreadsheet would treat as a formula starts with an apostrophe;
    real names, serials and models contain neither.
    """
    rows = [columns] if header else []
    rows.extend([getattr(record, column) for column in columns] for record in records)
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows).encode()


def parquet(records: Sequence[SinkRecord]) -> bytes:
    """Return a Parquet file; raises UnavailableError without pyarrow.

    `time` is a UTC timestamp and everything else text; objects are JSON text or null.
    """
    body = io.BytesIO()
    with ParquetFile(body) as file:
        file.write(records)
    return body.getvalue()


class ParquetFile:
    """Writes a Parquet file piece by piece; raises UnavailableError if pyarrow is not installed.

    `columns` are attributes of the rows; `times` become UTC timestamps, those in `kinds` numbers or booleans for ints
    and bools, all others text. `get` returns the value of a row's column.
    """

    def __init__(
        self,
        body: IO[bytes],
        *,
        columns: Sequence[str] = FIELDS,
        times: Collection[str] = ("time",),
        kinds: Mapping[str, type] = MappingProxyType({}),
        get: Callable[[Any, str], object] = getattr,
    ) -> None:
        try:
            import pyarrow as arrow  # type: ignore[import-untyped]
            import pyarrow.parquet as arrow_parquet  # type: ignore[import-untyped]
        except ImportError:
            text = "parquet needs pyarrow: pip install 'gpuid-collector[parquet]'"
            raise UnavailableError(text, Reason.MISCONFIGURED) from None
        self._times, self._get = times, get
        own = dict.fromkeys(times, arrow.timestamp("us", tz="UTC"))
        own |= {
            name: arrow.bool_() if kind is bool else arrow.int64() for name, kind in kinds.items() if kind is not str
        }
        self._typed = own.keys() - set(times)
        self._schema = arrow.schema([(name, own.get(name, arrow.string())) for name in columns])
        self._table = arrow.table
        self._writer = arrow_parquet.ParquetWriter(body, self._schema, compression="zstd")

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the footer."""
        self._writer.close()

    def write(self, rows: Sequence[Any]) -> None:
        """Add rows."""
        values: dict[str, list[object]] = {}
        for name in self._schema.names:
            cells = (self._get(row, name) for row in rows)
            if name in self._times:
                values[name] = [None if cell is None else parse_time(str(cell)) for cell in cells]
            else:
                values[name] = [cell if name in self._typed else _text(cell) for cell in cells]
        self._writer.write_table(self._table(values, schema=self._schema))


def gzip(body: bytes) -> bytes:
    """Return the compressed body; equal bodies give equal bytes."""
    return gzip_module.compress(body, compresslevel=6, mtime=0)


def parse_time(time: str) -> datetime:
    """Return a record's time in UTC; raises RejectedError if it is not an RFC 3339 time."""
    try:
        if _RFC_3339.fullmatch(time):
            return datetime.fromisoformat(time).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise RejectedError(f"time: expected an RFC 3339 time, got {time[:40]!r}")


def _text(value: object) -> str | None:
    """Return the value of a cell: lists separated by commas, objects as JSON."""
    if isinstance(value, list | tuple):
        return ",".join(value)
    return value if value is None or isinstance(value, str) else printable_json(_encode(value)).decode()


def _cell(value: object) -> str:
    text = csv_text(_text(value) or "")
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text
