"""Events that can be cleared, as in asyncio but not anyio, and waiting for several of them."""

import anyio

__all__ = ["ResettableEvent", "wait_any"]


class ResettableEvent:
    """Wakes waiting tasks each time it is set; for use in one event loop."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    @property
    def current(self) -> anyio.Event:
        """The event that the next `set` or `pulse` sets: fetched before a check, it shows changes since."""
        return self._event

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._event.is_set()

    def set(self) -> None:
        """Wake waiting tasks, and let later ones pass until it is cleared."""
        self._event.set()

    def clear(self) -> None:
        """Make later tasks wait."""
        if self._event.is_set():
            self._event = anyio.Event()

    def pulse(self) -> None:
        """Wake the tasks that are waiting now; later ones wait for the next time."""
        event, self._event = self._event, anyio.Event()
        event.set()

    async def wait(self) -> None:
        """Wait until it is set or pulsed; return immediately while it is set."""
        await self._event.wait()


async def wait_any(*events: anyio.Event) -> None:
    """Wait until one of the events is set; forever without events."""
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        for event in events:
            tasks.start_soon(wait, event)
        if not events:
            await anyio.sleep_forever()
