"""The rich console on which every command draws tables, progress and live views."""

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["error_console", "output_console"]


def output_console() -> "Console":
    """Return the console of standard output."""
    return _console(stderr=False)


def error_console(*, enabled: bool = True) -> "Console":
    """Return the console of standard error, for progress beside the output; one that is not enabled prints nothing.

    Long lines are left to the terminal: log lines that go through it stay in one piece.
    """
    return _console(stderr=True, quiet=not enabled)


def _console(*, stderr: bool, quiet: bool = False) -> "Console":
    from rich.console import Console  # here, because most commands start faster without it

    # rich itself takes only the colours away when NO_COLOR is set; without a colour system there are no styles at all.
    color_system: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(stderr=stderr, quiet=quiet, soft_wrap=stderr, color_system=color_system, highlight=False)
