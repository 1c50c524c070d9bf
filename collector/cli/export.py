"""`gpuid export`: the present inventory as one file."""

import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import anyio
import click
from rich.console import Console

from collector.cli.client import Client, connection_options
from collector.cli.options import CommandError
from collector.cli.past import chosen_store
from collector.model import Event, NodeState, SinkRecord
from collector.sinks import formats as forms
from collector.store import OpenMode, Store, StoreSettings
from collector.timestamps import rfc3339

__all__ = ["export"]


class _Row(SinkRecord, frozen=True, kw_only=True, gc=False):
    """A GPU as the sinks write it, and its times there to the millisecond."""

    since: str
    confirmed: str


_COLUMNS = _Row.__struct_fields__
_Write = Callable[[Sequence[_Row]], object]


@click.command()
@click.option(
    "--format", "form", type=click.Choice(("csv", "jsonl", "parquet")), required=True, help="The form of the file."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write here. Default: the standard output."
)
@connection_options
def export(form: str, output: Path | None, **options: Any) -> None:
    r"""Write every GPU that is present, one a row: the fields of a sink's record, since and confirmed.

    It is read from the configuration's [store] or, with --url, from a running collector, piece by piece:
    a large fleet needs no more memory than a small one.

    \b
    Examples:
      gpuid export --format csv -o gpus.csv
      gpuid export --format parquet -o gpus.parquet --url https://gpuid.example.com
      gpuid export --format jsonl | jq -r 'select(.model | test("H100")) | .gpu'
    """
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("parquet is no text for a terminal: expected -o FILE")
    store = chosen_store(options)
    anyio.run(_export, _collector_rows(options) if store is None else _store_rows(store), form, output)


_Pages = AsyncGenerator[list[_Row], None]


async def _export(pages: _Pages, form: str, output: Path | None) -> None:
    async with contextlib.aclosing(pages):
        first: list[_Row] = await anext(pages, [])  # nothing is written for a collector that does not answer
        shown = sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())
        progress = Console(stderr=True, quiet=not shown).status("Exporting …")
        with progress, _file(output) as file, _FORMS[form](file) as write:
            write(first)
            count = len(first)
            async for page in pages:
                write(page)
                count += len(page)
                progress.update(f"Exporting … {count:,} GPUs")
    if output is not None:
        click.echo(f"{count:,} GPU{'' if count == 1 else 's'} written to {output}", err=True)


async def _store_rows(settings: StoreSettings) -> _Pages:
    async with Store.open(settings, OpenMode.READER) as store, contextlib.aclosing(store.nodes()) as parts:
        async for nodes in parts:
            yield [row for node in nodes for row in _node_rows(node)]


async def _collector_rows(options: Mapping[str, Any]) -> _Pages:
    """Ask cluster by cluster: most fit into one page, which is of one instant."""
    with Client(**options) as client:
        clusters = client.get("/api/v1/clusters", {"limit": "10000"}, dict[str, Any])["clusters"]
        for cluster in clusters:
            for gpus in client.gpus({"cluster": [cluster["cluster"]]}):
                yield [_api_row(gpu) for gpu in gpus]


def _node_rows(node: NodeState) -> Iterator[_Row]:
    if node.time is None:
        return
    confirmed = rfc3339(node.time) or ""
    for gpu, since in zip(node.gpus, node.since, strict=True):
        yield _Row(
            cluster=node.place.cluster,
            node=node.place.node,
            machine=node.node.machine,
            source=node.source,
            chassis=gpu.chassis or "",
            gpu=gpu.serial or "",
            time=_to_the_second(confirmed),
            uuid=gpu.uuid or "",
            model=gpu.model or "",
            event=Event.CONFIRMED.value,
            since=rfc3339(since) or "",
            confirmed=confirmed,
        )


def _api_row(gpu: Mapping[str, Any]) -> _Row:
    same = {name: gpu.get(name) or "" for name in _COLUMNS}
    own = {"gpu": gpu["serial"] or "", "time": _to_the_second(gpu["confirmed"]), "event": Event.CONFIRMED.value}
    return _Row(**same | own)


def _to_the_second(time: str) -> str:
    return time[:19] + "Z"


@contextlib.contextmanager
def _file(path: Path | None) -> Iterator[IO[bytes]]:
    """Open what is written to; a file takes its name only once it is whole."""
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
        raise CommandError(f"-o {path}: {error.strerror}") from error
    finally:
        if not special:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _csv(file: IO[bytes]) -> Iterator[_Write]:
    file.write(forms.csv([], columns=_COLUMNS, header=True))
    yield lambda rows: file.write(forms.csv(rows, columns=_COLUMNS))


@contextlib.contextmanager
def _jsonl(file: IO[bytes]) -> Iterator[_Write]:
    yield lambda rows: file.write(forms.json_lines(rows))


@contextlib.contextmanager
def _parquet(file: IO[bytes]) -> Iterator[_Write]:
    with forms.ParquetFile(file, columns=_COLUMNS, times=("time", "since", "confirmed")) as parquet:
        yield parquet.write


_FORMS: dict[str, Callable[[IO[bytes]], contextlib.AbstractContextManager[_Write]]]
_FORMS = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
