"""How long to wait before trying again: exponential, bounded and jittered."""

import random

import msgspec

__all__ = ["Backoff"]


class Backoff(msgspec.Struct, frozen=True):
    """Delays in seconds that grow by `factor` from `initial` to `maximum`.

    `jitter` is the part of a delay that chance may take off or add (0.2 is ±20 %), so that many clients that failed
    together do not come back together.
    """

    initial: float
    maximum: float
    factor: float = 2.0
    jitter: float = 0.2

    def delay(self, attempt: int, rng: random.Random | None = None) -> float:
        """Seconds to wait after failure number `attempt`, counted from 0."""
        steady = self.maximum
        if attempt < 64:  # past that the power says nothing more, and would overflow at last
            steady = min(self.maximum, self.initial * self.factor**attempt)
        return steady * (rng or random).uniform(1 - self.jitter, 1 + self.jitter)
