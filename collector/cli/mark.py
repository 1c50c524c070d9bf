"""`gpuid mark`, `gpuid unmark` and `gpuid marks`: people's notes on GPUs, in the store or through a collector."""

import getpass
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import click
import msgspec

from collector import config as configuration
from collector.cli.client import MAX_PAGE_SIZE, Client, RefusedError, connection_options
from collector.cli.completion import complete_id
from collector.cli.errors import CommandError
from collector.cli.options import found_config
from collector.cli.output import Output, layout_of, output_options, show_rows
from collector.config import ConfigError
from collector.marks import (
    MAX_ID_LENGTH,
    MAX_MARKS,
    MAX_WHO_LENGTH,
    MarkKind,
    NewMark,
    check_id,
    check_who,
    parse_until,
)
from collector.store import MarkStore, OpenMode, RefusedMarkError, Store, StoreSettings
from collector.text import counted, describe_os_error, one_line
from collector.timestamps import rfc3339
from collector.views.columns import MarkRow, row_object
from collector.views.rows import mark_row

__all__ = ["mark", "marks", "unmark"]

_T = TypeVar("_T")
_LAYOUT = layout_of(MarkRow)
_ALL = layout_of(MarkRow, ("serial", "kind", "note", "ticket", "until", "set_at", "removed_at"))
MAX_CELL_LENGTH = 40  # characters of a note or ticket in the table
_CHOICES = tuple(kind.value for kind in MarkKind)


def _names_options(function: Any) -> Any:
    """Add the options for the GPUs to mark and the author."""
    function = click.option(
        "--by", metavar="NAME", help="Author of the mark in the store. Default: your user and host."
    )(function)
    function = click.option(
        "-f", "--file", type=click.Path(path_type=Path), metavar="FILE", help="File with one id per line; - for stdin."
    )(function)
    return click.argument("ids", nargs=-1, metavar="SERIAL|UUID...", shell_complete=complete_id)(function)


@click.command()
@_names_options
@click.option("--as", "kind", type=click.Choice(_CHOICES), required=True, help="Kind of mark.")
@click.option("--note", default="", metavar="TEXT", help="Reason, in one line.")
@click.option("--ticket", default="", metavar="URL", help="URL or name of a ticket.")
@click.option(
    "--until",
    metavar="TIME",
    help="Expiry: 7d from now, or a time such as 2026-12-01T12:00:00Z; UTC without an offset.",
)
@connection_options
def mark(
    ids: tuple[str, ...],
    file: Path | None,
    by: str | None,
    kind: str,
    note: str,
    ticket: str,
    until: str | None,
    **options: Any,
) -> None:
    r"""Mark GPUs by serial or UUID, replacing any mark they have.

    A mark follows the GPU wherever it goes and survives its absence. In the store, either all are marked or none.

    \b
    Examples:
      gpuid mark 1652922001234 --as rma --note "row remap failure" --ticket https://tickets.example.com/1
      gpuid mark -f serials.txt --as quarantine --until 7d
    """
    now = time.time()
    try:
        new = NewMark(
            kind=MarkKind(kind), note=note, ticket=ticket, until=None if until is None else parse_until(until, now)
        )
        new.check_until(now)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None
    names = _names(ids, file)
    settings = _store(options)
    if settings is None:
        _forbid_by(by)
        body = {"kind": kind, "note": note, "ticket": ticket, "until": rfc3339(new.until)}
        _through_collector(options, names, "PUT", body)
        return
    who = _who(by)
    done = _in_store(settings, OpenMode.OPERATOR, lambda store: store.set(list(names), new, by=who), names)
    for one in done:
        former = None if one.former is None else row_object(mark_row(one.former))
        marked = _marked(row_object(mark_row(one.mark)), already=one.unchanged)
        click.echo(f"{one.name}: {marked}{_in_place_of(former)}")
        if not one.seen:
            click.echo(f"gpuid: {names[one.name]}never seen; the mark applies when it appears", err=True)


@click.command()
@_names_options
@connection_options
def unmark(ids: tuple[str, ...], file: Path | None, by: str | None, **options: Any) -> None:
    r"""Remove the marks of GPUs; exit code 1 if any of them is not marked.

    \b
    Examples:
      gpuid unmark 1652922001234
      gpuid unmark -f repaired.txt
    """
    names = _names(ids, file)
    settings = _store(options)
    if settings is None:
        _forbid_by(by)
        _through_collector(options, names, "DELETE", None)
        return
    who = _who(by)
    done = _in_store(settings, OpenMode.OPERATOR, lambda store: store.remove(list(names), by=who), names)
    for one in done:
        if one.mark is not None:
            still = None if one.still is None else row_object(mark_row(one.still))
            click.echo(f"{one.name}: no longer marked {one.mark.kind.value}{_still_marked(still)}")
    _end_with([f"{names[one.name]}not marked" for one in done if one.mark is None])


@click.command()
@click.option("--all", "ended", is_flag=True, help="Include marks that have ended.")
@output_options(_LAYOUT, watch=True)
@connection_options
def marks(ended: bool, output: Output, **options: Any) -> None:
    r"""List current marks, newest first.

    \b
    Example:
      gpuid marks --all -o json
    """
    show_rows(
        _ALL if ended else _LAYOUT,
        lambda: _marks(options, ended=ended),
        output,
        nothing="No marks found.",
        cells=_short,
    )


def _marks(options: Mapping[str, Any], *, ended: bool) -> list[dict[str, Any]]:
    settings = _store(options)
    rows: list[dict[str, Any]] = []
    if settings is None:
        params = {"all": "true" if ended else "false", "limit": str(MAX_PAGE_SIZE)}
        with Client(**options) as client:
            while True:
                page = client.get("/api/v1/marks", params, _Page)
                rows += page.marks
                if page.next is None:
                    return rows
                params["after"] = str(page.next)

    async def read(store: MarkStore) -> None:
        before: int | None = None
        while found := await store.page(ended=ended, before=before, limit=MAX_PAGE_SIZE):
            rows.extend(row_object(mark_row(one)) for one in found)
            before = found[-1].id

    _in_store(settings, OpenMode.READER, read)
    return rows


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells that a table words differently; a GPU marked only by UUID is named by it."""
    return {name: _cut(row.get(name)) for name in ("note", "ticket")} | {"serial": row.get("serial") or row.get("uuid")}


def _cut(text: object) -> str:
    return one_line(str(text or ""), MAX_CELL_LENGTH)


class _Page(msgspec.Struct):
    marks: list[dict[str, Any]]
    next: str | None = None


class _Answer(msgspec.Struct):
    mark: dict[str, Any] = {}
    warning: str | None = None
    unchanged: bool = False
    former: dict[str, Any] | None = None  # replaced by a new mark
    still: dict[str, Any] | None = None  # still set after another was removed


def _store(options: Mapping[str, Any]) -> StoreSettings | None:
    """Return the configured store; None to use a running collector. Raises ConfigError."""
    path: Path | None = options["config"] or found_config()
    if options["url"] is not None or path is None:
        return None
    settings = configuration.load(path).store
    if settings is None:
        raise ConfigError(f"{path}: store: expected a [store] table, which holds the marks")
    return settings


def _in_store(
    settings: StoreSettings,
    mode: OpenMode,
    ask: Callable[[MarkStore], Awaitable[_T]],
    names: Mapping[str, str] = MappingProxyType({}),
) -> _T:
    """Return the store's answer; `names` are the GPUs in question, each with where it was given."""

    async def run() -> _T:
        async with Store.open(settings, mode) as store:
            return await ask(store.marks)

    try:
        return anyio.run(run)
    except RefusedMarkError as error:
        *first, last = [f"{names.get(one.name, f'{one.name}: ')}{one.reason}" for one in error.refusals]
        for line in first:
            click.echo(f"gpuid: {one_line(line)}", err=True)
        raise ConfigError(last) from None


def _through_collector(options: Mapping[str, Any], names: Mapping[str, str], method: str, body: object) -> None:
    """Have a collector do it for each GPU; each refusal is one line, and the exit code is then 1."""
    refused = False
    with Client(**options) as client:
        for name, where in names.items():
            try:
                answer = client.send(method, f"/api/v1/gpus/{quote(name, safe='')}/mark", body, _Answer)
            except RefusedError as error:
                click.echo(f"gpuid: {where}{one_line(error.message)}", err=True)
                refused = True
                continue
            if method == "PUT":
                done = _marked(answer.mark, already=answer.unchanged) + _in_place_of(answer.former)
            else:
                done = f"no longer marked {answer.mark.get('kind')}{_still_marked(answer.still)}"
            click.echo(f"{name}: {one_line(done)}")
            if answer.warning:
                click.echo(f"gpuid: {where}{one_line(answer.warning)}", err=True)
    if refused:
        raise click.exceptions.Exit(1)


def _marked(mark: Mapping[str, Any], *, already: bool) -> str:
    until = f" until {mark['until']}" if mark.get("until") else ""
    return one_line(f"{'already ' if already else ''}marked {mark.get('kind')}{until}")


def _in_place_of(former: Mapping[str, Any] | None) -> str:
    """Return which mark was replaced, so that nobody replaces a colleague's mark without noticing."""
    if former is None:
        return ""
    ticket = f", ticket {former['ticket']}" if former.get("ticket") else ""
    return one_line(f", no longer {former.get('kind')} (set by {former.get('set_by')}{ticket})")


def _still_marked(still: Mapping[str, Any] | None) -> str:
    if still is None:
        return ""
    return one_line(f"; still marked {still.get('kind')} by its serial {still.get('serial')}")


def _end_with(problems: Sequence[str]) -> None:
    for line in problems[:-1]:
        click.echo(f"gpuid: {one_line(line)}", err=True)
    if problems:
        raise CommandError(problems[-1])


def _names(ids: Sequence[str], file: Path | None) -> dict[str, str]:
    """Return the given GPUs, each with where it was given, for messages; raises UsageError or ConfigError."""
    if bool(ids) == (file is not None):
        raise click.UsageError("expected either serials or UUIDs, or -f FILE")
    found: dict[str, str] = {}
    bad: list[str] = []
    lines = [("", one) for one in ids]
    if file is not None:
        text = _read(file)
        named = "standard input" if str(file) == "-" else str(file)
        numbered = enumerate((line.partition("#")[0].strip() for line in text.splitlines()), 1)
        lines = [(f"{named}:{number}: ", line) for number, line in numbered if line]
    for where, text in lines:
        try:
            name = check_id(text)
            found.setdefault(name, f"{where}{name}: ")
        except ValueError as error:
            named = where or f'"{one_line(text, MAX_ID_LENGTH)}": '
            bad.append(f"{named}{error}")
    for line in bad[:-1]:
        click.echo(f"gpuid: {one_line(line)}", err=True)
    if bad:
        raise ConfigError(bad[-1])
    if not found or len(found) > MAX_MARKS:
        raise ConfigError(f"{file}: expected 1 to {MAX_MARKS:,} serials or UUIDs, got {counted(len(found), 'line')}")
    return found


def _read(path: Path) -> str:
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: {describe_os_error(error, 'cannot be read')}") from None


def _who(by: str | None) -> str:
    try:
        if by is not None:
            return check_who(by)
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # no such user on this machine, as in a container
            user = "unknown"
        return one_line(f"{user}@{socket.gethostname()}", MAX_WHO_LENGTH)
    except ValueError as error:
        raise click.UsageError(f"--by: {error}") from None


def _forbid_by(by: str | None) -> None:
    if by is not None:
        raise click.UsageError("--by: not allowed with --url: a collector records the authenticated user")
