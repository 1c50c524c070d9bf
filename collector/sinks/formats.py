"""Records as bytes: JSON, JSON Lines, CSV and Parquet."""

import gzip as gzip_module
import io
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import IO, Self

import msgspec

from collector.model import SinkRecord
from collector.sinks.errors import Reason, RejectedError, UnavailableError

__all__ = ["COLUMNS", "PEER_COLUMNS", "ParquetFile", "csv", "gzip", "json_array", "json_lines", "moment", "parquet"]

COLUMNS: tuple[str, ...] = SinkRecord.__struct_fields__
PEER_COLUMNS: tuple[str, ...] = COLUMNS[:7]  # the Go program's, in its order


def json_array(records: Sequence[SinkRecord]) -> bytes:
    """One JSON array of objects."""
    return _encode(records)


def json_lines(records: Sequence[SinkRecord]) -> bytes:
    """One JSON object per line."""
    return b"".join(_encode(record) + b"\n" for record in records)


def csv(records: Sequence[SinkRecord], *, columns: Sequence[str] = COLUMNS, header: bool = False) -> bytes:
    """RFC 4180 in UTF-8 with bare line feeds, as the Go program's consumers are used to."""
    rows = [columns] if header else []
    rows.extend([getattr(record, column) for column in columns] for record in records)
    return "".join(",".join(map(_quoted, row)) + "\n" for row in rows).encode()


def parquet(records: Sequence[SinkRecord]) -> bytes:
    """One Parquet file, `time` a UTC timestamp and all else text; raises Unavailable where pyarrow is not installed."""
    body = io.BytesIO()
    with ParquetFile(body) as file:
        file.write(records)
    return body.getvalue()


class ParquetFile:
    """Writes a Parquet file piece by piece; raises Unavailable where pyarrow is not installed.

    `columns` are attributes of the rows, of which `times` become UTC timestamps and all else text.
    """

    def __init__(
        self, body: IO[bytes], *, columns: Sequence[str] = COLUMNS, times: Collection[str] = ("time",)
    ) -> None:
        try:
            import pyarrow as arrow  # type: ignore[import-untyped]
            import pyarrow.parquet as arrow_parquet  # type: ignore[import-untyped]
        except ImportError:
            text = "parquet needs pyarrow: pip install 'gpuid-collector[parquet]'"
            raise UnavailableError(text, Reason.MISCONFIGURED) from None
        self._times = times
        kinds = [(name, arrow.timestamp("us", tz="UTC") if name in times else arrow.string()) for name in columns]
        self._schema = arrow.schema(kinds)
        self._table = arrow.table
        self._writer = arrow_parquet.ParquetWriter(body, self._schema, compression="zstd")

    def __enter__(self) -> Self:
        """Go on with it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the end of the file."""
        self._writer.close()

    def write(self, rows: Sequence[SinkRecord]) -> None:
        """Add rows."""
        values: dict[str, list[object]] = {name: [getattr(row, name) for row in rows] for name in self._schema.names}
        for name in self._times:
            values[name] = [moment(getattr(row, name)) for row in rows]
        self._writer.write_table(self._table(values, schema=self._schema))


def gzip(body: bytes) -> bytes:
    """Compress, equal bytes to equal bytes."""
    return gzip_module.compress(body, compresslevel=6, mtime=0)


def moment(time: str) -> datetime:
    """Read a record's time; raises Refused for what is no RFC 3339 time."""
    try:
        if _RFC_3339.fullmatch(time):
            return datetime.fromisoformat(time).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise RejectedError(f"time: expected an RFC 3339 time, got {time[:40]!r}")


_encode = msgspec.json.Encoder().encode
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SPECIAL = re.compile(r'[,"\r\n]|^\s|\s\Z')


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _SPECIAL.search(text) else text
