"""Makes the rows of the API, of CSV files and of the command line, whose types are in collector.views.columns."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from collector.health import Condition, Health, Level, degradations, worst_level
from collector.marks import Mark
from collector.model import (
    UNREAD_REASONS,
    ClusterState,
    FieldChange,
    Gpu,
    NodeState,
    Placement,
    last_known_object,
)
from collector.store import Alteration, HistoricChange, PastPlacement
from collector.timestamps import rfc3339
from collector.views.cluster_summary import boards, is_overdue, missing_gpus
from collector.views.collector_view import CollectorView
from collector.views.columns import (
    AlterationRow,
    ChangedField,
    ChangeRow,
    ClusterRow,
    GpuRow,
    LostGpu,
    MarkRow,
    MarkSummary,
    MissingGpuRow,
    NodeRow,
    PlacementRow,
    PresenceState,
    ProblemGpuRow,
    ProblemNodeRow,
    ProblemRow,
    SourceRow,
)
from collector.views.degraded import count_degraded
from collector.views.fleet_health import cluster_share
from collector.views.missing import MissingGpu, missing_from
from collector.views.problems.problem import Problem, ProblemGpu, ProblemNode

__all__ = [
    "MAX_LOST_GPUS",
    "change_row",
    "changed_fields",
    "cluster_row",
    "condition_columns",
    "gpu_row",
    "mark_row",
    "mark_summary",
    "node_row",
    "numbered",
    "placed_gpu_row",
    "placement_row",
    "problem_row",
    "recorded_columns",
]

MAX_LOST_GPUS = 100  # that a cluster's row names
_NO_HEALTH = Health()


def cluster_row(view: CollectorView, name: str, degraded: Mapping[Level, int] | None = None) -> ClusterRow:
    """Return one cluster: its status, and how much is in it; its degraded GPUs are counted unless they are given."""
    entries = view.inventory.nodes(name).values()
    status, survey, slices = view.statuses.get(name), view.survey(name), view.slices(name)
    owner = view.owner(name)
    counts = {reason.value: view.inventory.unread(name, reason) for reason in UNREAD_REASONS}
    unread = {reason: count for reason, count in counts.items() if count}
    share = cluster_share(view, name)
    lost = itertools.islice((one for entry in entries for one in _lost_gpus(entry)), MAX_LOST_GPUS)
    return ClusterRow(
        cluster=name,
        state=status.state if status else ClusterState.STARTING,
        up=status is not None and status.up,
        message=status.message if status else "",
        shard=owner.shard if owner else None,
        since=rfc3339(status.since) if status else None,
        synced_at=rfc3339(view.synced(name)),
        nodes=len(entries),
        nodes_read=len(entries) - sum(unread.values()),
        nodes_unread=sum(unread.values()),
        unread_reasons=unread,
        nodes_failing=sum(entry.failing is not None for entry in entries),
        nodes_overdue=sum(is_overdue(view, entry) for entry in entries),
        nodes_listed=survey.nodes if survey else None,
        sources=[
            SourceRow(source=source.name, container=source.container, pods=pods)
            for source, pods in itertools.zip_longest(view.sources(name), survey.pods if survey else ())
        ],
        resource_slices=slices.state if slices else None,
        gpus=view.inventory.count(name),
        capacity=sum(boards(entry) for entry in entries),
        gpus_missing=sum(missing_gpus(entry) for entry in entries),
        gpus_lost=sum(entry.lost for entry in entries),
        lost_gpus=list(lost),
        gpus_degraded=_by_level(count_degraded(entries) if degraded is None else degraded),
        gpus_healthy=share.healthy,
        gpus_known=share.known,
        gpus_virtual=sum(gpu.virtual for entry in entries for gpu in entry.gpus),
        conflicts=view.inventory.conflicts(name),
        claims=view.inventory.claims(name),
        resembles=list(view.resembles(name)),
    )


def node_row(view: CollectorView, entry: NodeState) -> NodeRow:
    """Return one node that has GPUs or a GPU pod."""
    unread = entry.unread
    return NodeRow(
        cluster=entry.place.cluster,
        node=entry.place.node,
        machine=entry.node.machine,
        provider_id=entry.node.provider_id,
        chassis=entry.chassis or None,
        driver_version=entry.driver_version,
        cuda_version=entry.cuda_version,
        state=PresenceState.LOST if entry.lost else PresenceState.FOUND,
        found=entry.found,
        lost=entry.lost,
        missing=missing_gpus(entry),
        missing_gpus=[_missing_gpu(one) for one in missing_from(view.inventory, entry)],
        capacity=entry.node.capacity,
        allocatable=entry.node.allocatable,
        lost_gpus=list(_lost_gpus(entry)),
        gpus_degraded=_by_level(count_degraded([entry])),
        source=entry.source,
        read_at=rfc3339(entry.time),
        overdue=is_overdue(view, entry),
        gpu_sign=entry.node.gpu_sign or None,
        unread_reason=unread.reason if unread else None,
        unread_since=rfc3339(unread.since) if unread else None,
        failing_reason=entry.failing.reason if entry.failing else None,
        failing_since=rfc3339(entry.failing.since) if entry.failing else None,
        failing_message=entry.failing.message if entry.failing else None,
        tries=entry.failing.tries if entry.failing else None,
        next_try_at=rfc3339(entry.failing.next_try) if entry.failing else None,
    )


def _missing_gpu(one: MissingGpu) -> MissingGpuRow:
    gpu = one.gpu
    return MissingGpuRow(
        serial=gpu.serial,
        uuid=gpu.uuid,
        model=gpu.model,
        tray=numbered(gpu.tray),
        slot=numbered(gpu.slot),
        module=numbered(gpu.module),
        pci_bus_id=gpu.pci_bus_id,
        seen_at=rfc3339(one.last_seen),
    )


def _by_level(counts: Mapping[Level, int]) -> dict[str, int]:
    """Return how many GPUs are degraded, the worst level first."""
    return {level.value: count for level in Level if (count := counts.get(level))}


def _lost_gpus(entry: NodeState) -> Iterator[LostGpu]:
    """Yield the GPUs of a node that do not answer; of one that was never read only the address is known."""
    node, unlisted = entry.place.node, entry.unlisted_uuids
    for one in entry.placements() if entry.unseen else ():
        if one.lost:
            yield LostGpu(
                node=node,
                pci_bus_id=one.gpu.pci_bus_id,
                serial=one.gpu.serial,
                uuid=one.gpu.uuid,
                module=numbered(one.gpu.module),
                seen_at=rfc3339(one.confirmed),
                unlisted=one.gpu.uuid in unlisted,
            )
    for silent in entry.silent:
        yield LostGpu(
            node=node, pci_bus_id=silent.pci_bus_id, serial=None, uuid=None, seen_at=None, unlisted=silent.unlisted
        )


def gpu_row(view: CollectorView, placement: Placement) -> GpuRow:
    """Return one GPU that is present."""
    gpu = placement.gpu
    mark = view.marks.of(gpu.uuid, gpu.serial, view.now())
    return placed_gpu_row(placement, view.inventory.node(placement.place), mark)


def placed_gpu_row(placement: Placement, entry: NodeState | None, mark: Mark | None) -> GpuRow:
    """Return one GPU on its node, with its mark in force; `entry` is None where the node is not known."""
    gpu = placement.gpu
    return GpuRow(
        cluster=placement.place.cluster,
        node=placement.place.node,
        machine=entry.node.machine if entry else "",
        source=entry.source if entry else "",
        uuid=gpu.uuid,
        serial=gpu.serial,
        model=gpu.model,
        architecture=gpu.architecture,
        chassis=gpu.chassis,
        slot=numbered(gpu.slot),
        tray=numbered(gpu.tray),
        host=numbered(gpu.host),
        module=numbered(gpu.module),
        pci_bus_id=gpu.pci_bus_id,
        board_part_number=gpu.board_part_number,
        gpu_part_number=gpu.gpu_part_number,
        minor_number=gpu.minor_number,
        vbios=gpu.vbios,
        mig=gpu.mig,
        virtual=gpu.virtual,
        multi_gpu_board=_shares_board(gpu, entry),
        last_known=last_known_object(gpu.last_known),
        since=rfc3339(placement.since),
        confirmed_at=rfc3339(placement.confirmed),
        claim=placement.claim,
        state=PresenceState.LOST if placement.lost else PresenceState.FOUND,
        degraded=list(placement.degradations),
        level=placement.level,
        health=None if gpu.health == _NO_HEALTH else gpu.health,
        mark=mark_summary(mark),
    )


def numbered(text: str | None) -> int | str | None:
    """Return what the tool prints of a slot, tray, host or module: a number where it is one, else its text."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else text


def recorded_columns(placement: PastPlacement) -> dict[str, Any]:
    """Return what the history records of a GPU on a node, by the columns of its row."""
    return {
        "uuid": placement.uuid,
        "serial": placement.serial,
        "model": placement.model,
        "chassis": placement.chassis,
        "slot": numbered(placement.slot),
        "tray": numbered(placement.tray),
        "module": numbered(placement.module),
        "pci_bus_id": placement.pci_bus_id,
        "last_known": last_known_object(placement.last_known),
        "since": rfc3339(placement.since),
    }


def condition_columns(condition: Condition | None) -> dict[str, Any]:
    """Return how a GPU was, by the columns of its row; all are None where that is not known."""
    if condition is None:
        return {"degraded": None, "level": None, "health": None}
    return {
        "degraded": list(degradations(condition)),
        "level": worst_level(condition),
        "health": None if condition.health == _NO_HEALTH else condition.health,
    }


def mark_summary(mark: Mark | None) -> MarkSummary | None:
    """Return a mark as the row of a GPU has it; None for none."""
    if mark is None:
        return None
    return MarkSummary(
        kind=mark.kind,
        note=mark.note,
        ticket=mark.ticket,
        until=rfc3339(mark.until),
        set_at=rfc3339(mark.set_at),
        set_by=mark.set_by,
    )


def mark_row(mark: Mark) -> MarkRow:
    """Return one mark, in force or ended."""
    return MarkRow(
        id=mark.id,
        serial=mark.serial,
        uuid=mark.uuid,
        kind=mark.kind,
        note=mark.note,
        ticket=mark.ticket,
        until=rfc3339(mark.until),
        set_at=rfc3339(mark.set_at),
        set_by=mark.set_by,
        removed_at=rfc3339(mark.removed_at),
        removed_by=mark.removed_by,
    )


def placement_row(
    placement: PastPlacement, condition: Condition | None = None, mark: Mark | None = None
) -> PlacementRow:
    """Return one GPU's time on one node, past or present; with its condition and its mark as they are now."""
    return PlacementRow(
        id=placement.id,
        **recorded_columns(placement),
        cluster=placement.cluster,
        node=placement.node,
        machine=placement.machine,
        until=rfc3339(placement.until),
        confirmed_at=rfc3339(placement.confirmed),
        altered=_alteration_rows(placement.altered),
        health_changes=_alteration_rows(placement.health_changes),
        degraded=list(degradations(condition)) if condition else [],
        level=worst_level(condition) if condition else None,
        mark=mark_summary(mark),
    )


def _alteration_rows(altered: Iterable[Alteration]) -> list[AlterationRow]:
    return [AlterationRow(time=rfc3339(time), changes=changed_fields(changes)) for time, changes in altered]


def changed_fields(changes: Sequence[FieldChange]) -> dict[str, ChangedField] | None:
    """Return what was altered, by field; None for nothing."""
    return {
        one.field: ChangedField(before=one.before, after=one.after, went_back=one.went_back) for one in changes
    } or None


def change_row(change: HistoricChange) -> ChangeRow:
    """Return one change of the history."""
    previous = change.previous
    return ChangeRow(
        id=change.id,
        time=rfc3339(change.time),
        event=change.event,
        uuid=change.uuid,
        serial=change.serial,
        model=change.model,
        chassis=change.chassis,
        cluster=change.cluster,
        node=change.node,
        machine=change.machine,
        source=change.source,
        previous_cluster=previous.cluster if previous else None,
        previous_node=previous.node if previous else None,
        changes=changed_fields(change.changes),
        last_known=last_known_object(change.last_known),
        mark=change.mark,
        first_sight=change.first_sight,
    )


def problem_row(problem: Problem) -> ProblemRow:
    """Return one problem of a collector."""
    return ProblemRow(
        id=problem.id,
        severity=problem.severity,
        kind=problem.kind,
        title=problem.title,
        count=problem.count,
        gpus_affected=problem.gpus_affected,
        consequences=problem.consequences,
        since=rfc3339(problem.since),
        reason=problem.reason,
        remedy=problem.remedy,
        url=problem.url,
        clusters=list(problem.clusters),
        nodes=[_problem_node(node) for node in problem.nodes],
        nodes_total=problem.nodes_total,
        gpus=[_problem_gpu(gpu) for gpu in problem.gpus],
        gpus_total=problem.gpus_total,
    )


def _problem_node(node: ProblemNode) -> ProblemNodeRow:
    return ProblemNodeRow(
        cluster=node.cluster,
        node=node.node,
        since=rfc3339(node.since),
        reason=node.reason,
        tries=node.tries,
        next_try_at=rfc3339(node.next_try),
    )


def _problem_gpu(gpu: ProblemGpu) -> ProblemGpuRow:
    return ProblemGpuRow(
        cluster=gpu.cluster,
        node=gpu.node,
        serial=gpu.serial,
        uuid=gpu.uuid,
        model=gpu.model,
        chassis=gpu.chassis,
        tray=numbered(gpu.tray),
        slot=numbered(gpu.slot),
        module=numbered(gpu.module),
        pci_bus_id=gpu.pci_bus_id,
        seen_at=rfc3339(gpu.last_seen),
        reason=gpu.reason,
    )


def _shares_board(gpu: Gpu, entry: NodeState | None) -> bool:
    return entry.shares_board(gpu) if entry else gpu.multi_gpu_board
