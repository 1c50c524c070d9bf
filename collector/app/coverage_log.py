"""Logs what a whole cluster lacks: pods selected by a source, readable GPU nodes, or GPU nodes at all."""

import logging
from dataclasses import dataclass, field

from collector.app.collected import CollectedClusters
from collector.inventory import Inventory
from collector.model import UNREAD_REASONS, Uncovered
from collector.text import counted

__all__ = ["CoverageLog"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Logged:
    """What was last logged about a cluster."""

    idle: set[str] = field(default_factory=set)  # the sources that match no pod
    unreadable: bool = False  # none of its GPU nodes can be read
    empty: bool = False  # it has no GPU nodes


class CoverageLog:
    """Logs each condition once when it begins and once when it ends; `check` is cheap and called after every step."""

    def __init__(self, clusters: CollectedClusters, inventory: Inventory) -> None:
        self._clusters = clusters
        self._inventory = inventory
        self._logged: dict[str, _Logged] = {}

    def check(self, cluster: str) -> None:
        """Log any change in a cluster's coverage, once it has been listed completely."""
        collected = self._clusters.get(cluster)
        if collected is None or collected.survey is None:
            self._logged.pop(cluster, None)
            return
        logged = self._logged.setdefault(cluster, _Logged())
        fields = {"cluster": cluster}
        survey, sources = collected.survey, collected.settings.active_sources
        idle = {source.name for source, pods in zip(sources, survey.pods, strict=True) if not pods}
        if idle != logged.idle:
            for name in sorted(idle - logged.idle):
                level = logging.INFO if any(survey.pods) else logging.WARNING
                log.log(level, "no pod matches the source %s", name, extra=fields)
            for name in sorted(logged.idle - idle):
                log.info("pods match the source %s", name, extra=fields)
            logged.idle = idle
        nodes = len(self._inventory.nodes(cluster))
        if (nodes == 0) != logged.empty:
            logged.empty = nodes == 0
            if logged.empty:
                log.info("no GPU nodes among %s", counted(survey.nodes, "node"), extra=fields)
        unreadable = 0 < nodes == self._unreadable(cluster)
        if unreadable != logged.unreadable:
            logged.unreadable = unreadable
            if unreadable:
                log.warning("none of %s can be read", counted(nodes, "GPU node"), extra=fields)
            elif nodes:
                log.info("GPU nodes can be read again", extra=fields)

    def _unreadable(self, cluster: str) -> int:
        reasons = (reason for reason in UNREAD_REASONS if reason is not Uncovered.PENDING)
        return sum(self._inventory.unread(cluster, reason) for reason in reasons)
