"""The manifests of the rights that a cluster's sources need, as plain documents; nothing here talks to a cluster."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from collector.checks.rights import Right, needed_rights
from collector.config import ClusterSettings, SourceMethod
from collector.grant.documents import dump
from collector.grant.policy import exec_policy, label_policy

__all__ = [
    "ACCOUNT",
    "LABELS",
    "NAMESPACE",
    "POLICY_GROUP",
    "Manifest",
    "difference",
    "key",
    "make_manifests",
    "needs_policy",
    "title",
]

Manifest = Mapping[str, Any]

NAMESPACE = "gpuid"
ACCOUNT = "gpuid"
LABELS = {"app.kubernetes.io/managed-by": "gpuid", "app.kubernetes.io/part-of": "gpuid"}  # of all that is ours
POLICY_GROUP = "admissionregistration.k8s.io"

_USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
_RBAC_GROUP = "rbac.authorization.k8s.io"
_RENEWAL = Right("create", "serviceaccounts/token", NAMESPACE, name=ACCOUNT)
_SUBJECTS = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]
# What servers and controllers add to an object that has no rights in it.
_NOT_OURS = ("apiVersion", "kind", "metadata", "status", "secrets", "imagePullSecrets")


def needs_policy(cluster: ClusterSettings) -> bool:
    """Return whether a cluster's rights allow more than is needed, unless policies limit them."""
    return bool(_policies(cluster))


def make_manifests(
    cluster: ClusterSettings, *, renewal: bool = True, policy_version: str | None = "v1"
) -> list[Manifest]:
    """Return the manifests of the rights that a cluster's sources need, in the order in which to apply them.

    `renewal`: with the right to renew the tokens of the service account. `policy_version` is that of the admission
    policies; None leaves them out, so that any command may be run.
    """
    account = {"automountServiceAccountToken": False}
    found = [
        _object("v1", "Namespace", NAMESPACE),
        _object("v1", "ServiceAccount", ACCOUNT, NAMESPACE, **account),
    ]
    # Before the rights that they limit.
    for name, spec in _policies(cluster).items() if policy_version is not None else ():
        version, binding = f"{POLICY_GROUP}/{policy_version}", {"policyName": name, "validationActions": ["Deny"]}
        found.append(_object(version, "ValidatingAdmissionPolicy", name, spec=spec))
        found.append(_object(version, "ValidatingAdmissionPolicyBinding", name, spec=binding))
    by_namespace: dict[str, list[Right]] = {}
    for right in needed_rights(cluster):
        by_namespace.setdefault(right.namespace, []).append(right)
    for namespace, rights in by_namespace.items():
        found += _role("gpuid", namespace, rights)
    if renewal:
        found += _role("gpuid-token", NAMESPACE, [_RENEWAL])
    return found


def key(manifest: Manifest) -> tuple[str, str, str]:
    """Return what an object is told apart by: kind, namespace and name."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata.get("namespace", ""), metadata["name"]


def title(manifest: Manifest) -> str:
    """Return an object's name for messages: `Role gpuid in gpu-operator`."""
    kind, namespace, name = key(manifest)
    return f"{kind} {name}" + (f" in {namespace}" if namespace else "")


def difference(wanted: Manifest | None, live: Manifest | None) -> list[str]:
    """Return the lines of a diff from the object that a cluster has to the one that it should have; None is absent."""
    before, after = ([] if one is None else dump([_compared(one)]).splitlines() for one in (live, wanted))
    if before == after:
        return []
    old, new = (title(one) if one is not None else "absent" for one in (live, wanted))
    return list(difflib.unified_diff(before, after, old, new, n=1000, lineterm=""))


def _policies(cluster: ClusterSettings) -> dict[str, dict[str, Any]]:
    """Return the `spec` of each policy that limits a cluster's rights, by its name."""
    found = {}
    if sources := [source for source in cluster.active_sources if source.method is SourceMethod.EXEC]:
        found["gpuid-exec"] = exec_policy(_USER, sources)
    if Right("patch", "nodes") in needed_rights(cluster):
        found["gpuid-labels"] = label_policy(_USER)
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
    """Return a role with these rights, of a namespace or, if that is empty, of the cluster; and its binding."""
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
    """Return an object without what is the server's, or says nothing about rights."""
    metadata = manifest["metadata"]
    labels = {name: metadata["labels"][name] for name in LABELS if name in (metadata.get("labels") or {})}
    body = {name: value for name, value in sorted(manifest.items()) if name not in _NOT_OURS}
    if manifest["kind"] == "Namespace":
        body = {}
    place = {name: metadata[name] for name in ("name", "namespace") if name in metadata}
    head = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}
    return {**head, "metadata": {**place, "labels": labels}, **_in_order(body)}


def _in_order(value: Any) -> Any:
    """Return a value with its keys in one order; that of lists stays."""
    if isinstance(value, Mapping):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(one) for one in value] if isinstance(value, list) else value
