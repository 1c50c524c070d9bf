"""The error of a command, apart from what only some commands load."""

import click

__all__ = ["CommandError"]


class CommandError(click.ClickException):
    """A command could not do or find something: one line, exit code 1."""
