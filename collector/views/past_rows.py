"""Rows of the fleet at a past time, with the columns of the present; unrecorded values are null."""

from collector.store import ClusterCount, PastNode
from collector.timestamps import rfc3339
from collector.views.columns import ClusterRow, GpuRow, NodeRow, PresenceState
from collector.views.past import PastGpu
from collector.views.rows import condition_columns, mark_summary, recorded_columns

__all__ = ["past_cluster_row", "past_gpu_row", "past_node_row"]


def past_cluster_row(name: str, count: ClusterCount) -> ClusterRow:
    """Return a cluster with its totals."""
    return ClusterRow(cluster=name, nodes=count.nodes, gpus=count.gpus)


def past_node_row(node: PastNode) -> NodeRow:
    """Return a node that had GPUs."""
    return NodeRow(
        cluster=node.cluster,
        node=node.node,
        machine=node.machine or None,
        chassis=",".join(node.chassis) or None,
        found=node.gpus,
    )


def past_gpu_row(gpu: PastGpu) -> GpuRow:
    """Return a GPU on the node where it was."""
    placement, condition = gpu.placement, gpu.condition
    return GpuRow(
        cluster=placement.cluster,
        node=placement.node,
        machine=placement.machine or None,
        **recorded_columns(placement),
        confirmed_at=rfc3339(gpu.confirmed),
        state=PresenceState.LOST if condition is not None and condition.lost else PresenceState.FOUND,
        **condition_columns(condition),
        mark=mark_summary(gpu.mark),
    )
