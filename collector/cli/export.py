"""`gpuid export`: writes the inventory as one file."""

import contextlib
import operator
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import anyio
import click

from collector.cli.client import Client, connection_options
from collector.cli.console import encode_json, error_console
from collector.cli.errors import CommandError
from collector.cli.history_queries import configured_store
from collector.cli.options import at_option
from collector.marks import Marks
from collector.model import NodeState
from collector.sinks import formats
from collector.store import GpuPosition, OpenMode, Store, StoreSettings
from collector.text import counted, describe_os_error, shell_word
from collector.timestamps import as_of
from collector.views.columns import GpuRow, flat_columns, row_object
from collector.views.csv_files import csv_header, csv_lines, values_of
from collector.views.past import look_back
from collector.views.past_rows import past_gpu_row
from collector.views.rows import placed_gpu_row

__all__ = ["collector_rows", "export"]


_COLUMNS = flat_columns(GpuRow)
_NAMES = tuple(column.name for column in _COLUMNS)
_TIMES = tuple(column.name for column in _COLUMNS if column.kind == "time")
_KINDS: Mapping[str, type] = {
    column.name: {"number": int, "boolean": bool}[column.kind]
    for column in _COLUMNS
    if column.kind in ("number", "boolean")
}
PAST_PAGE_SIZE = 1000  # GPUs
_FORMATS = ("csv", "jsonl", "parquet")
_INT_LIMIT = 2**63  # of a numeric column in Parquet
_Row = dict[str, Any]  # as the API answers
_Pages = AsyncGenerator[list[_Row], None]
_Write = Callable[[Sequence[_Row]], object]


class _Format(click.Choice[str]):
    """A format; a file name, which -o used to take, is rejected with a hint."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the format."""
        if str(value) not in self.choices and ("." in str(value) or "/" in str(value)):
            self.fail(f"expected {', '.join(_FORMATS)}; to write a file, use -f {shell_word(str(value))}", param, ctx)
        return super().convert(value, param, ctx)


@click.command()
@click.option(
    "-o",
    "--output",
    "file_format",
    type=_Format(_FORMATS),
    help="File format. Default: by the file name's extension, else csv.",
)
@click.option("--format", "file_format", type=_Format(_FORMATS), hidden=True, help="Same as -o.")
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    default="-",
    help="File to write. Default: standard output.",
)
@at_option
@connection_options
def export(file_format: str | None, file: Path, at: float | None, **options: Any) -> None:
    r"""Write the inventory, current or past, one GPU per row: the columns of the API and of `gpuid ls -o csv`.

    Unknown values are empty or null, and so are, with --at, values that the history does not record. CSV and
    Parquet have a column for each field of an object, such as mark.ticket and health.row_remap_failure. Reads
    from the configuration's [store] or, with --url, from a running collector, page by page: memory use does
    not depend on the size of the fleet.

    \b
    Examples:
      gpuid export -f gpus.csv
      gpuid export -f gpus.parquet --url https://gpuid.example.com
      gpuid export --at 2026-11-01 -f november.csv
      gpuid export -o csv | xsv search -s degraded . | xsv select serial,degraded,mark.ticket
      gpuid export -o jsonl | jq -r 'select(.model | test("H100")) | .serial'
    """
    output = None if str(file) == "-" else file
    ending = file.suffix.removeprefix(".").lower()
    file_format = file_format or (ending if ending in _FORMATS else _FORMATS[0])
    if file_format == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("refusing to write Parquet to a terminal; use -f FILE")
    if (store := configured_store(options)) is not None:
        pages = _store_rows(store) if at is None else _past_rows(store, at)
        anyio.run(_export, pages, file_format, output)
    else:
        with Client(**options) as client:
            anyio.run(_export, collector_rows(client, at), file_format, output)


async def _export(pages: _Pages, file_format: str, output: Path | None) -> None:
    async with contextlib.aclosing(pages):
        first: list[_Row] = await anext(pages, [])  # before anything is written, so that a failure leaves no file
        shown = sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())
        progress = error_console(enabled=shown).status("Exporting …")
        with progress, _open_output(output) as file, _WRITERS[file_format](file) as write:
            write(first)
            count = len(first)
            async for page in pages:
                write(page)
                count += len(page)
                progress.update(f"Exporting … {counted(count, 'GPU')}")
    if output is not None:
        click.echo(f"{counted(count, 'GPU')} written to {output}", err=True)


async def _store_rows(settings: StoreSettings) -> _Pages:
    async with Store.open(settings, OpenMode.READER) as store, contextlib.aclosing(store.nodes()) as parts:
        marks, now = Marks((await store.marks.in_force())[1]), time.time()
        async for nodes in parts:
            yield [row for node in nodes for row in _node_rows(node, marks, now)]


async def _past_rows(settings: StoreSettings, at: float) -> _Pages:
    async with Store.open(settings, OpenMode.READER) as store:
        then, after = await look_back(store.past, at), None
        while gpus := await then.gpus(after=after, limit=PAST_PAGE_SIZE):
            yield [row_object(past_gpu_row(gpu)) for gpu in gpus]
            after = GpuPosition(*gpus[-1].place, gpus[-1].placement.uuid)


async def collector_rows(client: Client, at: float | None = None) -> _Pages:
    """Yield the rows at a time (Unix seconds), by default now.

    Current rows come cluster by cluster: most clusters fit into one page, which is consistent in itself.
    """
    if at is not None:
        for gpus in client.gpus({"at": as_of(at)}):
            yield gpus
        return
    for cluster in client.clusters():
        for gpus in client.gpus({"cluster": [cluster["cluster"]]}):
            yield gpus


def _node_rows(node: NodeState, marks: Marks, now: float) -> Iterator[_Row]:
    if node.time is None:
        return
    for placement in node.placements():
        gpu = placement.gpu
        yield row_object(placed_gpu_row(placement, node, marks.of(gpu.uuid, gpu.serial, now)))


def _cells(row: _Row) -> _Row:
    """Return a row's columns for Parquet; values of the wrong type are null, since the server may be anything."""
    cells = dict(zip(_NAMES, values_of(row, _COLUMNS), strict=True))
    for name, kind in _KINDS.items():
        value = cells[name]
        sound = type(value) is kind  # a boolean is not a number
        if not sound or (isinstance(value, int) and abs(value) >= _INT_LIMIT):
            cells[name] = None
    return cells


@contextlib.contextmanager
def _open_output(path: Path | None) -> Iterator[IO[bytes]]:
    """Open the output file, or standard output for None; a file gets its name only when complete."""
    if path is None:
        yield sys.stdout.buffer
        return
    special = path.exists() and not path.is_file()
    partial = path if special else path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        if not special:
            partial.replace(path)
    except OSError as error:
        raise CommandError(f"-f {path}: {describe_os_error(error, 'cannot be written')}") from error
    finally:
        if not special:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _csv(file: IO[bytes]) -> Iterator[_Write]:
    file.write(csv_header(_COLUMNS).encode())
    yield lambda rows: file.write(csv_lines(rows, _COLUMNS).encode())


@contextlib.contextmanager
def _jsonl(file: IO[bytes]) -> Iterator[_Write]:
    yield lambda rows: file.write("".join(encode_json(row) + "\n" for row in rows).encode())


@contextlib.contextmanager
def _parquet(file: IO[bytes]) -> Iterator[_Write]:
    with formats.ParquetFile(file, columns=_NAMES, times=_TIMES, kinds=_KINDS, get=operator.getitem) as parquet:
        yield lambda rows: parquet.write([_cells(row) for row in rows])


_WRITERS: dict[str, Callable[[IO[bytes]], contextlib.AbstractContextManager[_Write]]]
_WRITERS = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
