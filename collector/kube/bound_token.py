"""Reads the claims of a bound service-account token, without verifying them."""

import base64
import re
from typing import NamedTuple

import msgspec

from collector.kube.connection import Redacted
from collector.kube.errors import UNDECODABLE
from collector.timestamps import MAX_TIME, rfc3339
from collector.tls import Validity

__all__ = ["MAX_TOKEN_LENGTH", "BoundObject", "BoundToken", "bound_token", "expiry_problem"]

MAX_TOKEN_LENGTH = 16 << 10  # characters; real tokens have about a thousand, and servers limit all headers to this
MAX_AUDIENCES = 32
_SUBJECT = "system:serviceaccount:"
_FORM = re.compile(r"[\w-]+\.([\w-]+)\.[\w-]+", re.ASCII)
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")  # of a namespace or a service account


class BoundObject(NamedTuple):
    """An object that a token is bound to: the token expires when the object is deleted."""

    kind: str  # of API version v1
    name: str
    uid: str


class BoundToken(Redacted, frozen=True):
    """A service-account token with an expiry, as issued by the TokenRequest API."""

    text: str
    namespace: str
    name: str  # of the service account
    uid: str  # of the service account
    validity: Validity
    audiences: tuple[str, ...] = ()
    bound_to: BoundObject | None = None  # None: bound to the service account only

    @property
    def user(self) -> str:
        """The Kubernetes user name of this token."""
        return f"{_SUBJECT}{self.namespace}:{self.name}"

    @property
    def lifetime(self) -> float:
        """Return the lifetime in seconds."""
        return self.validity.ends - self.validity.begins

    @property
    def of_pod(self) -> bool:
        """Whether the token belongs to a pod: the kubelet renews it, and it expires with the pod."""
        return self.bound_to is not None and self.bound_to.kind == "Pod"

    def same_account(self, other: "BoundToken") -> bool:
        """Return whether both belong to the same service account, not deleted and recreated in between."""
        return (self.namespace, self.name, self.uid) == (other.namespace, other.name, other.uid)

    def at(self, share: float) -> float:
        """Return the Unix time at which a share of the lifetime has passed."""
        return self.validity.begins + share * self.lifetime


def bound_token(token: str) -> BoundToken | None:
    """Return a token's claims; None unless it is a service-account token that expires."""
    form = _FORM.fullmatch(token) if len(token) <= MAX_TOKEN_LENGTH else None
    if form is None:
        return None
    try:
        payload = base64.urlsafe_b64decode(form[1] + "=" * (-len(form[1]) % 4))
        claims = msgspec.json.decode(payload, type=_Claims)
    except UNDECODABLE:
        return None
    bound = claims.kubernetes
    account, audiences = bound.serviceaccount, (claims.aud,) if isinstance(claims.aud, str) else claims.aud
    if claims.sub != f"{_SUBJECT}{bound.namespace}:{account.name}" or len(audiences) > MAX_AUDIENCES:
        return None
    if not 0 <= claims.iat < claims.exp <= MAX_TIME:
        return None
    if not _NAME.fullmatch(bound.namespace) or not _NAME.fullmatch(account.name):
        return None
    references = (("Pod", bound.pod), ("Secret", bound.secret), ("Node", bound.node))  # tokens of pods name their node
    return BoundToken(
        text=token,
        namespace=bound.namespace,
        name=account.name,
        uid=account.uid,
        validity=Validity(claims.iat, claims.exp),
        audiences=audiences,
        bound_to=next((BoundObject(kind, found.name, found.uid) for kind, found in references if found), None),
    )


def expiry_problem(token: BoundToken, now: float) -> str:
    """Return what to do about an expired token; empty for one that is still valid."""
    if now < token.validity.ends:
        return ""
    ended = f"the token of {token.user} expired on {rfc3339(token.validity.ends, 'seconds')}"
    if token.of_pod:
        return f"{ended}; it belongs to a pod, whose kubelet renews it"
    return f"{ended} and gpuid cannot renew it; replace it"


class _Reference(Redacted, frozen=True, rename=None):
    name: str = ""
    uid: str = ""


class _Bound(Redacted, frozen=True, rename=None):
    namespace: str
    serviceaccount: _Reference
    pod: _Reference | None = None
    secret: _Reference | None = None
    node: _Reference | None = None


class _Claims(Redacted, frozen=True, rename=None):
    sub: str
    exp: float  # Unix seconds, as is the next one
    iat: float
    kubernetes: _Bound = msgspec.field(name="kubernetes.io")
    aud: str | tuple[str, ...] = ()
