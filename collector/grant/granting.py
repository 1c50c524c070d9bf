"""Grants, revokes and compares the rights in one cluster."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import anyio

from collector.checks.rights import ACCOUNT, NAMESPACE
from collector.config import ClusterSettings
from collector.grant.manifests import (
    DEFAULT_DURATION_SECONDS,
    LABELS,
    POLICY_GROUP,
    RENEWAL,
    TOKEN_POLICY,
    USUAL_AUDIENCES,
    Manifest,
    difference,
    key,
    make_manifests,
    needs_policy,
    service_account,
    title,
)
from collector.grant.objects import Binding, Objects
from collector.grant.other_rights import FORMER_TOKEN, find_other_rights
from collector.kube.access import is_granted
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError
from collector.model import GpuidError
from collector.text import enumerated

__all__ = ["Done", "GrantError", "Options", "Outcome", "apply", "compare", "manifests_for", "revoke"]

POLICY_DELAY_SECONDS = 2.0  # after which API servers know a policy: they check for changes once a second

_ACCOUNT = ("ServiceAccount", NAMESPACE, ACCOUNT)
_SERVICE_ACCOUNT = service_account()
_TOKEN_POLICY = ("ValidatingAdmissionPolicy", "", TOKEN_POLICY)
_WHY_ASKED = "it reveals the API server's audiences, which --audience specifies instead"
_LASTING = "its token never expires; delete it as soon as the collector has another"
_MANAGED_BY = "app.kubernetes.io/managed-by"
_MAX_NAMES = 3  # of a namespace's remaining contents


class GrantError(GpuidError):
    """Rights could not be granted, revoked or compared; nothing was changed unless the text says so."""


class Options(NamedTuple):
    """Options for the rights to grant."""

    renewal: bool = True  # grant the right to renew the service account's tokens
    policy: bool = True  # limit with admission policies what RBAC can only allow as a whole
    audiences: tuple[str, ...] = ()  # of renewed tokens; empty: those of the API server, which is asked
    seconds: int = DEFAULT_DURATION_SECONDS  # maximum lifetime of a renewed token


class Outcome(StrEnum):
    """What was done with an object."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    KEPT = "kept"
    FOREIGN = "did not delete"  # although it grants rights that are not needed


class Done(NamedTuple):
    """An object and what was done with it."""

    outcome: Outcome
    title: str
    why: str = ""


async def apply(
    client: ApiClient,
    cluster: ClusterSettings,
    options: Options,
    done: list[Done],
    *,
    policy_delay: float = POLICY_DELAY_SECONDS,
) -> None:
    """Grant a cluster's rights and revoke those no longer needed, recording each step in `done`.

    A dry run of everything comes first: if any part would fail, nothing is changed. Raises ClusterError and GrantError.
    """
    objects = Objects(client)
    state = await _look(objects, cluster, options)
    others = await find_other_rights(objects)
    superfluous = [(one, "no longer needed") for one in await _extra(objects, state.wanted)]
    superfluous += [(one, "of an older gpuid") for one in others.former]
    await _try_all(objects, state, [one for one, _why in superfluous])
    if state.guessed and await is_granted(client, RENEWAL) is False:
        raise GrantError(f"may not {RENEWAL}; {_WHY_ASKED}")
    wanted = {key(one): one for one in state.wanted}
    unnoticed = False  # servers may not know the policy yet, and a collector could use the rights before
    for one, live in [(one, state.live.get(one)) for one in wanted]:
        manifest = wanted[one]
        if not difference(manifest, live):
            done.append(Done(Outcome.UNCHANGED, title(manifest)))
        else:
            if manifest["apiVersion"].startswith(POLICY_GROUP):
                unnoticed = _ACCOUNT in state.live
            elif unnoticed:
                await anyio.sleep(policy_delay)
                unnoticed = False
            with _progress(title(manifest), done, wanted):
                _refuse_addition(manifest, await objects.apply(manifest))
            done.append(Done(Outcome.CHANGED if live else Outcome.CREATED, title(manifest)))
        if one == _ACCOUNT and state.guessed:
            with _progress(f"TokenRequest ({_WHY_ASKED})", done, wanted):
                options = options._replace(audiences=await objects.audiences())
            wanted |= {
                key(one): one for one in manifests_for(cluster, options, state.policy_version) if key(one) in wanted
            }
    for manifest, why in superfluous:
        await objects.delete(manifest)
        done.append(Done(Outcome.DELETED, title(manifest), why))
    done += [Done(Outcome.FOREIGN, title(one.manifest), _why_foreign(one)) for one in others.foreign]
    done += [Done(Outcome.KEPT, title(one), _LASTING) for one in others.tokens]


async def compare(client: ApiClient, cluster: ClusterSettings, options: Options) -> list[list[str]]:
    """Return a diff, as lines, for each object that is missing, changed, or no longer needed.

    If the API server's audiences cannot be determined, an existing policy that limits them is accepted.
    """
    objects = Objects(client)
    state = await _look(objects, cluster, options)
    others = await find_other_rights(objects)
    diffs = [
        difference(one, state.live.get(key(one)))
        for one in state.wanted
        if not (state.guessed and key(one) == _TOKEN_POLICY and key(one) in state.live)
    ]
    diffs += [difference(None, one) for one in await _extra(objects, state.wanted)]
    diffs += [difference(None, one) for one in others.former]
    diffs += [[*difference(None, one.manifest), f"# {_why_foreign(one)}"] for one in others.foreign]
    # Others belong to the platform, such as OpenShift's one per account, or to somebody else.
    former = [one for one in others.tokens if one["metadata"]["name"] == FORMER_TOKEN]
    diffs += [[*difference(None, one), f"# {_LASTING}"] for one in former]
    return [diff for diff in diffs if diff]


async def revoke(client: ApiClient, done: list[Done]) -> None:
    """Delete all our objects, recording each step in `done`; the service account first, which revokes its tokens.

    The namespace is deleted only if it is ours and otherwise empty.
    """
    objects = Objects(client)
    namespaces = []
    others = await find_other_rights(objects)
    found = [one for one in await objects.ours() if not one["metadata"].get("deletionTimestamp")]
    account = await objects.get(_SERVICE_ACCOUNT)
    if account is not None and not _is_ours(account):  # not found by label
        made_here = not difference(_SERVICE_ACCOUNT, _labelled(_at(_SERVICE_ACCOUNT, account)))
        has_rights = others.former or any(one["kind"] != "Namespace" for one in found)
        if made_here or has_rights:
            found.insert(0, _SERVICE_ACCOUNT)
        else:
            done.append(Done(Outcome.KEPT, title(_SERVICE_ACCOUNT), "it is not gpuid's and has no rights from it"))
    found += [*others.former, *others.tokens]
    # The policies last, so that the right to exec never exists without them.
    for manifest in sorted(found, key=lambda one: one["apiVersion"].startswith(POLICY_GROUP)):
        if manifest["kind"] == "Namespace":
            namespaces.append(manifest)
            continue
        await objects.delete(manifest)
        done.append(Done(Outcome.DELETED, title(manifest)))
    done += [Done(Outcome.FOREIGN, title(one.manifest), _why_foreign(one)) for one in others.foreign]
    for manifest in namespaces:
        if manifest["metadata"]["name"] != NAMESPACE:  # somebody else's label
            continue
        if held := await objects.contents(NAMESPACE):
            done.append(Done(Outcome.KEPT, title(manifest), f"it still contains {enumerated(held, _MAX_NAMES)}"))
        else:
            await objects.delete(manifest)
            done.append(Done(Outcome.DELETED, title(manifest)))


class _State(NamedTuple):
    """The wanted and the existing objects of a cluster."""

    wanted: list[Manifest]
    live: dict[tuple[str, str, str], Manifest]  # those of the wanted objects that exist
    policy_version: str | None
    guessed: bool  # `wanted` has the usual audiences, because the API server's own could not be determined yet


async def _look(objects: Objects, cluster: ClusterSettings, options: Options) -> _State:
    """Return the manifests that a cluster needs, and those of its objects that exist."""
    version = await objects.policy_version() if options.policy else None
    if version is None and options.policy and needs_policy(cluster):
        raise GrantError(
            "the API server has no ValidatingAdmissionPolicy (Kubernetes 1.30), without which exec allows any"
            ' command and labels any change of a node; use method = "log" without labels, upgrade, or accept it'
            " with --without-policy"
        )
    guessed = options.renewal and version is not None and not options.audiences
    if guessed and await objects.get(_SERVICE_ACCOUNT) is not None:
        with contextlib.suppress(ForbiddenError):
            options, guessed = options._replace(audiences=await objects.audiences()), False
    wanted = manifests_for(cluster, options, version)
    found = [(one, await objects.get(one)) for one in wanted]
    for one, live in found:
        manager = ((live or one)["metadata"].get("labels") or {}).get(_MANAGED_BY, LABELS[_MANAGED_BY])
        if one["kind"] != "Namespace" and manager != LABELS[_MANAGED_BY]:
            raise GrantError(f"{title(one)} is managed by {manager}; delete or rename it there")
    # A namespace created by somebody else is theirs, including its labels.
    wanted = [one for one, live in found if one["kind"] != "Namespace" or live is None or _is_ours(live)]
    live_ones = {key(one): _at(one, live) for one, live in found if live is not None}
    return _State(wanted, live_ones, version, guessed)


def manifests_for(cluster: ClusterSettings, options: Options, policy_version: str | None) -> list[Manifest]:
    """Return the manifests of a cluster's rights, with policies in this API version; None omits policies."""
    return make_manifests(
        cluster,
        renewal=options.renewal,
        policy_version=policy_version,
        audiences=options.audiences or USUAL_AUDIENCES,
        seconds=options.seconds,
    )


def _refuse_foreign(manifest: Manifest, live: Manifest | None) -> None:
    """Raise GrantError for an existing object that differs and is not labelled as ours."""
    if live is None or _is_ours(live) or not difference(manifest, _labelled(live)):
        return
    kind, namespace, name = key(manifest)
    place = f" -n {namespace}" if namespace else ""
    labels = " ".join(f"{label}={value}" for label, value in LABELS.items())
    raise GrantError(
        f"{title(manifest)} exists, is not labelled as gpuid's and differs from what is needed (see --check);"
        f" delete it, or hand it over: kubectl label {kind.lower()} {name}{place} {labels}"
    )


def _refuse_addition(manifest: Manifest, applied: Manifest) -> None:
    if difference(manifest, applied):
        raise GrantError(
            f"{title(manifest)} has content that gpuid did not put there; see `gpuid grant --check`, delete it"
            " and apply again"
        )


@contextlib.contextmanager
def _progress(what: str, done: Sequence[Done], wanted: Collection[object]) -> Iterator[None]:
    """Add to an error how many objects were already applied."""
    try:
        yield
    except GpuidError as error:
        text = str(error) if isinstance(error, GrantError) else f"{what}: {error}"
        raise GrantError(f"{text}; {len(done)} of {len(wanted)} objects were applied") from error


def _why_foreign(binding: Binding) -> str:
    return f"it grants {binding.role.kind} {binding.role.name} to gpuid's service account and is not gpuid's"


def _labelled(live: Manifest) -> Manifest:
    return {**live, "metadata": {**live["metadata"], "labels": dict(LABELS)}}


def _at(manifest: Manifest, live: Manifest) -> Manifest:
    return {**live, "apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}


def _is_ours(live: Manifest) -> bool:
    return LABELS.items() <= (live["metadata"].get("labels") or {}).items()


async def _extra(objects: Objects, wanted: Sequence[Manifest]) -> list[Manifest]:
    """Return unwanted objects with our labels; bindings come before the policies that limit them."""
    needed = {key(one) for one in wanted}
    extra = [one for one in await objects.ours() if key(one) not in needed and one["kind"] != "Namespace"]
    return sorted(extra, key=lambda one: one["apiVersion"].startswith(POLICY_GROUP))


async def _try_all(objects: Objects, state: _State, superfluous: Sequence[Manifest]) -> None:
    """Dry-run all applications and deletions on the server; raises ClusterError and GrantError."""
    for manifest in state.wanted:
        live = state.live.get(key(manifest))
        if difference(manifest, live):
            _refuse_foreign(manifest, live)
            await _try(objects, manifest)
    for manifest in superfluous:
        await objects.delete(manifest, dry_run=True)


async def _try(objects: Objects, manifest: Manifest) -> None:
    """Dry-run a manifest on the server; raises GrantError with the obstacle."""
    namespace = manifest["metadata"].get("namespace", "")
    try:
        _refuse_addition(manifest, await objects.apply(manifest, dry_run=True))
    except NotFoundError as error:
        if namespace == NAMESPACE:  # which is about to be created
            return
        if namespace:
            raise GrantError(
                f'namespace "{namespace}" does not exist; set `preset` or `sources` to match the GPU pods'
            ) from error
        raise GrantError(f"{title(manifest)}: {error}") from error
    except ForbiddenError as error:
        raise GrantError(f"may not apply {title(manifest)}: {error}") from error
    except ClusterError as error:
        raise GrantError(f"{title(manifest)}: {error}") from error
