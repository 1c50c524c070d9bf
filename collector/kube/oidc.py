"""The `oidc` auth-provider: an id-token that an OpenID Connect issuer renews."""

import base64
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import httpx
import msgspec
from yarl import URL

from collector.kube import tls
from collector.kube.connection import ConnectionInfo, Redacted
from collector.kube.credentials import Credential, bearer
from collector.kube.errors import BadContextError, CredentialPluginFailedError, UnauthorizedError
from collector.kube.proxy import choose
from collector.text import one_line

__all__ = ["Oidc"]

_TIMEOUT = 15.0  # seconds for a renewal
_GRANT = 5.0  # of them, for the request that nothing may interrupt, not even the end of the process
_SKEW = 10.0  # seconds before its end at which an id-token counts as expired


_T = TypeVar("_T")


class Oidc:
    """One context's OpenID Connect login; a rotated refresh-token is kept in memory, never written back."""

    def __init__(self, access: ConnectionInfo, *, clock: Callable[[], float] = time.time) -> None:
        provider = access.user.auth_provider
        config = (provider.config if provider else None) or {}
        self._where = f"{access.where}: oidc"
        self._clock = clock
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

    async def run(self) -> Credential:
        """Give the kubeconfig's id-token while it is good, and a fresh one from then on; raises ClusterError."""
        token = self._id_token
        expires = _expiry(token) if token else 0.0
        if self._refresh_token:
            self._id_token = ""  # if there is a next time, this one was refused or is about to expire
            if expires is not None and self._clock() + _SKEW >= expires:
                token = await self._refresh()
                expires = _expiry(token)
        elif not token:
            raise UnauthorizedError(f"{self._where}: there is neither an id-token nor a refresh-token; log in again")
        elif expires is not None and self._clock() >= expires:
            raise UnauthorizedError(
                f"{self._where}: the id-token has expired and there is no refresh-token; log in again"
            )
        return bearer(token, self._where, expires=expires)

    async def _refresh(self) -> str:
        trusted = tls.data(*self._ca, "idp-certificate-authority", self._where)
        context = tls.context(trusted, None, insecure=False, where=self._where)
        proxy = choose(URL(self._issuer), "", os.environ, self._where)
        through = httpx.Proxy(str(proxy)) if proxy else None
        try:
            with anyio.fail_after(_TIMEOUT):
                async with httpx.AsyncClient(verify=context, proxy=through, trust_env=False, timeout=_TIMEOUT) as http:
                    discovery = self._decode(
                        await http.get(f"{self._issuer}/.well-known/openid-configuration"), _Discovery
                    )
                    if not discovery.token_endpoint.startswith("https://"):
                        raise CredentialPluginFailedError(f"{self._where}: the issuer names no https token_endpoint")
                    # Shielded, because an issuer that rotates refresh-tokens takes the old one back even from who
                    # hangs up; and the new one is kept before anything else can be cancelled.
                    with anyio.fail_after(_GRANT, shield=True):
                        answer = await http.post(discovery.token_endpoint, **self._grant(discovery))
                    return self._accept(answer)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise CredentialPluginFailedError(f"{self._where}: issuer {self._issuer}: {_why(error)}") from None

    def _accept(self, answer: httpx.Response) -> str:
        if answer.status_code in {400, 401}:
            raise UnauthorizedError(f"{self._where}: the issuer does not renew the login{_code(answer)}; log in again")
        tokens = self._decode(answer, _Tokens)
        self._refresh_token = tokens.refresh_token or self._refresh_token
        if not tokens.id_token:
            raise CredentialPluginFailedError(f"{self._where}: the issuer renewed the login without an id_token")
        return tokens.id_token

    def _grant(self, discovery: "_Discovery") -> dict[str, Any]:
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token}
        methods = discovery.token_endpoint_auth_methods_supported or ("client_secret_basic",)
        if self._client_secret and "client_secret_basic" in methods:
            return {"data": form, "auth": (self._client_id, self._client_secret)}
        form["client_id"] = self._client_id
        if self._client_secret:
            form["client_secret"] = self._client_secret
        return {"data": form}

    def _decode(self, answer: httpx.Response, kind: type[_T]) -> _T:
        if answer.status_code != 200:
            raise CredentialPluginFailedError(f"{self._where}: issuer {self._issuer}: HTTP status {answer.status_code}")
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.MsgspecError:
            raise CredentialPluginFailedError(
                f"{self._where}: issuer {self._issuer}: the answer is no OpenID Connect"
            ) from None


class _Discovery(Redacted, frozen=True, rename=None):
    token_endpoint: str
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None


class _Tokens(Redacted, frozen=True, rename=None):
    id_token: str = ""
    refresh_token: str = ""


class _Refusal(Redacted, frozen=True, rename=None):
    error: str


class _Claims(Redacted, frozen=True, rename=None):
    exp: float | None = None


def _expiry(token: str) -> float | None:
    """Read the Unix time at which a JWT expires; long ago for what is no JWT."""
    parts = token.split(".")
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=_Claims).exp
    except (IndexError, ValueError, msgspec.MsgspecError):
        return 0.0


def _code(answer: httpx.Response) -> str:
    try:
        return f" ({one_line(msgspec.json.decode(answer.content, type=_Refusal).error, 60)})"
    except msgspec.MsgspecError:
        return ""


def _why(error: Exception) -> str:
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return "timed out"
    text = str(error) if isinstance(error, httpx.NetworkError) else ""
    return one_line(text, 200) or f"the request failed ({type(error).__name__})"
