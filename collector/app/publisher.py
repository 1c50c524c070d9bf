"""Passes every step of the inventory to everything that publishes it; the only place that does so."""

import logging
from collections.abc import Callable, Sequence

from collector.app.health_budget import HealthBudget
from collector.exposition import Exposition, Metrics
from collector.health import Degradation
from collector.model import Change, Event, Place, Step
from collector.store import HistoryWriter
from collector.views.alterations import describe_changes
from collector.views.recent_changes import RecentChanges

__all__ = ["Publisher"]

log = logging.getLogger(__name__)


class Publisher:
    """Passes steps to metrics, history (with its outbox), page, log and listeners.

    `listeners` get every change; they are called on the event loop and must return immediately.
    """

    def __init__(
        self,
        exposition: Exposition,
        metrics: Metrics,
        recent: RecentChanges,
        listeners: Sequence[Callable[[Change], None]] = (),
    ) -> None:
        self._exposition = exposition
        self._metrics = metrics
        self._recent = recent
        self._listeners = tuple(listeners)
        self._budget = HealthBudget(exposition.gpu_counts.total, metrics.health_change_dropped)
        self._history: HistoryWriter | None = None
        self._verify: Callable[[Place, float], None] = lambda _place, _delay: None
        self._label: Callable[[Step], None] = lambda _step: None
        self._compare: Callable[[Step], None] = lambda _step: None

    def record_to(self, history: HistoryWriter) -> None:
        """Record everything published from now on."""
        self._history = history

    def verify_with(self, verify: Callable[[Place, float], None]) -> None:
        """Call `verify` for each node that a step requests to be read again, with the delay in seconds."""
        self._verify = verify

    def label_with(self, label: Callable[[Step], None]) -> None:
        """Call `label` with each step, since its nodes' labels may have to change."""
        self._label = label

    def compare_with(self, compare: Callable[[Step], None]) -> None:
        """Call `compare` with each step, since clusters may then show the same nodes."""
        self._compare = compare

    def publish(self, step: Step, *, record: bool = True) -> None:
        """Publish one step; with `record` False, without writing it to the history.

        In a sharded installation it is always recorded, because the other shards get nodes only from the history.
        """
        self._exposition.update(step.nodes)
        step = self._budget.bounded(step)
        if (
            self._history is not None
            and (record or self._history.sharded)
            and (step.nodes or step.removed_cluster is not None)
        ):
            self._history.append(step)
        if step.removed_cluster is not None and step.changes:
            log.info("removed %d GPUs from the inventory", len(step.changes), extra={"cluster": step.removed_cluster})
        self._label(step)
        self._compare(step)
        self._recent.add(step.changes)
        for change in step.changes:
            if change.event is Event.MOVED:
                self._metrics.moved(change.place.cluster)
            _log_change(change, removed=step.removed_cluster is not None)
            for listener in self._listeners:
                listener(change)
        for place in step.verify:
            self._verify(place, 0.0)
        for place, delay in step.verify_later.items():
            self._verify(place, delay)


def _log_change(change: Change, *, removed: bool) -> None:
    fields = {"cluster": change.place.cluster, "node": change.place.node, "uuid": change.gpu.uuid}
    if change.gpu.serial:
        fields["serial"] = change.gpu.serial
    if change.previous is not None:
        fields |= {"from_cluster": change.previous.cluster, "from_node": change.previous.node}
    # A GPU that stops responding, or responds again, is logged where that is noticed, with the details.
    changes = [one for one in change.changes if one.field != "lost"]
    if changes:
        fields["changes"] = describe_changes(changes)
    if change.event is Event.HEALTH:
        if changes:
            _log_health(change, fields)
        return
    # At the first inventory thousands of GPUs appear; only later changes are worth logging at this level.
    quiet = removed or change.event is Event.APPEARED
    log.log(logging.DEBUG if quiet else logging.INFO, "GPU %s", change.event, extra=fields)


def _log_health(change: Change, fields: dict[str, str]) -> None:
    before, after = change.degradations
    reasons = ", ".join(after)
    if set(after) - {*before, Degradation.LOST}:
        log.warning("GPU degraded: %s", reasons, extra={**fields, "reasons": reasons})
    else:
        log.info("GPU health", extra={**fields, "reasons": reasons} if reasons else fields)
