"""Backoff for failing credential sources, most of which need manual repair."""

from typing import NamedTuple

from collector.backoff import Backoff
from collector.kube.errors import ClusterError

__all__ = ["FailureBackoff", "LastFailure"]

BACKOFF = Backoff(initial=5.0, maximum=180.0, jitter=0.0)


class LastFailure(NamedTuple):
    """The last error: its type and text."""

    kind: type[ClusterError]
    text: str


class FailureBackoff:
    """The decisions, without a clock of its own: `now` is in Unix seconds."""

    def __init__(self, backoff: Backoff = BACKOFF) -> None:
        self._backoff = backoff
        self._failures = 0  # in a row; concurrent ones count as one
        self._failed_at = float("-inf")
        self._last: LastFailure | None = None
        self._version: object = None

    @property
    def failing(self) -> bool:
        """Whether the last attempt has failed."""
        return self._failures > 0

    def recent(self, now: float) -> LastFailure | None:
        """Return the last failure while backing off."""
        early = self._failures and 0 <= now - self._failed_at < self._backoff.delay(self._failures - 1)
        return self._last if early else None

    def failed(self, failure: LastFailure, *, started: float, now: float) -> None:
        """Record that an attempt from `started` to `now` failed."""
        if self._failures == 0 or started >= self._failed_at:
            self._failures += 1
        self._failed_at, self._last = now, failure

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failures, self._failed_at, self._last = 0, float("-inf"), None

    def reset(self, version: object) -> None:
        """Forget the failures, once for each `version` of the kubeconfig."""
        if version != self._version:
            self._version = version
            self.succeeded()
