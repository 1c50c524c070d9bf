"""A session's credentials: tokens, passwords and certificates, and when each is renewed."""

import base64
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import anyio
import anyio.to_thread
import msgspec

from collector.backoff import Backoff
from collector.files import UnreadableFileError, in_time, read_secret
from collector.kube.connection import Redacted, User
from collector.kube.errors import UNDECODABLE, BadContextError, ClusterError
from collector.kube.tls import Certificate
from collector.text import describe_os_error
from collector.timestamps import MAX_TIME
from collector.tls import Validity

__all__ = [
    "Credential",
    "Credentials",
    "FileCredentials",
    "RefreshingCredentials",
    "StaticCredentials",
    "basic",
    "bearer",
    "impersonation",
    "jwt_claims",
    "jwt_validity",
    "unfit",
]

log = logging.getLogger(__name__)

TOKEN_FILE_MAX_AGE_SECONDS = 60.0  # after which a token file is reread
MIN_RENEWAL_INTERVAL_SECONDS = 5.0  # between two attempts to renew a credential
REFUSAL_BACKOFF = Backoff(initial=5.0, maximum=180.0, jitter=0.0)
FRESH_SECONDS = 60.0  # after issue, in which a refusal shows that a new one would be refused as well
RENEWAL_MARGIN_SECONDS = 300.0  # before its expiry, when a long-lived credential is renewed
_BLANKS = " \t"  # which HTTP strips from a header's value
RENEWAL_MARGIN_RATIO = 0.2  # share of a shorter lifetime that is left when the credential is renewed


class Credential(Redacted, frozen=True):
    """The credential of one request: a header, a certificate, or both."""

    authorization: str = ""  # the header's value
    certificate: Certificate | None = None
    expires: float | None = None  # Unix seconds; a new one is due before that
    lapse: Validity | None = None  # when it expires, if gpuid cannot renew it


class Credentials(Protocol):
    """A source of credentials for the lifetime of the session."""

    async def get(self) -> Credential:
        """Return the credential to use now; raises ClusterError."""

    def refused(self, credential: Credential) -> None:
        """Record that the server answered 401 to this credential."""

    def reset(self, version: object) -> None:
        """Forget failures: the kubeconfig has changed to `version`."""


class StaticCredentials:
    """A credential that never changes."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def get(self) -> Credential:
        """Return the credential."""
        return self._credential

    def refused(self, credential: Credential) -> None:
        """Do nothing: there is no other."""

    def reset(self, version: object) -> None:
        """Do nothing: nothing can fail."""


class FileCredentials:
    """A token that another process renews in a file; `fallback` is used while the file cannot be read."""

    def __init__(
        self,
        path: Path,
        *,
        where: str,
        fallback: str = "",
        fallback_where: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._where = where
        self._clock = clock
        self._current = bearer(fallback, fallback_where or where) if fallback else None
        self._read_at = -TOKEN_FILE_MAX_AGE_SECONDS

    async def get(self) -> Credential:
        """Return the token, read at most a minute ago; raises BadContextError."""
        if not 0 <= self._clock() - self._read_at < TOKEN_FILE_MAX_AGE_SECONDS:
            await self._read()
        if self._current is None:
            raise BadContextError(f"{self._where}: token file {self._path} is empty")
        return self._current

    def refused(self, credential: Credential) -> None:
        """Read the file again before the next request."""
        if credential is self._current:
            self._read_at = -TOKEN_FILE_MAX_AGE_SECONDS

    def reset(self, version: object) -> None:  # noqa: ARG002
        """Read the file again before the next request."""
        self._read_at = -TOKEN_FILE_MAX_AGE_SECONDS

    async def _read(self) -> None:
        try:
            found = await anyio.to_thread.run_sync(self._load, abandon_on_cancel=True)
        except BadContextError:
            # The file may be half-written; the previous token is probably still valid.
            if self._current is None:
                raise
        else:
            if self._current is None or found.authorization != self._current.authorization:
                self._current = found
        self._read_at = self._clock()

    def _load(self) -> Credential:
        where = f"{self._where}: token file {self._path}"
        try:
            token = in_time(self._path, functools.partial(read_secret, self._path))
        except (UnreadableFileError, OSError) as error:
            raise BadContextError(f"{where}: {describe_os_error(error, str(error))}") from None
        if not token:
            raise BadContextError(f"{where}: empty")
        return bearer(token, where)


class RefreshingCredentials:
    """A credential from `obtain`, called again before the credential expires or when the server refuses it.

    Requests that need a new one at the same time share one run of `obtain`, and its failure.
    """

    def __init__(
        self,
        obtain: Callable[[], Awaitable[Credential]],
        *,
        where: str,
        clock: Callable[[], float] = time.time,
        on_reset: Callable[[object], None] = lambda _version: None,
    ) -> None:
        self._obtain = obtain
        self._on_reset = on_reset
        self._where = where
        self._clock = clock
        self._renewing = anyio.Lock()
        self._current: Credential | None = None
        self._refused = False
        self._refusals = 0  # in a row, of credentials that had just been issued
        self._tried = float("-inf")  # when `obtain` last returned
        self._renew_at = float("inf")
        self._failure: ClusterError | None = None

    async def get(self) -> Credential:
        """Return the credential, renewed if due; raises what `obtain` raises."""
        if self._due():
            async with self._renewing:
                if self._due():  # unless the task that held the lock has just renewed it
                    await self._renew()
        if self._failure is not None and not self._usable():
            raise type(self._failure)(str(self._failure))
        assert self._current is not None  # noqa: S101  # obtain either returned or failed
        return self._current

    def refused(self, credential: Credential) -> None:
        """Renew the credential before the next request, unless that has already happened."""
        if credential is self._current and not self._refused:
            self._refused = True
            fresh = 0 <= self._clock() - self._tried < FRESH_SECONDS
            self._refusals = self._refusals + 1 if fresh else 1

    def reset(self, version: object) -> None:
        """Allow `obtain` to be called immediately if a credential is due."""
        self._tried, self._refusals = float("-inf"), min(self._refusals, 1)
        self._on_reset(version)

    def _due(self) -> bool:
        now = self._clock()
        # Issuing one that the server keeps refusing is as expensive as failing to issue one.
        pause = REFUSAL_BACKOFF.delay(self._refusals - 1) if self._refusals else MIN_RENEWAL_INTERVAL_SECONDS
        if 0 <= now - self._tried < (pause if self._refused else MIN_RENEWAL_INTERVAL_SECONDS):
            return False
        return self._current is None or self._refused or now >= self._renew_at

    def _usable(self) -> bool:
        current = self._current
        if current is None or self._refused:
            return False
        return current.expires is None or self._clock() < current.expires

    async def _renew(self) -> None:
        try:
            fresh = await self._obtain()
        except ClusterError as error:
            known = self._failure is not None and str(self._failure) == str(error)
            self._tried, self._failure = self._clock(), error
            if self._usable() and not known:
                log.warning(
                    "%s: credential renewal failed; using the current ones until expiry: %s", self._where, error
                )
            return
        now = self._clock()
        self._tried, self._failure, self._refused, self._current = now, None, False, fresh
        self._renew_at = float("inf")
        if fresh.expires is not None:
            self._renew_at = fresh.expires - min(RENEWAL_MARGIN_SECONDS, RENEWAL_MARGIN_RATIO * (fresh.expires - now))


def bearer(token: str, where: str, *, expires: float | None = None, lapse: Validity | None = None) -> Credential:
    """Return the credential of a token; raises BadContextError if it does not fit into a header."""
    if wrong := unfit(token):
        raise BadContextError(f"{where}: the token contains {wrong}; copy it again, as one line")
    return Credential(authorization=f"Bearer {token.strip(_BLANKS)}", expires=expires, lapse=lapse)


def unfit(token: str) -> str:
    """Return the invalid content of a token, such as `a line break`; empty if it is valid."""
    token = token.strip(_BLANKS)
    if "\n" in token or "\r" in token:
        return "a line break"
    if " " in token or "\t" in token:
        return "a space"
    if not token.isascii():
        return "a non-ASCII character"
    return "" if token.isprintable() else "a control character"


def jwt_validity(token: str) -> Validity | None:
    """Return the validity of a token; None if it does not expire or is not a JWT."""
    claims = jwt_claims(token)
    if claims is None or claims.exp is None or not 0 <= claims.exp <= MAX_TIME:
        return None
    begins = [float(when) for when in (claims.iat, claims.nbf) if isinstance(when, int | float) and math.isfinite(when)]
    return Validity(max(begins, default=-math.inf), claims.exp)


def jwt_claims(token: str) -> "JwtClaims | None":
    """Return the claims of a JSON web token, unverified; None if it is not one."""
    parts = token.split(".")
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=JwtClaims)
    except (IndexError, *UNDECODABLE):
        return None


def basic(username: str, password: str) -> Credential:
    """Return the credential of a user name and a password."""
    return Credential(authorization="Basic " + base64.b64encode(f"{username}:{password}".encode()).decode())


class JwtClaims(Redacted, frozen=True, rename=None):
    """The claims of a JSON web token that gpuid reads."""

    exp: float | None = None  # all in Unix seconds
    iat: Any = None  # issued at, and not valid before; neither is a reason to doubt `exp`
    nbf: Any = None


def impersonation(user: User, where: str) -> list[tuple[str, str]]:
    """Return the headers that impersonate another user; raises BadContextError."""
    if not user.as_user:
        if user.as_uid or user.as_groups or user.as_user_extra:
            raise BadContextError(f"{where}: as-uid, as-groups and as-user-extra require as")
        return []
    headers = [("Impersonate-User", user.as_user)]
    if user.as_uid:
        headers.append(("Impersonate-Uid", user.as_uid))
    headers += [("Impersonate-Group", group) for group in user.as_groups or ()]
    for key, values in (user.as_user_extra or {}).items():
        # Header names do not allow every character, so the server expects the rest percent-encoded.
        name = "Impersonate-Extra-" + quote(key.lower(), safe="!#$&'*+-.^_`|~")
        headers += [(name, value) for value in values or ()]
    if any(not value.isprintable() for _, value in headers):
        raise BadContextError(f"{where}: as: expected printable text")
    return headers
