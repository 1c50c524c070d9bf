"""Options, value types and the error shared by several commands."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from collector.cli.errors import CommandError
from collector.cli.logs import LEVELS, LOG_FORMATS
from collector.config import ConfigError, Duration, Listen
from collector.model import GpuidError
from collector.text import shell_word
from collector.timestamps import parse_time

__all__ = [
    "AS_OF_TIME",
    "DURATION",
    "LISTEN",
    "PAST_TIME",
    "TERM",
    "TIMEOUT",
    "ParsedText",
    "at_option",
    "config_option",
    "confirm",
    "file_option",
    "found_config",
    "log_options",
    "optional_config_option",
    "reworded",
    "url_option",
]

F = TypeVar("F", bound=Callable[..., Any])

_CONFIG_FILES = (Path("gpuid.toml"), Path("/etc/gpuid/gpuid.toml"))


def confirm(question: str, *, nothing: str) -> None:
    """Ask on standard error; raises CommandError, which says that nothing was "changed" or the like, unless agreed."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo("", err=True)
        agreed = False
    if not agreed:
        raise CommandError(f"nothing was {nothing}; use --yes to skip the confirmation")


class ParsedText(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A value parsed by one of our own types."""

    def __init__(self, name: str, parse: Callable[[object], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed text; a default that is not text is returned unchanged."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _timeout(text: object) -> Duration:
    if (timeout := Duration.parse(text)) <= 0.0:
        raise ValueError("must be greater than zero")
    return timeout


def _term(text: object) -> str:
    if not (term := str(text).strip()):
        raise ValueError("must not be empty")
    return term


DURATION = ParsedText("duration", Duration.parse)
PAST_TIME = ParsedText("time", lambda text: parse_time(str(text), time.time()))  # in Unix seconds
AS_OF_TIME = ParsedText(
    "time", lambda text: parse_time(str(text), time.time(), latest=True)
)  # likewise, of looking back
TIMEOUT = ParsedText("duration", _timeout)
TERM = ParsedText("text", _term)
LISTEN = ParsedText("host:port", Listen.parse)


def found_config() -> Path | None:
    """Return the configuration to use if none is given: ./gpuid.toml, else /etc/gpuid/gpuid.toml, else None."""
    return next((file for file in _CONFIG_FILES if file.is_file()), None)


def _required(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
    found = value or found_config()
    if found is None:
        raise ConfigError(
            "no configuration: expected --config FILE, $GPUID_CONFIG, ./gpuid.toml or /etc/gpuid/gpuid.toml;"
            " create one with `gpuid init`"
        )
    return found


def _config_option(callback: Callable[..., Any] | None) -> Callable[[F], F]:
    return click.option(
        "-c",
        "--config",
        envvar="GPUID_CONFIG",
        metavar="FILE",
        type=click.Path(path_type=Path),
        callback=callback,
        help="Configuration file. Default: $GPUID_CONFIG, then ./gpuid.toml, then /etc/gpuid/gpuid.toml.",
    )


# The command gets `config: Path`; without a configuration it fails with ConfigError.
config_option = _config_option(_required)

# The command gets `config: Path | None`: the given one, else None.
optional_config_option = _config_option(None)

# The command gets `at: float | None` (Unix seconds).
at_option = click.option(
    "--at",
    metavar="TIME",
    type=AS_OF_TIME,
    help="Show a past state, from the history: a time such as 2026-11-24T12:00:00Z or yesterday, or an age such as 2h.",
)

# The command gets `url: str | None`.
url_option = click.option("--url", metavar="URL", help="Collector to ask. Default: [server] of the configuration.")


def file_option(*, default: str | None = None, help: str) -> Callable[[F], F]:  # noqa: A002  as click names it
    """Add `-f`/`--file` for an output file; the command gets `file: Path`, or None without a default.

    `-o`, its former name, is a format everywhere else: it is rejected with a hint.
    """

    def decorate(function: F) -> F:
        function = click.option(
            "-o", "--output", metavar="FILE", hidden=True, expose_value=False, callback=_renamed, help="Use --file."
        )(function)
        return click.option(
            "-f",
            "--file",
            default=default,
            show_default=default is not None,
            metavar="FILE",
            type=click.Path(path_type=Path, allow_dash=True),
            help=help,
        )(function)

    return decorate


def _renamed(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(f"-o is a format in other commands; to write a file, use -f {shell_word(value)}")


@contextmanager
def reworded(reword: Callable[[str], str]) -> Iterator[None]:
    """Raise ConfigError for the first GpuidError of the block, with its text as `reword` returns it.

    This lets a command name the file or option that an error is about.
    """
    try:
        yield
    except* GpuidError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise ConfigError(reword(str(first))) from first


def log_options(function: F) -> F:
    """Add `--log-level` and `--log-format`; the command gets `log_level` and `log_format`."""
    function = click.option(
        "--log-format",
        type=click.Choice(LOG_FORMATS),
        default="auto",
        show_default=True,
        envvar="GPUID_LOG_FORMAT",
        help="Log format, on stderr: auto is text on a terminal, else json; also $GPUID_LOG_FORMAT.",
    )(function)
    return click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        envvar="GPUID_LOG_LEVEL",
        help="Minimum log level; also $GPUID_LOG_LEVEL.",
    )(function)
