"""Issues and checks service-account tokens, as the TokenRequest API does; they are not signed."""

import base64
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from collector.simulator import errors
from collector.simulator.requests import RequestInfo
from collector.simulator.write_verbs import read_body
from collector.timestamps import rfc3339

__all__ = ["AUDIENCE", "ServiceAccounts"]

AUDIENCE = "https://kubernetes.default.svc"
MIN_LIFETIME_SECONDS = 600
DEFAULT_LIFETIME_SECONDS = 3600

_HEADER = {"alg": "RS256", "kid": "simulated"}


class ServiceAccounts:
    """The service accounts of a cluster: those with a token from `issue`; they have every right."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._uids: dict[tuple[str, str], str] = {}
        self._tokens: dict[str, tuple[str, float]] = {}  # token -> its user and its end in Unix seconds

    def issue(
        self, namespace: str, name: str, lifetime: float, *, audiences: Sequence[str] = (), age: float = 0.0
    ) -> str:
        """Return a new token, issued `age` seconds ago."""
        made = int(self._clock() - age)
        user = f"system:serviceaccount:{namespace}:{name}"
        claims: dict[str, Any] = {
            "aud": list(audiences) or [AUDIENCE],
            "exp": made + int(lifetime),
            "iat": made,
            "iss": AUDIENCE,
            "jti": str(uuid.UUID(bytes=secrets.token_bytes(16))),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": name, "uid": self._uids.setdefault((namespace, name), str(uuid.uuid4()))},
            },
            "nbf": made,
            "sub": user,
        }
        token = ".".join((_part(_HEADER), _part(claims), secrets.token_urlsafe(48)))
        self._tokens[token] = (user, claims["exp"])
        return token

    def revoke(self) -> None:
        """Delete every service account, and so every token."""
        self._uids.clear()
        self._tokens.clear()

    def knows(self, token: str) -> bool:
        """Return whether this is a service account's token, expired or not."""
        return token in self._tokens

    def user(self, token: str) -> str:
        """Return the user of a token; empty for an invalid one."""
        user, end = self._tokens.get(token, ("", 0.0))
        return user if self._clock() < end else ""

    async def answer(self, info: RequestInfo, request: web.BaseRequest) -> web.Response:
        """Answer a TokenRequest; raises ApiError."""
        if info.verb != "create":
            raise errors.method_not_allowed()
        document = await read_body(request)
        if (info.namespace, info.name) not in self._uids:
            raise errors.not_found("serviceaccounts", info.name, "")
        spec = document.get("spec") or {}
        lifetime, audiences = spec.get("expirationSeconds", DEFAULT_LIFETIME_SECONDS), spec.get("audiences") or ()
        if not isinstance(lifetime, int) or lifetime < MIN_LIFETIME_SECONDS:
            text = "may not specify a duration less than 10 minutes"
            raise errors.invalid("TokenRequest.authentication.k8s.io", "spec.expirationSeconds", text)
        token = self.issue(info.namespace, info.name, lifetime, audiences=audiences)
        status = {"token": token, "expirationTimestamp": rfc3339(self._tokens[token][1], "seconds")}
        return web.Response(
            body=msgspec.json.encode(document | {"status": status}), status=201, content_type="application/json"
        )


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()
