"""Asks an API server for its version and our identity; a server need not answer either."""

from kubernetes_asyncio.client import AuthenticationV1Api, V1SelfSubjectReview, VersionApi

from collector.kube.client import ApiClient
from collector.kube.errors import ForbiddenError, ServerError
from collector.kube.wire import MalformedError

__all__ = ["server_version", "user_name"]


async def server_version(api: ApiClient) -> str:
    """Return the API server's version, empty if not disclosed; raises ClusterError if it is unreachable."""
    try:
        return str((await VersionApi(api).get_code()).git_version)
    except (ForbiddenError, MalformedError):
        return ""


async def user_name(api: ApiClient) -> str:
    """Return our user name on the server, empty if not disclosed or not supported."""
    try:
        review = await AuthenticationV1Api(api).create_self_subject_review(V1SelfSubjectReview())
    except (ForbiddenError, ServerError, MalformedError):
        return ""
    info = review.status and review.status.user_info
    return info.username or "" if info else ""
