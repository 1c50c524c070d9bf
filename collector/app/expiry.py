"""Publishes when sink credentials expire that gpuid cannot renew: client certificates, tokens from variables."""

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

CHECK_INTERVAL_SECONDS = 60.0  # between two checks of the files


class SinkExpiry:
    """Reads the certificates of the configured sinks periodically, since sinks reload replaced ones.

    Credentials that are renewed automatically are omitted: token and password files are read at each use, and the AWS
    library renews its own.
    """

    def __init__(self, metrics: Metrics, *, interval: float = CHECK_INTERVAL_SECONDS) -> None:
        self._metrics = metrics
        self._interval = interval
        self._sinks: Mapping[str, SinkSettings] = {}
        self._changed = ResettableEvent()

    def watch(self, sinks: Mapping[str, SinkSettings]) -> None:
        """Publish the expiry for exactly these sinks from now on."""
        for name in self._sinks.keys() - sinks.keys():
            self._metrics.sink_credential_expiry(name, None)
        self._sinks = sinks
        self._changed.pulse()

    async def run(self) -> None:
        """Publish the expiry until cancelled."""
        while True:
            changed = self._changed.current
            for name, settings in self._sinks.items():
                found = await anyio.to_thread.run_sync(_expiry, settings, abandon_on_cancel=True)
                if not changed.is_set():
                    self._metrics.sink_credential_expiry(name, found)
            with anyio.move_on_after(self._interval):
                await changed.wait()


def _expiry(settings: SinkSettings) -> Validity | None:
    """Return when the first of a sink's credentials expires; None if none does."""
    return min(_validities(settings), key=lambda found: found.ends, default=None)


def _validities(settings: SinkSettings) -> Iterator[Validity]:
    certificate: Path | None = getattr(settings, "cert_file", None)
    if certificate is not None:
        try:
            found = validity(in_time(certificate, functools.partial(read_file, certificate)))
        except (OSError, ValueError):  # reported by the sink itself
            found = None
        if found is not None:
            yield found
    variable: str | None = getattr(settings, "token_env", None)
    if variable is not None and (claimed := jwt_validity(os.environ.get(variable, "").strip())) is not None:
        yield claimed
