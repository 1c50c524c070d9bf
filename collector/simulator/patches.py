"""Applies the three kinds of patches of Kubernetes: strategic merge patch, merge patch and JSON patch."""

import copy
from typing import Any

from collector.simulator.errors import ApiError, bad_request, unsupported_media_type

__all__ = ["apply"]

_ACCEPTED = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)

# Lists that a strategic merge patch merges by a key; it replaces all others.
_MERGE_KEYS = {"conditions": "type", "addresses": "type", "ownerReferences": "uid"}


def apply(content_type: str, document: dict[str, Any], patch: Any) -> dict[str, Any]:
    """Return a patched copy of a document; raises ApiError if the patch cannot be applied."""
    kind = content_type.partition(";")[0].strip()
    if kind == "application/json-patch+json":
        if not isinstance(patch, list):
            raise bad_request("a JSON patch is an array of operations")
        patched: dict[str, Any] = _json_patch(copy.deepcopy(document), patch)
        return patched
    if kind not in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
        raise unsupported_media_type(kind, ", ".join(_ACCEPTED))
    if not isinstance(patch, dict):
        raise bad_request("a merge patch is an object")
    return _merge(document, patch, strategic=kind == "application/strategic-merge-patch+json")


def _merge(target: Any, patch: dict[str, Any], *, strategic: bool) -> dict[str, Any]:
    if strategic and patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if strategic and key.startswith("$"):
            continue
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            if strategic and value.get("$patch") == "delete":
                merged.pop(key, None)
            else:
                merged[key] = _merge(merged.get(key), value, strategic=strategic)
        elif strategic and isinstance(value, list) and key in _MERGE_KEYS and isinstance(merged.get(key), list):
            merged[key] = _merge_list(merged[key], value, _MERGE_KEYS[key])
        else:
            merged[key] = value
    return merged


def _merge_list(target: list[Any], patch: list[Any], merge_key: str) -> list[Any]:
    merged = {item[merge_key]: item for item in target}
    for item in patch:
        if merge_key not in item:
            raise bad_request(f"map: {item!r} does not contain declared merge key: {merge_key}")
        if item.get("$patch") == "delete":
            merged.pop(item[merge_key], None)
        else:
            merged[item[merge_key]] = _merge(merged.get(item[merge_key]), item, strategic=True)
    return list(merged.values())


def _json_patch(document: Any, operations: list[Any]) -> Any:
    for operation in operations:
        try:
            kind, path = operation["op"], operation["path"]
            if kind == "test":
                if _get(document, path) != operation["value"]:
                    raise _not_applicable(f"testing value {path} failed: test failed")
            elif kind in ("add", "replace"):
                _set(document, path, operation["value"], replace=kind == "replace")
            elif kind == "remove":
                _remove(document, path)
            elif kind == "move":
                _set(document, path, _remove(document, operation["from"]), replace=False)
            elif kind == "copy":
                _set(document, path, copy.deepcopy(_get(document, operation["from"])), replace=False)
            else:
                raise bad_request(f"unexpected kind: {kind}")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _not_applicable(f"{operation!r} cannot be applied: missing path or value") from error
    return document


def _not_applicable(message: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {message}")


def _steps(path: str) -> list[str]:
    if not path.startswith("/"):
        raise ValueError(path)
    return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]


def _get(document: Any, path: str) -> Any:
    for step in _steps(path):
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document


def _parent(document: Any, path: str) -> tuple[Any, str]:
    *steps, last = _steps(path)
    for step in steps:
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document, last


def _set(document: Any, path: str, value: Any, *, replace: bool) -> None:
    parent, last = _parent(document, path)
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if replace:
            parent[index] = value
        else:
            parent.insert(index, value)
    else:
        if replace and last not in parent:
            raise KeyError(last)
        parent[last] = value


def _remove(document: Any, path: str) -> Any:
    parent, last = _parent(document, path)
    return parent.pop(int(last) if isinstance(parent, list) else last)
