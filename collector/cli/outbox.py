"""`gpuid outbox`: what the sinks are owed, and the batches that they refused."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import click
import msgspec

from collector import config as configuration
from collector.cli.options import CommandError, config_option
from collector.cli.past import print_rows
from collector.config import Config, ConfigError
from collector.store import DeadLetter, OpenMode, Outbox, Owed, Store
from collector.text import one_line
from collector.timestamps import rfc3339

__all__ = ["outbox"]

_T = TypeVar("_T")


class _InOrder(click.Group):
    """A group that lists its commands as they stand here, in the order in which they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name the commands."""
        return list(self.commands)


@click.group(cls=_InOrder)
def outbox() -> None:
    r"""Show what the sinks are owed, and what becomes of the batches that they refused.

    A batch that a sink refuses for good is a dead letter: it is kept, with the reason, until it is sent again
    or dropped. This works on the store, beside a running collector or without one.

    \b
    Examples:
      gpuid outbox ls
      gpuid outbox show 7
      gpuid outbox replay 7             once the receiver is mended
      gpuid outbox drop --sink lake     asks first
    """


@outbox.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def ls(config: Path, as_json: bool) -> None:
    r"""List what each sink is owed, and the dead letters.

    NEXT is the idempotency key of the batch that is on its way. A sink that is not configured any more is
    kept for a week with what it is owed, and goes on there if it comes back under its name.

    \b
    Example:
      gpuid outbox ls --json | jq '.dead_letters[].id'
    """
    owed, letters = _ask(_configured(config), OpenMode.READER, _everything)
    sinks = [msgspec.structs.asdict(one) | {"oldest": rfc3339(one.oldest)} for one in owed]
    dead = [_described(letter) for letter in letters]
    if as_json:
        found = {"sinks": sinks, "dead_letters": dead}
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    columns: tuple[str, ...] = ("sink", "emit", "records", "oldest", "next", "configured")
    shown = [row | {"configured": "yes" if row["configured"] else "no"} for row in sinks]
    print_rows(shown, columns, as_json=False, nothing="No sinks.")
    if dead:
        click.echo("")
    columns = ("id", "sink", "time", "count", "replay", "reason")
    shown = [row | {"replay": "yes" if row["replay"] else None} for row in dead]
    print_rows(shown, columns, as_json=False, nothing="No dead letters.")


@outbox.command()
@click.argument("letter", type=int)
@config_option
def show(config: Path, letter: int) -> None:
    r"""Print one dead letter with its records as JSON.

    \b
    Example:
      gpuid outbox show 7 | jq '.records[].gpu'
    """
    found = _ask(_configured(config), OpenMode.READER, lambda outbox: outbox.show(letter))
    if found is None:
        raise CommandError(f"no dead letter {letter}")
    row = _described(found) | {"records": found.records}
    click.echo(msgspec.json.format(msgspec.json.encode(row), indent=2))


def _chosen(function: Any) -> Any:
    function = config_option(function)
    function = click.option("--sink", metavar="NAME", help="All dead letters of this sink.")(function)
    return click.argument("letters", type=int, nargs=-1)(function)


@outbox.command()
@_chosen
def replay(config: Path, letters: tuple[int, ...], sink: str | None) -> None:
    r"""Have dead letters sent once more.

    The collector that runs on the store sends them within seconds, after the batch that is on its way and
    under their old idempotency keys. One that is refused again is a dead letter again.

    \b
    Examples:
      gpuid outbox replay 7 8
      gpuid outbox replay --sink lake
    """
    configured = _configured(config)
    found = _letters(configured, letters, sink)
    if found:
        _ask(configured, OpenMode.OPERATOR, lambda outbox: outbox.replay([letter.id for letter in found]))
    click.echo(f"{_counted(found)} to be sent again.")
    for name in sorted({letter.sink for letter in found} - configured.sinks.keys()):
        click.echo(f'The configuration has no sink "{one_line(name)}": what is for it waits until it has.', err=True)


@outbox.command()
@_chosen
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def drop(config: Path, letters: tuple[int, ...], sink: str | None, yes: bool) -> None:
    r"""Throw dead letters away; their sink never gets them.

    \b
    Examples:
      gpuid outbox drop 7
      gpuid outbox drop --sink lake --yes
    """
    configured = _configured(config)
    found = _letters(configured, letters, sink)
    if found and not yes:
        _confirm(f"Throw away {_counted(found)}?")
    if found:
        _ask(configured, OpenMode.OPERATOR, lambda outbox: outbox.drop([letter.id for letter in found]))
    click.echo(f"{_counted(found)} dropped.")


def _configured(path: Path) -> Config:
    config = configuration.load(path)
    if config.store is None:
        raise ConfigError(f"{path}: store: expected a [store] table; without one there is no outbox")
    return config


def _ask(config: Config, access: OpenMode, ask: Callable[[Outbox], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        assert config.store is not None  # noqa: S101
        async with Store.open(config.store, access) as store:
            return await ask(store.outbox)

    return anyio.run(run)


async def _everything(outbox: Outbox) -> tuple[list[Owed], list[DeadLetter]]:
    return await outbox.owed(), await outbox.dead_letters()


def _letters(config: Config, ids: Sequence[int], sink: str | None) -> list[DeadLetter]:
    """Find the dead letters that are meant; raises Failure for one that is not there."""
    if bool(ids) == (sink is not None):
        raise click.UsageError("expected the numbers of dead letters or --sink NAME")
    owed, found = _ask(config, OpenMode.READER, _everything)
    if sink is not None:
        known = config.sinks.keys() | {one.sink for one in owed} | {letter.sink for letter in found}
        if sink not in known:
            names = ", ".join(map(one_line, sorted(known))) or "none"
            raise click.UsageError(f'--sink: there is no sink "{one_line(sink)}"; known: {names}')
        return [letter for letter in found if letter.sink == sink]
    by_id = {letter.id: letter for letter in found}
    if missing := [id_ for id_ in dict.fromkeys(ids) if id_ not in by_id]:
        raise CommandError(f"no dead letter {', '.join(map(str, missing))}; `gpuid outbox ls` lists them")
    return [by_id[id_] for id_ in dict.fromkeys(ids)]


def _confirm(question: str) -> None:
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo("", err=True)
        agreed = False
    if not agreed:
        raise CommandError("nothing was dropped; --yes drops without asking")


def _described(letter: DeadLetter) -> dict[str, Any]:
    row = msgspec.structs.asdict(letter) | {"time": rfc3339(letter.time)}
    del row["records"]
    return row


def _counted(letters: Sequence[DeadLetter]) -> str:
    records = sum(letter.count for letter in letters)
    return f"{_plural(len(letters), 'dead letter')} with {_plural(records, 'record')}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
