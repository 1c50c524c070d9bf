"""Connections through a SOCKS5 proxy, which resolves server names itself, as in Go."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy
from yarl import URL

from collector.proxies import SOCKS_PORT, describe, is_socks
from collector.text import one_line

__all__ = ["SocksProxyError", "SocksTimeoutError", "connect", "connector"]


class SocksProxyError(aiohttp.ClientConnectionError):
    """A SOCKS proxy did not connect; the text is the reason, without secrets."""


class SocksTimeoutError(SocksProxyError):
    """A SOCKS proxy did not connect in time."""


def connector(
    proxy: URL | None,
    context: ssl.SSLContext,
    *,
    prepare: Callable[[socket.socket], None] = lambda _socket: None,
    **options: Any,
) -> aiohttp.TCPConnector:
    """Return a connector, through `proxy` if it uses SOCKS5; `prepare` is called with each socket first."""
    if proxy is not None and is_socks(proxy):
        return _SocksConnector(proxy, prepare=prepare, ssl=context, **options)

    def new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        prepare(made)
        return made

    return aiohttp.TCPConnector(ssl=context, socket_factory=new_socket, **options)


async def connect(proxy: URL, host: str, port: int, timeout: float | None = None) -> socket.socket:
    """Return a socket connected to a server through `proxy`; raises SocksProxyError."""
    place = describe(proxy)
    client = Proxy(
        ProxyType.SOCKS5,
        proxy.host or "",
        proxy.port or SOCKS_PORT,
        username=proxy.user,
        password=proxy.password if proxy.user is None else proxy.password or "",
        rdns=True,
    )
    try:
        return await client.connect(host, port, timeout=timeout)
    except ProxyTimeoutError:
        raise SocksTimeoutError(f"{place}: timed out") from None
    except ProxyConnectionError as error:
        number = error.errno or 0  # negative ones come from the resolver
        why = os.strerror(number).lower() if number > 0 else "cannot be resolved"
        raise SocksProxyError(f"{place}: {why}") from None
    except ProxyError as error:
        raise SocksProxyError(f"{place}: {one_line(str(error).lower(), 200)}") from None
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else "the connection broke"
        raise SocksProxyError(f"{place}: {why}") from None
    except Exception:  # non-SOCKS responses come in many forms
        raise SocksProxyError(f"{place}: its response is not SOCKS5") from None


class _SocksConnector(aiohttp.TCPConnector):
    """Makes every connection through one proxy; `prepare` is called with each socket.

    aiohttp has no public way to use a connected socket, so this overrides an internal method. TLS and its server name
    are still handled by aiohttp.
    """

    def __init__(self, proxy: URL, *, prepare: Callable[[socket.socket], None], **options: Any) -> None:
        super().__init__(resolver=_NoResolver(), **options)
        self._proxy = proxy
        self._prepare = prepare

    async def _wrap_create_connection(
        self, *args: Any, req: Any, timeout: aiohttp.ClientTimeout, **options: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        for unused in ("addr_infos", "client_error"):
            options.pop(unused, None)
        connected = await connect(self._proxy, req.url.raw_host, req.port, timeout.sock_connect)
        try:
            self._prepare(connected)
            return await self._wrap_existing_connection(*args, req=req, timeout=timeout, sock=connected, **options)
        except BaseException:
            connected.close()
            raise


class _NoResolver(AbstractResolver):
    """Leaves names unresolved."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=host, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Do nothing."""
