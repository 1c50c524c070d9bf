"""Where every command prints: rich consoles for tables, progress and live views, and JSON."""

import os
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from collector.text import printable_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["encode_json", "error_console", "output_console", "print_json"]


def encode_json(value: object) -> str:
    """Return a value as one line of JSON, with terminal control characters escaped."""
    return printable_json(msgspec.json.encode(value)).decode()


def print_json(value: object) -> None:
    """Print a value as indented JSON on standard output."""
    click.echo(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2)))


def output_console() -> "Console":
    """Return the console of standard output."""
    return _console(stderr=False)


def error_console(*, enabled: bool = True) -> "Console":
    """Return the console of standard error, for progress alongside the output; if not enabled, it prints nothing.

    Long lines are left to the terminal, so that log lines printed through it stay in one piece.
    """
    return _console(stderr=True, quiet=not enabled)


def _console(*, stderr: bool, quiet: bool = False) -> "Console":
    from rich.console import Console  # here, because most commands start faster without it

    # With NO_COLOR, rich removes only colours; without a colour system there are no styles at all.
    color_system: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(stderr=stderr, quiet=quiet, soft_wrap=stderr, color_system=color_system, highlight=False)
