"""`gpuid ls`: the GPUs of a running collector."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from collector.cli.client import Client, connection_options
from collector.cli.condition import badness, condition_words, flat_condition, level_style
from collector.cli.console import encode_json
from collector.cli.table import Style, print_table
from collector.health import Degradation, Level
from collector.marks import MarkKind
from collector.views.columns import GpuRow, flat_columns
from collector.views.csv_files import csv_header, csv_lines

__all__ = ["ls"]

_FILTERS = ("cluster", "node", "serial", "uuid", "model", "chassis", "machine", "board_part_number", "gpu_part_number")
_TERM_FILTERS = (
    "serial",
    "uuid",
    "chassis",
    "node",
    "board_part_number",
    "gpu_part_number",
)  # what the positional TERM may be

_CONDITION_FILTERS: Mapping[str, tuple[str, ...]] = {
    "reason": tuple(one.value for one in Degradation),
    "level": tuple(one.value for one in Level),
    "mark": tuple(one.value for one in MarkKind),
}
_CONDITION_HELP = {
    "reason": "why it is degraded",
    "level": "what has to be done",
    "mark": "its mark",
}

_TABLE_COLUMNS = ("cluster", "node", "serial", "uuid", "model", "chassis", "state")
_PLACE_COLUMNS = ("slot", "tray", "host", "module", "machine", "pci_bus_id")
_TIME_COLUMNS = ("since", "confirmed_at", "claim", "last_known")
_WIDE_COLUMNS = (*_TABLE_COLUMNS, *_PLACE_COLUMNS, *_TIME_COLUMNS, "level", "mark", "ticket", "degraded")
_CONDITION_COLUMNS = ("cluster", "node", "gpu", "level", "mark", "degraded")  # where the condition was asked for
_CSV_ROWS = 1000  # that are written together


def _state_style(state: str) -> str:
    return "red" if "lost" in state else level_style(state)


_STYLES: Mapping[str, Style] = {"state": _state_style, "level": level_style}

Row = Mapping[str, Any]
_Filters = Mapping[str, Sequence[str]]


def _filter_options(function: Any) -> Any:
    for name in reversed(tuple(_CONDITION_FILTERS)):
        values = _CONDITION_FILTERS[name]
        text = f"Filter by {_CONDITION_HELP[name]}: {', '.join(values)}."
        choice = click.Choice(values)
        function = click.option(f"--{name}", type=choice, metavar="VALUE", multiple=True, help=text)(function)
    function = click.option("--degraded", is_flag=True, help="Only GPUs that are degraded, the worst first.")(function)
    for name in reversed(_FILTERS):
        label = name.replace("uuid", "UUID").replace("gpu_", "GPU ").replace("_", " ")
        option = click.option(f"--{name.replace('_', '-')}", metavar="VALUE", multiple=True, help=f"Filter by {label}.")
        function = option(function)
    return function


@click.command()
@click.argument("term", required=False)
@_filter_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "wide", "json", "csv")),
    default="table",
    show_default=True,
    help="Output format: wide has more columns than table; json and csv have every field.",
)
@click.option("--json", "output", flag_value="json", help="Same as -o json.")
@connection_options
def ls(term: str | None, output: str, degraded: bool, **options: Any) -> None:
    r"""List the GPUs of a running collector; TERM is a serial, UUID, chassis, node or part number.

    A filter given several times matches any of its values; different filters must all match. Without
    --url and without a configuration, this asks http://127.0.0.1:8080.

    \b
    Examples:
      gpuid ls                                     every GPU
      gpuid ls 1652922001234                       one serial, UUID, chassis, node or part number
      gpuid ls --cluster prod --model "NVIDIA H100 80GB HBM3" -o wide
      gpuid ls --degraded --level replace          what has to be replaced
      gpuid ls --mark rma --mark quarantine        what somebody has marked so
      gpuid ls -o json | jq -r '.[].uuid'
      gpuid ls --url https://gpuid.example.com --token-file ~/.gpuid-token -o csv > gpus.csv
    """
    filters = {name: values for name in (*_FILTERS, *_CONDITION_FILTERS) if (values := options.pop(name))}
    if degraded:
        filters["degraded"] = ("true",)
    if output == "table" and any(name in filters for name in ("degraded", *_CONDITION_FILTERS)):
        output = "condition"
    with Client(**options) as client:
        gpus = _gpus(client, term, filters)
        if any(name in filters for name in ("degraded", "reason", "level")):
            gpus = iter(sorted(gpus, key=badness))
        first = list(itertools.islice(gpus, 1))  # before anything is printed, so that a failure prints nothing
        found = _PRINTERS[output](itertools.chain(first, gpus))
    if not found:
        click.echo("No GPUs found.", err=True)


def _gpus(client: Client, term: str | None, filters: _Filters) -> Iterator[dict[str, Any]]:
    """Yield the GPUs that match, each of them once."""
    if term is None:
        yield from itertools.chain.from_iterable(client.gpus(filters))
        return
    seen: set[tuple[Any, ...]] = set()
    for name in _TERM_FILTERS:
        if term not in filters.get(name, (term,)):
            continue
        for gpu in itertools.chain.from_iterable(client.gpus({**filters, name: (term,)})):
            key = tuple(map(gpu.get, ("cluster", "node", "uuid", "serial")))
            if key not in seen:
                seen.add(key)
                yield gpu


def _cells(gpu: Row, columns: Sequence[str]) -> Iterator[object]:
    known, condition = gpu.get("last_known"), flat_condition(gpu)
    for column in columns:
        if column == "state":
            yield _state(gpu)
        elif column == "gpu":
            yield gpu.get("serial") or gpu.get("uuid")
        elif column == "last_known" and isinstance(known, Mapping):
            yield ", ".join(f"{field} {time}" for field, time in known.items())
        else:
            yield condition.get(column, gpu.get(column))


def _print_table(gpus: Iterator[dict[str, Any]], columns: Sequence[str] = _TABLE_COLUMNS) -> int:
    return print_table(columns, (list(_cells(gpu, columns)) for gpu in gpus), styles=_STYLES)


def _state(gpu: Row) -> str:
    """Return in a few words whether a GPU answers, what it needs, and what is merely last known of it."""
    state = str(gpu.get("state") or "found")
    words = ["virtual"] if gpu.get("virtual") else []
    words += [state] if state != "found" or not words else []
    words += condition_words(gpu)
    known = gpu.get("last_known")
    if isinstance(known, Mapping):
        words += [f"{field} last known" for field in ("serial", "chassis") if field in known]
    return ", ".join(words)


def _print_wide(gpus: Iterator[dict[str, Any]]) -> int:
    return _print_table(gpus, _WIDE_COLUMNS)


def _print_condition(gpus: Iterator[dict[str, Any]]) -> int:
    return _print_table(gpus, _CONDITION_COLUMNS)


def _print_csv(gpus: Iterator[dict[str, Any]]) -> int:
    columns = flat_columns(GpuRow)
    click.echo(csv_header(columns), nl=False)
    found = 0
    while part := list(itertools.islice(gpus, _CSV_ROWS)):
        click.echo(csv_lines(part, columns), nl=False)
        found += len(part)
    return found


def _print_json(gpus: Iterator[dict[str, Any]]) -> int:
    """Print one array with one GPU per line: jq and grep can read it, and it need not fit into memory."""
    found = 0
    for found, gpu in enumerate(gpus, 1):
        click.echo(("[\n" if found == 1 else ",\n") + encode_json(gpu), nl=False)
    click.echo("\n]" if found else "[]")
    return found


_PRINTERS = {
    "table": _print_table,
    "condition": _print_condition,
    "wide": _print_wide,
    "csv": _print_csv,
    "json": _print_json,
}
