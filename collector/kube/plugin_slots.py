"""Limits how many credential plugins start at the same time, so that their interpreters do not compete for the CPU.

Only the start needs CPU: a plugin that takes longer is waiting for a person or the network, and must not block the
others.
"""

import asyncio
import bisect
import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

__all__ = ["PluginSlots", "Rank", "SharedPluginSlots"]

SLOTS = 8  # each may start a Python interpreter
RESERVED_SLOTS = 2  # of these, for plugins that succeeded last time
MAX_HOLD_SECONDS = 5.0  # then the slot is released, and the plugin continues without one


class Rank(enum.IntEnum):
    """The priority of a plugin."""

    PROVEN = 0  # succeeded last time
    NEW = 1
    FAILING = 2


class PluginSlots:
    """The slots of one event loop."""

    def __init__(self, slots: int = SLOTS, reserved: int = RESERVED_SLOTS, max_hold: float = MAX_HOLD_SECONDS) -> None:
        self._free = slots
        self._reserved = reserved
        self._max_hold = max_hold
        self._waiting: list[_Place] = []  # in order of admission

    @asynccontextmanager
    async def hold(self, rank: Rank) -> AsyncIterator[None]:
        """Wait for a slot, and hold it for the body of the `with`, but no longer than a start may take."""
        place = _Place(rank)
        bisect.insort(self._waiting, place, key=lambda one: one.rank)
        self._let_in()
        timer = None
        try:
            await place.entered.wait()
            timer = asyncio.get_running_loop().call_later(self._max_hold, self._give_up, place)
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self._give_up(place)

    def _let_in(self) -> None:
        while self._waiting and self._free > (0 if self._waiting[0].rank is Rank.PROVEN else self._reserved):
            self._free -= 1
            place = self._waiting.pop(0)
            place.holds = True
            place.entered.set()

    def _give_up(self, place: "_Place") -> None:
        if place.holds:
            place.holds = False
            self._free += 1
        elif place in self._waiting:
            self._waiting.remove(place)
        self._let_in()


class SharedPluginSlots:
    """The slots for all clusters of an event loop."""

    def __init__(self) -> None:
        self._slots: anyio.lowlevel.RunVar[PluginSlots] = anyio.lowlevel.RunVar("slots of credential plugins")

    @property
    def slots(self) -> PluginSlots:
        """Those of the running event loop."""
        try:
            return self._slots.get()
        except LookupError:
            slots = PluginSlots()
            self._slots.set(slots)
            return slots


class _Place:
    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self.entered = anyio.Event()
        self.holds = False
