"""`gpuid export`: the current inventory as one file."""

import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import IO, Any, get_args

import anyio
import click
import msgspec

from collector.cli.client import Client, connection_options
from collector.cli.condition import mark_of, reasons_of
from collector.cli.console import error_console
from collector.cli.history_queries import configured_store
from collector.cli.options import CommandError
from collector.health import Health, health_object
from collector.marks import Marks
from collector.model import Event, NodeState, last_known_object
from collector.sinks import formats
from collector.store import OpenMode, Store, StoreSettings
from collector.text import counted, describe_os_error
from collector.timestamps import rfc3339

__all__ = ["collector_rows", "export"]


class _Place(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A GPU as the sinks write it, and since when it is there and when it was confirmed, to the millisecond.

    After that its condition and its mark. What it reports of its health has a column for each field, see `_Row`.
    """

    cluster: str
    node: str
    machine: str
    source: str
    chassis: str
    gpu: str
    time: str
    uuid: str
    model: str
    event: str
    since: str
    confirmed: str
    last_known: Mapping[str, str] | None
    degraded: Sequence[str] = ()  # the worst reason first
    level: str | None = None
    mark: str | None = None
    ticket: str | None = None


_HEALTH_TYPES: Mapping[str, type] = {
    field.name: next(one for one in get_args(field.type) if one is not NoneType)
    for field in msgspec.structs.fields(Health)
}
_HEALTH_COLUMNS = [(name, kind | None, None) for name, kind in _HEALTH_TYPES.items()]
_Row: Any = msgspec.defstruct("_Row", _HEALTH_COLUMNS, bases=(_Place,), frozen=True, kw_only=True, gc=False)
_COLUMNS: tuple[str, ...] = _Row.__struct_fields__
_TEXTS = tuple(field.name for field in msgspec.structs.fields(_Place) if field.type is str)
_TIMES = ("time", "since", "confirmed")
_INT_LIMIT = 2**63  # of a column of numbers in Parquet
_Pages = AsyncGenerator[list[_Place], None]
_Write = Callable[[Sequence[_Place]], object]


@click.command()
@click.option(
    "--format", "file_format", type=click.Choice(("csv", "jsonl", "parquet")), required=True, help="File format."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="File to write. Default: standard output."
)
@connection_options
def export(file_format: str, output: Path | None, **options: Any) -> None:
    r"""Write the current inventory, one GPU per row: the fields of a sink's record, its condition and health.

    A column of health is empty where the GPU does not report it. Reads from the configuration's [store] or,
    with --url, from a running collector, in pages: memory use does not depend on the size of the fleet.

    \b
    Examples:
      gpuid export --format csv -o gpus.csv
      gpuid export --format parquet -o gpus.parquet --url https://gpuid.example.com
      gpuid export --format csv | xsv search -s degraded . | xsv select gpu,degraded,ticket
      gpuid export --format jsonl | jq -r 'select(.model | test("H100")) | .gpu'
    """
    if file_format == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("refusing to write Parquet to a terminal; use -o FILE")
    if (store := configured_store(options)) is not None:
        anyio.run(_export, _store_rows(store), file_format, output)
    else:
        with Client(**options) as client:
            anyio.run(_export, collector_rows(client), file_format, output)


async def _export(pages: _Pages, file_format: str, output: Path | None) -> None:
    async with contextlib.aclosing(pages):
        first: list[_Place] = await anext(pages, [])  # before anything is written, so that a failure leaves no file
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


async def collector_rows(client: Client) -> _Pages:
    """Yield the rows cluster by cluster: most clusters fit into one page, which is consistent in itself."""
    for cluster in client.clusters():
        for gpus in client.gpus({"cluster": [cluster["cluster"]]}):
            yield [_api_row(gpu) for gpu in gpus]


def _node_rows(node: NodeState, marks: Marks, now: float) -> Iterator[_Place]:
    if node.time is None:
        return
    for placement in node.placements():
        gpu = placement.gpu
        mark = marks.of(gpu.uuid, gpu.serial, now)
        yield _Row(
            cluster=node.place.cluster,
            node=node.place.node,
            machine=node.node.machine,
            source=node.source,
            chassis=gpu.chassis or "",
            gpu=gpu.serial or "",
            time=rfc3339(node.time, "seconds"),
            uuid=gpu.uuid,
            model=gpu.model or "",
            event=Event.CONFIRMED.value,
            last_known=last_known_object(gpu.last_known),
            since=rfc3339(placement.since),
            confirmed=rfc3339(placement.confirmed),
            degraded=tuple(placement.degradations),
            level=placement.level,
            mark=mark.kind if mark else None,
            ticket=mark.ticket if mark else None,
            **health_object(gpu.health) or {},
        )


def _api_row(gpu: Mapping[str, Any]) -> _Place:
    texts = {name: str(value) for name, value in gpu.items() if value is not None}
    mark = {name: str(value) for name, value in mark_of(gpu).items() if value is not None}
    row: _Place = _Row(
        **{name: texts.get(name, "") for name in _TEXTS}
        | {"gpu": texts.get("serial", ""), "time": _to_the_second(texts["confirmed"]), "event": Event.CONFIRMED.value},
        last_known=_last_known(gpu.get("last_known")),
        degraded=reasons_of(gpu),
        level=texts.get("level"),
        mark=mark.get("as"),
        ticket=mark.get("ticket"),
        **_health(gpu.get("health")),
    )
    return row


def _health(value: object) -> dict[str, str | int | bool]:
    """Return the fields of health that a collector reports and that are of their kind; what answers may be anything."""
    found: dict[str, str | int | bool] = {}
    for name, kind in _HEALTH_TYPES.items():
        one: Any = value.get(name) if isinstance(value, Mapping) else None
        sound = type(one) is kind  # a truth value is no number
        if sound and (kind is not int or abs(one) < _INT_LIMIT):
            found[name] = one
    return found


def _last_known(value: object) -> dict[str, str] | None:
    """Return the last known fields with their times; an older collector has the names alone."""
    return {str(field): str(time) for field, time in value.items()} if isinstance(value, Mapping) else None


def _to_the_second(time: str) -> str:
    return time[:19] + "Z"


@contextlib.contextmanager
def _open_output(path: Path | None) -> Iterator[IO[bytes]]:
    """Open the file to write, None for standard output; a file gets its name only once it is complete."""
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
        raise CommandError(f"-o {path}: {describe_os_error(error, 'cannot be written')}") from error
    finally:
        if not special:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _csv(file: IO[bytes]) -> Iterator[_Write]:
    file.write(formats.csv([], columns=_COLUMNS, header=True))
    yield lambda rows: file.write(formats.csv(rows, columns=_COLUMNS))


@contextlib.contextmanager
def _jsonl(file: IO[bytes]) -> Iterator[_Write]:
    yield lambda rows: file.write(formats.json_lines(rows))


@contextlib.contextmanager
def _parquet(file: IO[bytes]) -> Iterator[_Write]:
    with formats.ParquetFile(file, columns=_COLUMNS, times=_TIMES, kinds=_HEALTH_TYPES) as parquet:
        yield parquet.write


_WRITERS: dict[str, Callable[[IO[bytes]], contextlib.AbstractContextManager[_Write]]]
_WRITERS = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
