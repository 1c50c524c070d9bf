"""The rights that a collector's settings need in a cluster, as tested by `check` and granted by `grant`."""

from collections.abc import Iterator

from collector.config import ClusterSettings, SourceMethod
from collector.kube.access import Right

__all__ = ["ACCOUNT", "METHOD_RIGHTS", "NAMESPACE", "SLICE_RIGHTS", "USER", "needed_rights"]

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
