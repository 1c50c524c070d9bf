"""`gpuid where`: looks up where GPUs are; for a few, also everywhere they have been."""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import click

from collector.cli.client import RefusedError, connection_options
from collector.cli.completion import complete_id
from collector.cli.history_queries import (
    HistoryQueries,
    LookedUp,
    LookedUpId,
    describe_conditions,
    described,
    health_lines,
)
from collector.cli.output import Output, Row, layout_of, output_options, print_footer, print_rows
from collector.cli.table import Style
from collector.text import counted, describe_os_error, one_line
from collector.views.columns import row_object
from collector.views.lookup_rows import FoundState, LookupRow
from collector.views.terms import parse_terms

__all__ = ["where"]

MAX_TEXT_BYTES = 4 << 20
MAX_LIVES = 10  # most GPUs for which all places are shown
NOTHING_FOUND_EXIT_CODE = 1

_LAYOUT = layout_of(LookupRow)
_ONE_ID_LAYOUT = layout_of(LookupRow, [name for name in _LAYOUT.table if name != "id"])  # known to everybody
_NAMES = LookupRow.__struct_fields__
_PRESENT = (FoundState.FOUND.value, FoundState.LOST.value)
_LIFE_KINDS = ("serial", "uuid", "partial", "ticket")


def _state_style(state: str) -> str:
    return {"found": "green", "past": "dim", "elsewhere": "yellow", "never_seen": "yellow"}.get(state, "red")


_STYLES: Mapping[str, Style] = {"state": _state_style}


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=complete_id)
@click.option("-f", "--file", type=click.File("rb"), metavar="FILE", help="File with ids; - is standard input.")
@output_options(_LAYOUT)
@connection_options
def where(ids: Sequence[str], file: IO[bytes] | None, output: Output, **options: Any) -> None:
    r"""Show where GPUs are, by serial, UUID, chassis, node, machine, model, bus address or ticket.

    Paste ids as you copied them: with "S/N:", with blanks, only the last digits, or a page's URL. A file may have up
    to 10,000 ids, in lines, cells or lists; each gets a row in the given order, even if it is not found. For up to
    ten GPUs without a file, former places follow the current one.

    \b
    Examples:
      gpuid where 1652922001234
      gpuid where "S/N: 1652 9220 01234" GPU-5c1fe5e8-3b1f-4a9b-9d3e-0d7c2f7f3a11
      gpuid where -f serials.txt -o csv > places.csv
      pbpaste | gpuid where -f -
    """
    text = _text(ids, file)
    queries = HistoryQueries(options)
    answer = queries.lookup(text)
    lives = _lives(queries, answer) if file is None else {}
    rows = list(_rows(answer, lives))
    as_table = output.format in {"table", "wide"}
    missed = [one for one in answer.results if not one.found]
    if as_table and len(answer.results) == len(missed) == 1:
        rows = []
    if rows or not as_table:
        layout = _LAYOUT if len(answer.results) > 1 else _ONE_ID_LAYOUT
        print_rows(layout, rows, output, nothing="", cells=_cells, styles=_STYLES)
    if as_table and (told := list(describe_conditions([row for life in lives.values() for row in life]))):
        print_footer(told, output)
    if missed:
        click.echo(_no(answer, missed), err=True)
    if not answer.found:
        click.get_current_context().exit(NOTHING_FOUND_EXIT_CODE)


def _text(ids: Sequence[str], file: IO[bytes] | None) -> str:
    """Return the ids as one text; raises UsageError."""
    text = "\n".join([*ids, "" if file is None else _read(file)])
    try:
        found = parse_terms(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not found:
        raise click.UsageError("expected at least one ID, or --file")
    return text


def _read(file: IO[bytes]) -> str:
    """Return the text of a file in UTF-8, or UTF-16 with a byte order mark, as spreadsheets and PowerShell write."""
    name = one_line(getattr(file, "name", "-"))
    try:
        read = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"--file: cannot read {name}: {describe_os_error(error, 'cannot be read')}") from None
    if len(read) > MAX_TEXT_BYTES:
        raise click.UsageError(f"--file: expected at most {MAX_TEXT_BYTES:,} bytes")
    try:
        return read.decode("utf-16" if read.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        text = f"--file: {name}: expected UTF-8 text (from a spreadsheet, save as CSV UTF-8)"
        raise click.UsageError(text) from None


def _lives(queries: HistoryQueries, answer: LookedUp) -> dict[str, list[Row]]:
    """Return all places of the GPUs found, by UUID, if they are few and there is a history."""
    found = [str(match["uuid"]) for one in answer.results for match in one.matches if _has_life(match)]
    uuids = list(dict.fromkeys(found))
    if len(uuids) > MAX_LIVES or not answer.searched.history:
        return {}
    try:
        return {uuid: queries.gpu(uuid) for uuid in uuids}
    except RefusedError:  # it no longer keeps history
        return {}


def _has_life(match: Row) -> bool:
    return bool(match.get("uuid")) and match.get("kind") in _LIFE_KINDS


def _rows(answer: LookedUp, lives: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    for result in answer.results:
        if not result.matches:
            yield row_object(LookupRow(id=result.id, state=FoundState.NOT_FOUND, note=result.note))
        for number, match in enumerate(result.matches, 1):
            row = {**dict.fromkeys(_NAMES), **match, "id": result.id}
            if number == len(result.matches) and result.total > number:
                row["note"] = _joined(row["note"], f"and {counted(result.total - number, 'match')} more")
            yield from _with_life(result, row, lives.get(str(row["uuid"]), ()) if _has_life(row) else ())


def _joined(*parts: object) -> str:
    return "; ".join(str(part) for part in parts if part)


def _with_life(result: LookedUpId, row: dict[str, Any], life: Sequence[Row]) -> Iterator[Row]:
    """Yield a match's row, then the GPU's changes there, then its other places with theirs."""
    here = [one for one in life if _is_here(row, one)]
    if isinstance(known := row["last_known"], Mapping):
        marked = " and ".join(f"{name} {row[name]} (last known)" for name in ("serial", "chassis") if name in known)
        row["note"] = _joined(marked, row["note"])
    for placement in here:
        row["note"] = _joined(row["note"], described(placement).get("altered"))
    yield row
    for placement in [*here, *(one for one in life if one not in here)]:
        told = {name: placement[name] for name in _NAMES if name in placement and name not in ("id", "mark")}
        told |= {"id": result.id, "kind": row["kind"], "state": FoundState.PAST.value}
        if placement not in here and not _is_present(placement, result):
            yield told | {"note": described(placement).get("altered")}
        for line in health_lines(placement):
            yield told | {"since": line["since"], "until": line["until"], "note": line["altered"]}


def _is_here(row: Row, placement: Row) -> bool:
    same = all(row[name] == placement.get(name) for name in ("cluster", "node"))
    return same and (placement.get("until") is None or row["until"] == placement["until"])


def _is_present(placement: Row, result: LookedUpId) -> bool:
    """Return whether a placement already has a row as a match: a GPU that two nodes report has two."""
    keys = ("uuid", "cluster", "node")
    return placement.get("until") is None and any(
        match.get("state") in _PRESENT and all(match.get(key) == placement.get(key) for key in keys)
        for match in result.matches
    )


def _cells(row: Row) -> Row:
    if row["state"] == FoundState.NOT_FOUND:
        return {"note": ""}  # printed once, below the table
    return {}


def _no(answer: LookedUp, missed: Sequence[LookedUpId]) -> str:
    if len(missed) == 1:
        return one_line(f"{missed[0].id}: not found. {missed[0].note}")
    return one_line(f"{len(missed):,} of {counted(len(answer.results), 'id')} not found. {answer.searched.text}")
