"""Publishes when the credentials of sinks end that gpuid cannot renew: client certificates, and tokens of variables."""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from collector.config.sinks import SinkSettings
from collector.events import ResettableEvent
from collector.exposition import Metrics
from collector.files import in_time, read_file
from collector.kube.credentials import jwt_validity
from collector.tls import Validity, validity

__all__ = ["SinkExpiry"]

CHECK_INTERVAL_SECONDS = 60.0  # between two looks at the files


class SinkExpiry:
    """Reads the certificates of the configured sinks now and then, as the sinks do when they are replaced.

    What is renewed by itself is left out: token and password files are read each time, and AWS's library renews its
    credentials.
    """

    def __init__(self, metrics: Metrics, *, interval: float = CHECK_INTERVAL_SECONDS) -> None:
        self._metrics = metrics
        self._interval = interval
        self._sinks: Mapping[str, SinkSettings] = {}
        self._changed = ResettableEvent()

    def watch(self, sinks: Mapping[str, SinkSettings]) -> None:
        """Publish it for these sinks from now on, and for no others."""
        for name in self._sinks.keys() - sinks.keys():
            self._metrics.sink_credential_expiry(name, None)
        self._sinks = sinks
        self._changed.pulse()

    async def run(self) -> None:
        """Publish it until cancelled."""
        while True:
            changed = self._changed.current
            for name, settings in self._sinks.items():
                found = await anyio.to_thread.run_sync(_expiry, settings, abandon_on_cancel=True)
                if not changed.is_set():
                    self._metrics.sink_credential_expiry(name, found)
            with anyio.move_on_after(self._interval):
                await changed.wait()


def _expiry(settings: SinkSettings) -> Validity | None:
    """Return when that credential of a sink is good which ends first; None if none ends."""
    return min(_validities(settings), key=lambda found: found.ends, default=None)


def _validities(settings: SinkSettings) -> Iterator[Validity]:
    certificate: Path | None = getattr(settings, "cert_file", None)
    if certificate is not None:
        try:
            found = validity(in_time(certificate, functools.partial(read_file, certificate)))
        except (OSError, ValueError):  # which the sink reports itself
            found = None
        if found is not None:
            yield found
    variable: str | None = getattr(settings, "token_env", None)
    if variable is not None and (claimed := jwt_validity(os.environ.get(variable, "").strip())) is not None:
        yield claimed
