"""The rights that a collector's settings need in a cluster, as tested by `check` and granted by `grant`."""

from collections.abc import Iterator, Mapping, Sequence

import anyio
import msgspec

from collector.checks.finding import Problem
from collector.config import ClusterSettings, SourceMethod
from collector.kube.access import Right, is_granted
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError

__all__ = [
    "ACCOUNT",
    "METHOD_RIGHTS",
    "NAMESPACE",
    "SLICE_RIGHTS",
    "USER",
    "ask_rights",
    "describe_missing",
    "needed_rights",
]

NAMESPACE = "gpuid"  # of the service account that `gpuid grant` creates
ACCOUNT = "gpuid"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"

METHOD_RIGHTS = {  # an exec over a WebSocket needs `get`, and since Kubernetes 1.35 also `create`
    SourceMethod.EXEC: (("create", "pods/exec"), ("get", "pods/exec")),
    SourceMethod.LOG: (("get", "pods/log"),),
}

SLICE_RIGHTS = tuple(
    Right(verb, "resourceslices", group="resource.k8s.io", optional=True) for verb in ("list", "watch")
)


def needed_rights(cluster: ClusterSettings) -> list[Right]:
    """Return the rights that a cluster's sources need, cluster-wide ones first."""
    return list(dict.fromkeys(_needed(cluster)))


async def ask_rights(client: ApiClient, rights: Sequence[Right]) -> dict[Right, bool | None]:
    """Return which rights the API server says that we have, in their order; None: it does not say.

    Raises ClusterError.
    """
    granted: dict[Right, bool | None] = {}
    errors: list[ClusterError] = []

    async def ask(right: Right) -> None:
        try:
            granted[right] = await is_granted(client, right)
        except ClusterError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for right in rights:
            tasks.start_soon(ask, right)
    if errors:
        raise errors[0]
    return {right: granted[right] for right in rights}


def describe_missing(granted: Mapping[Right, bool | None]) -> Iterator[Problem]:
    """Yield a problem for each resource on which a required right is missing."""
    missing: dict[tuple[str, str, str], list[str]] = {}
    for right, answer in granted.items():
        if answer is False and not right.optional:
            missing.setdefault((right.group, right.resource, right.namespace), []).append(right.verb)
    for (group, resource, namespace), verbs in missing.items():
        where = f" in namespace {namespace}" if namespace else ""
        yield Problem(
            f"may not {' or '.join(verbs)} {resource}{where}",
            f'add {{apiGroups: ["{group}"], resources: ["{resource}"], '
            f"verbs: {msgspec.json.encode(verbs).decode()}}}"
            f" to a {'Role' + where if namespace else 'ClusterRole'}",
        )


def _needed(cluster: ClusterSettings) -> Iterator[Right]:
    for verb in ("list", "watch"):
        yield Right(verb, "nodes")
    if cluster.labels:
        yield Right("patch", "nodes")
    yield from SLICE_RIGHTS
    for source in cluster.active_sources:
        for verb in ("list", "watch"):
            yield Right(verb, "pods", source.namespace)
        for verb, resource in METHOD_RIGHTS[source.method]:
            yield Right(verb, resource, source.namespace)
