"""Chooses the proxy to an API server or an issuer: the kubeconfig's proxy-url, else the environment's."""

import os

from yarl import URL

from collector import proxies
from collector.kube.errors import BadContextError

__all__ = ["choose"]


def choose(server: URL, proxy_url: str, where: str, *, host: str | None = None) -> URL | None:
    """Return the proxy to use, None for a direct connection; raises BadContextError.

    An empty `proxy_url` means the environment's, as in kubectl; `host` is the server's as written.
    """
    try:
        if proxy_url:
            return proxies.parse_proxy(proxy_url, f"{where}: proxy-url")
        return proxies.choose(server, os.environ, host=host)
    except proxies.ProxyUrlError as error:
        raise BadContextError(str(error)) from None
