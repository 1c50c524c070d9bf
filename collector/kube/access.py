"""Asks an API server what we may do; not every server answers, and that is not an error."""

import functools

import msgspec
from kubernetes_asyncio.client import (
    AuthorizationV1Api,
    V1ResourceAttributes,
    V1SelfSubjectAccessReview,
    V1SelfSubjectAccessReviewSpec,
)

from collector.kube.client import ApiClient, ApiMethod
from collector.kube.errors import UNDECODABLE, ForbiddenError, ServerError

__all__ = ["Right", "access_review", "is_granted"]


class Right(msgspec.Struct, frozen=True):
    """A verb on a resource, in one namespace, or cluster-wide if the namespace is empty."""

    verb: str
    resource: str  # with a subresource after a slash
    namespace: str = ""
    group: str = ""  # API group; empty is the core
    optional: bool = False  # purpose of the right; the feature is skipped without it
    name: str = ""  # name of a single object; empty means all

    def __str__(self) -> str:
        """Return the right as `verb resource name in namespace`."""
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        what = f"{resource} {self.name}" if self.name else resource
        return f"{self.verb} {what}" + (f" in {self.namespace}" if self.namespace else "")


async def is_granted(client: ApiClient, right: Right) -> bool | None:
    """Return whether the server grants us a right, None if it does not answer; raises ClusterError."""
    try:
        body = await client.read(access_review(client, right))
        return msgspec.json.decode(body, type=_Review).status.allowed
    except (ForbiddenError, ServerError, *UNDECODABLE):
        return None


def access_review(client: ApiClient, right: Right) -> ApiMethod:
    """Return the request that asks whether we have a right."""
    resource, _, subresource = right.resource.partition("/")
    attributes = V1ResourceAttributes(
        namespace=right.namespace,
        verb=right.verb,
        group=right.group,
        resource=resource,
        subresource=subresource,
        name=right.name,
    )
    review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    return functools.partial(AuthorizationV1Api(client).create_self_subject_access_review, review)


class _Allowed(msgspec.Struct, frozen=True):
    allowed: bool


class _Review(msgspec.Struct, frozen=True):
    status: _Allowed
