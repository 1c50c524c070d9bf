"""The store's settings, and the parsing of its URL."""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from collector.config.libpq import connection_options
from collector.config.postgres import split_postgres_url
from collector.config.values import Duration

__all__ = ["PostgresLocation", "SqliteLocation", "StoreSettings", "locate"]


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the history is kept, and for how long."""

    url: str = "sqlite:///var/lib/gpuid/gpuid.db"  # or postgresql://user@host:5432/database; ~ is the home directory
    password_file: Path | None = None  # PostgreSQL: contains the password; read for each connection
    strict: bool = False  # SQLite: exit if the file is damaged, instead of renaming it
    retention: Duration | None = None  # history that ended longer ago is deleted; None keeps it forever

    def __post_init__(self) -> None:
        """Reject values with which no store can be opened."""
        location = locate(self.url)
        if self.password_file is not None and isinstance(location, SqliteLocation):
            raise ValueError("password_file: only allowed with a postgresql:// url")
        if self.strict and not isinstance(location, SqliteLocation):
            raise ValueError("strict: only allowed with a sqlite: url")
        if self.retention is not None and not self.retention > 0:
            raise ValueError("retention: expected a value above zero")


class SqliteLocation(NamedTuple):
    """A database file."""

    path: Path

    def __str__(self) -> str:
        """Return the name for messages."""
        return str(self.path)


class PostgresLocation(NamedTuple):
    """A PostgreSQL database; `url` may contain a password, the text never does."""

    url: str
    redacted: str  # the URL without a password and query
    password: str  # empty unless the URL contains one

    def __str__(self) -> str:
        """Return the name for messages."""
        return self.redacted


def locate(url: str) -> SqliteLocation | PostgresLocation:
    """Return the location in a store's URL; ValueError never quotes the URL, since it may contain a password."""
    if found := re.fullmatch(r"sqlite:(?://)?(.+)", url):
        path = unquote(found[1].partition("?")[0])
        # SQLAlchemy writes an absolute path with four slashes, everything else with three.
        path = re.sub(r"^/(?=~|/)", "", path)
        if not path.startswith("//") and not path.endswith("/") and ":memory:" not in path and path != "~":
            try:
                return SqliteLocation(Path(path).expanduser())
            except RuntimeError:  # "~name" of an unknown user
                raise ValueError("url: expected the path of a user with a home directory") from None
    elif url.startswith(("postgresql://", "postgres://")):
        try:
            login, hosts, path, query = split_postgres_url(url)
            user, _, password = login.partition(":")
            redacted = f"postgresql://{user}{'@' if login else ''}{hosts}{path}"
            location = PostgresLocation(url, redacted, unquote(password) or query.get("password", [""])[0])
        except ValueError:
            raise ValueError(
                'url: expected "postgresql://user@host:5432/database"; in a password / is %2F, ? is %3F, # is %23'
                " and @ is %40, or use password_file"
            ) from None
        connection_options(url)  # which rejects unknown parameters
        return location
    raise ValueError('url: expected "sqlite:///path/to/gpuid.db" or "postgresql://user@host:5432/database"')
