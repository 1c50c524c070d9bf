"""One event is one line, whatever it contains."""

import asyncio
import io
import json
import logging
import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.cli.logs import JsonFormatter, TextFormatter, configure

HOSTILE = "\x1b[2J\r\n2026-01-01T00:00:00.000Z  ERROR    forged\x7f\x9b31m\u2028\u202eevil\u2066\x00"
ANYTHING = st.text(st.characters(exclude_categories=[]), max_size=40)  # halves of surrogate pairs, too


def record(message: str, error: BaseException | None = None, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("collector.test", logging.WARNING, __file__, 1, "said: %s", (message,), None)
    made.__dict__.update(fields)
    if error is not None:
        try:
            raise error
        except BaseException:
            made.exc_info = sys.exc_info()
    return made


def test_text_lines_escape_unprintable_characters() -> None:
    line = TextFormatter().format(record(HOSTILE, node=HOSTILE))
    assert line.isprintable()
    assert "\\x1b[2J\\r\\n2026" in line
    assert "\\u2028\\u202eevil\\u2066\\x00" in line


def test_json_lines_escape_unprintable_characters() -> None:
    line = JsonFormatter().format(record(HOSTILE, node=HOSTILE))
    assert line.isprintable()
    event = json.loads(line)
    assert event["message"] == f"said: {HOSTILE}"
    assert event["node"] == HOSTILE


def test_what_a_library_says_is_redacted() -> None:
    said = "Exception in callback Protocol(postgresql://gpuid:hunter2-pass@db/gpuid)\nhandle: <Handle>"
    made = logging.LogRecord("asyncio", logging.ERROR, __file__, 1, said, (), None)
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(made)
        assert "hunter2" not in line
        assert "Exception in callback Protocol(postgresql://" in line
        assert line.isprintable()


def test_colours_surround_escaped_text() -> None:
    line = TextFormatter(colours=True).format(record(HOSTILE, node=HOSTILE))
    assert line.count("\x1b[") == 6
    assert "\x1b[33mWARNING\x1b[0m  said: \\x1b[2J" in line
    plain = re.sub(r"\x1b\[\d+m", "", line)
    assert plain.isprintable()


@pytest.mark.parametrize(
    ("log_format", "terminal", "environment", "expected"),
    [
        ("auto", False, {}, "{"),
        ("auto", True, {}, "\x1b"),
        ("auto", True, {"NO_COLOR": "1"}, "2"),
        ("auto", True, {"TERM": "dumb"}, "2"),
        ("json", True, {}, "{"),
        ("text", False, {}, "2"),
    ],
)
def test_a_terminal_gets_text_and_everything_else_json(
    monkeypatch: pytest.MonkeyPatch, log_format: str, terminal: bool, environment: dict[str, str], expected: str
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    configure("info", log_format)
    logging.getLogger("collector.test").info("serving")
    assert stderr.getvalue().startswith(expected)


UNRETRIEVED = "Task exception was never retrieved\nfuture: <Task finished name='Task-7' coro="
POOL = "sqlalchemy.pool.impl.Pool"


@pytest.mark.parametrize(
    ("logger", "message", "error", "count"),
    [
        (POOL, "Exception closing connection <Connection>", asyncio.CancelledError(), 0),
        (POOL, "Exception terminating connection <Connection>", asyncio.CancelledError(), 0),
        (POOL, "Exception closing connection <Connection>", OSError(), 1),
        (POOL, "Exception during reset or similar", asyncio.CancelledError(), 1),
        ("asyncio", f"{UNRETRIEVED}<Connection._terminate_graceful_close() done>", TimeoutError(), 0),
        ("asyncio", f"{UNRETRIEVED}<Connection._terminate_graceful_close() done>", NameError(), 1),
        ("asyncio", f"{UNRETRIEVED}<Connection._close() done>", TimeoutError(), 1),
    ],
)
def test_a_connection_that_was_not_closed_before_the_deadline_is_no_event(
    monkeypatch: pytest.MonkeyPatch, logger: str, message: str, error: BaseException, count: int
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    configure("info", "json")
    logging.getLogger(logger).error(message, exc_info=error)
    assert len(stderr.getvalue().splitlines()) == count


def test_no_line_of_a_traceback_looks_like_an_event() -> None:
    first, *rest = TextFormatter().format(record("x", ValueError(HOSTILE))).split("\n")
    assert first.endswith("WARNING  said: x")
    assert all(line.startswith("    ") for line in rest)
    assert all(line.isprintable() for line in rest)


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_shortage_is_one_line_without_a_traceback(formatter: logging.Formatter) -> None:
    text = formatter.format(record("cluster task crashed", MemoryError()))
    assert "out of memory" in text
    assert "Traceback" not in text
    assert "\n" not in text


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_contains_no_secrets(formatter: logging.Formatter) -> None:
    key = "-----BEGIN EC PRIVATE KEY-----\nhunter2key\n-----END EC PRIVATE KEY-----"
    error = RuntimeError(f"headers: {{'Authorization': 'Bearer hunter2.abc'}} {key}")
    text = formatter.format(record("x", error))
    assert "hunter2" not in text
    assert "RuntimeError" in text
    assert "raise error" in text, "the lines of code stay"


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
@given(message=ANYTHING, field=st.one_of(ANYTHING, st.integers(), st.floats(), st.none(), st.binary()))
def test_any_event_is_one_line(formatter: logging.Formatter, message: str, field: Any) -> None:
    line = formatter.format(record(message, node=field))
    assert line.isprintable()
    line.encode()
    if isinstance(formatter, JsonFormatter):
        json.loads(line)


def test_numbers_and_booleans_keep_their_type_in_json() -> None:
    event = json.loads(JsonFormatter().format(record("x", count=3, seconds=0.5, ok=True, large=1 << 70)))
    assert (event["count"], event["seconds"], event["ok"], event["large"]) == (3, 0.5, True, str(1 << 70))


def test_an_event_reaches_its_stream_in_one_line() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    handler.emit(record("\ud800\n"))
    assert stream.getvalue().endswith("said: \\ud800\\n\n")


@pytest.mark.parametrize("library", ["aiosqlite", "sqlalchemy.engine.Engine", "asyncpg", "aiohttp.client", "botocore"])
def test_libraries_do_not_log_values_in_their_steps(
    library: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, own, other = (logging.getLogger(name) for name in ("", "collector", library))
    for logger in (root, own, other):
        monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(root, "handlers", [])
    configure("debug", "text")
    other.debug("executing INSERT with ('hunter2',)")
    other.setLevel(logging.INFO)  # as some of our modules do
    other.info("hunter2")
    other.warning("a warning")
    logging.getLogger("collector.test").debug("our own step")
    configure("error", "text")
    logging.getLogger("collector.test").warning("not wanted")
    other.warning("not wanted")
    written = capsys.readouterr().err
    assert "hunter2" not in written
    assert "not wanted" not in written
    assert "a warning" in written
    assert "our own step" in written


@pytest.mark.parametrize(
    ("message", "said", "printed"),
    [
        ("Fatal error on SSL protocol\nprotocol: <SSLProtocol>", "the handler is closed", False),
        ("Error occurred during shutdown\nprotocol: <SSLProtocol>", "the handler is closed", False),
        ("Fatal error on SSL protocol", "no running event loop", True),
        ("Task exception was never retrieved", "the handler is closed", True),
        ("Exception in callback read()", "the handler is closed", True),
    ],
)
def test_a_connection_lost_under_tls_is_no_error_of_the_event_loop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, message: str, said: str, printed: bool
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    configure("info", "json")
    error = RuntimeError(f"unable to perform operation on <TCPTransport closed=True>; {said}")
    logging.getLogger("asyncio").error(message, exc_info=error)
    assert bool(capsys.readouterr().err) is printed
