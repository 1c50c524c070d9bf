"""Watches one cluster: keeps its session, its reflectors and its readings going, and tells how it is."""

import functools
import itertools
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import anyio
import msgspec
from kubernetes_asyncio.client import CoreV1Api

from collector.backoff import Backoff
from collector.collect.objects import NodeObject, PodObject, decode_pod, node_decoder
from collector.collect.observer import Observer
from collector.collect.readings import Readings, RetryPolicy
from collector.config import ClusterSettings, PodSource
from collector.kube.client import ApiClient, ApiMethod
from collector.kube.errors import ClusterError
from collector.kube.reflector import HasKey, Reflector, Resource, WatchIntervals
from collector.kube.session import Session
from collector.model import ClusterState, ClusterStatus, Known

__all__ = ["ClusterWatcher", "Intervals", "Observer", "nodes", "pods"]

log = logging.getLogger(__name__)

T = TypeVar("T", bound=HasKey)


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """How a watcher spends its time, beside what the configuration says; only tests have reason to change it."""

    watch: WatchIntervals = WatchIntervals()
    pace: RetryPolicy = RetryPolicy()
    session: Backoff = Backoff(initial=1.0, maximum=30.0)  # between attempts to make a session


class ClusterWatcher:
    """Reads the GPUs of one cluster and follows what happens there.

    `known` are the nodes that an earlier run has read: those whose pod is unchanged and whose reading is fresh are not
    read again, and those that are gone are reported so. `node_labels` are the labels that a Node's facts carry.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        observer: Observer,
        *,
        known: Mapping[str, Known] | None = None,
        node_labels: Sequence[str] = (),
        timing: Intervals | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._cluster = cluster
        self._observer = observer
        self._node_labels = node_labels
        self._timing = timing or Intervals()
        self._rng = rng or random.Random()  # noqa: S311, spreads load and keeps no secret
        self._readings = Readings(cluster, observer, known=known or {}, pace=self._timing.pace, rng=self._rng)
        self._status: ClusterStatus | None = None
        self._pending: set[int] = set()  # the reflectors that have never been in order
        self._errors: dict[int, ClusterError] = {}  # of the reflectors that are not in order
        self._proofs: list[float] = []  # up to when each reflector is proven current; Unix seconds

    async def run(self) -> None:
        """Watch until cancelled; a failure of the cluster never ends it."""
        self._report(ClusterState.STARTING)
        for attempt in itertools.count():
            try:
                async with ApiClient(Session(self._cluster)) as client:
                    await self._watch(client)
            except ClusterError as error:
                self._report(error.state, str(error))
            await anyio.sleep(self._timing.session.delay(attempt, self._rng))

    async def _watch(self, client: ApiClient) -> None:
        mirrors: list[Reflector[Any]] = [
            self._mirror(client, 0, nodes(client, self._cluster, self._node_labels), self._readings.set_node)
        ]
        for order, source in enumerate(self._cluster.watched):
            take = functools.partial(self._readings.set_pod, order, source)
            mirrors.append(self._mirror(client, order + 1, pods(client, source), take))
        self._pending = set(range(len(mirrors)))
        self._proofs = [0.0] * len(mirrors)
        async with anyio.create_task_group() as tasks:
            for mirror in mirrors:
                tasks.start_soon(mirror.run, name=f"{self._cluster.name} reflector")
            tasks.start_soon(self._readings.run, client, name=f"{self._cluster.name} readings")

    def _mirror(
        self, client: ApiClient, number: int, resource: Resource[T], on_change: Callable[[T | None, T | None], None]
    ) -> Reflector[T]:
        return Reflector(
            client,
            resource,
            on_change=on_change,
            on_proof=functools.partial(self._proven, number),
            on_restart=functools.partial(self._observer.on_watch_restart, self._cluster.name, resource.name),
            on_health=functools.partial(self._health, number),
            timing=self._timing.watch,
            rng=self._rng,
        )

    def _proven(self, number: int) -> None:
        """Note that one reflector is current; the cluster's view is as current as the one that is furthest behind."""
        before = min(self._proofs)
        self._proofs[number] = time.time()
        if (now := min(self._proofs)) > before:
            self._observer.on_synced(self._cluster.name, now)

    def _health(self, number: int, error: ClusterError | None) -> None:
        if error is not None:
            self._errors[number] = error
        else:
            self._pending.discard(number)
            self._errors.pop(number, None)
        if self._errors:
            self._readings.pause()
            first = self._errors[min(self._errors)]
            self._report(first.state, str(first))
        elif not self._pending:
            self._report(ClusterState.UP)
            self._readings.resume()

    def _report(self, state: ClusterState, message: str = "") -> None:
        before = self._status
        if before is not None and (before.state, before.message) == (state, message):
            return
        changed = before is None or before.state is not state
        since = time.time() if before is None or changed else before.since
        self._status = ClusterStatus(cluster=self._cluster.name, state=state, message=message, since=since)
        self._observer.on_status(self._status)
        fields = {"cluster": self._cluster.name, "state": state.value}
        if state is ClusterState.UP:
            log.info("the cluster is up", extra=fields)
        elif state is not ClusterState.STARTING:
            log.log(logging.WARNING if changed else logging.DEBUG, "the cluster is down: %s", message, extra=fields)


def pods(client: ApiClient, source: PodSource) -> Resource[PodObject]:
    """Return the pods that a source selects."""
    method = functools.partial(CoreV1Api(client).list_namespaced_pod, source.namespace)
    return Resource(name="pods", method=_selecting(method, source.selector), decode=decode_pod)


def nodes(client: ApiClient, cluster: ClusterSettings, labels: Sequence[str] = ()) -> Resource[NodeObject]:
    """Return the nodes that a cluster's settings select, with the labels that their facts are to carry."""
    method = _selecting(CoreV1Api(client).list_node, cluster.node_selector)
    return Resource(name="nodes", method=method, decode=node_decoder(labels))


def _selecting(method: ApiMethod, selector: str) -> ApiMethod:
    return functools.partial(method, label_selector=selector) if selector else method
