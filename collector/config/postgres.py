"""Takes a PostgreSQL URL apart; one whose password would be read as something else is refused."""

import re
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

__all__ = ["PostgresUrl", "take_apart"]


class PostgresUrl(NamedTuple):
    """The parts of a postgresql:// URL, as written."""

    login: str  # user, or user:password; empty if the URL has no @
    hosts: str  # host:port, several joined by a comma
    path: str
    query: dict[str, list[str]]


def take_apart(url: str) -> PostgresUrl:
    """Take a URL apart; raises ValueError, which never repeats it, because it may hold a password.

    A `/`, `?` or `#` in a password ends the host for every reader of URLs unless it is percent-encoded: what is left of
    the password then stands where a port or a path should.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    misplaced = "@" in parts.path + parts.query + parts.fragment
    if parts.scheme not in ("postgresql", "postgres") or misplaced or not all(map(_HOST, hosts.split(","))):
        raise ValueError("expected a postgresql:// URL")
    return PostgresUrl(login, hosts, parts.path, parse_qs(parts.query))


_HOST = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]]*)(?::\d*)?", re.ASCII).fullmatch
