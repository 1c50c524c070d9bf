"""Parses the verb, resource, namespace and name of an API request."""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["RequestInfo", "flag", "parse"]

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class RequestInfo(NamedTuple):
    """One request, as authorization and counters see it."""

    verb: str
    group: str
    resource: str  # plural; the path, if the request is not about a resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    is_resource: bool = True
    version: str = "v1"  # of the API

    @property
    def right(self) -> str:
        """The resource as RBAC writes it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def parse(method: str, path: str, *, watch: bool) -> RequestInfo:
    """Parse method and path; `watch` says whether the query asks for a watch."""
    parts = [part for part in path.split("/") if part]
    if parts[:2] == ["api", "v1"] and len(parts) > 2:
        group, rest = "", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, rest = parts[1], parts[3:]
    else:
        return RequestInfo(method.lower(), "", path, is_resource=False)
    version = parts[2] if group else parts[1]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    if len(rest) > 3:
        return RequestInfo(method.lower(), "", path, is_resource=False)
    verb = _VERBS.get(method, method.lower())
    if method == "GET" and not name:
        verb = "watch" if watch else "list"
    return RequestInfo(verb, group, resource, namespace, name, subresource, version=version)


def flag(query: Mapping[str, str], key: str) -> bool:
    """Return whether `key` is true in the query, in any of the spellings that Go accepts."""
    return query.get(key, "") in ("1", "t", "T", "TRUE", "true", "True")
