"""Finds rights of our service account beyond our own objects: other or older roles, and old tokens."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from collector.checks.rights import ACCOUNT, NAMESPACE, USER
from collector.grant.manifests import LABELS, Manifest
from collector.grant.objects import Binding, Objects
from collector.kube.errors import ForbiddenError

__all__ = ["FORMER_TOKEN", "OtherRights", "find_other_rights"]

FORMER_ROLES = ("gpuid-nodes", "gpuid-pods")  # of the manifests used before `gpuid grant` existed
FORMER_TOKEN = "gpuid-token"  # noqa: S105  the name of their Secret

_RBAC = "rbac.authorization.k8s.io/v1"


class OtherRights(NamedTuple):
    """The rights found in addition to our own objects."""

    former: Sequence[Manifest] = ()  # bindings and roles of older versions of gpuid, bindings first
    foreign: Sequence[Binding] = ()  # created by others
    tokens: Sequence[Manifest] = ()  # Secrets with non-expiring tokens that are not labelled as gpuid's


async def find_other_rights(objects: Objects) -> OtherRights:
    """Return other sources of the service account's rights; raises ClusterError and MalformedError."""
    bindings = await objects.bindings()
    giving = [one for one in bindings if _gives_us(one) and not _is_ours(one)]
    former = [one for one in giving if _is_former(one)]
    roles = []
    for name in FORMER_ROLES:
        role = {"apiVersion": _RBAC, "kind": "ClusterRole", "metadata": {"name": name}}
        used = any((one.role.kind, one.role.name) == ("ClusterRole", name) for one in bindings if one not in former)
        if not used and (live := await objects.get(role)) is not None and not live["metadata"].get("labels"):
            roles.append({**live, **role})
    tokens: list[Manifest] = []
    with contextlib.suppress(ForbiddenError):  # they grant no rights by themselves
        found = await objects.lasting_tokens()  # servers label them with their last use
        tokens = [one for one in found if not LABELS.keys() & (one["metadata"].get("labels") or {})]
    return OtherRights(
        [*(one.manifest for one in former), *roles], [one for one in giving if one not in former], tokens
    )


def _gives_us(binding: Binding) -> bool:
    return not binding.metadata.name.startswith("system:") and any(  # OpenShift's are in every namespace
        (one.kind, one.namespace, one.name) == ("ServiceAccount", NAMESPACE, ACCOUNT)
        or (one.kind, one.name) in (("User", USER), ("Group", f"system:serviceaccounts:{NAMESPACE}"))
        for one in binding.subjects or ()
    )


def _is_ours(binding: Binding) -> bool:
    return LABELS.items() <= (binding.metadata.labels or {}).items()


def _is_former(binding: Binding) -> bool:
    """Return whether a binding is an unchanged one of an older manifest."""
    name, role = binding.metadata.name, binding.role
    subjects = [(one.kind, one.namespace, one.name) for one in binding.subjects or ()]
    return (
        name in FORMER_ROLES
        and (role.kind, role.name) == ("ClusterRole", name)
        and subjects == [("ServiceAccount", NAMESPACE, ACCOUNT)]
        and not binding.metadata.labels
    )
