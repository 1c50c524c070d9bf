"""Serves create, update, patch and delete, and the reviews of the user's own rights."""

import re
import time
from typing import Any

import msgspec
from aiohttp import web

from collector.config.selector import is_label_key
from collector.simulator import errors, patches, protobuf
from collector.simulator.faults import Faults
from collector.simulator.objects import NODES, Document, Resource
from collector.simulator.requests import RequestInfo
from collector.simulator.storage import Storage
from collector.timestamps import rfc3339

__all__ = ["REVIEWS", "read_body", "review", "write"]

_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")

REVIEWS = {"selfsubjectaccessreviews", "selfsubjectreviews"}


async def read_body(request: web.BaseRequest) -> Document:
    """Return the object in the body of a request; raises ApiError 415 or 400."""
    return _decode(await request.read(), request.content_type)


def review(info: RequestInfo, document: Document, faults: Faults, user: str) -> web.Response:
    """Return who the user is, or whether the user may do something."""
    if info.verb != "create":
        raise errors.method_not_allowed()
    if info.resource == "selfsubjectreviews":
        groups = ["system:authenticated"]
        return _json(document | {"status": {"userInfo": {"username": user, "groups": groups}}}, status=201)
    wanted = (document.get("spec") or {}).get("resourceAttributes") or {}
    resource = "/".join(filter(None, (wanted.get("resource", ""), wanted.get("subresource", ""))))
    allowed = not faults.denies(wanted.get("verb", ""), resource, wanted.get("namespace", ""))
    status = {"allowed": True} if allowed else {"allowed": False, "reason": "denied by the simulation"}
    return _json(document | {"status": status}, status=201)


def write(
    storage: Storage, info: RequestInfo, resource: Resource, body: bytes, content_type: str, manager: str = ""
) -> web.StreamResponse:
    """Create, update, patch or delete one object; raises ApiError if it conflicts or does not exist.

    `manager` is the name under which a change is noted in the object's managedFields, without the fields.
    """
    if info.verb == "create":
        return _create(storage, info, resource, _decode(body, content_type))
    key = f"{info.namespace}/{info.name}" if resource.namespaced else info.name
    entry = storage.get(resource, key)
    if entry is None:
        raise errors.not_found(resource.plural, info.name, resource.group)
    if info.verb == "delete":
        storage.delete(resource, key)
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
    current = entry.document()
    if info.verb == "patch":
        changed = _checked(patches.apply(content_type, current, _json_value(body)))
        _validate(changed, current, f'{resource.kind} "{info.name}"')
    else:
        changed = _decode(body, content_type)
    if changed["metadata"].get("resourceVersion", str(entry.version)) != str(entry.version):
        raise errors.conflict(resource.plural, info.name, resource.group)
    changed = _merged(current, changed, info.subresource, resource)
    if changed != current:
        entry = storage.put(resource, _managed(changed, manager, resource) if manager else changed)
    return web.Response(body=entry.body, content_type="application/json")


def _validate(changed: Document, current: Document, subject: str) -> None:
    """Raise ApiError 422 for a uid that is not the object's, or labels that no object may have."""
    uid = changed["metadata"].get("uid")
    if uid not in (None, current["metadata"]["uid"]):
        raise errors.invalid(subject, "metadata.uid", f'Invalid value: "{uid}": field is immutable')
    for key, value in (changed["metadata"].get("labels") or {}).items():
        if not (is_label_key(key) and _LABEL_VALUE.fullmatch(value)):
            raise errors.invalid(
                subject,
                "metadata.labels",
                f'Invalid value: "{value}": a valid label must be an empty'
                " string or consist of alphanumeric characters, '-', '_' or '.'",
            )


def _merged(current: Document, changed: Document, subresource: str, resource: Resource) -> Document:
    """Return the changed object with the fields of the current one that must not change."""
    fixed = {
        key: current["metadata"][key]
        for key in ("name", "namespace", "uid", "creationTimestamp", "resourceVersion")
        if key in current["metadata"]
    }
    if subresource == "status":
        return current | {"status": changed.get("status", {})}
    changed = changed | {"metadata": changed["metadata"] | fixed}
    if resource is NODES:
        changed["status"] = current["status"]  # changed only by the status subresource
    return changed


def _managed(document: Document, manager: str, resource: Resource) -> Document:
    entry = {
        "manager": manager,
        "operation": "Update",
        "apiVersion": resource.api_version,
        "time": rfc3339(time.time(), "seconds"),
        "fieldsType": "FieldsV1",
        "fieldsV1": {},
    }
    others = [one for one in document["metadata"].get("managedFields", ()) if one.get("manager") != manager]
    return document | {"metadata": document["metadata"] | {"managedFields": [*others, entry]}}


def _create(storage: Storage, info: RequestInfo, resource: Resource, document: Document) -> web.Response:
    metadata = document["metadata"]
    if not metadata.get("name"):
        raise errors.invalid(f"{resource.kind}.{resource.group}", "metadata.name", "name or generateName is required")
    metadata["namespace"] = info.namespace
    key = f"{info.namespace}/{metadata['name']}"
    if storage.get(resource, key) is not None:
        raise errors.already_exists(resource.plural, metadata["name"], resource.group)
    metadata["uid"] = f"00000000-0000-4000-a000-{storage.version:012x}"
    metadata["creationTimestamp"] = rfc3339(time.time(), "seconds")
    document = {"kind": resource.kind, "apiVersion": resource.api_version} | document
    return web.Response(body=storage.put(resource, document).body, status=201, content_type="application/json")


def _decode(body: bytes, content_type: str) -> Document:
    if content_type == protobuf.MEDIA_TYPE:
        return _checked(protobuf.decode(body))
    if content_type not in ("application/json", "application/octet-stream"):  # the latter: no type was given
        raise errors.unsupported_media_type(content_type, f"application/json, {protobuf.MEDIA_TYPE}")
    document = _json_value(body)
    if not isinstance(document, dict):
        raise errors.bad_request("the object provided is unrecognized: expected a JSON object")
    return _checked(document)


def _checked(document: Document) -> Document:
    """Return the document; raises ApiError 400 unless the parts that are relied upon are objects."""
    for key in ("metadata", "spec", "status"):
        if not isinstance(document.get(key) or {}, dict):
            raise errors.bad_request(f"the object provided is unrecognized: {key}: expected an object")
    labels = (document.get("metadata") or {}).get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise errors.bad_request("the object provided is unrecognized: metadata.labels: expected an object of strings")
    return document | {"metadata": document.get("metadata") or {}}


def _json_value(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise errors.bad_request(f"the object provided is unrecognized: {error}") from error


def _json(document: Document, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")
