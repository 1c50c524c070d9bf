"""The rows of the API, of CSV files and of the command line: one name for each thing, in one order."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from collector.health import Condition, Level, degradations, health_object, worst_level
from collector.marks import Mark, mark_object
from collector.model import (
    UNREAD_REASONS,
    ClusterState,
    NodeState,
    Placement,
    changes_object,
    last_known_object,
)
from collector.store import Alteration, HistoricChange, PastPlacement
from collector.timestamps import rfc3339
from collector.views.cluster_summary import is_overdue
from collector.views.collector_view import CollectorView
from collector.views.columns import GPU_FIELDS
from collector.views.degraded import count_degraded
from collector.views.fleet_health import cluster_share
from collector.views.problems import Problem

__all__ = [
    "MAX_LOST_GPUS",
    "Row",
    "change_row",
    "cluster_row",
    "gpu_row",
    "node_row",
    "placement_row",
    "problem_row",
]

MAX_LOST_GPUS = 100  # that a cluster's row names

Row = dict[str, Any]  # by column; times are RFC 3339 in UTC, what is unknown is None


def cluster_row(view: CollectorView, name: str, degraded: Mapping[Level, int] | None = None) -> Row:
    """Return one cluster: its status, and how much is in it; its degraded GPUs are counted unless they are given."""
    entries = view.inventory.nodes(name).values()
    status, survey, slices = view.statuses.get(name), view.survey(name), view.slices(name)
    counts = {reason.value: view.inventory.unread(name, reason) for reason in UNREAD_REASONS}
    unread = {reason: count for reason, count in counts.items() if count}
    share = cluster_share(view, name)
    return {
        "cluster": name,
        "state": status.state if status else ClusterState.STARTING,
        "up": status is not None and status.up,
        "message": status.message if status else "",
        "since": rfc3339(status.since) if status else None,
        "synced": rfc3339(view.synced(name)),
        "nodes": len(entries),
        "nodes_read": len(entries) - sum(unread.values()),
        "nodes_unread": sum(unread.values()),
        "unread": unread,
        "nodes_failing": sum(entry.failing is not None for entry in entries),
        "nodes_overdue": sum(is_overdue(view, entry) for entry in entries),
        "nodes_listed": survey.nodes if survey else None,
        "sources": [
            {"source": source.name, "container": source.container, "pods": pods}
            for source, pods in itertools.zip_longest(view.sources(name), survey.pods if survey else ())
        ],
        "resource_slices": slices.state if slices else None,
        "gpus": view.inventory.count(name),
        "gpus_lost": sum(entry.lost for entry in entries),
        "lost_gpus": list(itertools.islice((one for entry in entries for one in _lost_gpus(entry)), MAX_LOST_GPUS)),
        "gpus_degraded": _by_level(count_degraded(entries) if degraded is None else degraded),
        "gpus_healthy": share.healthy,
        "gpus_known": share.known,
        "gpus_virtual": sum(gpu.virtual for entry in entries for gpu in entry.gpus),
        "conflicts": view.inventory.conflicts(name),
        "claims": view.inventory.claims(name),
        "resembles": list(view.resembles(name)),
    }


def node_row(view: CollectorView, entry: NodeState) -> Row:
    """Return one node that has GPUs or a GPU pod."""
    unread = entry.unread
    return {
        "cluster": entry.place.cluster,
        "node": entry.place.node,
        "machine": entry.node.machine,
        "provider_id": entry.node.provider_id,
        "chassis": entry.chassis or None,
        "driver_version": entry.driver_version,
        "cuda_version": entry.cuda_version,
        "found": entry.found,
        "lost": entry.lost,
        "lost_gpus": list(_lost_gpus(entry)),
        "gpus_degraded": _by_level(count_degraded([entry])),
        "capacity": entry.node.capacity,
        "allocatable": entry.node.allocatable,
        "source": entry.source,
        "read": rfc3339(entry.time),
        "overdue": is_overdue(view, entry),
        "gpu_sign": entry.node.gpu_sign or None,
        "unread": unread.reason if unread else None,
        "unread_since": rfc3339(unread.since) if unread else None,
        "failing": entry.failing.reason if entry.failing else None,
        "failing_since": rfc3339(entry.failing.since) if entry.failing else None,
        "failing_message": entry.failing.message if entry.failing else None,
    }


def _by_level(counts: Mapping[Level, int]) -> dict[str, int]:
    """Return how many GPUs are degraded, the worst level first."""
    return {level.value: count for level in Level if (count := counts.get(level))}


def _lost_gpus(entry: NodeState) -> Iterator[Row]:
    """Yield the GPUs of a node that do not answer; of one that was never read only the address is known."""
    node, unlisted = entry.place.node, entry.unlisted_uuids
    for one in entry.placements() if entry.unseen else ():
        if one.lost:
            gpu, seen = one.gpu, rfc3339(one.confirmed)
            told = {"serial": gpu.serial, "uuid": gpu.uuid, "seen": seen, "unlisted": gpu.uuid in unlisted}
            yield {"node": node, "pci_bus_id": gpu.pci_bus_id, **told}
    for silent in entry.silent:
        told = {"serial": None, "uuid": None, "seen": None, "unlisted": silent.unlisted}
        yield {"node": node, "pci_bus_id": silent.pci_bus_id, **told}


def gpu_row(view: CollectorView, placement: Placement) -> Row:
    """Return one GPU that is present; its columns are GPU_COLUMNS."""
    entry = view.inventory.node(placement.place)
    gpu = placement.gpu
    return {
        "cluster": placement.place.cluster,
        "node": placement.place.node,
        "machine": entry.node.machine if entry else "",
        "source": entry.source if entry else "",
        **{name: getattr(gpu, name) for name in GPU_FIELDS},
        "last_known": last_known_object(gpu.last_known),
        "multi_gpu_board": entry.shares_board(gpu) if entry else gpu.multi_gpu_board,
        "since": rfc3339(placement.since),
        "confirmed": rfc3339(placement.confirmed),
        "claim": placement.claim,
        "state": "lost" if placement.lost else "found",
        "degraded": list(placement.degradations),
        "level": placement.level,
        "health": health_object(gpu.health),
        "mark": mark_object(view.marks.of(gpu.uuid, gpu.serial, view.now())),
    }


def placement_row(placement: PastPlacement, condition: Condition | None = None, mark: Mark | None = None) -> Row:
    """Return one GPU's time on one node, past or present; with its condition and its mark as they are now."""
    times = {name: rfc3339(getattr(placement, name)) for name in ("since", "until", "confirmed")}
    facts = {
        "last_known": last_known_object(placement.last_known),
        "altered": _alteration_rows(placement.altered),
        "health_changes": _alteration_rows(placement.health_changes),
        "degraded": list(degradations(condition)) if condition else [],
        "level": worst_level(condition) if condition else None,
        "mark": mark_object(mark),
    }
    return msgspec.structs.asdict(placement) | times | facts


def _alteration_rows(altered: Iterable[Alteration]) -> list[Row]:
    return [{"time": rfc3339(time), "changes": changes_object(changes)} for time, changes in altered]


def change_row(change: HistoricChange) -> Row:
    """Return one change of the history."""
    row = msgspec.structs.asdict(change) | {"time": rfc3339(change.time)}
    previous = row.pop("previous")
    return row | {
        "previous_cluster": previous.cluster if previous else None,
        "previous_node": previous.node if previous else None,
        "changes": changes_object(change.changes),
        "last_known": last_known_object(change.last_known),
    }


def problem_row(problem: Problem) -> Row:
    """Return one problem of a collector; its text is a sentence without its subject."""
    return {
        "severe": problem.severe,
        "kind": problem.kind,
        "name": problem.name,
        "nodes": problem.nodes,
        "subject": problem.subject,
        "text": problem.text,
        "detail": problem.detail,
        "since": rfc3339(problem.since),
    }
