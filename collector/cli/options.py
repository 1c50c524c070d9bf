"""The options, types of values and failure that several commands share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from collector.cli.logs import LEVELS
from collector.config import ConfigError, Duration, Listen
from collector.model import GpuidError

__all__ = [
    "DURATION",
    "LISTEN",
    "TERM",
    "TIMEOUT",
    "CommandError",
    "config_option",
    "found_config",
    "log_options",
    "optional_config_option",
    "told",
]

F = TypeVar("F", bound=Callable[..., Any])


class CommandError(click.ClickException):
    """What the command was to find out is bad news: one line, exit code 1."""


class _Text(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A value that one of our own types reads from text."""

    def __init__(self, name: str, parse: Callable[[object], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text of an option; a default that is no text stays as it is."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _timeout(text: object) -> Duration:
    if (timeout := Duration.parse(text)) <= 0.0:
        raise ValueError("expected more than no time at all")
    return timeout


def _term(text: object) -> str:
    if not (term := str(text).strip()):
        raise ValueError("expected something to look for, got nothing")
    return term


DURATION = _Text("duration", Duration.parse)
TIMEOUT = _Text("duration", _timeout)
TERM = _Text("text", _term)
LISTEN = _Text("host:port", Listen.parse)

_PLACES = (Path("gpuid.toml"), Path("/etc/gpuid/gpuid.toml"))


def found_config() -> Path | None:
    """Find the configuration for when none is named: ./gpuid.toml, else /etc/gpuid/gpuid.toml, else None."""
    return next((place for place in _PLACES if place.is_file()), None)


def _required(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
    found = value or found_config()
    if found is None:
        raise ConfigError(
            "no configuration: expected --config FILE, $GPUID_CONFIG, ./gpuid.toml or /etc/gpuid/gpuid.toml;"
            " `gpuid init` writes one"
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
        help="The configuration. Default: $GPUID_CONFIG, then ./gpuid.toml, then /etc/gpuid/gpuid.toml.",
    )


# The command gets `config: Path`; without any configuration it ends with ConfigError.
config_option = _config_option(_required)

# The command gets `config: Path | None`: what was named, else None.
optional_config_option = _config_option(None)


@contextmanager
def told(tell: Callable[[str], str]) -> Iterator[None]:
    """Let `tell` put an error of ours into the words of this command: which file or option it is about."""
    try:
        yield
    except* GpuidError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise ConfigError(tell(str(first))) from first


def log_options(function: F) -> F:
    """Add `--log-level` and `--log-format`; the command gets `log_level` and `log_format`."""
    function = click.option(
        "--log-format",
        type=click.Choice(("json", "text")),
        default="json",
        show_default=True,
        envvar="GPUID_LOG_FORMAT",
        help="One JSON object or one line of text per event, on stderr. Default from $GPUID_LOG_FORMAT.",
    )(function)
    return click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        envvar="GPUID_LOG_LEVEL",
        help="The least that is logged. Default from $GPUID_LOG_LEVEL.",
    )(function)
