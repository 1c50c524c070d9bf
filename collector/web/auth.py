"""Who may ask: HTTP basic authentication and bearer tokens."""

import base64
import functools
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import bcrypt
from aiohttp import web

from collector.config import ServerSettings

__all__ = ["ADMITTED", "authentication"]

# Finds out whether a request may see more than that the collector lives, which may take a while.
ADMITTED = web.RequestKey("admitted", functools.partial[Coroutine[Any, Any, bool]])

log = logging.getLogger(__name__)

_OPEN = frozenset({"/healthz", "/readyz"})  # a kubelet's probe has no credentials
_REMEMBERED = 300.0  # seconds for which a password that was right is not hashed again
_REMEMBERED_MOST = 1000
_WAITING_MOST = 8  # credentials whose hashing is waited for

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def authentication(server: ServerSettings) -> Any:
    """Make the middleware that asks for one of the configured credentials, or for nothing if none is configured."""
    guard = _Guard(server)

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        request[ADMITTED] = functools.partial(guard.admits, request.headers.get("Authorization", ""))
        if request.path not in _OPEN and not await request[ADMITTED]():
            raise web.HTTPUnauthorized(text="credentials are needed", headers={"WWW-Authenticate": guard.challenge})
        return await handler(request)

    return middleware


class _Trial:
    """One hashing, for all requests that come with the same credentials meanwhile."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.requests = 0
        self.right: bool | None = None


class _Guard:
    def __init__(self, server: ServerSettings) -> None:
        self._users = server.basic_auth
        self._token_file = server.bearer_token_file
        self._open = not self._users and self._token_file is None
        self.challenge = 'Basic realm="gpuid", charset="UTF-8"' if self._users else 'Bearer realm="gpuid"'
        self._hashing = anyio.CapacityLimiter(1)  # bcrypt is slow on purpose; a guesser gets one core at most
        self._key = secrets.token_bytes(32)
        self._trials: dict[bytes, _Trial] = {}  # by keyed hash of the credentials
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
        right = await self._try(digest, password.encode()[:72], expected.encode())
        if not right or user not in self._users:
            return False
        if len(self._remembered) >= _REMEMBERED_MOST:
            self._remembered.clear()
        self._remembered[digest] = now + _REMEMBERED
        return True

    async def _try(self, digest: bytes, password: bytes, expected: bytes) -> bool:
        """Hash a password; raises HTTPTooManyRequests when too many others wait for theirs."""
        if (trial := self._trials.get(digest)) is None:
            if len(self._trials) >= _WAITING_MOST:
                raise web.HTTPTooManyRequests(
                    text="too many passwords are being checked; try again", headers={"Retry-After": "1"}
                )
            trial = self._trials[digest] = _Trial()
        trial.requests += 1
        try:
            async with trial.lock:  # the next one takes over when a request goes away
                if trial.right is None:
                    trial.right = await anyio.to_thread.run_sync(
                        bcrypt.checkpw, password, expected, limiter=self._hashing
                    )
                return trial.right
        finally:
            trial.requests -= 1
            if not trial.requests:
                del self._trials[digest]
