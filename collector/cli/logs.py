"""Logging: one JSON object, or one line of text, per event on stderr."""

import logging
import os
import sys
import traceback
from typing import TextIO

import msgspec

from collector.redaction import redact_lines
from collector.shortage import why_short
from collector.text import escaped, printable_json
from collector.timestamps import rfc3339

__all__ = ["LEVELS", "LOG_FORMATS", "JsonFormatter", "TextFormatter", "configure"]

LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "text")

TRACEBACK_INDENT = "    "
_FAINT = "2"  # colours as terminals number them
_LEVEL_COLOURS = {logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}
_TLS_ERRORS = ("Fatal error on SSL protocol", "Error occurred during shutdown")  # uvloop's messages
_POOL_ERRORS = ("Exception closing connection", "Exception terminating connection")  # SQLAlchemy's
_STANDARD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure(level: str, log_format: str) -> None:
    """Log events of at least `level` to stderr; of LOG_FORMATS, `auto` means text on a terminal."""
    handler = _StderrHandler()
    terminal = sys.stderr.isatty()
    as_json = log_format == "json" or (log_format == "auto" and not terminal)
    colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter(colours=colours))
    # Libraries log every step, some even values and secrets passed to them; their warnings are enough.
    least = max(getattr(logging, level.upper()), logging.WARNING)
    handler.addFilter(lambda record: record.name.startswith("collector") or record.levelno >= least)
    handler.addFilter(lambda record: not (_tells_of_lost_connection(record) or _tells_of_unfinished_close(record)))
    logging.basicConfig(level=least, handlers=[handler], force=True)
    logging.getLogger("collector").setLevel(level.upper())


def _tells_of_lost_connection(record: logging.LogRecord) -> bool:
    """Return whether uvloop reports as a fatal error that a connection ended while TLS still had data to write.

    The caller gets the same error and logs it.
    """
    error = _error(record)
    return (
        record.name == "asyncio"
        and isinstance(error, RuntimeError)
        and "the handler is closed" in str(error)
        and record.getMessage().startswith(_TLS_ERRORS)
    )


def _tells_of_unfinished_close(record: logging.LogRecord) -> bool:
    """Return whether SQLAlchemy could not close a connection properly before its deadline, and reports that.

    The server does not respond then, which is logged where it is asked, and the socket is closed all the same. If
    nobody waits for the task that closes it, the event loop reports the task's error.
    """
    in_loop = record.name == "asyncio"
    if not in_loop and not record.name.startswith("sqlalchemy.pool"):
        return False
    import asyncio  # here, because commands that ask nobody do without it

    error, message = _error(record), record.getMessage()
    if in_loop:
        return (
            isinstance(error, TimeoutError | asyncio.CancelledError)
            and message.startswith("Task exception was never retrieved")
            and "._terminate_graceful_close() " in message
        )
    return isinstance(error, asyncio.CancelledError) and message.startswith(_POOL_ERRORS)


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one event as text."""
        event = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = why_short(_error(record)) or "\n".join(_traceback(record))
        encodable = {key: _encodable(value) for key, value in event.items()}
        return printable_json(msgspec.json.encode(encodable)).decode()


class TextFormatter(logging.Formatter):
    """One line for people: time, level, message, then `field=value`; a traceback follows on separate lines.

    Unprintable characters are escaped and traceback lines indented, so nothing logged can look like another event.
    Colours are used on a terminal.
    """

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """Return one event as text."""
        fields = escaped("".join(f"  {key}={value}" for key, value in _fields(record).items()))
        why = why_short(_error(record))
        event = _message(record) if why is None else f"{_message(record)}: {why}"
        level = self._coloured(f"{record.levelname:<7}", _LEVEL_COLOURS.get(record.levelno, _FAINT))
        line = f"{self._coloured(rfc3339(record.created), _FAINT)}  {level}  {escaped(event)}"
        line += self._coloured(fields, _FAINT) if fields else ""
        if record.exc_info and record.exc_info[0] is not None and why is None:
            line += "".join(f"\n{TRACEBACK_INDENT}{escaped(each)}" for each in _traceback(record))
        return line

    def _coloured(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`: a progress bar replaces it, to stay below the lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _message(record: logging.LogRecord) -> str:
    """Return the message of an event, redacted if it is a library's: those may quote what they were given."""
    text = record.getMessage()
    return text if record.name.startswith("collector") else "\n".join(redact_lines(text))


def _traceback(record: logging.LogRecord) -> list[str]:
    """Return the lines of a traceback, redacted, since an unexpected error may quote anything."""
    assert record.exc_info is not None  # noqa: S101
    return redact_lines("".join(traceback.format_exception(*record.exc_info)).rstrip())


def _encodable(value: object) -> object:
    """Return a value that JSON can hold: no lone surrogates and no numbers that are too large."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return str(value)
    return value


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {
        key: value if isinstance(value, str | int | float | bool) else str(value)
        for key, value in record.__dict__.items()
        if key not in _STANDARD_ATTRIBUTES
    }
