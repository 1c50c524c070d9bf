"""Splits PostgreSQL URLs, and rejects those whose password would be mistaken for another part."""

import re
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

__all__ = ["PostgresUrl", "split_postgres_url"]

_HOST = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]]*)(?::\d*)?", re.ASCII)


class PostgresUrl(NamedTuple):
    """The parts of a postgresql:// URL, as written."""

    login: str  # user, or user:password; empty if the URL has no @
    hosts: str  # host:port, several separated by commas
    path: str
    query: dict[str, list[str]]


def split_postgres_url(url: str) -> PostgresUrl:
    """Return the parts of a URL; raises ValueError, which never quotes the URL, since it may contain a password.

    Unless percent-encoded, a `/`, `?` or `#` in a password ends the host: the rest of the password is then in the
    place of a port or path.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # which quotes a host that Unicode normalization changes, and the password before it
        raise ValueError("expected a postgresql:// URL") from None
    login, _, hosts = parts.netloc.rpartition("@")
    misplaced = "@" in parts.path + parts.query + parts.fragment
    if parts.scheme not in ("postgresql", "postgres") or misplaced or not all(map(_HOST.fullmatch, hosts.split(","))):
        raise ValueError("expected a postgresql:// URL")
    return PostgresUrl(login, hosts, parts.path, parse_qs(parts.query))
