"""Simulated Kubernetes API servers with a fleet of GPUs behind them, for the demo, tests and benchmarks."""

from collector.simulator.actions import Done
from collector.simulator.cluster import SimulatedCluster
from collector.simulator.driver_forms import DRIVER_FORMS
from collector.simulator.faults import ExecFaultKind, LogFaultKind
from collector.simulator.fleet import Fleet, Placed, SimulationError
from collector.simulator.shapes import DEFAULT_SHAPE, SHAPES
from collector.simulator.simulator import Simulator

__all__ = [
    "DEFAULT_SHAPE",
    "DRIVER_FORMS",
    "SHAPES",
    "Done",
    "ExecFaultKind",
    "Fleet",
    "LogFaultKind",
    "Placed",
    "SimulatedCluster",
    "SimulationError",
    "Simulator",
]
