"""The troubles of the collector itself: its configuration, store and sinks."""

from collections.abc import Iterable, Iterator

from collector.store import LeadStatus, StoreStatus
from collector.text import counted
from collector.views.collector_view import CollectorView
from collector.views.config_status import ConfigStatus
from collector.views.humanize import utc
from collector.views.problems.kinds import ProblemKind
from collector.views.problems.trouble import Trouble
from collector.views.sink_status import SinkStatus

__all__ = ["collector_troubles"]

BACKLOG_AGE_LIMIT_SECONDS = 300.0  # for which a record may wait for a working sink


def collector_troubles(view: CollectorView) -> Iterator[Trouble]:
    """Yield the troubles of a collector, without its clusters."""
    yield from _config(view.config_status)
    yield from _store(view.store_status)
    yield from _lead(view.lead_status)
    yield from _sinks(view.sink_statuses.by_name(), view.now())


def _config(status: ConfigStatus) -> Iterator[Trouble]:
    if not status.ok:
        variant = "" if status.readable else "unreadable"
        yield Trouble(ProblemKind.CONFIG_REJECTED, variant, since=status.failing_since, reason=status.error)
    if status.restart:
        reason = f"changes to {status.tables} take effect after a restart"
        yield Trouble(ProblemKind.CONFIG_RESTART, since=status.restart_since, reason=reason)


def _store(status: StoreStatus) -> Iterator[Trouble]:
    if not status.up:
        yield Trouble(ProblemKind.STORE_DOWN, since=status.since, reason=status.message)
    if (damaged := status.set_aside).files:
        reason = f"{counted(damaged.files, 'damaged file')} ({damaged.bytes / 1e6:.1f} MB), newest: {damaged.newest}"
        yield Trouble(ProblemKind.STORE_DAMAGED, count=damaged.files, reason=reason)


def _lead(status: LeadStatus | None) -> Iterator[Trouble]:
    """Yield the trouble that no collector records in the store; None: there is no store."""
    if status is not None and not status.has_leader:
        yield Trouble(ProblemKind.NO_LEADER, reason=f"{status.holder} was the last leader" if status.holder else "")


def _sinks(sinks: Iterable[SinkStatus], now: float) -> Iterator[Trouble]:
    for status in sinks:
        name, backlog = status.sink, status.backlog
        if backlog.records and backlog.oldest is not None:
            waiting = f"{counted(backlog.records, 'record')} waiting, the oldest since {utc(round(backlog.oldest))}"
            if status.failure:
                reason = f"{status.message or status.failure.replace('_', ' ')}; {waiting}"
                yield Trouble(ProblemKind.SINK_FAILING, name, since=status.failing_since, reason=reason)
            elif now - backlog.oldest > BACKLOG_AGE_LIMIT_SECONDS:
                yield Trouble(ProblemKind.SINK_BEHIND, name, since=backlog.oldest, reason=waiting)
        if backlog.dead_letters:
            yield Trouble(ProblemKind.DEAD_LETTERS, name, count=backlog.dead_letters)
