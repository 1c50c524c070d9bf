"""Chooses the proxy for a server: the configured one, else the environment's according to Go's rules.

These rules apply to everything gpuid connects to: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, which may contain networks and
ports; Go ignores ALL_PROXY. An HTTP proxy may use TLS; socks5:// and socks5h:// are the same in Go: the proxy resolves
the server's name.
"""

import ipaddress
import re
from collections.abc import Mapping

from yarl import URL

from collector.model import GpuidError
from collector.text import one_line
from collector.urls import parse_url

__all__ = ["SOCKS_PORT", "ProxyUrlError", "choose", "describe", "is_socks", "parse_proxy"]

SOCKS_PORT = 1080  # if the URL has none
_SOCKS = ("socks5", "socks5h")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyUrlError(GpuidError):
    """A proxy URL cannot be used; the text names the setting or variable but never the URL."""


def choose(server: URL, environment: Mapping[str, str], *, host: str | None = None) -> URL | None:
    """Return the environment's proxy to a server, None for a direct connection; raises ProxyUrlError.

    It may contain a password. `host` is the server's name as written, if known: only lower-case `localhost` is always
    direct.
    """
    name = f"{server.scheme}_proxy"
    found = environment.get(name.upper()) or environment.get(name)
    excluded = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    # Go treats a value that begins with a blank as no proxy.
    if not found or found[0].isspace() or not _applies(host or server.raw_host or "", server.port or 0, excluded):
        return None
    return parse_proxy(found if "://" in found else f"http://{found}", name.upper())


def is_socks(proxy: URL | None) -> bool:
    """Return whether a proxy uses SOCKS5 instead of HTTP."""
    return proxy is not None and proxy.scheme in _SOCKS


def describe(proxy: URL) -> str:
    """Return a proxy's name for errors, without its password: `proxy corp:3128`."""
    return f"proxy {proxy.host}:{proxy.port or SOCKS_PORT}"


def parse_proxy(text: str, source: str) -> URL:
    """Return the proxy URL from `source`; raises ProxyUrlError."""
    # Errors do not quote the text, which may contain a password.
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
    """Return whether the environment's proxy is used for a host; `excluded` is NO_PROXY.

    This follows golang.org/x/net/http/httpproxy, preceded by NewProxierWithNoProxyCIDR of k8s.io/apimachinery, which
    accepts networks with leading zeros.
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
    """Return a rule's host and port; text that Go's SplitHostPort rejects is all host."""
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
    """Return a network such as `10.0.0.0/8`; None for text that Go's ParseCIDR rejects, such as a netmask."""
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
    """Return a text as an address, IPv4-mapped IPv6 ones as IPv4; None if it is not one."""
    if "%" in text:
        return None
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return found if mapped is None else mapped


def _without_zeros(text: str) -> str:
    """Return an IPv4 address, or the one at the end of an IPv6 address, without leading zeros."""
    return re.sub(r"(?<![0-9a-fA-F])0+(?=[0-9]+\.)|(?<=\.)0+(?=[0-9])", "", text)
