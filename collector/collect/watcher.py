"""Watches one cluster: runs its API client, its reflectors and its node reader, and reports the cluster's state."""

import functools
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup
from kubernetes_asyncio.client import CoreV1Api

from collector.backoff import Backoff
from collector.collect.context_logger import ContextLogger
from collector.collect.label_writer import LabelPolicy, LabelSource, LabelWriter
from collector.collect.node_queue import NodeQueue
from collector.collect.node_reader import NodeReader
from collector.collect.objects import NodeObject, PodObject, decode_pod, node_decoder, without_echoes
from collector.collect.observer import Observer
from collector.collect.printed import PAUSE_SECONDS
from collector.collect.schedule import RetryPolicy
from collector.collect.slice_watch import SliceIntervals, SliceWatch
from collector.collect.slices import SliceBook
from collector.config import ClusterSettings, PodSource
from collector.kube.client import ApiClient, ApiMethod
from collector.kube.connector import HandedOver
from collector.kube.errors import ClusterError, FailedWatchError
from collector.kube.reflector import HasKey, Reflector, Resource, WatchIntervals
from collector.kube.session import Session
from collector.kube.token_renewal import TokenRenewal
from collector.model import ClusterState, ClusterStatus, Known, LabelTrouble, SliceState, SliceStatus

__all__ = ["ClusterWatcher", "Intervals", "nodes", "pods"]

log = logging.getLogger(__name__)

_SLICE_TEXTS = {
    SliceState.WATCHED: "watched",
    SliceState.ABSENT: "not served by the API server",
    SliceState.FORBIDDEN: "not visible, keeping their last known state",
    SliceState.FAILING: "not visible, keeping their last known state",
}

T = TypeVar("T", bound=HasKey)


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """The intervals of a watcher that are not configurable; only tests have reason to change them."""

    watch: WatchIntervals = WatchIntervals()
    retry: RetryPolicy = RetryPolicy()
    print_pause: float = PAUSE_SECONDS  # between two documents that a pod prints
    slices: SliceIntervals = SliceIntervals()
    slices_wait: float = 5.0  # how long the first reading waits for ResourceSlices, in seconds
    connect: Backoff = Backoff(
        initial=1.0, maximum=5.0
    )  # between attempts to open an API client, which reads files only
    labels: LabelPolicy = LabelPolicy()


class ClusterWatcher:
    """Reads the GPUs of one cluster, and rereads them as its nodes and pods change.

    `known` are the readings of an earlier run, by node: a node whose pod is unchanged and whose reading is fresh is not
    read again, and a node that no longer exists is reported as gone. `node_labels` are the labels that NodeInfo keeps.
    `labels` says what the labels depend on that the cluster's settings may have written onto its nodes. `handed_over`
    are the credentials of earlier sessions, and of those to come. With `read_all`, every node is read at the start.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        observer: Observer,
        *,
        known: Mapping[str, Known] | None = None,
        node_labels: Sequence[str] = (),
        labels: LabelSource | None = None,
        handed_over: HandedOver | None = None,
        read_all: bool = False,
        intervals: Intervals | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._cluster = cluster
        self._observer = observer
        self._node_labels = node_labels
        self._handed_over: HandedOver = {} if handed_over is None else handed_over
        self._intervals = intervals or Intervals()
        self._rng = rng or random.Random()  # noqa: S311, spreads load and keeps no secret
        self._log = ContextLogger(log, cluster=cluster.name)
        self._queue = NodeQueue(
            cluster, observer, known=known or {}, retry=self._intervals.retry, rng=self._rng, read_all=read_all
        )
        self._reader = NodeReader(cluster, observer, self._queue, pause=self._intervals.print_pause)
        self._labels: LabelWriter | None = None
        if cluster.labels and labels is not None:
            self._labels = LabelWriter(cluster, self._queue, labels, policy=self._intervals.labels, rng=self._rng)
        self._status: ClusterStatus | None = None
        self._slices = SliceBook(self._queue.set_devices)
        self._slice_status: SliceStatus | None = None
        self._slices_warned = False  # it was logged that they cannot be watched
        self._slices_settled = False  # they are listed, or nothing waits for them any longer
        # By the index of each reflector:
        self._unproven: set[int] = set()  # not proven current since the start, or since its server failed
        self._starting: set[int] = set()  # not healthy yet
        self._reading = False  # the queue hands out nodes
        self._errors: dict[int, ClusterError] = {}  # not healthy now
        self._synced: list[float] = []  # Unix seconds up to which each is proven current

    async def run(self) -> None:
        """Watch until cancelled, whatever fails in the cluster."""
        self._report(ClusterState.STARTING)
        for attempt in itertools.count():
            try:
                name = self._cluster.name
                self._observer.on_session(name)
                session = Session(
                    self._cluster,
                    handed_over=self._handed_over,
                    on_credential_expiry=functools.partial(self._observer.on_credential_expiry, name),
                    on_proof=functools.partial(self._observer.on_proof, name),
                )
                async with ApiClient(session) as client:
                    await self._watch(client)
            except ClusterError as error:
                self._report(error.state, str(error))
            await anyio.sleep(self._intervals.connect.delay(attempt, self._rng))

    def verify(self, node: str, delay: float = 0.0) -> bool:
        """Have a node read again in `delay` seconds; returns False if it is gone or has no ready pod."""
        return self._queue.verify(node, delay)

    @property
    def label_trouble(self) -> LabelTrouble | None:
        """Why the labels of some nodes are not as they should be, if there is an obstacle."""
        return None if self._labels is None else self._labels.trouble

    def labels_idle_for(self, seconds: float) -> bool:
        """Return whether no label write is due within this many seconds, as far as known."""
        return self._labels is None or self._labels.idle_for(seconds)

    def relabel(self, node: str) -> None:
        """Handle a change of what is known about a node, and so of its labels."""
        if self._labels is not None:
            self._labels.look_at(node)

    async def _watch(self, client: ApiClient) -> None:
        reflectors: list[Reflector[Any]] = [
            self._reflector(client, 0, nodes(client, self._cluster, self._node_labels), self._set_node)
        ]
        for order, source in enumerate(self._cluster.active_sources):
            set_pod = functools.partial(self._queue.set_pod, order, source)
            reflectors.append(self._reflector(client, order + 1, pods(client, source), set_pod))
        self._unproven = set(range(len(reflectors)))
        self._starting, self._reading = set(self._unproven), False
        self._synced = [0.0] * len(reflectors)
        watch_slices = functools.partial(self._watch_slices, client)
        async with anyio.create_task_group() as tasks:
            self._start_optional(tasks, "the watch of ResourceSlices", watch_slices, self._note_slices_bug)
            tasks.start_soon(self._stop_waiting_for_slices, name=f"{self._cluster.name} slices wait")
            for reflector in reflectors:
                tasks.start_soon(reflector.run, name=f"{self._cluster.name} reflector")
            self._start_optional(tasks, "the renewal of the token", TokenRenewal(client).run)
            tasks.start_soon(self._reader.run, client, name=f"{self._cluster.name} node reader")
            if self._labels is not None:
                self._start_optional(tasks, "the writer of labels", functools.partial(self._labels.run, client))

    async def _watch_slices(self, client: ApiClient) -> None:
        slices = SliceWatch(  # a new one after a bug: events that were not handled arrive again
            client,
            on_change=self._slices.apply,
            on_status=self._report_slices,
            on_restart=functools.partial(self._observer.on_watch_restart, self._cluster.name, "resourceslices"),
            on_settled=self._settle_slices,
            timing=self._intervals.watch,
            intervals=self._intervals.slices,
            rng=self._rng,
        )
        await slices.run()

    def _start_optional(
        self,
        tasks: TaskGroup,
        what: str,
        run: Callable[[], Awaitable[None]],
        on_bug: Callable[[], None] = lambda: None,
    ) -> None:
        """Start an optional part: a bug in it disables only that part, until the next attempt."""

        async def run_again() -> None:
            for attempt in itertools.count():
                try:
                    await run()
                except Exception:
                    level = logging.DEBUG if attempt else logging.ERROR
                    self._log.log(level, "unexpected error in %s; restarting it", what, exc_info=True)
                    on_bug()
                await anyio.sleep(self._intervals.connect.delay(attempt, self._rng))

        tasks.start_soon(run_again, name=f"{self._cluster.name}: {what}")

    def _set_node(self, before: NodeObject | None, after: NodeObject | None) -> None:
        self._queue.set_node(before, after)
        if self._labels is not None:
            self._labels.set_node(before, after)

    def _reflector(
        self, client: ApiClient, index: int, resource: Resource[T], on_change: Callable[[T | None, T | None], None]
    ) -> Reflector[T]:
        return Reflector(
            client,
            resource,
            on_change=on_change,
            on_proof=functools.partial(self._note_proof, index),
            on_restart=functools.partial(self._observer.on_watch_restart, self._cluster.name, resource.name),
            on_health=functools.partial(self._note_health, index),
            timing=self._intervals.watch,
            rng=self._rng,
        )

    def _note_proof(self, index: int) -> None:
        """Record that a reflector is current; the cluster is as current as its most outdated reflector."""
        self._note_current(index)
        before = min(self._synced)
        self._synced[index] = time.time()
        if (synced := min(self._synced)) > before:
            self._observer.on_synced(self._cluster.name, synced)

    def _note_health(self, index: int, error: ClusterError | None) -> None:
        """Record that a reflector is healthy, or why not; the cluster is up while all of them are healthy."""
        if error is None:
            self._starting.discard(index)
            self._errors.pop(index, None)
            self._note_current(index)
        else:
            self._errors[index] = error
            # Nodes continue to be read while lists work: if only watches fail, lists keep the view current.
            if not isinstance(error, FailedWatchError):
                self._unproven.add(index)
                self._reading = False
                self._queue.pause()
            self._resume_if_current()
        if self._errors:
            first = self._errors[min(self._errors)]
            self._report(first.state, str(first))
        elif not self._starting:
            self._report(ClusterState.UP)

    def _note_current(self, index: int) -> None:
        """Record that a reflector's view is current; nodes are read while all views are."""
        self._unproven.discard(index)
        self._resume_if_current()

    def _resume_if_current(self) -> None:
        # Initially not before each watch works or has failed: a cluster whose nodes are read is usually up.
        ready = not self._unproven and not self._starting - self._errors.keys()
        if ready and self._slices_settled and not self._reading:
            self._reading = True
            self._queue.resume()

    def _settle_slices(self) -> None:
        if not self._slices_settled:
            self._slices_settled = True
            self._resume_if_current()

    async def _stop_waiting_for_slices(self) -> None:
        await anyio.sleep(self._intervals.slices_wait)
        self._settle_slices()

    def _note_slices_bug(self) -> None:
        self._report_slices(SliceStatus(SliceState.FAILING, "unexpected error, see the log"))
        self._settle_slices()

    def _report_slices(self, status: SliceStatus) -> None:
        before, self._slice_status = self._slice_status, status
        if status == before:
            return
        self._observer.on_slices(self._cluster.name, status)
        if status.state is not (SliceState.ABSENT if before is None else before.state):
            # If the right was missing from the start, nothing known is lost.
            lost = status.unseen and before is not None and before.state is SliceState.WATCHED
            self._log_slices(logging.WARNING if lost else logging.INFO if before is not None else logging.DEBUG, status)
        self._warn_of_slices()

    def _warn_of_slices(self) -> None:
        """Log once that slices cannot be watched although the cluster is up; not while it is down."""
        status = self._slice_status
        if status is None or self._status is None or self._status.state is not ClusterState.UP:
            return
        if status.state is SliceState.FAILING and not self._slices_warned:
            self._log_slices(logging.WARNING, status)
        elif status.state is not SliceState.FAILING:
            self._slices_warned = False

    def _log_slices(self, level: int, status: SliceStatus) -> None:
        self._slices_warned = level >= logging.WARNING
        log = self._log.bind(slices=status.state.value)
        log.log(level, "ResourceSlices %s%s", _SLICE_TEXTS[status.state], f": {status.message}" * status.unseen)

    def _report(self, state: ClusterState, message: str = "") -> None:
        before = self._status
        if before is not None and (before.state, before.message) == (state, message):
            return
        changed = before is None or before.state is not state
        since = time.time() if before is None or changed else before.since
        self._status = ClusterStatus(cluster=self._cluster.name, state=state, message=message, since=since)
        self._observer.on_status(self._status)
        log = self._log.bind(state=state.value)
        if state is ClusterState.UP:
            log.info("cluster up")
            self._warn_of_slices()
        elif state is not ClusterState.STARTING:
            log.log(logging.WARNING if changed else logging.DEBUG, "cluster down: %s", message)


def pods(client: ApiClient, source: PodSource) -> Resource[PodObject]:
    """Return the pods that a source selects."""
    method = functools.partial(CoreV1Api(client).list_namespaced_pod, source.namespace)
    decode = without_echoes(decode_pod, client.session.secrets)
    return Resource(name="pods", method=_selecting(method, source.selector), decode=decode)


def nodes(client: ApiClient, cluster: ClusterSettings, labels: Sequence[str] = ()) -> Resource[NodeObject]:
    """Return the nodes that a cluster's settings select, with the labels to keep in their info."""
    method = _selecting(CoreV1Api(client).list_node, cluster.node_selector)
    decode = without_echoes(node_decoder(labels, with_own_labels=cluster.labels), client.session.secrets)
    return Resource(name="nodes", method=method, decode=decode)


def _selecting(method: ApiMethod, selector: str) -> ApiMethod:
    return functools.partial(method, label_selector=selector) if selector else method
