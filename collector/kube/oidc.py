"""The `oidc` auth-provider: an id-token that an OpenID Connect issuer renews."""

import ssl
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import aiohttp
import anyio
import anyio.to_thread
import msgspec

from collector.backoff import Backoff
from collector.http_errors import reason
from collector.kube import tls
from collector.kube.connection import ConnectionInfo, Redacted
from collector.kube.credentials import Credential, basic, bearer, jwt_claims, jwt_validity
from collector.kube.errors import (
    REDIRECTS,
    UNDECODABLE,
    BadContextError,
    ClusterError,
    CredentialPluginFailedError,
    UnauthorizedError,
)
from collector.kube.failure_backoff import FailureBackoff, LastFailure
from collector.kube.go_values import WrongTypeError, convert_json
from collector.kube.proxy import choose
from collector.proxies import is_socks
from collector.redaction import Secrets, redact
from collector.socks import connector
from collector.text import describe_redirect
from collector.timestamps import rfc3339
from collector.urls import parse_url

__all__ = ["Oidc"]

RENEWAL_TIMEOUT_SECONDS = 15.0
ISSUER_BACKOFF = Backoff(initial=5.0, maximum=60.0, jitter=0.0)  # between two attempts to renew a login
GRANT_TIMEOUT_SECONDS = 5.0  # for the one request of a renewal that cannot be cancelled
CLOCK_SKEW_SECONDS = 10.0  # before its expiry, when an id-token counts as expired
MAX_ANSWER_BYTES = 1 << 20  # of an issuer

_T = TypeVar("_T")


class Oidc:
    """One context's OpenID Connect login; a rotated refresh-token is kept in memory, never written back.

    What an issuer returns is added to `secrets`.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        *,
        clock: Callable[[], float] = time.time,
        grant_timeout: float = GRANT_TIMEOUT_SECONDS,
        secrets: Secrets | None = None,
    ) -> None:
        provider = info.user.auth_provider
        config = (provider.config if provider else None) or {}
        self._where = f"{info.where}: oidc"
        self._clock = clock
        self._grant_timeout = grant_timeout
        for key in ("idp-issuer-url", "client-id"):
            if not config.get(key):
                raise BadContextError(f"{self._where}: expected {key}")
        self._issuer = config["idp-issuer-url"].rstrip("/")
        if not self._issuer.startswith("https://"):
            raise BadContextError(f"{self._where}: idp-issuer-url: expected https://…")
        self._client_id = config["client-id"]
        self._client_secret = config.get("client-secret", "")
        self._ca = (config.get("idp-certificate-authority-data", ""), config.get("idp-certificate-authority", ""))
        self._refresh_token = config.get("refresh-token", "")
        self._id_token = config.get("id-token", "")
        self._secrets = secrets if secrets is not None else Secrets()
        self._failure_backoff = FailureBackoff(ISSUER_BACKOFF)

    async def run(self) -> Credential:
        """Return the kubeconfig's id-token while it is valid, and renewed ones after that.

        Raises ClusterError, also while backing off after a failure of the issuer.
        """
        started = self._clock()
        if (failure := self._failure_backoff.recent(started)) is not None:
            raise failure.kind(failure.text)
        try:
            credential = await self._run()
        except ClusterError as error:
            self._failure_backoff.failed(LastFailure(type(error), str(error)), started=started, now=self._clock())
            raise
        self._failure_backoff.succeeded()
        return credential

    def reset(self, version: object) -> None:
        """Allow an immediate request: the kubeconfig has changed to `version`."""
        self._failure_backoff.reset(version)

    async def _run(self) -> Credential:
        token = self._id_token
        expires = _expiry(token) if token else 0.0
        if self._refresh_token:
            self._id_token = ""  # the next call means that this one was refused or is about to expire
            if expires is not None and self._clock() + CLOCK_SKEW_SECONDS >= expires:
                token = await self._refresh()
                expires = _expiry(token)
        elif not token:
            raise UnauthorizedError(f"{self._where}: no id-token and no refresh-token; log in again")
        elif expires is not None and self._clock() >= expires:
            raise UnauthorizedError(
                f"{self._where}: the id-token expired on {rfc3339(expires, 'seconds')} and there is no refresh-token;"
                " log in again"
            )
        return bearer(token, self._where, expires=expires, lapse=None if self._refresh_token else jwt_validity(token))

    def _context(self) -> ssl.SSLContext:
        """Return the TLS context for the issuer, whose certificate authorities may be in a file."""
        bundle = tls.data_or_file(*self._ca, "idp-certificate-authority", self._where)
        trusted = tls.authorities(bundle, "idp-certificate-authority", self._where)
        return tls.context(trusted, None, insecure=False, where=self._where)

    async def _refresh(self) -> str:
        try:
            parse_url(self._issuer)
        except ValueError:
            raise BadContextError(f"{self._where}: idp-issuer-url: not a URL") from None
        context = await anyio.to_thread.run_sync(self._context, abandon_on_cancel=True)
        try:
            with anyio.fail_after(RENEWAL_TIMEOUT_SECONDS):
                answer = await self._ask(context, "GET", f"{self._issuer}/.well-known/openid-configuration")
                discovery = self._decode(answer, _Discovery)
                if not discovery.token_endpoint.startswith("https://"):
                    raise CredentialPluginFailedError(f"{self._where}: the issuer names no https token_endpoint")
                # Shielded: an issuer that rotates refresh-tokens revokes the old one even if the client hangs up, so
                # the new one must be kept before anything else can be cancelled.
                with anyio.fail_after(self._grant_timeout, shield=True):
                    answer = await self._ask(context, "POST", discovery.token_endpoint, **self._grant(discovery))
                    return self._accept(answer)
        except (aiohttp.ClientError, OSError, ValueError, IndexError) as error:  # some of them for an odd URL
            # The cause is left out: it may hold the request, and so a secret.
            raise CredentialPluginFailedError(f"{self._where}: issuer {self._issuer}: {reason(error)}") from None

    async def _ask(self, context: ssl.SSLContext, method: str, url: str, **options: Any) -> "_Answer":
        """Send one request; the token_endpoint may be on another host than the issuer, with another proxy."""
        address = parse_url(url)
        proxy = choose(address, "", self._where)
        async with (
            aiohttp.ClientSession(
                connector=connector(proxy, context),
                cookie_jar=aiohttp.DummyCookieJar(),
                proxy=None if is_socks(proxy) else proxy,
            ) as http,
            http.request(method, address, allow_redirects=False, **options) as response,
        ):
            body = bytearray()
            while len(body) <= MAX_ANSWER_BYTES and (chunk := await response.content.readany()):
                body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                response.close()
                raise CredentialPluginFailedError(
                    f"{self._where}: issuer {self._issuer}: the response is larger than {MAX_ANSWER_BYTES} bytes"
                )
            return _Answer(response.status, bytes(body), response.headers.get("Location"))

    def _accept(self, answer: "_Answer") -> str:
        if answer.status in {400, 401}:
            raise UnauthorizedError(
                f"{self._where}: the issuer rejected the refresh-token{_code(answer)}; log in again"
            )
        tokens = self._decode(answer, _Tokens)
        self._secrets.add_renewed(tokens.refresh_token, tokens.id_token)
        self._refresh_token = tokens.refresh_token or self._refresh_token
        if not tokens.id_token:
            raise CredentialPluginFailedError(f"{self._where}: the issuer renewed the login without an id_token")
        return tokens.id_token

    def _grant(self, discovery: "_Discovery") -> dict[str, Any]:
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token}
        methods = discovery.token_endpoint_auth_methods_supported or ("client_secret_basic",)
        if self._client_secret and "client_secret_basic" in methods:
            authorization = basic(self._client_id, self._client_secret).authorization
            return {"data": form, "headers": {"Authorization": authorization}}
        form["client_id"] = self._client_id
        if self._client_secret:
            form["client_secret"] = self._client_secret
        return {"data": form}

    def _decode(self, answer: "_Answer", kind: type[_T]) -> _T:
        if answer.status in REDIRECTS:
            redirect = describe_redirect(answer.status, answer.location, "idp-issuer-url")
            raise CredentialPluginFailedError(f"{self._where}: issuer {self._issuer}: {redirect}")
        if answer.status != 200:
            raise CredentialPluginFailedError(f"{self._where}: issuer {self._issuer}: HTTP status {answer.status}")
        try:
            return convert_json(answer.body, kind)
        except (WrongTypeError, *UNDECODABLE):
            raise CredentialPluginFailedError(
                f"{self._where}: issuer {self._issuer}: not an OpenID Connect response"
            ) from None


class _Answer(NamedTuple):
    status: int
    body: bytes
    location: str | None = None


class _Discovery(Redacted, frozen=True, rename=None):
    token_endpoint: str
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None


class _Tokens(Redacted, frozen=True, rename=None):
    id_token: str = ""
    refresh_token: str = ""


class _Refusal(Redacted, frozen=True, rename=None):
    error: str


def _expiry(token: str) -> float | None:
    """Return the Unix time at which a JWT expires, None if never; 0 if it is not a JWT."""
    claims = jwt_claims(token)
    if claims is None:
        return 0.0
    return None if claims.exp is None else max(claims.exp, 0.0)


def _code(answer: "_Answer") -> str:
    try:
        return f" ({redact(msgspec.json.decode(answer.body, type=_Refusal).error, 60)})"
    except UNDECODABLE:
        return ""
