"""Splits PostgreSQL URLs, and rejects those whose password would be taken for another part of the URL."""

import re
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

__all__ = ["PostgresUrl", "split_postgres_url"]

_HOST = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]]*)(?::\d*)?", re.ASCII)


class PostgresUrl(NamedTuple):
    """The parts of a postgresql:// URL, as written."""

    login: str  # user, or user:password; empty if the URL has no @
    hosts: str  # host:port, several joined by a comma
    path: str
    query: dict[str, list[str]]


def split_postgres_url(url: str) -> PostgresUrl:
    """Return the parts of a URL; raises ValueError, which never quotes it, because it may contain a password.

    A `/`, `?` or `#` in a password ends the host unless it is percent-encoded: the rest of the password is then where a
    port or a path should be.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    misplaced = "@" in parts.path + parts.query + parts.fragment
    if parts.scheme not in ("postgresql", "postgres") or misplaced or not all(map(_HOST.fullmatch, hosts.split(","))):
        raise ValueError("expected a postgresql:// URL")
    return PostgresUrl(login, hosts, parts.path, parse_qs(parts.query))
