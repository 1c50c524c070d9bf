"""`gpuid ls`: lists the GPUs of a running collector."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from collector.cli.client import Client, check_clusters, connection_options
from collector.cli.completion import complete_cluster, complete_id, complete_model, complete_node
from collector.cli.condition import badness, condition_words, level_style, mark_of
from collector.cli.options import at_option
from collector.cli.output import Output, Row, layout_of, output_options, page_size, show_rows
from collector.cli.table import Style
from collector.health import Degradation, Level
from collector.marks import MarkKind
from collector.text import shell_word
from collector.timestamps import as_of
from collector.views.columns import UNRECORDED, GpuRow

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
    "level": "required action",
    "mark": "its mark",
}

_LAYOUT = layout_of(GpuRow)
_CONDITION_LAYOUT = layout_of(GpuRow, ("cluster", "node", "serial", "level", "mark", "degraded"))  # if asked for it
_COMPLETIONS = {
    "cluster": complete_cluster,
    "node": complete_node,
    "serial": complete_id,
    "uuid": complete_id,
    "model": complete_model,
}
_OTHER_KINDS = ("nodes", "clusters")


def _state_style(state: str) -> str:
    return "red" if "lost" in state else level_style(state)


_STYLES: Mapping[str, Style] = {"state": _state_style, "level": level_style}

_Filters = Mapping[str, Sequence[str]]


def _filter_options(function: Any) -> Any:
    for name in reversed(tuple(_CONDITION_FILTERS)):
        values = _CONDITION_FILTERS[name]
        text = f"Filter by {_CONDITION_HELP[name]}: {', '.join(values)}."
        choice = click.Choice(values)
        function = click.option(f"--{name}", type=choice, metavar="VALUE", multiple=True, help=text)(function)
    function = click.option("--degraded", is_flag=True, help="Only degraded GPUs, worst first.")(function)
    for name in reversed(_FILTERS):
        label = name.replace("uuid", "UUID").replace("gpu_", "GPU ").replace("_", " ")
        option = click.option(
            f"--{name.replace('_', '-')}",
            metavar="VALUE",
            multiple=True,
            shell_complete=_COMPLETIONS.get(name),
            help=f"Filter by {label}.",
        )
        function = option(function)
    return function


@click.command()
@click.argument("term", required=False, shell_complete=complete_id)
@_filter_options
@at_option
@output_options(_LAYOUT, watch=True)
@connection_options
def ls(term: str | None, at: float | None, output: Output, degraded: bool, **options: Any) -> None:
    r"""List the GPUs of a running collector; TERM is a serial, UUID, chassis, node or part number.

    A filter given several times matches any of its values; different filters must all match. Without
    --url and without a configuration, this asks http://127.0.0.1:8080.

    \b
    Examples:
      gpuid ls                                     every GPU
      gpuid ls 1652922001234                       one serial, UUID, chassis, node or part number
      gpuid ls --cluster prod --model "NVIDIA H100 80GB HBM3" -o wide
      gpuid ls --degraded --level replace          GPUs to replace
      gpuid ls --mark rma --mark quarantine        GPUs with either mark
      gpuid ls --node gpu-0007 --at 2026-11-24T12:00:00Z   a node's GPUs at that time
      gpuid ls -o json | jq -r '.[].uuid'
      gpuid ls --url https://gpuid.example.com --token-file ~/.gpuid-token -o csv > gpus.csv
    """
    filters = {name: values for name in (*_FILTERS, *_CONDITION_FILTERS) if (values := options.pop(name))}
    if degraded:
        filters["degraded"] = ("true",)
    asked = "degraded" in filters or any(name in filters for name in _CONDITION_FILTERS)
    worst_first = output.sort is None and any(name in filters for name in ("degraded", "reason", "level"))

    def ask() -> Iterator[Row]:
        with Client(**options, page_size=page_size(output, whole=worst_first)) as client:
            if at is None:  # a past cluster may no longer be configured
                check_clusters(client, filters.get("cluster", ()))
            gpus = _gpus(client, term, filters if at is None else {**filters, "at": (as_of(at),)})
            yield from sorted(gpus, key=badness) if worst_first else gpus

    show_rows(
        _CONDITION_LAYOUT if asked else _LAYOUT,
        ask,
        output,
        nothing=_nothing(term),
        cells=_wide_cells if output.format == "wide" else _cells,
        styles=_STYLES,
    )


def _nothing(term: str | None) -> str:
    """Return the message for an empty list, with a command that may find more."""
    if term is None:
        return "No GPUs found."
    if term in _OTHER_KINDS:
        return f"No GPUs found; `gpuid {term}` lists {term}."
    return f"No GPUs found; `gpuid where {shell_word(term)}` also searches parts of ids and the history."


def _gpus(client: Client, term: str | None, filters: _Filters) -> Iterator[dict[str, Any]]:
    """Yield the GPUs that match, each only once."""
    if term is None:
        yield from itertools.chain.from_iterable(client.gpus(filters))
        return
    seen: set[tuple[Any, ...]] = set()
    for name in _TERM_FILTERS:
        if term not in filters.get(name, (term,)) or ("at" in filters and name in UNRECORDED):
            continue
        for gpu in itertools.chain.from_iterable(client.gpus({**filters, name: (term,)})):
            key = tuple(map(gpu.get, ("cluster", "node", "uuid", "serial")))
            if key not in seen:
                seen.add(key)
                yield gpu


def _wide_cells(gpu: Row) -> Row:
    mark = mark_of(gpu)
    ticket = f" ({mark['ticket']})" if mark.get("ticket") else ""
    return {"state": _state(gpu), "mark": f"{mark.get('kind') or ''}{ticket}"}


def _cells(gpu: Row) -> Row:
    """Return the cells that a table words differently; a GPU without a serial is named by its UUID."""
    named = gpu.get("serial") or gpu.get("uuid")
    return {"state": _state(gpu), "mark": mark_of(gpu).get("kind"), "serial": named}


def _state(gpu: Row) -> str:
    """Return in a few words whether a GPU responds, what it needs, and which values are only last known."""
    state = str(gpu.get("state") or "found")
    words = ["virtual"] if gpu.get("virtual") else []
    words += [state] if state != "found" or not words else []
    words += condition_words(gpu)
    known = gpu.get("last_known")
    last = [field for field in ("serial", "chassis") if isinstance(known, Mapping) and field in known]
    words += [f"{' and '.join(last)} last known"] if last else []
    return ", ".join(words)
