"""Reads the GPUs of nodes through their pods, by a command or from the log, and reports readings and failures."""

import functools
import logging
import time

import anyio

from collector.collect import schedule
from collector.collect.context_logger import ContextLogger
from collector.collect.node_queue import NodeQueue
from collector.collect.observer import Observer
from collector.collect.printed import PAUSE_SECONDS
from collector.collect.smi_command import SmiCommand
from collector.collect.smi_log import NoDocumentError, SmiLog
from collector.collect.smi_reading import GpusLostError, Printed, SmiReading
from collector.collect.tracked_node import Target, TrackedNode
from collector.config import ClusterSettings, PodSource, SourceMethod
from collector.kube.client import ApiClient
from collector.model import ReadError, ReadFailure, Reading
from collector.redaction import redacting
from collector.timestamps import rfc3339

__all__ = ["NodeReader", "pod_reader", "why_stale"]

log = logging.getLogger(__name__)

_FREE_SECONDS = 0.005  # free time to apply a reading, not charged to the cluster's share of the loop
STALE_SECONDS = 900.0  # older documents, if also older than `refresh`, are reported as stale; printers take minutes
_GPU_SECONDS = 2e-4  # free time to record and publish a GPU after that; covers ordinary nodes


class NodeReader:
    """Reads the nodes of one cluster when its queue hands them out, `exec_concurrency` at a time."""

    def __init__(
        self, cluster: ClusterSettings, observer: Observer, queue: NodeQueue, *, pause: float = PAUSE_SECONDS
    ) -> None:
        self._cluster = cluster
        self._observer = observer
        self._queue = queue
        self._pause = pause  # between two documents that a pod prints
        self._log = ContextLogger(log, cluster=cluster.name)
        self._forbidden: set[tuple[str, SourceMethod]] = set()  # denials already logged, by namespace
        # Large outputs parsed at the same time: each takes memory, and the interpreter from the event loop.
        self._parsing = anyio.CapacityLimiter(1)

    async def run(self, client: ApiClient) -> None:
        """Read nodes when they are due, until cancelled."""
        slots = anyio.Semaphore(self._cluster.exec_concurrency)
        async with anyio.create_task_group() as tasks:
            while True:
                await slots.acquire()
                node = await self._queue.get()
                tasks.start_soon(self._work, client, node, slots, name=f"{self._cluster.name} reader")

    async def _work(self, client: ApiClient, node: TrackedNode | None, slots: anyio.Semaphore) -> None:
        """Read nodes one after another while any is due: a task for each would cost more."""
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
                if await self._is_unchanged(client, target):
                    return
                read = await self._read_pod(client, target)
        except NoDocumentError as error:
            self._queue.log_times(target).look(error.newest, error.asked)
            self._take_no_document(target, error, log)
        except ReadError as error:
            self._failed(target, error, log)
        except Exception:  # a bug with one node must not affect the cluster's others
            log.exception("unexpected error while reading node")
            self._failed(target, ReadError(ReadFailure.BAD_OUTPUT, "unexpected error, see the log"), log)
        else:
            share = client.session.share
            applied = share.clock()
            self._take(target, read, started, log)
            share.charge(applied + _FREE_SECONDS)
            share.spend(max(0.0, read.report.named * _GPU_SECONDS - _FREE_SECONDS))

    async def _read_pod(self, client: ApiClient, target: Target) -> SmiReading:
        """Read a pod as its source says; raises ReadError."""
        source, pod = target.candidate.source, target.candidate.pod
        if schedule.find_container(target.candidate) is None:
            raise ReadError(ReadFailure.NO_CONTAINER, f'the pod has no container named "{source.container}"')
        reader = pod_reader(client, source, pod.name, self._cluster, parsing=self._parsing, pause=self._pause)
        known = functools.partial(self._observer.known_gpus, self._cluster.name, target.node.name)
        return await reader.read(known, target.fingerprint.capacity)

    async def _is_unchanged(self, client: ApiClient, target: Target) -> bool:
        """Return whether a pod has printed nothing since its log was read, by its last line; raises ReadError.

        This is skipped if a new document is expected, or if the state of the node requires the whole log.
        """
        node, source = target.node, target.candidate.source
        if source.method is not SourceMethod.LOG or node.log.applied is None or node.last_failure is not None:
            return False
        times = self._queue.log_times(target)
        last_line, dated = times.last_line(node.log.applied[0], anyio.current_time()), times.dated
        if not last_line or dated is None or why_stale(dated.time, time.time(), self._cluster.refresh) is not None:
            return False
        line, asked = await SmiLog(client, source, target.candidate.pod.name, self._cluster).last_line()
        if line != last_line:
            return False
        times.unchanged(asked)
        self._queue.answered(target, dated.started)
        self._queue.unchanged(target)
        return True

    def _take_no_document(self, target: Target, error: NoDocumentError, log: ContextLogger) -> None:
        """Report a log without a document, unless the reading is of the same container and still valid.

        The kubelet rotates logs, and rotated ones cannot be read.
        """
        node = target.node
        if node.read_at is None or not node.log.was_read(target.fingerprint):
            self._failed(target, error, log, early=self._queue.awaits_first_document(target))
        elif (stale := why_stale(node.read_at, time.time(), self._cluster.refresh)) is not None:
            self._failed(target, stale, log)
        else:
            log.debug("log without a document, rotated since the last one: %s", error)
            self._queue.answered(target, float("-inf"))
            self._queue.unchanged(target)

    def _take(self, target: Target, read: SmiReading, started: float, log: ContextLogger) -> None:
        """Report what was read from a pod."""
        if read.printed is not None:
            self._take_printed(target, read, read.printed, started, log)
            return
        self._log_warnings(target.node, read.warnings, log)
        self._succeeded(target, read, started, log)

    def _take_printed(
        self, target: Target, read: SmiReading, printed: Printed, asked: float, log: ContextLogger
    ) -> None:
        """Report a document from a pod's log, and whatever in it is outdated.

        A document printed before the node's last reading is not new, nor is one that was already reported if a newer
        one is awaited or missing.
        """
        node, now = target.node, time.time()
        known = node.read_at if node.log.was_read(target.fingerprint) else None
        dated = self._queue.log_times(target).date(printed, now, known)
        warnings = read.warnings
        if dated.ahead:
            direction = "ahead of" if dated.ahead > 0 else "behind"
            text = f"the node's clock is {abs(dated.ahead) / 60:.0f} min {direction} ours; its log is dated by ours"
            warnings = (*warnings, text)
        self._log_warnings(node, warnings, log)
        failure = printed.failure or why_stale(dated.time, now, self._cluster.refresh)
        answered = self._queue.answered(target, dated.started)
        document = (printed.stamp, target.fingerprint)
        outdated = node.read_at is not None and dated.time + 1.0 < min(node.read_at, now)
        if answered:
            reported = failure is not None and node.log.applied == document
        else:  # it does not show the node's current state
            reported = node.log.applied is not None and node.log.applied[0] == printed.stamp
        if not (outdated or reported):
            if not self._succeeded(target, read, asked, log, printed_at=dated.time, begun=dated.started):
                return
            node.log.applied = document
        if failure is not None:
            self._failed(target, failure, log)
        elif outdated:
            self._queue.failed(target, ReadFailure.STALE)  # a newer one will arrive before it counts as stale
        elif reported:
            self._queue.unchanged(target)

    def _succeeded(
        self,
        target: Target,
        read: SmiReading,
        started: float,
        log: ContextLogger,
        *,
        printed_at: float | None = None,
        begun: float | None = None,
    ) -> bool:
        """Report a reading, possibly one printed earlier; returns whether it counts."""
        node, report = target.node, read.report
        if self._queue.current_info(target) is None:
            return False
        ended = anyio.current_time()
        if not self._queue.has_room(target, report.named):
            text = f"with its GPUs the cluster would have more than {self._cluster.max_gpus:,} (max_gpus)"
            self._failed(target, ReadError(ReadFailure.BAD_OUTPUT, text), log)
            return False
        mig = any(gpu.mig for gpu in report.gpus)
        # Many commands in a row are not worth every refresh, only the frequency of retries after failures.
        info = self._queue.succeeded(target, found=report.named, mig=mig, like_a_failure=read.one_by_one)
        if node.last_failure is not None:
            node.last_failure = None
            self._forbidden.discard(_right(target))
            log.info("node readable again")
        reading = Reading(
            cluster=self._cluster.name,
            node=info,
            source=target.candidate.pod.key,
            fingerprint=target.fingerprint,
            time=time.time() if printed_at is None else printed_at,
            driver_version=report.driver_version,
            cuda_version=report.cuda_version,
            gpus=report.gpus,
            unidentified=report.unidentified,
            lost=report.lost,
            unread=report.unread,
            partial=report.partial,
            started=started if begun is None else begun,
            ended=ended,
            sharing=node.sharing,
        )
        node.read_at = reading.time
        if node.log_state is not None:
            node.log_state.applied = None
        self._observer.on_reading(reading, ended - started)
        return True

    def _failed(self, target: Target, error: ReadError, log: ContextLogger, *, early: bool = False) -> None:
        """Report a failed reading; one that is merely `early` is tried again, and not reported."""
        node = target.node
        reason = error.reason if self._queue.current_info(target) is not None else ReadFailure.NOT_FOUND
        wait = self._queue.failed(target, reason)
        if early and node.last_failure is None:
            log.debug("reading too early: %s", error)
            return
        # Warn once per node and reason; once for all nodes if a right is missing, which affects them all.
        repeated = node.last_failure == reason
        node.last_failure = reason
        if reason is ReadFailure.FORBIDDEN:
            repeated = repeated or _right(target) in self._forbidden
            self._forbidden.add(_right(target))
        level = logging.DEBUG if repeated else logging.WARNING
        log.log(level, "reading failed: %s", error, extra={"reason": reason.value})
        lost = error.lost if isinstance(error, GpusLostError) else ()
        self._observer.on_read_failure(self._cluster.name, node.name, reason, str(error), lost, wait)

    def _log_warnings(self, node: TrackedNode, warnings: tuple[str, ...], log: ContextLogger) -> None:
        """Log what is odd about a successful reading, as warnings if new."""
        for text in warnings:
            log.log(logging.DEBUG if text in node.last_warnings else logging.WARNING, "%s", text)
        node.last_warnings = warnings


def pod_reader(
    client: ApiClient,
    source: PodSource,
    pod: str,
    cluster: ClusterSettings,
    *,
    parsing: anyio.CapacityLimiter | None = None,
    pause: float = PAUSE_SECONDS,
) -> SmiCommand | SmiLog:
    """Return the reader for a pod of a source, by the source's method."""
    if source.method is SourceMethod.LOG:
        return SmiLog(client, source, pod, cluster, parsing=parsing, pause=pause)
    return SmiCommand(client, source, pod, cluster, parsing=parsing)


def _right(target: Target) -> tuple[str, SourceMethod]:
    source = target.candidate.source
    return source.namespace, source.method


def why_stale(printed: float | None, now: float, refresh: float) -> ReadError | None:
    """Return the error for a document too old to show the node's current state; None for a recent one."""
    if printed is None or now - printed <= max(refresh, STALE_SECONDS):
        return None
    text = (
        f"the last document in the log was printed {(now - printed) / 60:.0f} min ago, at {rfc3339(printed, 'seconds')}"
        ": nvidia-smi hangs, or the pod prints too rarely"
    )
    return ReadError(ReadFailure.STALE, text)
