"""Authentication of requests: client certificates, HTTP basic authentication and bearer tokens."""

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
from collector.files import UnreadableFileError, in_time, read_secret
from collector.web.public_url import local_path

__all__ = ["ADMITTED", "USER", "authentication"]

# Returns whether a request carries valid credentials, which may take a while to check.
ADMITTED = web.RequestKey("admitted", functools.partial[Coroutine[Any, Any, bool]])

# The authenticated user: a name, or BEARER; empty if no authentication is configured.
USER = web.RequestKey("user", str)

log = logging.getLogger(__name__)

BEARER = "bearer token"  # its owners cannot be distinguished

OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # kubelet probes have neither credentials nor a certificate
CACHE_SECONDS = 300.0  # for which a correct password is not hashed again
CACHE_SIZE = 1000  # correct credentials
MAX_PENDING_CHECKS = 8  # different credentials waiting to be hashed
MAX_PASSWORD_BYTES = 72  # bcrypt ignores or rejects the rest

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def authentication(server: ServerSettings) -> Any:
    """Return a middleware that requires one of the configured credentials; none if none is configured.

    With client_ca_file it also requires a client certificate. TLS has verified the one that is there.
    """
    authenticator = _Authenticator(server)

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        certified = server.client_ca_file is None or _has_certificate(request)
        authorization = request.headers.get("Authorization", "")
        request[ADMITTED] = functools.partial(authenticator.admits, authorization, certified=certified)
        if local_path(request) not in OPEN_PATHS:
            if not certified:
                raise web.HTTPForbidden(text="a client certificate is required")
            user = await authenticator.identify(authorization)
            if user is None:
                challenge = {"WWW-Authenticate": authenticator.challenge}
                raise web.HTTPUnauthorized(text="authentication required", headers=challenge)
            request[USER] = user
        return await handler(request)

    return middleware


def _has_certificate(request: web.Request) -> bool:
    return request.transport is not None and bool(request.transport.get_extra_info("peercert"))


class _PasswordCheck:
    """One hash computation, shared by all concurrent requests with the same credentials."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.requests = 0
        self.correct: bool | None = None


class _Authenticator:
    def __init__(self, server: ServerSettings) -> None:
        self._users = server.basic_auth
        self._token_file = server.bearer_token_file
        self._open = not self._users and self._token_file is None
        self.challenge = 'Basic realm="gpuid", charset="UTF-8"' if self._users else 'Bearer realm="gpuid"'
        self._hashing = anyio.CapacityLimiter(1)  # bcrypt is deliberately slow; guessing can use one core at most
        self._key = secrets.token_bytes(32)
        self._checks: dict[bytes, _PasswordCheck] = {}  # by keyed hash of the credentials
        self._correct: dict[bytes, float] = {}  # keyed hash of correct credentials -> until when they are cached

    async def admits(self, authorization: str, *, certified: bool = True) -> bool:
        return certified and await self.identify(authorization) is not None

    async def identify(self, authorization: str) -> str | None:
        """Return the user of an Authorization header, for USER; None if it is not valid."""
        if self._open:
            return ""
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer" and self._token_file is not None:
            return BEARER if await self._is_token(credentials.strip(), self._token_file) else None
        if scheme.lower() == "basic" and self._users:
            return await self._user(credentials.strip())
        return None

    async def _is_token(self, token: str, path: Path) -> bool:
        try:
            # In a thread: a file system that hangs must not stop anything else.
            asked = functools.partial(in_time, path, functools.partial(read_secret, path))
            expected = await anyio.to_thread.run_sync(asked, abandon_on_cancel=True)
        except (UnreadableFileError, OSError) as error:
            fields = {"file": str(path)}
            log.warning("cannot read server.bearer_token_file, rejecting all bearer tokens: %s", error, extra=fields)
            return False
        return bool(expected) and hmac.compare_digest(token.encode(errors="surrogateescape"), expected.encode())

    async def _user(self, credentials: str) -> str | None:
        """Return the user with this password; None if there is none."""
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:  # not base64, or not UTF-8
            return None
        digest = hmac.digest(self._key, credentials.encode(), hashlib.sha256)
        now = time.monotonic()
        if self._correct.get(digest, 0.0) > now:
            return user
        # An unknown user must take as long as a wrong password.
        expected = self._users.get(user) or next(iter(self._users.values()))
        correct = await self._check(digest, password.encode()[:MAX_PASSWORD_BYTES], expected.encode())
        if not correct or user not in self._users:
            return None
        if len(self._correct) >= CACHE_SIZE:
            self._correct.clear()
        self._correct[digest] = now + CACHE_SECONDS
        return user

    async def _check(self, digest: bytes, password: bytes, expected: bytes) -> bool:
        """Return whether a password is correct; raises HTTPTooManyRequests if too many others are being checked."""
        if (check := self._checks.get(digest)) is None:
            if len(self._checks) >= MAX_PENDING_CHECKS:
                raise web.HTTPTooManyRequests(
                    text="too many password checks in progress; try again", headers={"Retry-After": "1"}
                )
            check = self._checks[digest] = _PasswordCheck()
        check.requests += 1
        try:
            async with check.lock:  # the next request takes over if one is cancelled
                if check.correct is None:
                    check.correct = await anyio.to_thread.run_sync(
                        bcrypt.checkpw, password, expected, limiter=self._hashing
                    )
                return check.correct
        finally:
            check.requests -= 1
            if not check.requests:
                del self._checks[digest]
