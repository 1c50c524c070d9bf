"""Reports and logs which GPU nodes no ready pod covers."""

import logging

from collector.collect.context_logger import ContextLogger
from collector.collect.observer import Observer
from collector.collect.tracked_node import TrackedNode
from collector.model import Uncovered, UnreadReason

__all__ = ["CoverageReporter"]

log = logging.getLogger(__name__)


class CoverageReporter:
    """Tells the observer and the log, once each, when the reason why a node of a cluster cannot be read changes."""

    def __init__(self, cluster: str, observer: Observer) -> None:
        self._cluster = cluster
        self._observer = observer
        self._log = ContextLogger(log, cluster=cluster)

    def report(self, node: TrackedNode, reason: UnreadReason | None, now: float, *, sign: str, any_pods: bool) -> None:
        """Report and log that no ready pod covers a node, or that one does again.

        `sign` shows that it has GPUs, and `any_pods` is whether any source has a pod in the whole cluster.
        """
        within_grace = node.grace_until is not None and now < node.grace_until
        reported = Uncovered.PENDING if reason is not None and within_grace and not node.was_read else reason
        before, node.observed_uncovered = node.observed_uncovered, reported
        if reported != before or node.observed_before:
            node.observed_before = False
            self._observer.on_uncovered(self._cluster, node.name, reported)
        if reported is None:
            if before is not None:
                level = logging.INFO if before is not Uncovered.PENDING else logging.DEBUG
                self._log.log(level, "GPU node covered by a ready pod", extra={"node": node.name})
            node.warned = False
        elif reported != before or not (within_grace or node.warned):
            self._log_uncovered(node, reported, sign, within_grace=within_grace, any_pods=any_pods)

    def _log_uncovered(
        self, node: TrackedNode, reason: UnreadReason, sign: str, *, within_grace: bool, any_pods: bool
    ) -> None:
        """Log why a node cannot be read: as a warning, once, when its grace is over.

        If no source has a pod in the whole cluster, this is logged instead of each node.
        """
        level = logging.DEBUG
        if any_pods:
            if within_grace and reason is not Uncovered.PENDING:
                level = logging.INFO
            elif not within_grace:
                level = logging.INFO if node.warned else logging.WARNING
                node.warned = True
        fields = {"node": node.name, "reason": reason.value} | ({"gpu_sign": sign} if sign else {})
        self._log.log(level, "GPU node without a ready pod", extra=fields)
