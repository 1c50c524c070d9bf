"""Builds the manifests for the rights that a cluster's sources need, as plain documents, without I/O."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from collector.checks.rights import ACCOUNT, NAMESPACE, USER, needed_rights
from collector.config import ClusterSettings, PodSource, SourceMethod
from collector.grant.documents import dump
from collector.grant.policy import exec_policy, label_policy, token_policy
from collector.kube.access import Right

__all__ = [
    "DEFAULT_DURATION_SECONDS",
    "LABELS",
    "NAMES",
    "POLICY_GROUP",
    "RENEWAL",
    "TOKEN_POLICY",
    "USUAL_AUDIENCES",
    "Manifest",
    "difference",
    "exec_sources",
    "key",
    "make_manifests",
    "needs_policy",
    "service_account",
    "title",
]

Manifest = Mapping[str, Any]

LABELS = {"app.kubernetes.io/managed-by": "gpuid", "app.kubernetes.io/part-of": "gpuid"}  # of all our objects
POLICY_GROUP = "admissionregistration.k8s.io"

TOKEN_POLICY = "gpuid-token"  # noqa: S105  a name
NAMES = frozenset({"gpuid", "gpuid-exec", "gpuid-labels", TOKEN_POLICY})  # of all our objects
DEFAULT_DURATION_SECONDS = 30 * 86400  # of a token
# Those of most API servers: EKS and others, kubeadm, and k3s, which adds its own name to kubeadm's.
USUAL_AUDIENCES = ("https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local", "k3s")

_RBAC_GROUP = "rbac.authorization.k8s.io"
RENEWAL = Right("create", "serviceaccounts/token", NAMESPACE, name=ACCOUNT)
_SUBJECTS = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]
# Fields added by servers and controllers that grant no rights.
_NOT_OURS = ("apiVersion", "kind", "metadata", "status", "secrets", "imagePullSecrets")


def needs_policy(cluster: ClusterSettings) -> bool:
    """Return whether the rights for a cluster's sources and labels are too broad without policies."""
    return cluster.labels or bool(exec_sources(cluster))


def exec_sources(cluster: ClusterSettings) -> list[PodSource]:
    """Return the sources whose command is run by exec."""
    return [source for source in cluster.active_sources if source.method is SourceMethod.EXEC]


def service_account() -> Manifest:
    """Return the manifest of the collector's service account."""
    return _object("v1", "ServiceAccount", ACCOUNT, NAMESPACE, automountServiceAccountToken=False)


def make_manifests(
    cluster: ClusterSettings,
    *,
    renewal: bool = True,
    policy_version: str | None = "v1",
    audiences: Sequence[str] = USUAL_AUDIENCES,
    seconds: int = DEFAULT_DURATION_SECONDS,
) -> list[Manifest]:
    """Return the manifests for the rights that a cluster's sources need, in the order of application.

    `renewal`: with the right to renew the service account's tokens, for `audiences` and at most `seconds`.
    `policy_version` is the API version of the admission policies; None omits them, leaving only RBAC.
    """
    found = [_object("v1", "Namespace", NAMESPACE), service_account()]
    # Before the rights that they limit.
    policies = _policies(cluster, audiences if renewal else (), seconds) if policy_version is not None else {}
    for name, spec in policies.items():
        version, binding = f"{POLICY_GROUP}/{policy_version}", {"policyName": name, "validationActions": ["Deny"]}
        found.append(_object(version, "ValidatingAdmissionPolicy", name, spec=spec))
        found.append(_object(version, "ValidatingAdmissionPolicyBinding", name, spec=binding))
    by_namespace: dict[str, list[Right]] = {}
    for right in needed_rights(cluster):
        by_namespace.setdefault(right.namespace, []).append(right)
    for namespace, rights in by_namespace.items():
        found += _role("gpuid", namespace, rights)
    if renewal:
        found += _role(TOKEN_POLICY, NAMESPACE, [RENEWAL])
    return found


def key(manifest: Manifest) -> tuple[str, str, str]:
    """Return the identity of an object: kind, namespace and name."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def title(manifest: Manifest) -> str:
    """Return an object's name for messages: `Role gpuid in gpu-operator`."""
    kind, namespace, name = key(manifest)
    return f"{kind} {name}" + (f" in {namespace}" if namespace else "")


def difference(wanted: Manifest | None, live: Manifest | None) -> list[str]:
    """Return the lines of a diff from the existing object to the wanted one; None means absent."""
    before, after = ([] if one is None else dump([_compared(one)]).splitlines() for one in (live, wanted))
    if before == after:
        return []
    old, new = (title(one) if one is not None else "absent" for one in (live, wanted))
    return list(difflib.unified_diff(before, after, old, new, n=1000, lineterm=""))


def _policies(cluster: ClusterSettings, audiences: Sequence[str], seconds: int) -> dict[str, dict[str, Any]]:
    """Return the `spec` of each policy that limits the service account, by name.

    The one for exec is included even if no source needs it: it also limits rights from other roles.
    """
    found = {"gpuid-exec": exec_policy(USER, exec_sources(cluster))}
    if Right("patch", "nodes") in needed_rights(cluster):
        found["gpuid-labels"] = label_policy(USER)
    if audiences:
        found[TOKEN_POLICY] = token_policy(USER, audiences, seconds)
    return found


def _object(version: str, kind: str, name: str, namespace: str = "", **body: Any) -> Manifest:
    place = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, **place, "labels": dict(LABELS)},
        **body,
    }


def _role(name: str, namespace: str, rights: Sequence[Right]) -> list[Manifest]:
    """Return a role with these rights, in a namespace or, if that is empty, the cluster, and its binding."""
    verbs: dict[tuple[str, str, str], list[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource, right.name), []).append(right.verb)
    rules = []
    for (group, resource, only), listed in verbs.items():
        names = {"resourceNames": [only]} if only else {}
        rules.append({"apiGroups": [group], "resources": [resource], **names, "verbs": listed})
    kind, version = "Role" if namespace else "ClusterRole", f"{_RBAC_GROUP}/v1"
    reference = {"apiGroup": _RBAC_GROUP, "kind": kind, "name": name}
    return [
        _object(version, kind, name, namespace, rules=rules),
        _object(version, f"{kind}Binding", name, namespace, roleRef=reference, subjects=_SUBJECTS),
    ]


def _compared(manifest: Manifest) -> Manifest:
    """Return an object without fields that belong to the server or do not affect rights."""
    metadata = manifest["metadata"]
    labels = {name: metadata["labels"][name] for name in LABELS if name in (metadata.get("labels") or {})}
    body = {name: value for name, value in sorted(manifest.items()) if name not in _NOT_OURS}
    if manifest["kind"] == "Namespace":
        body = {}
    place = {name: metadata[name] for name in ("name", "namespace") if name in metadata}
    head = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}
    return {**head, "metadata": {**place, "labels": labels}, **_in_order(body)}


def _in_order(value: Any) -> Any:
    """Return a value with sorted keys; lists keep their order."""
    if isinstance(value, Mapping):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(one) for one in value] if isinstance(value, list) else value
