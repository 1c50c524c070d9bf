"""One simulated cluster: its API server, and the actions that change it or inject faults."""

from collector.simulator.gpu_actions import GpuActions
from collector.simulator.pod_actions import PodActions
from collector.simulator.reading_actions import ReadingActions
from collector.simulator.server_actions import ServerActions

__all__ = ["DEFAULT_AGE_SECONDS", "SimulatedCluster"]

DEFAULT_AGE_SECONDS = 86400.0  # of the first objects when the simulation starts


class SimulatedCluster(GpuActions, PodActions, ServerActions, ReadingActions):
    """The API server of a cluster with its nodes, pods and GPUs.

    Each action is one physical or administrative event with all its effects in Kubernetes. An action on a node picks
    one if none is given; the seed determines which.
    """
