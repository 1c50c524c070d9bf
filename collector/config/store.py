"""The settings of the store."""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from collector.config.postgres import take_apart
from collector.config.values import Duration

__all__ = ["PostgresLocation", "SqliteLocation", "StoreSettings", "locate"]


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the history is kept, and for how long."""

    url: str = "sqlite:///var/lib/gpuid/gpuid.db"  # or postgresql://user@host:5432/database; ~ is the home directory
    password_file: Path | None = None  # PostgreSQL: its content is the password, read at each connection
    retention: Duration | None = None  # what ended longer ago is forgotten; None keeps it for ever

    def __post_init__(self) -> None:
        """Refuse what no store could be opened with."""
        location = locate(self.url)
        if self.password_file is not None and isinstance(location, SqliteLocation):
            raise ValueError("password_file: expected only with a postgresql:// url")
        if self.retention is not None and not self.retention > 0:
            raise ValueError("retention: expected a value above zero")


class SqliteLocation(NamedTuple):
    """A database file."""

    path: Path

    def __str__(self) -> str:
        """Name it in a message."""
        return str(self.path)


class PostgresLocation(NamedTuple):
    """A PostgreSQL database; `dsn` may hold a password, the text never does."""

    dsn: str
    shown: str
    password: str  # empty unless the dsn has one

    def __str__(self) -> str:
        """Name it in a message."""
        return self.shown


def locate(url: str) -> SqliteLocation | PostgresLocation:
    """Read a store's URL; ValueError never repeats it, because it may hold a password."""
    if found := re.fullmatch(r"sqlite:(?://)?(.+)", url):
        path = unquote(found[1].partition("?")[0])
        # Four slashes are how SQLAlchemy writes what three mean everywhere else.
        path = re.sub(r"^/(?=~|/)", "", path)
        if not path.startswith("//") and not path.endswith("/") and ":memory:" not in path and path != "~":
            return SqliteLocation(Path(path).expanduser())
    elif url.startswith(("postgresql://", "postgres://")):
        try:
            login, hosts, path, query = take_apart(url)
            user, _, password = login.partition(":")
            shown = f"postgresql://{user}{'@' if login else ''}{hosts}{path}"
            return PostgresLocation(url, shown, unquote(password) or query.get("password", [""])[0])
        except ValueError:
            raise ValueError(
                'url: expected "postgresql://user@host:5432/database"; in a password / is %2F, ? is %3F, # is %23'
                " and @ is %40, or use password_file"
            ) from None
    raise ValueError('url: expected "sqlite:///path/to/gpuid.db" or "postgresql://user@host:5432/database"')
