"""Makes botocore's requests use the proxy chosen by gpuid's rules, and verify the server's certificate.

botocore ignores networks in NO_PROXY and does not support SOCKS, and aiobotocore verifies no certificates via a proxy.
"""

from contextlib import suppress
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, HTTPClientError  # type: ignore[import-untyped]
from botocore.httpsession import get_cert_path  # type: ignore[import-untyped]

from collector.proxies import ProxyUrlError, describe, is_socks
from collector.sinks.credentials import choose_proxy
from collector.socks import connector
from collector.urls import parse_url

__all__ = ["PROXY", "with_proxy"]

PROXY = "gpuid_proxy"  # key in the `kwargs` of botocore's errors: the proxy on the way


def with_proxy(kind: type[AIOHTTPSession], proxy: str | None) -> type[AIOHTTPSession]:
    """Return a session class that uses a sink's `proxy`: None means the environment's, empty means none.

    A problem with a proxy from the environment is a ProxyUrlError, the cause of the HTTPClientError.
    """

    class ProxiedSession(kind):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._proxy_config = _Rule(proxy)

        async def send(self, request: Any) -> Any:
            try:
                return await super().send(request)
            except BotoCoreError as error:
                if isinstance(error, HTTPClientError):  # which by itself does not say where
                    error.kwargs.setdefault("endpoint_url", request.url)
                with suppress(ProxyUrlError):
                    if (chosen := self._proxy_config.proxy_url_for(request.url)) is not None:
                        error.kwargs[PROXY] = describe(parse_url(chosen))
                raise

        def _create_connector(self, proxy_url: str | None) -> Any:
            url = parse_url(proxy_url) if proxy_url else None
            if url is not None and is_socks(url):
                context = self._get_ssl_context()
                context.load_verify_locations(get_cert_path(self._verify))
                return connector(url, context, limit=self._max_pool_connections)
            return super()._create_connector(None)  # with a proxy it would not verify certificates

        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            return _SocksRequests(session) if proxy_url and is_socks(parse_url(proxy_url)) else session

    return ProxiedSession


class _Rule:
    """Chooses the proxy of each request, instead of botocore's ProxyConfiguration."""

    def __init__(self, proxy: str | None) -> None:
        self.settings: dict[str, Any] = {}
        self._proxy = proxy

    def proxy_url_for(self, url: str) -> str | None:
        chosen = choose_proxy(self._proxy, url)
        return None if chosen is None else str(chosen)

    def proxy_headers_for(self, _url: str) -> dict[str, str]:
        """Return nothing: aiohttp builds the header from the login in the proxy's URL."""
        return {}


class _SocksRequests:
    """The requests of a session whose connector already uses the proxy."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, *arguments: Any, **options: Any) -> Any:
        return await self._session.request(*arguments, **options | {"proxy": None, "proxy_headers": None})
