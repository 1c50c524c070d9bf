"""The URL at which clients see this server, which behind a proxy differs from the server's own view.

A request's headers affect only the response to that request, which must not be cached, so a lying client can only
deceive itself.
"""

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

__all__ = ["EXTERNAL_URL", "PublicUrl", "find_below_prefix", "local_path", "public_url", "route_below_prefix"]

_HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", re.ASCII)
_PREFIX = re.compile(r"(?:/[\w.~%!$&'()*+,;=:@-]+)+", re.ASCII)  # never "//host", which is another server's address


class PublicUrl(NamedTuple):
    """The parts of a URL."""

    scheme: str  # empty if unknown; clients know how they connect
    host: str  # with the port, if it is not the scheme's; empty if the request names none
    prefix: str  # of every path; empty, or "/…" without a slash at the end

    @classmethod
    def parse(cls, text: str) -> "PublicUrl":
        """Return the parts of a configured URL."""
        url = urlsplit(text)
        return cls(url.scheme, url.netloc, url.path.rstrip("/"))

    def address(self, path: str) -> str:
        """Return the full URL of a path that already has the prefix; only the path if no host is known."""
        return f"{self.scheme or 'http'}://{self.host}{path}" if self.host and path else path


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _BelowPrefix(NamedTuple):
    """The path of a request without the prefix that a proxy kept, and its route."""

    path: str
    handler: _Handler


EXTERNAL_URL: web.AppKey["PublicUrl | None"] = web.AppKey("external_url")
_BELOW_PREFIX = web.RequestKey("below_prefix", _BelowPrefix)


def public_url(request: web.Request) -> PublicUrl:
    """Return the configured URL, or that in the proxies' headers, or else that of the request."""
    if (external := request.app[EXTERNAL_URL]) is not None:
        return external
    forwarded = request.forwarded[0] if request.forwarded else {}
    scheme = _first(request, "X-Forwarded-Proto") or forwarded.get("proto", "")
    host = _first(request, "X-Forwarded-Host") or forwarded.get("host", "")
    prefix = _first(request, "X-Forwarded-Prefix").rstrip("/")
    return PublicUrl(
        scheme.lower() if scheme.lower() in ("http", "https") else "https" if request.scheme == "https" else "",
        host if _HOST.fullmatch(host) else request.host,
        prefix if _PREFIX.fullmatch(prefix) else "",
    )


@web.middleware
async def find_below_prefix(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Find the route of a path that a proxy passed on with the prefix of X-Forwarded-Prefix still in it.

    It is the first middleware, since the others depend on the path. `route_below_prefix` is the last one.
    """
    prefix, path = public_url(request).prefix, request.rel_url.raw_path
    unknown = isinstance(request.match_info.http_exception, web.HTTPNotFound)
    if unknown and prefix and f"{path}/".startswith(f"{prefix}/"):
        rest = path[len(prefix) :] or "/"
        found = await request.app.router.resolve(request.clone(rel_url=request.rel_url.with_path(rest, encoded=True)))
        if not isinstance(found.http_exception, web.HTTPNotFound):
            request.match_info.update(found)
            request[_BELOW_PREFIX] = _BelowPrefix(rest, found.route.handler)
    return await handler(request)


@web.middleware
async def route_below_prefix(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Use the route found by `find_below_prefix`, if any."""
    found: _BelowPrefix | None = request.get(_BELOW_PREFIX)
    if found is not None:
        return await found.handler(request)
    return await handler(request)


def local_path(request: web.Request) -> str:
    """Return the path of a request without the prefix of the public URL, which a proxy may keep or strip."""
    found: _BelowPrefix | None = request.get(_BELOW_PREFIX)
    if found is not None:
        return found.path
    external = request.app[EXTERNAL_URL]
    path = request.rel_url.raw_path
    if external is None or not external.prefix or not path.startswith(f"{external.prefix}/"):
        return path
    return path[len(external.prefix) :]


def _first(request: web.Request, header: str) -> str:
    """Return the value from the first proxy, the one that the client talks to."""
    return request.headers.get(header, "").partition(",")[0].strip()
