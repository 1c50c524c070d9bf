"""Asks an API server who we are and which version it has; a server that does not say is not at fault."""

from kubernetes_asyncio.client import AuthenticationV1Api, V1SelfSubjectReview, VersionApi

from collector.kube.client import ApiClient
from collector.kube.errors import ForbiddenError, ServerError
from collector.kube.wire import MalformedError

__all__ = ["server_version", "user_name"]


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
