"""Which proxy leads to a server: the one that a setting names, else the environment's as Go honours it.

This is the one rule for all that gpuid connects to: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, which may hold networks and
ports; ALL_PROXY means nothing to Go. An HTTP proxy may speak TLS; a SOCKS5 proxy may be named socks5:// or socks5h://,
which are the same to Go: the proxy looks up the server's name.
"""

import ipaddress
import re
from collections.abc import Mapping

from yarl import URL

from collector.model import GpuidError
from collector.text import one_line
from collector.urls import parse_url

__all__ = ["SOCKS_PORT", "ProxyUrlError", "choose", "describe", "is_socks", "parse_proxy"]

SOCKS_PORT = 1080  # where a URL names none
_SOCKS = ("socks5", "socks5h")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyUrlError(GpuidError):
    """The URL of a proxy cannot be used; the text names the setting or variable, and never repeats the URL."""


def choose(server: URL, environment: Mapping[str, str], *, host: str | None = None) -> URL | None:
    """Return the environment's proxy to a server, None for a direct connection; raises ProxyUrlError.

    It may hold a password. `host` is the server's as it is written, if that is known: only `localhost` in lower case is
    always direct.
    """
    name = f"{server.scheme}_proxy"
    found = environment.get(name.upper()) or environment.get(name)
    excluded = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    # Go takes what begins with a blank for no proxy at all.
    if not found or found[0].isspace() or not _applies(host or server.raw_host or "", server.port or 0, excluded):
        return None
    return parse_proxy(found if "://" in found else f"http://{found}", name.upper())


def is_socks(proxy: URL | None) -> bool:
    """Return whether a proxy speaks SOCKS5, not HTTP."""
    return proxy is not None and proxy.scheme in _SOCKS


def describe(proxy: URL) -> str:
    """Return a proxy's name for errors, without its password: `proxy corp:3128`."""
    return f"proxy {proxy.host}:{proxy.port or SOCKS_PORT}"


def parse_proxy(text: str, source: str) -> URL:
    """Return the URL of a proxy that `source` names; raises ProxyUrlError."""
    # The text itself is not repeated in errors: it may hold a password.
    try:
        url = parse_url(text.strip())
    except ValueError:
        raise ProxyUrlError(f"{source}: not a URL such as http://proxy:3128 or socks5://proxy:1080") from None
    if url.scheme in {"http", "https", *_SOCKS} and url.host:
        return url
    if url.host:
        scheme = one_line(url.scheme, 20)
        raise ProxyUrlError(f"{source}: {scheme} proxies are not supported; expected http, https or socks5")
    raise ProxyUrlError(f"{source}: expected a URL such as http://proxy:3128 or socks5://proxy:1080")


def _applies(host: str, port: int, excluded: str) -> bool:
    """Return whether a proxy of the environment is used for a host; `excluded` is NO_PROXY.

    As golang.org/x/net/http/httpproxy decides it, and before that NewProxierWithNoProxyCIDR of k8s.io/apimachinery,
    which reads networks that have zeros in front of their numbers.
    """
    if (sloppy := _address(_without_zeros(host))) is not None and any(
        _is_in(sloppy, _without_zeros(rule)) for rule in excluded.split(",")
    ):
        return False
    address = _address(host.partition("%")[0])
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    return not any(_matches(host.lower(), address, port, rule.strip().lower()) for rule in excluded.split(","))


def _matches(host: str, address: _Address | None, port: int, rule: str) -> bool:
    if rule == "*":
        return True
    if _is_network(rule):
        return address is not None and _is_in(address, rule)
    name, wanted = _split_port(rule)
    if not name or (wanted and wanted != str(port)):
        return False
    if (excluded := _address(name)) is not None:
        return address == excluded
    if address is not None:
        return False
    name = _ascii(name.removeprefix("*") if name.startswith("*.") else name)
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split_port(rule: str) -> tuple[str, str]:
    """Return a rule's host and port; what Go's SplitHostPort refuses is all host."""
    host, colon, port = rule.rpartition(":")
    if not colon or "[" in port or "]" in port:
        return rule, ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return rule, ""
    return (rule, "") if "[" in host or "]" in host else (host, port)


def _ascii(name: str) -> str:
    if name.isascii():
        return name
    dot = "." if name.startswith(".") else ""
    try:
        return dot + (URL.build(scheme="http", host=name.removeprefix(".")).raw_host or "")
    except ValueError:
        return name


def _is_network(rule: str) -> bool:
    return _network(rule) is not None


def _is_in(address: _Address, rule: str) -> bool:
    network = _network(rule)
    return network is not None and address in network


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return what a text such as `10.0.0.0/8` names, None for what Go's ParseCIDR refuses, such as a netmask."""
    first, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9]{1,3}", length) or "%" in first:
        return None
    try:
        found = ipaddress.ip_network((first, int(length)), strict=False)
    except ValueError:
        return None
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    return ipaddress.IPv4Network((mapped, found.prefixlen - 96)) if mapped is not None else found


def _address(text: str) -> _Address | None:
    """Return the address that a text is, an IPv4 one also if it is written as one of IPv6; None if it is none."""
    if "%" in text:
        return None
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return found if mapped is None else mapped


def _without_zeros(text: str) -> str:
    """Return an IPv4 address, or the one at the end of an IPv6 one, without zeros in front of its numbers."""
    return re.sub(r"(?<![0-9a-fA-F])0+(?=[0-9]+\.)|(?<=\.)0+(?=[0-9])", "", text)
