"""The state that the handlers of one simulated API server share."""

from typing import NamedTuple

from collector.simulator.connections import Connections
from collector.simulator.faults import Counters, Faults
from collector.simulator.storage import Storage

__all__ = ["State"]


class State(NamedTuple):
    """The objects, faults, counters and connections of one API server."""

    storage: Storage
    faults: Faults
    counters: Counters
    connections: Connections
