"""What receivers, S3 and PostgreSQL answer."""

from typing import TypeVar

import asyncpg
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError, create_parser
from hypothesis import strategies as st

from collector.config.sinks import PostgresSettings, S3Settings, WebhookSettings
from collector.sinks import RejectedError, SinkError
from collector.sinks.formats import parse_time
from collector.sinks.postgres import PostgresSink
from collector.sinks.s3 import S3Sink
from collector.sinks.s3_client import ANSWER
from collector.sinks.webhook import WebhookSink
from tests.fuzz.documents import any_text, damaged, http_dates, texts
from tests.fuzz.kubernetes import bodies
from tests.fuzz.site import VALUES
from tests.fuzz.target import Target, Targets, text_target

__all__ = ["TARGETS"]

T = TypeVar("T")

_WEBHOOK = WebhookSink("x", WebhookSettings(url="http://host/path"))
_S3 = S3Sink("x", S3Settings(bucket="bucket"))
_POSTGRES = PostgresSink("x", PostgresSettings(url="postgresql://u@h/d"))


def _webhook(given: tuple[int, bytes, str | None]) -> None:
    status, body, retry_after = given
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    error = _WEBHOOK._map_answer(status, headers, body)
    assert isinstance(error, SinkError)
    assert str(error).isprintable()


def _s3(given: tuple[int, bytes, str | None]) -> None:
    status, body, retry_after = given
    headers = {} if retry_after is None else {"retry-after": retry_after}
    answer = {"body": body, "headers": headers, "status_code": status}
    parsed = create_parser("rest-xml").parse(answer, None)
    error = _S3._map_error(ClientError(parsed | {ANSWER: body}, "PutObject"), "PutObject")
    assert isinstance(error, SinkError)
    assert str(error).isprintable()


def _postgres(given: tuple[str, str]) -> None:
    state, message = given
    error = asyncpg.PostgresError.new({"C": state, "M": message, "S": "ERROR"})
    mapped = _POSTGRES._map_error(error)
    assert isinstance(mapped, SinkError)
    assert str(mapped).isprintable()


xml = st.sampled_from(
    [
        b"<Error><Code>SlowDown</Code><Message>x</Message></Error>",
        b'<?xml version="1.0"?><Error><Code>NoSuchBucket</Code><Message>\xff</Message><RequestId/></Error>',
        b"<html><body>no</body></html>",
        b"<Error><Code><Code>x</Code></Code></Error>",
        b"<!DOCTYPE x [<!ENTITY e 'e'>]><Error><Code>&e;</Code></Error>",
        b"<a>" * 5000,
    ]
).flatmap(damaged)


TARGETS: Targets = {
    "webhook": Target(_webhook, st.tuples(st.integers(300, 599), bodies, st.none() | texts | http_dates)),
    "s3": Target(
        _s3, st.tuples(st.integers(300, 599), xml | bodies, st.none() | texts | http_dates), (ResponseParserError,)
    ),
    "postgres": Target(_postgres, st.tuples(st.text(max_size=5), any_text)),
    "record-time": text_target(parse_time, any_text | st.sampled_from(VALUES), RejectedError),
}
