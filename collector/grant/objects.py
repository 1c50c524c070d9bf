"""Reads, applies and deletes the objects that define rights, through the generated API classes."""

import contextlib
import functools
import math
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from kubernetes_asyncio.client import ApisApi, CoreV1Api, CustomObjectsApi, V1TokenRequestSpec

from collector.checks.rights import ACCOUNT, NAMESPACE, USER
from collector.grant.manifests import LABELS, NAMES, POLICY_GROUP, Manifest
from collector.kube.bound_token import bound_token
from collector.kube.client import FIELD_MANAGER, ApiClient, ApiMethod
from collector.kube.errors import UNDECODABLE, ClusterError, NotFoundError, ThrottledError
from collector.kube.token_request import MIN_LIFETIME_SECONDS, MadeToken, create_token
from collector.kube.wire import MalformedError

__all__ = ["Binding", "Objects"]

MAX_OBJECT_BYTES = 256 << 10  # of an object with rights, so that comparisons are fast
MAX_OBJECT_DEPTH = 50  # levels of one; comparisons are recursive

_SELECTOR = ",".join(f"{name}={value}" for name, value in LABELS.items())
_RBAC = ("rbac.authorization.k8s.io", "v1")
_PLURALS = {  # of kinds outside of the core API
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}
_POLICY_KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
_POLICY_VERSIONS = ("v1", "v1beta1")  # since Kubernetes 1.30 and 1.28; the older one is off by default
# Objects that Kubernetes itself puts into a namespace, and those deleted with their owner.
_DERIVED = {
    ("", "configmaps"): ("kube-root-ca.crt", "openshift-service-ca.crt"),
    ("", "serviceaccounts"): ("default", "builder", "deployer", ACCOUNT),
}
_ACCOUNT_OF = "kubernetes.io/service-account.name"  # annotates a token Secret, which is deleted with its account
_MAX_THROTTLED = 5  # answers to one request that ask for time
_IGNORED = frozenset({"events", "endpoints", "endpointslices", "leases"})


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Reference(msgspec.Struct):
    name: str
    kind: str = ""
    namespace: str = ""


class Binding(msgspec.Struct):
    """A binding of a role to subjects."""

    metadata: _Metadata
    role: _Reference = msgspec.field(name="roleRef")
    subjects: tuple[_Reference, ...] | None = None
    kind: str = ""

    @property
    def manifest(self) -> Manifest:
        """The binding as a manifest."""
        group, version = _RBAC
        document: Manifest = msgspec.to_builtins(self)
        return {"apiVersion": f"{group}/{version}", **document}


class _BindingList(msgspec.Struct):
    items: tuple[Binding, ...] | None = None


class _List(msgspec.Struct):
    items: list[dict[str, Any]] | None = None


class _Resource(msgspec.Struct):
    name: str
    namespaced: bool = False
    verbs: tuple[str, ...] = ()


class _ResourceList(msgspec.Struct):
    resources: tuple[_Resource, ...] | None = None


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    name: str
    preferredVersion: _Version  # noqa: N815


class _GroupList(msgspec.Struct):
    groups: tuple[_Group, ...] | None = None


class Objects:
    """The objects of one API server; every method raises ClusterError, and MalformedError."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._core, self._custom = CoreV1Api(client), CustomObjectsApi(client)

    async def policy_version(self) -> str | None:
        """Return the server's API version of validating admission policies; None if it has none."""
        for version in _POLICY_VERSIONS:
            try:
                found = await self._read(_ResourceList, self._custom.get_api_resources, POLICY_GROUP, version)
            except NotFoundError:
                continue
            if any(resource.name == _PLURALS["ValidatingAdmissionPolicy"] for resource in found.resources or ()):
                return version
        return None

    async def get(self, manifest: Manifest) -> Manifest | None:
        """Return an object from the server; None if there is none."""
        try:
            return await self._document(self._method("get", manifest))
        except NotFoundError:
            return None

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply a manifest server-side, optionally as a dry run, and return the resulting object."""
        options = {"dry_run": "All"} if dry_run else {}
        method = functools.partial(
            self._method("patch", manifest),
            body=manifest,
            field_manager=FIELD_MANAGER,
            force=True,
            _content_type="application/apply-patch+yaml",
            **options,
        )
        return await self._document(method)

    async def delete(self, manifest: Manifest, *, dry_run: bool = False) -> None:
        """Delete an object if it still exists, optionally as a dry run."""
        options = {"dry_run": "All"} if dry_run else {}
        try:
            await self._client.read(functools.partial(self._method("delete", manifest), **options))
        except NotFoundError:
            return

    async def ours(self) -> list[Manifest]:
        """Return all objects with our labels and names, of the kinds that `grant` creates.

        Bindings for others were made from a copy of our manifests and belong to them.
        """
        found: list[Manifest] = []
        listed = self._core.list_namespaced_service_account
        found += await self._list("v1", "ServiceAccount", functools.partial(listed, NAMESPACE))
        found += await self._list("v1", "Namespace", self._core.list_namespace)
        policy_version = await self.policy_version()
        for kind, plural in _PLURALS.items():
            group, version = (POLICY_GROUP, policy_version) if kind in _POLICY_KINDS else _RBAC
            if version is not None:
                listed = functools.partial(self._custom.list_cluster_custom_object, group, version, plural)
                found += await self._list(f"{group}/{version}", kind, listed)
        theirs = {_place(one) for one in found if one["kind"].endswith("RoleBinding") and not _is_for_us(one)}
        return [one for one in found if _is_named(one) and not (_place(one) in theirs and "Role" in one["kind"])]

    async def contents(self, namespace: str) -> list[str]:
        """Return a namespace's contents, without those Kubernetes puts there itself, as `resource name`."""
        found = []
        for group, version, resource in await self._listable():
            if group:
                method = functools.partial(
                    self._custom.list_namespaced_custom_object, group, version, namespace, resource
                )
            else:
                method = functools.partial(_CORE_LISTS[resource], self._core, namespace)
            kept = _DERIVED.get((group, resource), ())
            for one in await self._items(method):
                name, annotations = one["metadata"]["name"], one["metadata"].get("annotations") or {}
                if name not in kept and not name.startswith("system:") and _ACCOUNT_OF not in annotations:
                    found.append(f"{resource} {name}")
        return found

    async def token(self, seconds: int) -> MadeToken:
        """Return a new token of the service account, with the lifetime that the server allows."""
        spec = V1TokenRequestSpec(audiences=[], expiration_seconds=seconds)
        made = await create_token(self._client, NAMESPACE, ACCOUNT, spec)
        self._client.session.secrets.add(made.text)
        token = bound_token(made.text)
        if token is None or token.user != USER:
            raise MalformedError(f"{self._client.session.host}: the TokenRequest returned no token of {USER}")
        return made

    async def audiences(self) -> tuple[str, ...]:
        """Return the API server's audiences, which it fills in when a token is requested."""
        return (await self.token(MIN_LIFETIME_SECONDS)).audiences

    async def identity(self) -> str:
        """Return the identity of this cluster, independent of context and server address."""
        system = await self._document(functools.partial(self._core.read_namespace, "kube-system"))
        return str(system["metadata"].get("uid", ""))

    async def bindings(self) -> list[Binding]:
        """Return all role bindings on the server."""
        found = []
        for kind in ("ClusterRoleBinding", "RoleBinding"):
            method = functools.partial(self._custom.list_cluster_custom_object, *_RBAC, _PLURALS[kind])
            listed = (await self._read(_BindingList, method)).items or ()
            found += [msgspec.structs.replace(one, kind=kind) for one in listed]
        return found

    async def lasting_tokens(self) -> list[Manifest]:
        """Return the Secrets with non-expiring tokens of the service account, without their data."""
        method = functools.partial(
            self._core.list_namespaced_secret, NAMESPACE, field_selector="type=kubernetes.io/service-account-token"
        )
        return [
            {"apiVersion": "v1", "kind": "Secret", "metadata": one["metadata"]}
            for one in await self._items(method)
            if (one["metadata"].get("annotations") or {}).get(_ACCOUNT_OF) == ACCOUNT
        ]

    async def _listable(self) -> list[tuple[str, str, str]]:
        """Return group, version and resource of everything that can be listed in a namespace."""
        found = [("", "v1", resource) for resource in _CORE_LISTS]
        groups = await self._read(_GroupList, ApisApi(self._client).get_api_versions)
        for group in groups.groups or ():
            name, version = group.name, group.preferredVersion.version
            try:
                resources = await self._read(_ResourceList, self._custom.get_api_resources, name, version)
            except ClusterError:  # of a server that is currently unavailable
                continue
            found += [
                (name, version, resource.name)
                for resource in resources.resources or ()
                if resource.namespaced and "list" in resource.verbs and resource.name not in _IGNORED
            ]
        return found

    async def _list(self, version: str, kind: str, method: ApiMethod) -> list[Manifest]:
        listed = await self._items(functools.partial(method, label_selector=_SELECTOR))
        return [{**self._comparable(one), "apiVersion": version, "kind": kind} for one in listed]

    def _method(self, verb: str, manifest: Manifest) -> ApiMethod:
        """Return the generated method for a verb and the kind of a manifest."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        place = {"name": name, **({"namespace": namespace} if namespace else {})}
        if kind in _PLURALS:
            group, _, version = manifest["apiVersion"].partition("/")
            scope = "namespaced" if namespace else "cluster"
            method = getattr(self._custom, f"{verb}_{scope}_custom_object")
            return functools.partial(method, **place, group=group, version=version, plural=_PLURALS[kind])
        noun = _CORE_NOUNS[kind]
        return functools.partial(getattr(self._core, f"{'read' if verb == 'get' else verb}_{noun}"), **place)

    async def _items(self, method: ApiMethod) -> list[Manifest]:
        listed = await self._read(_List, method)
        return [self._checked(one) for one in listed.items or ()]

    async def _document(self, method: ApiMethod) -> Manifest:
        return self._comparable(self._checked(await self._read(dict[str, Any], method, limit=MAX_OBJECT_BYTES)))

    def _checked(self, document: dict[str, Any]) -> Manifest:
        """Return a document if it has the metadata of an object; raises MalformedError."""
        try:
            msgspec.convert(document.get("metadata"), _Metadata)
        except msgspec.ValidationError:
            raise self._malformed() from None
        return document

    def _comparable(self, document: Manifest) -> Manifest:
        """Return a document if it is not nested too deeply; raises MalformedError."""
        level: list[Any] = [document]
        for _ in range(MAX_OBJECT_DEPTH):
            level = [inner for one in level for inner in _inner(one)]
        if level:
            text = (
                f"{self._client.session.host}: an object with rights is nested more than {MAX_OBJECT_DEPTH} levels deep"
            )
            raise MalformedError(text)
        return document

    def _malformed(self) -> MalformedError:
        return MalformedError(f"{self._client.session.host}: not a response of the Kubernetes API")

    async def _read(self, kind: Any, method: ApiMethod, *args: Any, limit: float = math.inf) -> Any:
        body = await self._answer(method, *args)
        if len(body) > limit:
            raise MalformedError(f"{self._client.session.host}: an object with rights has {len(body):,} bytes")
        try:
            return msgspec.json.decode(body, type=kind)
        except UNDECODABLE:
            raise self._malformed() from None

    async def _answer(self, method: ApiMethod, *args: Any) -> bytes:
        """Return the answer to a request, sent again as often as the server may ask for time.

        A server that lists a kind for the first time may say that its storage is initializing. The client waits before.
        """
        for _ in range(_MAX_THROTTLED):
            with contextlib.suppress(ThrottledError):
                return await self._client.read(method, *args)
        return await self._client.read(method, *args)


def _inner(value: Any) -> Collection[Any]:
    """Return the values directly inside of one."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _place(manifest: Manifest) -> tuple[str, str]:
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _is_named(manifest: Manifest) -> bool:
    return manifest["metadata"]["name"] in NAMES


def _is_for_us(binding: Manifest) -> bool:
    """Return whether a binding has our service account among its subjects."""
    subjects = binding.get("subjects")
    return isinstance(subjects, list) and any(
        isinstance(one, dict) and (one.get("namespace"), one.get("name")) == (NAMESPACE, ACCOUNT) for one in subjects
    )


_CORE_NOUNS = {"Namespace": "namespace", "Secret": "namespaced_secret", "ServiceAccount": "namespaced_service_account"}
_CORE_LISTS: Mapping[str, Any] = {  # namespaced resources of the core group
    "configmaps": CoreV1Api.list_namespaced_config_map,
    "limitranges": CoreV1Api.list_namespaced_limit_range,
    "persistentvolumeclaims": CoreV1Api.list_namespaced_persistent_volume_claim,
    "pods": CoreV1Api.list_namespaced_pod,
    "podtemplates": CoreV1Api.list_namespaced_pod_template,
    "replicationcontrollers": CoreV1Api.list_namespaced_replication_controller,
    "resourcequotas": CoreV1Api.list_namespaced_resource_quota,
    "secrets": CoreV1Api.list_namespaced_secret,
    "serviceaccounts": CoreV1Api.list_namespaced_service_account,
    "services": CoreV1Api.list_namespaced_service,
}
