"""Renders pods, nodes, leases and ResourceSlices as the Table that kubectl asks for."""

import calendar
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from collector.simulator.objects import LEASES, NODES, PODS, Document, Resource
from collector.simulator.storage import Entry

__all__ = ["preferred", "render"]

_COLUMNS = {
    PODS: (("Name", 0), ("Ready", 0), ("Status", 0), ("Restarts", 0), ("Age", 0), ("IP", 1), ("Node", 1)),
    NODES: (
        ("Name", 0), ("Status", 0), ("Roles", 0), ("Age", 0), ("Version", 0), ("Internal-IP", 1), ("External-IP", 1),
        ("OS-Image", 1), ("Kernel-Version", 1), ("Container-Runtime", 1),
    ),
    LEASES: (("Name", 0), ("Holder", 0), ("Age", 0)),
}  # fmt: skip
_SLICE_COLUMNS = (("Name", 0), ("Node", 0), ("Driver", 0), ("Pool", 0), ("Age", 0))


def preferred(accept: str) -> bool:
    """Return whether the Accept header prefers a table."""
    first = accept.partition(",")[0]
    return "application/json" in first and "as=Table" in first and "v=v1;" in first + ";"


def render(resource: Resource, entries: Sequence[Entry], metadata: dict[str, Any], now: float) -> bytes:
    """Return objects as a Table; ages are relative to `now` (Unix seconds)."""
    return msgspec.json.encode(
        {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": [
                {"name": name, "type": "string", "format": "name" if name == "Name" else "", "description": "",
                 "priority": priority}
                for name, priority in _COLUMNS.get(resource, _SLICE_COLUMNS)
            ],
            "rows": [_row(resource, entry.document(), now) for entry in entries],
        }
    )  # fmt: skip


def _row(resource: Resource, document: Document, now: float) -> dict[str, Any]:
    metadata = document["metadata"]
    age = _age(metadata.get("creationTimestamp"), now)
    if resource is PODS:
        cells = _pod(document, age)
    elif resource is NODES:
        cells = _node(document, age)
    elif resource.plural == "resourceslices":
        spec = document["spec"]
        cells = [metadata["name"], spec.get("nodeName", ""), spec["driver"], spec["pool"]["name"], age]
    else:
        cells = [metadata["name"], (document.get("spec") or {}).get("holderIdentity") or "", age]
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return {"cells": cells, "object": partial}


def _pod(document: Document, age: str) -> list[str]:
    status = document.get("status", {})
    containers = status.get("containerStatuses", [])
    ready = sum(container.get("ready", False) for container in containers)
    restarts = sum(container.get("restartCount", 0) for container in containers)
    phase = "Terminating" if "deletionTimestamp" in document["metadata"] else status.get("phase", "Unknown")
    return [
        document["metadata"]["name"],
        f"{ready}/{len(document['spec'].get('containers', ()))}",
        phase,
        str(restarts),
        age,
        status.get("podIP", "<none>"),
        document["spec"].get("nodeName", "<none>"),
    ]


def _node(document: Document, age: str) -> list[str]:
    status, labels = document["status"], document["metadata"].get("labels", {})
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    states = ["Ready" if conditions.get("Ready") == "True" else "NotReady"]
    if document.get("spec", {}).get("unschedulable"):
        states.append("SchedulingDisabled")
    prefix = "node-role.kubernetes.io/"
    roles = sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))
    addresses = {address["type"]: address["address"] for address in status.get("addresses", [])}
    info = status.get("nodeInfo", {})
    return [
        document["metadata"]["name"],
        ",".join(states),
        ",".join(roles) or "<none>",
        age,
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", "<none>"),
        addresses.get("ExternalIP", "<none>"),
        info.get("osImage", ""),
        info.get("kernelVersion", ""),
        info.get("containerRuntimeVersion", ""),
    ]


def _age(created: str | None, now: float) -> str:
    if created is None:
        return "<unknown>"
    seconds = max(0, int(now - calendar.timegm(time.strptime(created[:19], "%Y-%m-%dT%H:%M:%S"))))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
