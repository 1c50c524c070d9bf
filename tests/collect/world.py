"""A simulated cluster with a watcher, and an observer that keeps everything it is given."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from collector.backoff import Backoff
from collector.collect.log_times import LookPolicy
from collector.collect.schedule import RetryPolicy
from collector.collect.slice_watch import SliceIntervals
from collector.collect.watcher import ClusterWatcher, Intervals
from collector.config import ClusterSettings
from collector.kube.identity import Proof
from collector.kube.reflector import WatchIntervals
from collector.model import (
    ClusterState,
    ClusterStatus,
    Gpu,
    GpuRef,
    Known,
    NodeInfo,
    ReadFailure,
    Reading,
    SliceStatus,
    Survey,
    UnreadReason,
    WatchRestart,
)
from collector.simulator import SimulatedCluster, Simulator
from collector.tls import Validity
from tests.support.waiting import eventually

__all__ = ["FAST", "Observed", "World"]

FAST = Intervals(
    watch=WatchIntervals(trust=0.02, healthy=0.2, pause=0.02, backoff=Backoff(initial=0.02, maximum=0.05, jitter=0.2)),
    retry=RetryPolicy(
        backoff=Backoff(initial=0.05, maximum=0.1, jitter=0.2),
        timeout_delay=0.1,
        settle=0.2,
        first_document=0.3,
        newer_document=Backoff(initial=0.05, maximum=0.1),
        looks=LookPolicy(period=60.0, pause=0.1),
    ),
    print_pause=0.05,
    connect=Backoff(initial=0.02, maximum=0.05),
    slices=SliceIntervals(
        absent=Backoff(initial=3600.0, maximum=3600.0),
        forbidden=Backoff(initial=0.05, maximum=0.1),
        failed=Backoff(initial=0.02, maximum=0.05),
    ),
)


class Observed:
    """What the observer of a cluster was given, and the readings that stand."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.failures: list[tuple[str, ReadFailure]] = []
        self.messages: list[str] = []  # of the failures
        self.lost: list[tuple[GpuRef, ...]] = []  # of the failures
        self.nodes: dict[str, NodeInfo] = {}
        self.with_pod: dict[str, bool] = {}
        self.gone: list[str] = []
        self.uncovered: dict[str, UnreadReason] = {}
        self.surveys: list[Survey] = []
        self.statuses: list[ClusterStatus] = []
        self.slices: list[SliceStatus] = []
        self.synced: list[float] = []
        self.expiries: list[Validity | None] = []
        self.restarts: list[tuple[str, WatchRestart]] = []
        self.published: dict[str, Reading] = {}

    def on_reading(self, reading: Reading, seconds: float) -> None:
        assert seconds > 0
        self.readings.append(reading)
        self.published[reading.node.name] = reading

    def on_read_failure(
        self,
        cluster: str,
        node: str,
        reason: ReadFailure,
        message: str,
        lost: Sequence[GpuRef],
        wait: float | None = None,
    ) -> None:
        self.failures.append((node, reason))
        self.messages.append(message)
        self.lost.append(tuple(lost))

    def known_gpus(self, cluster: str, node: str) -> Sequence[Gpu]:
        """Return every GPU that any reading of the node found, as it was found last."""
        gpus = {gpu.uuid: gpu for reading in self.readings if reading.node.name == node for gpu in reading.gpus}
        return tuple(gpus.values())

    def on_node(self, cluster: str, node: NodeInfo, *, has_pod: bool = True) -> None:
        self.nodes[node.name] = node
        self.with_pod[node.name] = has_pod

    def on_node_gone(self, cluster: str, node: str, time: float) -> None:
        self.gone.append(node)
        self.nodes.pop(node, None)
        self.uncovered.pop(node, None)
        self.published.pop(node, None)

    def on_uncovered(self, cluster: str, node: str, reason: UnreadReason | None) -> None:
        assert node in self.nodes
        if reason is None:
            self.uncovered.pop(node, None)
        else:
            self.uncovered[node] = reason

    def on_survey(self, cluster: str, survey: Survey) -> None:
        self.surveys.append(survey)

    def on_status(self, status: ClusterStatus) -> None:
        self.statuses.append(status)

    def on_slices(self, cluster: str, status: SliceStatus) -> None:
        self.slices.append(status)

    def on_credential_expiry(self, cluster: str, expiry: Validity | None) -> None:
        self.expiries.append(expiry)

    def on_session(self, cluster: str) -> None:
        self.proofs: frozenset[Proof] = frozenset()

    def on_proof(self, cluster: str, proofs: frozenset[Proof]) -> None:
        self.proofs = proofs

    def on_synced(self, cluster: str, time: float) -> None:
        self.synced.append(time)

    def on_watch_restart(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        self.restarts.append((resource, reason))

    @property
    def state(self) -> ClusterState | None:
        return self.statuses[-1].state if self.statuses else None

    @property
    def states(self) -> list[ClusterState]:
        return [status.state for status in self.statuses]

    @property
    def gpus(self) -> set[tuple[str, str | None]]:
        return {(node, gpu.uuid) for node, reading in self.published.items() for gpu in reading.gpus}

    def known(self) -> dict[str, Known]:
        readings = self.published.items()
        return {node: Known(reading.fingerprint, reading.time, reading.sharing) for node, reading in readings}


class World:
    """One simulated cluster, and what a watcher says of it."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.cluster: SimulatedCluster = simulator.clusters["sim-0"]
        self.first, self.second, *_ = self.cluster.nodes
        self.seen = Observed()

    @asynccontextmanager
    async def watched(
        self,
        *,
        known: dict[str, Known] | None = None,
        intervals: Intervals = FAST,
        labels: tuple[str, ...] = (),
        **options: Any,
    ) -> AsyncIterator[Observed]:
        """Watch with a fresh observer while the context is open."""
        async with self.watched_by(known=known, intervals=intervals, labels=labels, **options) as (_watcher, seen):
            yield seen

    @asynccontextmanager
    async def watched_by(
        self,
        *,
        known: dict[str, Known] | None = None,
        intervals: Intervals = FAST,
        labels: tuple[str, ...] = (),
        **options: Any,
    ) -> AsyncIterator[tuple[ClusterWatcher, Observed]]:
        """Watch as `watched`, and yield the watcher too."""
        self.seen = Observed()
        settings = {"context": "sim-0", "kubeconfig": str(self.simulator.kubeconfig)} | options
        watcher = ClusterWatcher(
            ClusterSettings(**settings), self.seen, known=known or {}, node_labels=labels, intervals=intervals
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.run)
            yield watcher, self.seen
            tasks.cancel_scope.cancel()

    @property
    def truth(self) -> set[tuple[str, str]]:
        return {(placed.node, placed.uuid) for placed in self.simulator.fleet.expected("sim-0")}

    @property
    def execs(self) -> Counter[str]:
        return self.cluster.counters.execs

    def requested(self, verb: str, resource: str = "") -> int:
        requests = self.cluster.counters.requests
        return sum(number for (one, of), number in requests.items() if one == verb and resource in ("", of))

    async def settled(self) -> None:
        """Wait until everything published is true and complete, then check that it stays so."""
        await eventually(lambda: self.seen.state is ClusterState.UP and self.seen.gpus == self.truth)
        await anyio.sleep(0.1)
        assert self.seen.gpus == self.truth

    async def stays(self, condition: Callable[[], object], seconds: float = 0.4) -> None:
        """Check that something is true and stays true."""
        with anyio.move_on_after(seconds):
            while True:
                assert condition()
                await anyio.sleep(0.02)
