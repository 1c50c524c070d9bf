"""Reads the GPUs of nodes: runs the command in a pod of each, and reports the reading or why it failed."""

import logging
import time

import anyio
import anyio.to_thread

from collector.collect import nvidia_smi, schedule
from collector.collect.context_logger import ContextLogger
from collector.collect.node_queue import NodeQueue, Target, TrackedNode
from collector.collect.observer import Observer
from collector.collect.printable import printable_report
from collector.collect.schedule import Candidate
from collector.config import ClusterSettings
from collector.kube import exec as pod_exec
from collector.kube.client import ApiClient
from collector.kube.exec import ExecError
from collector.model import ReadFailure, Reading
from collector.redaction import redacting
from collector.text import one_line

__all__ = ["NodeReader"]

log = logging.getLogger(__name__)

_PARSE_INLINE_BYTES = 1 << 20  # a larger output is parsed in a thread, for it would hold up the event loop noticeably
_MAX_STDERR_BYTES = 2000
_MAX_STDERR_CHARACTERS = 300


class NodeReader:
    """Reads the nodes of one cluster when its queue hands them out, `exec_concurrency` at a time."""

    def __init__(self, cluster: ClusterSettings, observer: Observer, queue: NodeQueue) -> None:
        self._cluster = cluster
        self._observer = observer
        self._queue = queue
        self._log = ContextLogger(log, cluster=cluster.name)
        self._forbidden = False  # it was logged that exec is not allowed

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
        try:
            while node is not None:
                await self._read(client, node)
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
                output, report = await self._run_command(client, target.candidate)
        except ExecError as error:
            self._failed(target, error, log)
        except Exception:  # a bug that concerns one node must not cost the cluster the others
            log.exception("unexpected error while reading node")
            self._failed(target, ExecError(ReadFailure.BAD_OUTPUT, "unexpected error, see the log"), log)
        else:
            self._log_stderr(target.node, client.session.secrets.redact(_as_text(output.stderr)), log)
            self._succeeded(target, report, started, log)

    async def _run_command(self, client: ApiClient, candidate: Candidate) -> tuple[pod_exec.Output, nvidia_smi.Report]:
        """Run the command in a pod and parse what it prints; raises ExecError."""
        source = candidate.source
        if schedule.find_container(candidate) is None:
            raise ExecError(ReadFailure.NO_CONTAINER, f'the pod has no container named "{source.container}"')
        output = await pod_exec.run(
            client,
            candidate.pod.namespace,
            candidate.pod.name,
            source.container,
            self._cluster.command,
            timeout=self._cluster.exec_timeout,
            limit=nvidia_smi.MAX_OUTPUT_BYTES,
        )
        try:
            if len(output.stdout) <= _PARSE_INLINE_BYTES:
                report = nvidia_smi.parse(output.stdout)
            else:
                report = await anyio.to_thread.run_sync(nvidia_smi.parse, output.stdout)
            return output, printable_report(report)
        except nvidia_smi.BadOutputError as error:
            stderr = _as_text(output.stderr)
            raise ExecError(ReadFailure.BAD_OUTPUT, f"{error}; stderr: {stderr}" if stderr else str(error)) from error

    def _succeeded(self, target: Target, report: nvidia_smi.Report, started: float, log: ContextLogger) -> None:
        node = target.node
        if self._queue.current_info(target) is None:
            return
        ended = anyio.current_time()
        found, mig = len(report.gpus) + len(report.unidentified), any(gpu.mig for gpu in report.gpus)
        info = self._queue.succeeded(target, found=found, mig=mig)
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
        self._observer.on_read_failure(self._cluster.name, node.name, reason)

    def _log_stderr(self, node: TrackedNode, text: str, log: ContextLogger) -> None:
        """Log what a successful command prints to stderr, as a warning when it is new."""
        if text:
            level = logging.DEBUG if text == node.last_stderr else logging.WARNING
            log.log(level, "command succeeded with output on stderr: %s", text)
        node.last_stderr = text


def _as_text(stderr: bytes) -> str:
    return one_line(stderr[:_MAX_STDERR_BYTES].decode(errors="replace"), _MAX_STDERR_CHARACTERS)
