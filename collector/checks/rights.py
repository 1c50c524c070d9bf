"""What a collector must be allowed to do in a cluster, from its settings: what `check` asks for and `grant` gives."""

from collections.abc import Iterator

import msgspec

from collector.config import ClusterSettings, SourceMethod

__all__ = ["ACCOUNT", "METHOD_RIGHTS", "NAMESPACE", "SLICE_RIGHTS", "USER", "Right", "needed_rights"]

NAMESPACE = "gpuid"  # of the service account that `gpuid grant` makes
ACCOUNT = "gpuid"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"

METHOD_RIGHTS = {  # an exec over a WebSocket needs `get`, and since Kubernetes 1.35 also `create`
    SourceMethod.EXEC: (("create", "pods/exec"), ("get", "pods/exec")),
    SourceMethod.LOG: (("get", "pods/log"),),
}


class Right(msgspec.Struct, frozen=True):
    """A verb on a resource, in one namespace or, if that is empty, in the whole cluster."""

    verb: str
    resource: str  # with a subresource after a slash
    namespace: str = ""
    group: str = ""  # of the API; empty is the core
    optional: bool = False  # what it is for is left out without it
    name: str = ""  # of the only object that it is about; empty is all of them

    def __str__(self) -> str:
        """Return it as `verb resource name in namespace`."""
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        what = f"{resource} {self.name}" if self.name else resource
        return f"{self.verb} {what}" + (f" in {self.namespace}" if self.namespace else "")


SLICE_RIGHTS = tuple(
    Right(verb, "resourceslices", group="resource.k8s.io", optional=True) for verb in ("list", "watch")
)


def needed_rights(cluster: ClusterSettings) -> list[Right]:
    """Return the rights that the sources of a cluster need, those in the whole cluster first."""
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
