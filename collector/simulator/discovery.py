"""Serves the discovery of a simulated API server: version, groups and resources."""

import functools

import msgspec

from collector.simulator.objects import KUBERNETES_VERSION, RESOURCES, Document

__all__ = ["document"]

_GROUPS = ("authentication.k8s.io", "authorization.k8s.io", "coordination.k8s.io")
_EXEC = {"name": "pods/exec", "singularName": "", "namespaced": True, "kind": "PodExecOptions",
         "verbs": ["create", "get"]}  # fmt: skip
_LOG = {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]}
_TOKEN = {"name": "serviceaccounts/token", "singularName": "", "namespaced": True, "group": "authentication.k8s.io",
          "version": "v1", "kind": "TokenRequest", "verbs": ["create"]}  # fmt: skip
_REVIEW = {"name": "selfsubjectaccessreviews", "singularName": "selfsubjectaccessreview", "namespaced": False,
           "kind": "SelfSubjectAccessReview", "verbs": ["create"]}  # fmt: skip
_SELF = {"name": "selfsubjectreviews", "singularName": "selfsubjectreview", "namespaced": False,
         "kind": "SelfSubjectReview", "verbs": ["create"]}  # fmt: skip


@functools.cache
def document(path: str) -> bytes | None:
    """Return the document at `path` as JSON; None if there is none."""
    found = _documents().get(path.rstrip("/") or "/")
    return None if found is None else msgspec.json.encode(found)


def _documents() -> dict[str, Document]:
    groups = [_group(group) for group in _GROUPS]
    return {
        "/version": {
            "major": "1",
            "minor": KUBERNETES_VERSION.split(".")[1],
            "emulationMajor": "1",
            "emulationMinor": KUBERNETES_VERSION.split(".")[1],
            "gitVersion": KUBERNETES_VERSION,
            "gitCommit": "simulated",
            "gitTreeState": "clean",
            "buildDate": "2025-11-11T00:00:00Z",
            "goVersion": "",
            "compiler": "",
            "platform": "linux/amd64",
        },
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        **{f"/apis/{group['name']}": group | {"kind": "APIGroup", "apiVersion": "v1"} for group in groups},
        "/api/v1": _resources("v1", [*_served(""), _EXEC, _LOG, _TOKEN]),
        "/apis/coordination.k8s.io/v1": _resources("coordination.k8s.io/v1", _served("coordination.k8s.io")),
        "/apis/authorization.k8s.io/v1": _resources("authorization.k8s.io/v1", [_REVIEW]),
        "/apis/authentication.k8s.io/v1": _resources("authentication.k8s.io/v1", [_SELF]),
        "/": {"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/version"]},
    }


def _group(name: str) -> Document:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(version: str, resources: list[Document]) -> Document:
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _served(group: str) -> list[Document]:
    return [
        {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
            **({"shortNames": [resource.short]} if resource.short else {}),
        }
        for resource in RESOURCES.values()
        if resource.group == group
    ]
