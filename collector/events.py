"""Events that can be cleared again, which asyncio has and anyio has not, and waiting for several of them."""

import anyio

__all__ = ["ResettableEvent", "wait_any"]


class ResettableEvent:
    """Wakes the tasks that wait for it, as often as it is set; to be used in one event loop."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    @property
    def current(self) -> anyio.Event:
        """What the next `set` or `pulse` sets: taken before a look, it shows afterwards whether there was one since."""
        return self._event

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._event.is_set()

    def set(self) -> None:
        """Wake the tasks that wait, and let those that come later pass until it is cleared."""
        self._event.set()

    def clear(self) -> None:
        """Make those that come later wait."""
        if self._event.is_set():
            self._event = anyio.Event()

    def pulse(self) -> None:
        """Wake the tasks that wait now; those that come later wait for the next time."""
        event, self._event = self._event, anyio.Event()
        event.set()

    async def wait(self) -> None:
        """Wait until it is set or pulsed; return at once while it is set."""
        await self._event.wait()


async def wait_any(*events: anyio.Event) -> None:
    """Wait until one of the events is set; for ever where there is none."""
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)
        if not events:
            await anyio.sleep_forever()
