"""Puts a changed configuration's sinks in force, and tries again for as long as the store does not take it."""

import itertools
import logging
from collections.abc import Callable, Collection, Mapping

import anyio

from collector.backoff import Backoff
from collector.config.sinks import SinkSettings
from collector.delivery.delivery import Delivery
from collector.store import StoreError

__all__ = ["SinkFollower"]

log = logging.getLogger(__name__)

_BACKOFF = Backoff(initial=1.0, maximum=30.0)
_PATIENCE = 1.0  # seconds that a change waits for the store


class SinkFollower:
    """Brings a delivery to the sinks that were asked for last; `on_followed` is told once they are in force."""

    def __init__(self, delivery: Delivery, on_followed: Callable[[Collection[str]], None]) -> None:
        self._delivery = delivery
        self._on_followed = on_followed
        self._wanted: Mapping[str, SinkSettings] = {}
        self._asked = anyio.Event()  # set when other sinks are wanted than those that are in force
        self._done = anyio.Event()

    async def follow(self, sinks: Mapping[str, SinkSettings]) -> None:
        """Want these sinks; returns once they are in force, or soon when the store has trouble and they come later."""
        self._wanted = sinks
        self._done = anyio.Event()
        self._asked.set()
        with anyio.move_on_after(_PATIENCE):
            await self._done.wait()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._asked.wait()
            for attempt in itertools.count():
                self._asked, wanted, done = anyio.Event(), self._wanted, self._done
                try:
                    await self._delivery.follow(wanted)
                except StoreError as error:
                    log.warning("the sinks stay as they were until the store is there: %s", error)
                else:
                    self._on_followed(wanted)
                    done.set()
                    break
                with anyio.move_on_after(_BACKOFF.delay(attempt)):
                    await self._asked.wait()
