"""Reads the GPUs of nodes: runs the command in a pod of each, and reports the reading or why it failed."""

import functools
import logging
import time

import anyio

from collector.collect import schedule
from collector.collect.context_logger import ContextLogger
from collector.collect.node_queue import NodeQueue, Target, TrackedNode
from collector.collect.observer import Observer
from collector.collect.smi_command import GpusLostError, SmiCommand, SmiReading
from collector.config import ClusterSettings
from collector.kube.client import ApiClient
from collector.kube.exec import ExecError
from collector.model import ReadFailure, Reading
from collector.redaction import redacting

__all__ = ["NodeReader"]

log = logging.getLogger(__name__)

_FREE_SECONDS = 0.005  # that applying a reading may take before it counts towards the cluster's share of the loop
_GPU_SECONDS = 2e-4  # that recording and publishing a GPU may take after that; for ordinary nodes it is free as well


class NodeReader:
    """Reads the nodes of one cluster when its queue hands them out, `exec_concurrency` at a time."""

    def __init__(self, cluster: ClusterSettings, observer: Observer, queue: NodeQueue) -> None:
        self._cluster = cluster
        self._observer = observer
        self._queue = queue
        self._log = ContextLogger(log, cluster=cluster.name)
        self._forbidden = False  # it was logged that exec is not allowed
        # Large outputs that are parsed at once: each takes memory, and the interpreter from the event loop.
        self._parsing = anyio.CapacityLimiter(1)

    async def run(self, client: ApiClient) -> None:
        """Read every node when it is due, until cancelled."""
        slots = anyio.Semaphore(self._cluster.exec_concurrency)
        async with anyio.create_task_group() as tasks:
            while True:
                await slots.acquire()
                node = await self._queue.get()
                tasks.start_soon(self._work, client, node, slots, name=f"{self._cluster.name} reader")

    async def _work(self, client: ApiClient, node: TrackedNode | None, slots: anyio.Semaphore) -> None:
        """Read a node, and go on with the next one for as long as any is due: a task for each would cost more."""
        share = client.session.share
        try:
            while node is not None:
                await self._read(client, node)
                await share.pause(share.clock())
                node = self._queue.pop_due()
        finally:
            slots.release()

    async def _read(self, client: ApiClient, node: TrackedNode) -> None:
        try:
            target = self._queue.select(node)
            if target is not None:  # its pods may have changed since it was handed out
                await self._read_target(client, target)
        finally:
            self._queue.done(node)

    async def _read_target(self, client: ApiClient, target: Target) -> None:
        log = self._log.bind(node=target.node.name, pod=target.candidate.pod.key)
        started = anyio.current_time()
        try:
            with redacting(client.session.secrets):
                read = await self._run_command(client, target)
        except ExecError as error:
            self._failed(target, error, log)
        except Exception:  # a bug that concerns one node must not cost the cluster the others
            log.exception("unexpected error while reading node")
            self._failed(target, ExecError(ReadFailure.BAD_OUTPUT, "unexpected error, see the log"), log)
        else:
            self._log_warnings(target.node, read.warnings, log)
            share = client.session.share
            applied = share.clock()
            self._succeeded(target, read, started, log)
            share.charge(applied + _FREE_SECONDS)
            share.spend(max(0.0, read.report.named * _GPU_SECONDS - _FREE_SECONDS))

    async def _run_command(self, client: ApiClient, target: Target) -> SmiReading:
        """Run the command in a pod and parse what it prints; raises ExecError."""
        source, pod = target.candidate.source, target.candidate.pod
        if schedule.find_container(target.candidate) is None:
            raise ExecError(ReadFailure.NO_CONTAINER, f'the pod has no container named "{source.container}"')
        command = SmiCommand(client, source, pod.name, self._cluster, parsing=self._parsing)
        known = functools.partial(self._observer.known_gpus, self._cluster.name, target.node.name)
        return await command.read(known, target.fingerprint.capacity)

    def _succeeded(self, target: Target, read: SmiReading, started: float, log: ContextLogger) -> None:
        node, report = target.node, read.report
        if self._queue.current_info(target) is None:
            return
        ended = anyio.current_time()
        if not self._queue.has_room(target, report.named):
            text = f"with its GPUs the cluster would have more than {self._cluster.max_gpus:,} (max_gpus)"
            self._failed(target, ExecError(ReadFailure.BAD_OUTPUT, text), log)
            return
        mig = any(gpu.mig for gpu in report.gpus)
        # Many commands at once are not for every refresh, and for no more than failures are worth.
        info = self._queue.succeeded(target, found=report.named, mig=mig, like_a_failure=read.one_by_one)
        if node.last_failure is not None:
            node.last_failure, self._forbidden = None, False
            log.info("node readable again")
        reading = Reading(
            cluster=self._cluster.name,
            node=info,
            source=target.candidate.pod.key,
            fingerprint=target.fingerprint,
            time=time.time(),
            driver_version=report.driver_version,
            cuda_version=report.cuda_version,
            gpus=report.gpus,
            unidentified=report.unidentified,
            lost=report.lost,
            unread=report.unread,
            partial=report.partial,
            started=started,
            ended=ended,
            sharing=node.sharing,
        )
        self._observer.on_reading(reading, ended - started)

    def _failed(self, target: Target, error: ExecError, log: ContextLogger) -> None:
        node = target.node
        reason = error.reason if self._queue.current_info(target) is not None else ReadFailure.NOT_FOUND
        self._queue.failed(target, reason)
        # Warn once for each node and reason; once for all nodes where a right is missing, which concerns them all.
        repeated = node.last_failure == reason or (reason is ReadFailure.FORBIDDEN and self._forbidden)
        node.last_failure = reason
        self._forbidden = self._forbidden or reason is ReadFailure.FORBIDDEN
        level = logging.DEBUG if repeated else logging.WARNING
        log.log(level, "reading failed: %s", error, extra={"reason": reason.value})
        lost = error.lost if isinstance(error, GpusLostError) else ()
        self._observer.on_read_failure(self._cluster.name, node.name, reason, str(error), lost)

    def _log_warnings(self, node: TrackedNode, warnings: tuple[str, ...], log: ContextLogger) -> None:
        """Log what is odd about a reading that succeeded, as warnings when they are new."""
        for text in warnings:
            log.log(logging.DEBUG if text in node.last_warnings else logging.WARNING, "%s", text)
        node.last_warnings = warnings
