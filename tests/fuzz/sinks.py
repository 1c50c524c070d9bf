"""What receivers, S3 and PostgreSQL answer."""

import re
from typing import Any, TypeVar, cast

import asyncpg
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError, create_parser
from hypothesis import strategies as st

from collector.config.sinks import PostgresSettings, S3Settings, WebhookSettings
from collector.sinks import RejectedError, SinkError, postgres_table
from collector.sinks.formats import parse_time
from collector.sinks.postgres import PostgresSink
from collector.sinks.s3 import S3Sink
from collector.sinks.s3_client import ANSWER
from collector.sinks.webhook import WebhookSink
from tests.fuzz.documents import any_text, damaged, http_dates, texts
from tests.fuzz.kubernetes import bodies, finished
from tests.fuzz.site import VALUES
from tests.fuzz.target import Target, Targets, refusing, text_target

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


class _Catalogue:
    """A database with these names in its catalogue, which records the statements."""

    def __init__(self, schema: str, columns: list[str], constraints: list[str]) -> None:
        self._rows = [{"nspname": schema, "attname": name} for name in columns]
        self._constraints = [{"conname": name} for name in constraints]
        self.statements: list[str] = []

    async def fetch(self, query: str, *_arguments: object) -> list[dict[str, str]]:
        return self._constraints if "conname" in query else self._rows

    async def execute(self, statement: str, *_arguments: object) -> None:
        self.statements.append(statement)


def _table(given: tuple[str, list[str], list[str], bool]) -> None:
    """Names of a database are names in a statement, whatever they contain."""
    schema, columns, constraints, create = given
    schema, constraints = schema or "s", [one or "c" for one in constraints]  # no name is empty
    statements = _statements(schema, columns, constraints, create=create)
    assert [QUOTED.sub("NAME", one) for one in statements] == [
        QUOTED.sub("NAME", one) for one in _statements("s", columns, ["c"] * len(constraints), create=create)
    ]
    names = [one[1:-1].replace('""', '"') for statement in statements for one in QUOTED.findall(statement)]
    assert {name for name in names if not name.startswith("idx_")} <= {schema, "serials", *constraints}


def _statements(schema: str, columns: list[str], constraints: list[str], *, create: bool) -> list[str]:
    catalogue = _Catalogue(schema, columns, constraints)
    with refusing(postgres_table.NoSuchTableError):
        table = finished(postgres_table.prepare(cast("Any", catalogue), "serials", create=create))
        assert {*table.columns} <= {*columns}
        return [*catalogue.statements, table.insert]
    return catalogue.statements


QUOTED = re.compile(r'"(?:[^"]|"")*"')
COLUMNS = ["cluster", "node", "machine", "source", "chassis", "gpu", "read_time", "id", "created_at"]
columns = st.sampled_from([COLUMNS, [*COLUMNS, "uuid", "model", "event"], [*COLUMNS, "uuid", "mark"], COLUMNS[2:], []])
names = any_text | st.sampled_from(['we"ird', '"', '""', "serials_key", 'x", DROP TABLE "y', "é"])


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
    "postgres-table": Target(_table, st.tuples(names, columns, st.lists(names, max_size=3), st.booleans())),
    "postgres": Target(_postgres, st.tuples(st.text(max_size=5), any_text)),
    "record-time": text_target(parse_time, any_text | st.sampled_from(VALUES), RejectedError),
}
