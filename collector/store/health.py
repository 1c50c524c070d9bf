"""Whether the store can be used, as those who use it report it."""

import logging
import time
from collections.abc import Callable

import msgspec

from collector.events import ResettableEvent
from collector.store.damaged import SetAside

__all__ = ["StoreHealth", "StoreStatus"]

log = logging.getLogger(__name__)


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the store accepts what is recorded and, if not, why in one line without secrets."""

    up: bool = True
    since: float = 0.0  # Unix seconds of the last change of `up`
    message: str = ""
    lost: int = 0  # changes and records dropped for want of memory since the start
    set_aside: SetAside = SetAside()  # damaged files of earlier stores


class StoreHealth:
    """Collects what cannot be done with the store at present: commits, the lead, the outbox."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.status = StoreStatus(since=clock())
        self.changed = ResettableEvent()  # pulsed whenever `up` or the message may have changed
        self._clock = clock
        self._troubles: dict[str, str] = {}  # what cannot be done -> why

    def failed(self, what: str, message: str) -> None:
        """Note that something cannot be done; logged unless its reason is known already."""
        if message not in self._troubles.values():
            log.error("store unavailable: %s", message)
        self._troubles[what] = message
        self._update()

    def succeeded(self, what: str) -> None:
        """Note that something can be done again."""
        if self._troubles.pop(what, None) is not None:
            self._update()

    def lost(self, count: int) -> None:
        """Count changes and records that were dropped."""
        self.status = msgspec.structs.replace(self.status, lost=self.status.lost + count)

    def found_set_aside(self, files: SetAside) -> None:
        """Note which damaged files there are."""
        self.status = msgspec.structs.replace(self.status, set_aside=files)

    def _update(self) -> None:
        before, up = self.status, not self._troubles
        since = before.since if before.up is up else self._clock()
        message = next(iter(self._troubles.values()), "")
        self.status = msgspec.structs.replace(before, up=up, since=since, message=message)
        if up:
            log.info("store recovered")
        self.changed.pulse()
