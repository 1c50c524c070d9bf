"""Which proxy leads to an API server: the kubeconfig's proxy-url, else the environment's as Go honours it.

An HTTP proxy may speak TLS; a SOCKS5 proxy may be named socks5:// or socks5h://, which are the same to Go: the proxy
looks up the server's name.
"""

import ipaddress
from collections.abc import Mapping

from yarl import URL

from collector.kube.errors import BadContextError
from collector.kube.urls import parse_url
from collector.text import one_line

__all__ = ["SOCKS_PORT", "choose", "is_socks"]

SOCKS_PORT = 1080  # where a URL names none
_SOCKS = ("socks5", "socks5h")


def choose(server: URL, proxy_url: str, environment: Mapping[str, str], where: str) -> URL | None:
    """Return the proxy to use, None for a direct connection; it may hold a password. Raises BadContextError."""
    if proxy_url:
        return _checked(proxy_url, f"{where}: proxy-url")
    name = f"{server.scheme}_proxy"
    found = environment.get(name.upper()) or environment.get(name)
    excluded = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    if not found or not _applies(server.host or "", server.port or 0, excluded):
        return None
    return _checked(found if "://" in found else f"http://{found}", name.upper())


def is_socks(proxy: URL | None) -> bool:
    """Return whether a proxy speaks SOCKS5, not HTTP."""
    return proxy is not None and proxy.scheme in _SOCKS


def _checked(text: str, source: str) -> URL:
    # The text itself is not repeated in errors: it may hold a password.
    try:
        url = parse_url(text.strip())
    except ValueError:
        raise BadContextError(f"{source}: not a URL such as http://proxy:3128 or socks5://proxy:1080") from None
    if url.scheme in {"http", "https", *_SOCKS} and url.host:
        return url
    if url.host:
        scheme = one_line(url.scheme, 20)
        raise BadContextError(f"{source}: {scheme} proxies are not supported; expected http, https or socks5")
    raise BadContextError(f"{source}: expected a URL such as http://proxy:3128 or socks5://proxy:1080")


def _applies(host: str, port: int, excluded: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    return not any(
        _matches(host.lower().rstrip("."), address, port, rule.strip().lower()) for rule in excluded.split(",")
    )


def _matches(host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int, rule: str) -> bool:
    if not rule:
        return False
    if rule == "*":
        return True
    if "/" in rule:
        try:
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, colon, wanted = rule.rpartition(":")
    if _address(rule) is not None or not colon:
        name, wanted = rule, ""
    if wanted and wanted != str(port):
        return False
    name = name.removeprefix("[").removesuffix("]")
    if address is not None:
        return address == _address(name)
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
