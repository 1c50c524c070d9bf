"""Creates service-account tokens with the TokenRequest API."""

import msgspec
from kubernetes_asyncio.client import AuthenticationV1TokenRequest, CoreV1Api, V1TokenRequestSpec

from collector.kube.client import ApiClient
from collector.kube.connection import Redacted
from collector.kube.errors import UNDECODABLE
from collector.kube.wire import MalformedError

__all__ = ["MIN_LIFETIME_SECONDS", "MadeToken", "create_token"]

MIN_LIFETIME_SECONDS = 600  # of a token; API servers issue no shorter ones
MAX_ANSWER_BYTES = 1 << 20


class MadeToken(Redacted, frozen=True):
    """A new token, as the API server describes it."""

    text: str
    ends: str = ""  # RFC 3339
    audiences: tuple[str, ...] = ()


async def create_token(client: ApiClient, namespace: str, name: str, spec: V1TokenRequestSpec) -> MadeToken:
    """Return a new token of a service account; raises ClusterError, and MalformedError for a response without one."""
    create = CoreV1Api(client).create_namespaced_service_account_token
    body = await client.read(create, name, namespace, AuthenticationV1TokenRequest(spec=spec))
    try:
        answer = msgspec.json.decode(body, type=_Answer) if len(body) <= MAX_ANSWER_BYTES else None
    except UNDECODABLE:
        answer = None
    if answer is None or not answer.status.token:
        raise MalformedError(f"{client.session.host}: not a response to a TokenRequest")
    status, audiences = answer.status, answer.spec.audiences or ()
    return MadeToken(text=status.token, ends=status.expirationTimestamp, audiences=audiences)


class _Spec(Redacted, frozen=True, rename=None):
    audiences: tuple[str, ...] | None = None


class _Status(Redacted, frozen=True, rename=None):
    token: str
    expirationTimestamp: str = ""  # noqa: N815


class _Answer(Redacted, frozen=True, rename=None):
    status: _Status
    spec: _Spec = _Spec()
