"""How gpuid logs: one JSON object, or one line of text, per event on stderr."""

import logging
import sys
import traceback
from typing import TextIO

import msgspec

from collector.timestamps import rfc3339

__all__ = ["LEVELS", "JsonFormatter", "TextFormatter", "configure"]

LEVELS = ("debug", "info", "warning", "error")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure(level: str, form: str) -> None:
    """Send everything from `level` up to stderr; `form` is `json` or `text`."""
    handler = _Stderr()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Libraries narrate their own work, and some print what they were given; their warnings are enough.
    for library in ("aiohttp.access", "alembic", "asyncio", "httpx", "httpcore", "kubernetes_asyncio", "watchfiles"):
        logging.getLogger(library).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one event."""
        event = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return msgspec.json.encode(event).decode()


class TextFormatter(logging.Formatter):
    """One line for people: time, level, message, then `field=value`; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one event."""
        fields = "".join(f"  {key}={value}" for key, value in _fields(record).items())
        line = f"{rfc3339(record.created)}  {record.levelname:<7}  {record.getMessage()}{fields}".replace("\n", "\\n")
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at each event: a progress bar puts itself there and keeps below the lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {
        key: value if isinstance(value, str | int | float | bool) else str(value)
        for key, value in record.__dict__.items()
        if key not in _STANDARD
    }
