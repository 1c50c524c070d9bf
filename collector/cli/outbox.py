"""`gpuid outbox`: shows each sink's backlog and dead letters."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import click
import msgspec

from collector import config as configuration
from collector.cli.completion import complete_sink
from collector.cli.console import print_json
from collector.cli.errors import CommandError
from collector.cli.options import config_option, confirm
from collector.cli.output import Output, Row, layout_of, output_options, show_rows
from collector.cli.suggestions import unknown_name
from collector.config import Config, ConfigError
from collector.store import DeadLetter, OpenMode, Outbox, SinkState, Store
from collector.text import counted, one_line
from collector.timestamps import rfc3339
from collector.views.columns import Time, row_object, table, wide

__all__ = ["outbox"]

_T = TypeVar("_T")


class SinkRow(msgspec.Struct, frozen=True, kw_only=True):
    """The state of delivery to one sink."""

    sink: Annotated[str, table("Sink.")]
    emit: Annotated[str, table("changes or readings.")]
    records: Annotated[int, table("Records in its backlog.")]
    oldest_at: Annotated[Time | None, table("Time of the oldest of them.")]
    dead_letters: Annotated[int, table("Batches it rejected.")]
    configured: Annotated[bool, table("If not configured, its backlog is kept for a week.")]
    next: Annotated[str | None, wide("Idempotency key of the batch being delivered.")]


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that its sink rejected."""

    id: Annotated[int, table("Its number.")]
    sink: Annotated[str, table("Sink.")]
    time: Annotated[Time, table("When it was rejected.")]
    count: Annotated[int, table("Records in it.")]
    replay: Annotated[bool, table("Whether it is queued for redelivery.")]
    reason: Annotated[str, table("Why it was rejected.")]
    key: Annotated[str, wide("Idempotency key.")]


_SINKS = layout_of(SinkRow)
_LETTERS = layout_of(DeadLetterRow)


class _InOrder(click.Group):
    """A group that lists its commands in the order of this file, the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands."""
        return list(self.commands)


@click.group(cls=_InOrder)
def outbox() -> None:
    r"""Show sink backlogs; show, replay and drop dead letters.

    A batch that a sink rejects permanently becomes a dead letter: it is kept, with the reason, until you replay
    or drop it. These commands use the store directly; a collector need not be running.

    \b
    Examples:
      gpuid outbox ls                   backlogs of the sinks
      gpuid outbox letters              dead letters
      gpuid outbox show 7
      gpuid outbox replay 7             once the receiver is fixed
      gpuid outbox drop --sink lake     asks for confirmation
    """


@outbox.command()
@output_options(_SINKS, watch=True)
@config_option
def ls(config: Path, output: Output) -> None:
    r"""List the sinks and their backlogs.

    When a sink is removed from the configuration, its backlog is kept for a week; delivery resumes if a sink of
    the same name is configured again.

    \b
    Example:
      gpuid outbox ls -o json | jq '.[] | select(.records > 0)'
    """
    configured = _configured(config)

    def ask() -> list[Row]:
        states, letters = _ask(configured, OpenMode.READER, _everything)
        rejected = Counter(letter.sink for letter in letters)
        return [
            row_object(
                SinkRow(
                    sink=one.sink,
                    emit=one.emit,
                    records=one.records,
                    oldest_at=rfc3339(one.oldest),
                    dead_letters=rejected[one.sink],
                    configured=one.configured,
                    next=one.next,
                )
            )
            for one in states
        ]

    show_rows(_SINKS, ask, output, nothing="No sinks found.", footer=_rejected)


def _rejected(rows: Sequence[Row]) -> Iterator[str]:
    if letters := sum(row["dead_letters"] for row in rows):
        yield f"{counted(letters, 'dead letter')}; `gpuid outbox letters` lists them."


@outbox.command("letters")
@click.option("--sink", metavar="NAME", shell_complete=complete_sink, help="Only the dead letters of this sink.")
@output_options(_LETTERS, watch=True)
@config_option
def letters_(config: Path, sink: str | None, output: Output) -> None:
    r"""List the dead letters: batches that a sink rejected.

    \b
    Examples:
      gpuid outbox letters
      gpuid outbox letters --sink lake -o json | jq '.[].id'
    """
    configured = _configured(config)

    def ask() -> list[Row]:
        states, letters = _ask(configured, OpenMode.READER, _everything)
        if sink is not None:
            letters = _of_sink(configured, states, letters, sink)
        return [_row(letter) for letter in letters]

    show_rows(_LETTERS, ask, output, nothing="No dead letters found.")


@outbox.command()
@click.argument("letter", type=int)
@config_option
def show(config: Path, letter: int) -> None:
    r"""Print a dead letter and its records as JSON.

    \b
    Example:
      gpuid outbox show 7 | jq '.records[].gpu'
    """
    found = _ask(_configured(config), OpenMode.READER, lambda outbox: outbox.show(letter))
    if found is None:
        raise CommandError(f"no dead letter {letter}")
    row = _row(found) | {"records": found.records}
    print_json(row)


def _letter_options(function: Any) -> Any:
    """Add the options that choose dead letters: by number or by sink."""
    function = config_option(function)
    function = click.option(
        "--sink", metavar="NAME", shell_complete=complete_sink, help="All dead letters of this sink."
    )(function)
    return click.argument("letters", type=int, nargs=-1)(function)


@outbox.command()
@_letter_options
def replay(config: Path, letters: tuple[int, ...], sink: str | None) -> None:
    r"""Queue dead letters for redelivery.

    The collector that uses the store sends them within seconds, after the batch that is being delivered,
    with their original idempotency keys. One that is rejected again becomes a dead letter again.

    \b
    Examples:
      gpuid outbox replay 7 8
      gpuid outbox replay --sink lake
    """
    configured = _configured(config)
    found = _letters(configured, letters, sink)
    if found:
        _ask(configured, OpenMode.OPERATOR, lambda outbox: outbox.replay([letter.id for letter in found]))
    click.echo(f"Queued {_described_count(found)} for redelivery.")
    for name in sorted({letter.sink for letter in found} - configured.sinks.keys()):
        click.echo(
            f'Sink "{one_line(name)}" is not configured: its records are kept until the sink is configured again.',
            err=True,
        )


@outbox.command()
@_letter_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def drop(config: Path, letters: tuple[int, ...], sink: str | None, yes: bool) -> None:
    r"""Delete dead letters permanently.

    \b
    Examples:
      gpuid outbox drop 7
      gpuid outbox drop --sink lake --yes
    """
    configured = _configured(config)
    found = _letters(configured, letters, sink)
    if found and not yes:
        confirm(f"Delete {_described_count(found)} permanently?", nothing="deleted")
    if found:
        _ask(configured, OpenMode.OPERATOR, lambda outbox: outbox.drop([letter.id for letter in found]))
    click.echo(f"Deleted {_described_count(found)}.")


def _configured(path: Path) -> Config:
    config = configuration.load(path)
    if config.store is None:
        raise ConfigError(f"{path}: store: expected a [store] table, which holds the outbox")
    return config


def _ask(config: Config, access: OpenMode, ask: Callable[[Outbox], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        assert config.store is not None  # noqa: S101
        async with Store.open(config.store, access) as store:
            return await ask(store.outbox)

    return anyio.run(run)


async def _everything(outbox: Outbox) -> tuple[list[SinkState], list[DeadLetter]]:
    return await outbox.sinks(), await outbox.dead_letters()


def _letters(config: Config, ids: Sequence[int], sink: str | None) -> list[DeadLetter]:
    """Return the dead letters with these ids, or all of a sink; raises CommandError for an id that does not exist."""
    if bool(ids) == (sink is not None):
        raise click.UsageError("expected either the ids of dead letters or --sink NAME")
    states, found = _ask(config, OpenMode.READER, _everything)
    if sink is not None:
        return _of_sink(config, states, found, sink)
    by_id = {letter.id: letter for letter in found}
    if missing := [id_ for id_ in dict.fromkeys(ids) if id_ not in by_id]:
        raise CommandError(f"no dead letter {', '.join(map(str, missing))}; `gpuid outbox letters` lists them")
    return [by_id[id_] for id_ in dict.fromkeys(ids)]


def _of_sink(config: Config, states: Sequence[SinkState], letters: Sequence[DeadLetter], sink: str) -> list[DeadLetter]:
    """Return the dead letters of a sink; raises UsageError for one that does not exist."""
    known = config.sinks.keys() | {one.sink for one in states} | {letter.sink for letter in letters}
    if sink not in known:
        raise click.UsageError(f"--sink: {unknown_name('sink', sink, sorted(known))}")
    return [letter for letter in letters if letter.sink == sink]


def _row(letter: DeadLetter) -> dict[str, Any]:
    return row_object(
        DeadLetterRow(
            id=letter.id,
            sink=letter.sink,
            time=rfc3339(letter.time),
            count=letter.count,
            replay=letter.replay,
            reason=letter.reason,
            key=letter.key,
        )
    )


def _described_count(letters: Sequence[DeadLetter]) -> str:
    records = sum(letter.count for letter in letters)
    return f"{counted(len(letters), 'dead letter')} ({counted(records, 'record')})"
