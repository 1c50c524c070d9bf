"""Asks an API server who we are and what we may do; a server that does not say is not at fault."""

from kubernetes_asyncio.client import (
    AuthenticationV1Api,
    AuthorizationV1Api,
    V1ResourceAttributes,
    V1SelfSubjectAccessReview,
    V1SelfSubjectAccessReviewSpec,
    V1SelfSubjectReview,
    VersionApi,
)

from collector.checks.rights import Right
from collector.kube.client import ApiClient
from collector.kube.errors import ForbiddenError, ServerError
from collector.kube.wire import MalformedError

__all__ = ["is_granted", "server_version", "user_name"]


async def server_version(api: ApiClient) -> str:
    """Return the version of the API server, empty if it does not tell us; raises ClusterError if it is unreachable."""
    try:
        return str((await VersionApi(api).get_code()).git_version)
    except (ForbiddenError, MalformedError):
        return ""


async def user_name(api: ApiClient) -> str:
    """Return the user that the server takes us for, empty if it does not tell us or is too old to."""
    try:
        review = await AuthenticationV1Api(api).create_self_subject_review(V1SelfSubjectReview())
    except (ForbiddenError, ServerError, MalformedError):
        return ""
    info = review.status and review.status.user_info
    return info.username or "" if info else ""


async def is_granted(api: ApiClient, right: Right) -> bool | None:
    """Return whether the server grants us a right, None if it does not tell us."""
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
    try:
        answer = await AuthorizationV1Api(api).create_self_subject_access_review(review)
    except (ForbiddenError, ServerError, MalformedError):
        return None
    return bool(answer.status.allowed) if answer.status else None
