"""Reads the parameters of PostgreSQL URLs as documented for libpq: each is supported or rejected with a remedy.

The driver would send unknown ones to the server as settings, and the server would refuse the connection.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from collector.urls import is_host

__all__ = ["ConnectionOptions", "connection_options"]

APPLICATION_NAME = "gpuid"
LEAST_CONNECT_TIMEOUT_SECONDS = 2  # as in libpq
DEFAULT_PORT = 5432
MAX_PORT = 65535

_NAMED_PROBLEMS = 3  # at most, in one error
_NAME = re.compile(r"[A-Za-z_][\w.]{0,40}", re.ASCII)  # that an error may quote: anything else may be a secret
_HOST = re.compile(r"(\[[^\[\]]*\]|/.*|[^:]*)(?::(\d*))?", re.ASCII)
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_NO_SUCH_THING = "is not supported; remove it"
_TIME_LIMITS = "is not supported; remove it: each statement has a time limit, which also detects dead connections"
_OF_A_POOL = "is an option of another program's connection pool; remove it"
_SEARCH_PATH = "is not a parameter of libpq; use options=-csearch_path%3DNAME instead"

# The driver treats them like libpq.
_PASSED = frozenset(
    {
        "dbname",
        "gsslib",
        "host",
        "krbsrvname",
        "passfile",
        "password",
        "port",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "user",
    }
)
_PASSED_VALUES: Mapping[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
# Values that request the actual behaviour, and what to do about any other value.
_NEEDLESS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "channel_binding": (
        ("disable", "prefer"),
        "cannot be required; remove it, and use sslmode=verify-full to authenticate the server",
    ),
    "client_encoding": (("utf8", "utf-8", "unicode", "auto"), "must be UTF8; remove it"),
    "gssdelegation": (("0",), _NO_SUCH_THING),
    "gssencmode": (("disable", "prefer"), "is not supported; remove it, and use sslmode=verify-full"),
    "keepalives": (("0", "1"), _TIME_LIMITS),
    "load_balance_hosts": (("disable",), "is not supported; remove it: hosts are tried in order"),
    "max_protocol_version": (("3.0", "3.2", "latest"), _NO_SUCH_THING),
    "min_protocol_version": (("3.0",), _NO_SUCH_THING),
    "replication": (("false", "off", "no", "0"), "is not supported; remove it"),
    "requiressl": (("0",), "is deprecated; use sslmode=require instead"),
    "sslcertmode": (("allow",), _NO_SUCH_THING),
    "sslcompression": (("0", "1"), _NO_SUCH_THING),
    "sslsni": (("1",), _NO_SUCH_THING),
}
_REMEDIES: Mapping[str, str] = {
    # libpq's
    "hostaddr": "is not supported; use host instead",
    "keepalives_count": _TIME_LIMITS,
    "keepalives_idle": _TIME_LIMITS,
    "keepalives_interval": _TIME_LIMITS,
    "oauth_client_id": _NO_SUCH_THING,
    "oauth_client_secret": _NO_SUCH_THING,
    "oauth_issuer": _NO_SUCH_THING,
    "oauth_scope": _NO_SUCH_THING,
    "require_auth": _NO_SUCH_THING,
    "requirepeer": _NO_SUCH_THING,
    "scram_client_key": _NO_SUCH_THING,
    "scram_server_key": _NO_SUCH_THING,
    "service": "is not supported; put the service's parameters into the URL",
    "servicefile": "is not supported; put the service's parameters into the URL",
    "sslcrldir": "is not supported; use sslcrl instead",
    "sslkeylogfile": _NO_SUCH_THING,
    "tcp_user_timeout": _TIME_LIMITS,
    # of other programs
    "ApplicationName": "is not a parameter of libpq; use application_name instead",
    "connectTimeout": "is not a parameter of libpq; use connect_timeout instead",
    "connection_limit": _OF_A_POOL,
    "currentSchema": _SEARCH_PATH,
    "database": "is not a parameter of libpq; use dbname instead",
    "loginTimeout": "is not a parameter of libpq; use connect_timeout instead",
    "max_conns": _OF_A_POOL,
    "pgbouncer": "is an option of Prisma; remove it",
    "pool_max_conns": _OF_A_POOL,
    "pool_size": _OF_A_POOL,
    "pool_timeout": _OF_A_POOL,
    "schema": _SEARCH_PATH,
    "search_path": _SEARCH_PATH,
    "ssl": "is not a parameter of libpq; use sslmode instead",
}
_UNKNOWN = "is not a parameter of libpq; remove it, or pass a server setting as options=-cNAME%3DVALUE"


class ConnectionOptions(NamedTuple):
    """The options in a PostgreSQL URL, in the driver's form."""

    url: str  # with the parameters that the driver supports; may contain a password
    server_settings: dict[str, str]
    connect_timeout: float | None  # seconds per host; None if not in the URL
    system_authorities: bool  # sslrootcert=system: trust public CAs and check the server's name
    hosts: tuple[tuple[str, int], ...]  # with ports, if there are several; else empty: the driver finds the single one
    target_session_attrs: str | None  # which of them is wanted


def connection_options(url: str) -> ConnectionOptions:
    """Return the options in a postgresql:// URL; raises ValueError, which names the parameter but never its value."""
    given = _parameters(url)
    problems = [
        f"{name if _NAME.fullmatch(name) else 'a parameter'} {problem}"
        for name, value in given.items()
        if (problem := _problem(name, value))
    ]
    # libpq uses the parameter, the driver the other.
    problems += [
        f"{name} is given both as a parameter and before them; keep one of the two" for name in _twice(url, given)
    ]
    if problems:
        raise ValueError(f"url: {'; '.join(problems[:_NAMED_PROBLEMS])}")
    settings = {"application_name": given.get("application_name") or given.get("fallback_application_name")}
    settings["options"] = given.get("options")
    passed = {name: value for name, value in given.items() if name in _PASSED or name in _PASSED_VALUES}
    system = passed.get("sslrootcert") == "system"
    if system:
        if passed.get("sslmode", "verify-full") != "verify-full" or "sslcert" in passed or "sslcrl" in passed:
            raise ValueError("url: sslrootcert=system requires sslmode=verify-full, without sslcert and sslcrl")
        passed = {name: value for name, value in passed.items() if name not in ("sslmode", "sslrootcert")}
    address = url.partition("#")[0].partition("?")[0]
    return ConnectionOptions(
        url=f"{address}?{urlencode(passed, safe='/', quote_via=quote)}" if passed else address,
        server_settings={"application_name": APPLICATION_NAME} | {k: v for k, v in settings.items() if v},
        connect_timeout=_connect_timeout(given.get("connect_timeout", "0")),
        system_authorities=system,
        hosts=_several_hosts(url, given),
        target_session_attrs=given.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS"),
    )


def _several_hosts(url: str, given: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Return the hosts and ports if there are several, in libpq's order; raises ValueError."""
    in_url = urlsplit(url).netloc.rpartition("@")[2]
    named = (given.get("host") or in_url or os.environ.get("PGHOST", "")).split(",")
    if len(named) < 2:
        return ()
    found = [_HOST.fullmatch(host) for host in named]
    if not all(named) or not all(found):
        raise ValueError("url: expected hosts as host:port, separated by commas")
    ports = (given.get("port") or os.environ.get("PGPORT") or str(DEFAULT_PORT)).split(",")
    if len(ports) not in (1, len(named)) or not all(map(str.isdecimal, ports)):
        raise ValueError("url: expected one port, or one per host")
    defaults = ports if len(ports) > 1 else ports * len(named)
    unquoted = unquote if not given.get("host") and in_url else str
    return tuple(
        (unquoted(host[1].strip("[]")), int((not given.get("port") and host[2]) or default))
        for host, default in zip(filter(None, found), defaults, strict=True)
    )


def _parameters(url: str) -> dict[str, str]:
    """Return the parameters that have a value, the last one for each name; raises ValueError."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    ports = [int(found[1]) for host in hosts if (found := re.search(r":(\d+)$", host, re.ASCII))]
    if (len(hosts) > 1 and not all(hosts)) or any(not 0 < port <= MAX_PORT for port in ports):
        raise ValueError("url: expected hosts as host:port, separated by commas")
    query = parts.query.strip("&").replace("+", "%2B")  # not a blank to libpq
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ValueError("url: expected parameters as name=value, separated by &") from None
    given = {name: value for name, value in pairs if value}
    if given.get("ssl") == "true":  # which libpq accepts for compatibility with JDBC
        del given["ssl"]
        given.setdefault("sslmode", "require")
    if not all(map(_can_be_a_host, [*map(unquote, hosts), *given.get("host", "").split(",")])):
        raise ValueError("url: expected hosts as host:port, separated by commas")
    return given


def _twice(url: str, given: Mapping[str, str]) -> list[str]:
    """Return the parameters that the URL also gives before its parameters."""
    parts = urlsplit(url)
    login, _, address = parts.netloc.rpartition("@")
    before = {"dbname": parts.path.strip("/"), "host": address, "port": address, "user": login.partition(":")[0]}
    return [name for name in given if before.get(name)]


def _can_be_a_host(text: str) -> bool:
    """Return whether a host, with or without port, is a socket folder, a name or an address."""
    if not text or text.startswith("/"):
        return True
    found = _HOST.fullmatch(text)
    try:
        return found is not None and (not found[1] or is_host(found[1].strip("[]").encode("idna").decode()))
    except UnicodeError:
        return False


def _problem(name: str, value: str) -> str | None:
    """Return the problem with a parameter and its remedy; None if there is none."""
    if name in _PASSED_VALUES:
        expected = _PASSED_VALUES[name]
        return None if value in expected else f"must be one of {', '.join(expected)}"
    if name in _NEEDLESS:
        needless, remedy = _NEEDLESS[name]
        return None if value.lower() in needless else remedy
    if name == "port":
        ports = value.split(",")
        fine = all(re.fullmatch(r"\d{1,5}", port, re.ASCII) and 0 < int(port) <= MAX_PORT for port in ports)
        return None if fine else "must be a port, or one per host"
    if name == "connect_timeout":
        return None if re.fullmatch(r"-?\d{1,9}", value, re.ASCII) else "must be a number of seconds"
    if name in _PASSED or name in ("application_name", "fallback_application_name", "options"):
        return None
    return _REMEDIES.get(name, _UNKNOWN)


def _connect_timeout(text: str) -> float | None:
    seconds = int(text)
    return float(max(seconds, LEAST_CONNECT_TIMEOUT_SECONDS)) if seconds > 0 else None
