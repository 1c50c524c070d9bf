"""Gives one cluster's rights, takes them away, and compares them with what they should be."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import anyio

from collector.config import ClusterSettings
from collector.grant.manifests import (
    ACCOUNT,
    LABELS,
    NAMESPACE,
    POLICY_GROUP,
    Manifest,
    difference,
    key,
    make_manifests,
    needs_policy,
    title,
)
from collector.grant.objects import Objects
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError
from collector.model import GpuidError

__all__ = ["Done", "GrantError", "Options", "Outcome", "apply", "compare", "revoke"]

POLICY_DELAY_SECONDS = 2.0  # after which API servers know a policy: they look for changes once a second

_MANAGED_BY = "app.kubernetes.io/managed-by"
_MAX_NAMES = 3  # of what a namespace still holds


class GrantError(GpuidError):
    """Rights could not be given, taken or compared; nothing was changed unless the text says so."""


class Options(NamedTuple):
    """How much is granted."""

    renewal: bool = True  # the right to renew the tokens of the service account
    policy: bool = True  # exec is limited to the commands of the sources


class Outcome(Enum):
    """What was done with an object."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    KEPT = "kept"


class Done(NamedTuple):
    """An object and what was done with it."""

    outcome: Outcome
    title: str
    why: str = ""


async def apply(
    client: ApiClient, cluster: ClusterSettings, options: Options, *, policy_delay: float = POLICY_DELAY_SECONDS
) -> list[Done]:
    """Give a cluster's rights and take away those of ours that it no longer needs; return what was done.

    Everything is tried first: where one thing would fail, nothing is changed. Raises ClusterError and GrantError.
    """
    objects = Objects(client)
    wanted, live = await _state(objects, cluster, options)
    changed = [one for one in wanted if difference(one, live.get(key(one)))]
    for manifest in changed:
        await _try(objects, manifest)
    done = []
    account = live.get(("ServiceAccount", NAMESPACE, ACCOUNT))
    unnoticed = False  # a policy that servers do not know yet, and a collector that could use the rights before
    for manifest in wanted:
        before = live.get(key(manifest))
        if manifest not in changed:
            done.append(Done(Outcome.UNCHANGED, title(manifest)))
            continue
        if manifest["apiVersion"].startswith(POLICY_GROUP):
            unnoticed = account is not None
        elif unnoticed:
            await anyio.sleep(policy_delay)
            unnoticed = False
        try:
            applied = await objects.apply(manifest)
        except ClusterError as error:
            raise GrantError(f"{title(manifest)}: {error}; {len(done)} of {len(wanted)} objects are applied") from error
        if difference(manifest, applied):
            raise GrantError(
                f"{title(manifest)} has something that gpuid did not put there; see `gpuid grant --check`, delete it"
                " and apply again"
            )
        done.append(Done(Outcome.CHANGED if before else Outcome.CREATED, title(manifest)))
    for manifest in await _extra(objects, wanted):
        await objects.delete(manifest)
        done.append(Done(Outcome.DELETED, title(manifest), "no longer needed"))
    return done


async def compare(client: ApiClient, cluster: ClusterSettings, options: Options) -> list[list[str]]:
    """Return a diff, as lines, for each object that is not as it should be: missing, changed, or no longer needed."""
    objects = Objects(client)
    wanted, live = await _state(objects, cluster, options)
    diffs = [difference(one, live.get(key(one))) for one in wanted]
    diffs += [difference(None, one) for one in await _extra(objects, wanted)]
    return [diff for diff in diffs if diff]


async def revoke(client: ApiClient) -> list[Done]:
    """Delete every object of ours, the service account first: that ends its tokens; return what was done.

    The namespace goes only if it is ours and nothing else is in it.
    """
    objects = Objects(client)
    done = []
    namespaces = []
    # The policies last, so that there never is the right to exec without them.
    found = [one for one in await objects.ours() if not one["metadata"].get("deletionTimestamp")]
    for manifest in sorted(found, key=lambda one: one["apiVersion"].startswith(POLICY_GROUP)):
        if manifest["kind"] == "Namespace":
            namespaces.append(manifest)
            continue
        await objects.delete(manifest)
        done.append(Done(Outcome.DELETED, title(manifest)))
    for manifest in namespaces:
        if manifest["metadata"]["name"] != NAMESPACE:  # somebody else's label
            continue
        if held := await objects.contents(NAMESPACE):
            named = ", ".join(held[:_MAX_NAMES]) + (", …" if len(held) > _MAX_NAMES else "")
            done.append(Done(Outcome.KEPT, title(manifest), f"it holds {named}"))
        else:
            await objects.delete(manifest)
            done.append(Done(Outcome.DELETED, title(manifest)))
    return done


async def _state(
    objects: Objects, cluster: ClusterSettings, options: Options
) -> tuple[list[Manifest], dict[tuple[str, str, str], Manifest]]:
    """Return the manifests that a cluster needs, and those of its objects that are there."""
    version = None
    if options.policy and needs_policy(cluster):
        version = await objects.policy_version()
        if version is None:
            raise GrantError(
                "the API server has no ValidatingAdmissionPolicy (Kubernetes 1.30), without which exec allows every"
                ' command, and labels every change of a node; use method = "log" and no labels, upgrade, or accept it'
                " with --without-policy"
            )
    wanted = make_manifests(cluster, renewal=options.renewal, policy_version=version)
    found = [(one, await objects.get(one)) for one in wanted]
    for one, live in found:
        manager = ((live or one)["metadata"].get("labels") or {}).get(_MANAGED_BY, LABELS[_MANAGED_BY])
        if one["kind"] != "Namespace" and manager != LABELS[_MANAGED_BY]:
            raise GrantError(f"{title(one)} is managed by {manager}; delete or rename it there")
    # A namespace that somebody else made is theirs, labels included.
    wanted = [one for one, live in found if one["kind"] != "Namespace" or live is None or _is_ours(live)]
    return wanted, {key(one): _at(one, live) for one, live in found if live is not None}


def _at(manifest: Manifest, live: Manifest) -> Manifest:
    return {**live, "apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}


def _is_ours(live: Manifest) -> bool:
    return LABELS.items() <= (live["metadata"].get("labels") or {}).items()


async def _extra(objects: Objects, wanted: Sequence[Manifest]) -> list[Manifest]:
    """Return the objects with our labels that are not wanted; bindings come before the policies that limit them."""
    needed = {key(one) for one in wanted}
    extra = [one for one in await objects.ours() if key(one) not in needed and one["kind"] != "Namespace"]
    return sorted(extra, key=lambda one: one["apiVersion"].startswith(POLICY_GROUP))


async def _try(objects: Objects, manifest: Manifest) -> None:
    """Have the server check a manifest; raises GrantError with what is in the way."""
    namespace = manifest["metadata"].get("namespace", "")
    try:
        await objects.apply(manifest, dry_run=True)
    except NotFoundError as error:
        if namespace == NAMESPACE:  # which is about to be made
            return
        if namespace:
            raise GrantError(
                f'namespace "{namespace}" does not exist; set `preset` or `sources` to where the GPU pods are'
            ) from error
        raise GrantError(f"{title(manifest)}: {error}") from error
    except ForbiddenError as error:
        raise GrantError(f"may not apply {title(manifest)}: {error}") from error
    except ClusterError as error:
        raise GrantError(f"{title(manifest)}: {error}") from error
