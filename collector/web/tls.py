"""The server side of TLS, which reloads certificates when their files change."""

import logging
import ssl
from collections.abc import Callable
from typing import Any, Self

import anyio
import anyio.to_thread

from collector.config import ConfigError, ServerSettings
from collector.files import file_stamp, read_file
from collector.text import describe_os_error
from collector.tls import TlsFileError, Validity, server_context, validity

__all__ = ["ServerTls"]

log = logging.getLogger(__name__)


class ServerTls(ssl.SSLContext):
    """Starts each connection with the newest certificates that could be loaded; open connections keep theirs.

    They are loaded into a new context: an existing context that rejects a new key has already dropped the old one, and
    it keeps trusting every CA that it ever loaded.
    """

    _server: ServerSettings
    _stamps: list[object]
    _newest: ssl.SSLContext
    validity: Validity | None  # of the newest certificate

    @classmethod
    def load(cls, server: ServerSettings) -> Self | None:
        """Return the TLS of a configuration, None if it has none; raises ConfigError."""
        if server.cert_file is None:
            return None
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made._server = server
        made._stamps = made._file_stamps()
        made._newest, made.validity = _load(server)
        return made

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Start a connection, as an event loop does."""
        return self._newest.wrap_bio(*args, **options)

    async def watch_files(self, interval: float, loaded: Callable[[Validity | None], None]) -> None:
        """Reload the files whenever they change, until cancelled; `interval` is the time between two checks in seconds.

        `loaded` is called with the validity of each new certificate.
        """
        rejected: tuple[list[object], str] | None = None
        while True:
            await anyio.sleep(interval)
            stamps = await anyio.to_thread.run_sync(self._file_stamps, abandon_on_cancel=True)
            if stamps == self._stamps:
                continue
            try:
                self._newest, self.validity = await anyio.to_thread.run_sync(
                    _load, self._server, abandon_on_cancel=True
                )
            except ConfigError as error:  # the next check tries again: the reason may be the system's
                if (stamps, str(error)) != rejected:
                    log.warning("TLS certificate rejected, keeping the current one: %s", error)
                rejected = stamps, str(error)
            else:
                self._stamps, rejected = stamps, None
                loaded(self.validity)
                log.info("TLS certificate reloaded")

    def _file_stamps(self) -> list[object]:
        files = (self._server.cert_file, self._server.key_file, self._server.client_ca_file)
        return [file_stamp(file) for file in files if file is not None]


def _load(server: ServerSettings) -> tuple[ssl.SSLContext, Validity | None]:
    assert server.cert_file is not None  # noqa: S101
    assert server.key_file is not None  # noqa: S101
    try:
        context = server_context(server.cert_file, server.key_file, client_ca=server.client_ca_file)
        return context, validity(read_file(server.cert_file))
    except OSError as error:  # it has just been replaced
        why = describe_os_error(error, "cannot be read")
        raise ConfigError(f"server.cert_file: cannot use {server.cert_file}: {why}") from error
    except TlsFileError as error:
        if error.kind == "ca":
            raise ConfigError(f"server.client_ca_file: cannot use {server.client_ca_file}: {error}") from error
        raise ConfigError(f"server.cert_file: cannot use {server.cert_file} with its key: {error}") from error
