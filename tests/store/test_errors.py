"""The error of an engine, in one line without a password."""

import base64
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from collector.config.store import PostgresLocation, SqliteLocation
from collector.store.errors import explain

PASSWORD = "hunter2-p&ss/word"
LOCATION = PostgresLocation("postgresql://u@h/d", "postgresql://u@h/d", PASSWORD)


@pytest.mark.parametrize(
    "said",
    [
        PASSWORD,
        quote(PASSWORD, safe=""),
        base64.b64encode(f"u:{PASSWORD}".encode()).decode(),
        f"\x1b[31m{PASSWORD}\x9b\u202e",
        f"{'x' * 190}{PASSWORD}",
    ],
)
def test_a_password_repeated_by_a_server_is_removed(said: str) -> None:
    for error in (ConnectionError(said), RuntimeError(said), OSError(1, said)):
        text = str(explain(error, LOCATION))
        assert text.isprintable()
        assert "hunter2" not in text
        assert "***" in text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
            "the server closed the connection",
        ),
        (asyncpg.InterfaceError("cannot perform operation: connection is closed"), "the connection is closed"),
    ],
)
def test_the_drivers_terms_for_a_lost_connection_are_not_repeated(error: Exception, expected: str) -> None:
    assert str(explain(error, LOCATION)) == f"store postgresql://u@h/d: {expected}"


def test_the_password_in_the_environment_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    location = PostgresLocation("postgresql://u@h/d", "postgresql://u@h/d", "")
    assert str(explain(RuntimeError(f"no {PASSWORD}"), location)) == "store postgresql://u@h/d: no ***"


def test_a_file_has_no_secrets() -> None:
    error = explain(RuntimeError("broken\npage"), SqliteLocation(Path("/x/gpuid.db")))
    assert str(error) == "store /x/gpuid.db: broken page"
