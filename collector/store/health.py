"""Whether the store is usable, as reported by its users."""

import logging
import time
from collections.abc import Callable

import msgspec

from collector.events import ResettableEvent
from collector.store.damaged import SetAside

__all__ = ["StoreHealth", "StoreStatus"]

log = logging.getLogger(__name__)


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the store accepts writes and, if not, why, on one line without secrets."""

    up: bool = True
    since: float = 0.0  # Unix seconds of the last change of `up`
    message: str = ""
    lost: int = 0  # changes and records dropped to limit memory since the start
    set_aside: SetAside = SetAside()  # damaged files of earlier stores


class StoreHealth:
    """Collects current failures of the store by operation: commits, the lease, the outbox."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.status = StoreStatus(since=clock())
        self.changed = ResettableEvent()  # pulsed whenever `up` or the message may have changed
        self._clock = clock
        self._troubles: dict[str, str] = {}  # failing operation -> reason

    def failed(self, what: str, message: str) -> None:
        """Note that an operation fails; logged unless the reason is already known."""
        if message not in self._troubles.values():
            log.error("store unavailable: %s", message)
        self._troubles[what] = message
        self._update()

    def succeeded(self, what: str) -> None:
        """Note that an operation works again."""
        if self._troubles.pop(what, None) is not None:
            self._update()

    def lost(self, count: int) -> None:
        """Count dropped changes and records."""
        self.status = msgspec.structs.replace(self.status, lost=self.status.lost + count)

    def found_set_aside(self, files: SetAside) -> None:
        """Note the damaged files found."""
        self.status = msgspec.structs.replace(self.status, set_aside=files)

    def _update(self) -> None:
        before, up = self.status, not self._troubles
        since = before.since if before.up is up else self._clock()
        message = next(iter(self._troubles.values()), "")
        self.status = msgspec.structs.replace(before, up=up, since=since, message=message)
        if up:
            log.info("store recovered")
        self.changed.pulse()
