"""Who may ask: HTTP basic authentication and bearer tokens."""

import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import bcrypt
from aiohttp import web

from collector.config import Server

__all__ = ["ADMITTED", "authentication"]

ADMITTED = web.RequestKey("admitted", bool)  # whether a request may see more than that the collector lives

log = logging.getLogger(__name__)

_OPEN = frozenset({"/healthz", "/readyz"})  # a kubelet's probe has no credentials
_REMEMBERED = 300.0  # seconds for which a password that was right is not hashed again
_REMEMBERED_MOST = 1000

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def authentication(server: Server) -> Any:
    """Make the middleware that asks for one of the configured credentials, or for nothing if none is configured."""
    guard = _Guard(server)

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        request[ADMITTED] = await guard.admits(request.headers.get("Authorization", ""))
        if request.path not in _OPEN and not request[ADMITTED]:
            raise web.HTTPUnauthorized(text="credentials are needed", headers={"WWW-Authenticate": guard.challenge})
        return await handler(request)

    return middleware


class _Guard:
    def __init__(self, server: Server) -> None:
        self._users = server.basic_auth
        self._token_file = server.bearer_token_file
        self._open = not self._users and self._token_file is None
        self.challenge = 'Basic realm="gpuid", charset="UTF-8"' if self._users else 'Bearer realm="gpuid"'
        self._hashing = anyio.CapacityLimiter(1)  # bcrypt is slow on purpose; a guesser gets one core at most
        self._key = secrets.token_bytes(32)
        self._remembered: dict[bytes, float] = {}  # keyed hash of credentials that were right -> until when

    async def admits(self, authorization: str) -> bool:
        if self._open:
            return True
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer" and self._token_file is not None:
            return self._token_is(credentials.strip(), self._token_file)
        if scheme.lower() == "basic" and self._users:
            return await self._password_is_right(credentials.strip())
        return False

    def _token_is(self, token: str, path: Path) -> bool:
        try:
            expected = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            log.warning("server.bearer_token_file cannot be read; no token is right", extra={"file": str(path)})
            return False
        return bool(expected) and hmac.compare_digest(token.encode(errors="surrogateescape"), expected.encode())

    async def _password_is_right(self, credentials: str) -> bool:
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:  # not base64, or not UTF-8
            return False
        digest = hmac.digest(self._key, credentials.encode(), hashlib.sha256)
        now = time.monotonic()
        if self._remembered.get(digest, 0.0) > now:
            return True
        # A user that does not exist must take as long as a wrong password.
        expected = self._users.get(user) or next(iter(self._users.values()))
        right = await anyio.to_thread.run_sync(
            bcrypt.checkpw, password.encode()[:72], expected.encode(), limiter=self._hashing
        )
        if not right or user not in self._users:
            return False
        if len(self._remembered) >= _REMEMBERED_MOST:
            self._remembered.clear()
        self._remembered[digest] = now + _REMEMBERED
        return True
