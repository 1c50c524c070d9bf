"""Time that passes only when a test lets it."""

import anyio

__all__ = ["Clock"]


class Clock:
    """A clock to hand to what asks for the time, in Unix seconds."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.waits: list[float] = []  # seconds, in order

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the clock by this much."""
        self.now += seconds

    async def wait(self, seconds: float, *events: anyio.Event) -> None:
        """Let this much time pass instead of waiting for it, unless one of the events is set."""
        await anyio.sleep(0.001)
        if not any(event.is_set() for event in events):
            self.advance(seconds)
            self.waits.append(seconds)
