"""Tries the destinations of what is found, the store and each sink, and prints what is missing."""

from collections.abc import Awaitable, Callable, Sequence

import anyio
import click
import msgspec

from collector import store
from collector.cli.table import print_table, result_style
from collector.config import Config
from collector.config.sinks import SinkSettings
from collector.config.store import PostgresLocation, StoreSettings, locate
from collector.model import GpuidError
from collector.sinks import open_sink
from collector.text import one_line

__all__ = ["Destination", "print_destinations", "try_destinations"]


class Destination(msgspec.Struct, kw_only=True):
    """All that was learnt of the store or a sink; `text` is what it said, or what is wrong with it."""

    name: str
    type: str
    ok: bool = False
    text: str = ""


async def try_destinations(config: Config, timeout: float) -> tuple[Destination | None, list[Destination]]:
    """Try the store, if there is one, and every sink; whatever goes wrong there is told by what is returned."""
    kept: Destination | None = None
    if config.store is not None:
        kept = Destination(name="store", type=_engine(config.store))
    sinks = {
        name: Destination(name=name, type=str(settings.__struct_config__.tag))
        for name, settings in config.sinks.items()
    }
    async with anyio.create_task_group() as tasks:
        if kept is not None and config.store is not None:
            tasks.start_soon(_try, kept, _check_store(config.store), timeout, name="check store")
        for name, destination in sinks.items():
            tasks.start_soon(_try, destination, _check_sink(name, config.sinks[name]), timeout, name=f"check {name}")
    return kept, list(sinks.values())


def print_destinations(found: Sequence[Destination]) -> None:
    """Print a table, if there is anything to print."""
    if found:
        click.echo("")
        rows = [(one.name, one.type, f"ok ({one.text})" if one.ok else one.text) for one in found]
        print_table(("destination", "type", "result"), rows, styles={"result": result_style})


async def _try(destination: Destination, check: Callable[[], Awaitable[str]], timeout: float) -> None:
    try:
        with anyio.fail_after(timeout):
            destination.text = one_line(await check())
            destination.ok = True
    except TimeoutError:
        destination.text = f"no answer within {timeout:g} s"
    except GpuidError as error:
        destination.text = one_line(error)
    except Exception as error:  # one destination's failure never stops the others
        destination.text = one_line(f"{type(error).__name__}: {error}")


def _check_store(settings: StoreSettings) -> Callable[[], Awaitable[str]]:
    return lambda: store.check(settings)


def _check_sink(name: str, settings: SinkSettings) -> Callable[[], Awaitable[str]]:
    async def check() -> str:
        sink = open_sink(name, settings)
        try:
            return await sink.check()
        finally:
            with anyio.move_on_after(_CLOSING, shield=True):
                await sink.aclose()

    return check


_CLOSING = 2.0  # seconds


def _engine(settings: StoreSettings) -> str:
    return "postgresql" if isinstance(locate(settings.url), PostgresLocation) else "sqlite"
