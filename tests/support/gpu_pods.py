"""More GPU pods in a simulated cluster than its own distribution has."""

import time

from collector.simulator import SimulatedCluster
from collector.simulator.objects import PODS, ObjectFactory
from collector.simulator.shapes import Shape


def add_pods(cluster: SimulatedCluster, shape: Shape, *nodes: str) -> None:
    """Create the pods on these nodes, by default on all, through which clusters of a shape are read."""
    factory = ObjectFactory(cluster.name, "h100", shape, 0, time.time(), "570")
    for node in nodes or cluster.nodes:
        cluster.server.storage.put(PODS, factory.daemon_pod(shape.gpu_pods, node, 0, time.time()))
