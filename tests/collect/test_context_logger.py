"""Log records carry the fields of their logger."""

import json
import logging

import pytest

from collector.cli.logs import JsonFormatter
from collector.collect.context_logger import ContextLogger


@pytest.fixture
def logger() -> ContextLogger:
    return ContextLogger(logging.getLogger("test"), cluster="prod")


def fields(record: logging.LogRecord) -> list[tuple[str, object]]:
    """Return what the JSON of a record says after time, level, logger and message."""
    return list(json.loads(JsonFormatter().format(record)).items())[4:]


def test_every_record_carries_the_fields(logger: ContextLogger, caplog: pytest.LogCaptureFixture) -> None:
    logger.warning("down: %s", "reason")
    (record,) = caplog.records
    assert record.getMessage() == "down: reason"
    assert fields(record) == [("cluster", "prod")]


def test_bound_fields_and_extra_follow_in_order(logger: ContextLogger, caplog: pytest.LogCaptureFixture) -> None:
    logger.bind(node="n", pod="p").warning("failed", extra={"reason": "timeout"})
    (record,) = caplog.records
    assert fields(record) == [("cluster", "prod"), ("node", "n"), ("pod", "p"), ("reason", "timeout")]


def test_binding_leaves_the_logger_as_it_was(logger: ContextLogger, caplog: pytest.LogCaptureFixture) -> None:
    logger.bind(node="n")
    logger.warning("down")
    (record,) = caplog.records
    assert fields(record) == [("cluster", "prod")]


def test_an_exception_keeps_its_traceback(logger: ContextLogger, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logger.exception("crashed")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
