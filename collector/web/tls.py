"""The server's side of TLS: certificates that are used from the next connection on when their files change."""

import logging
import ssl
from typing import Any, Self

import anyio
import anyio.to_thread

from collector.config import ConfigError, ServerSettings
from collector.files import file_stamp

__all__ = ["ServerTls"]

log = logging.getLogger(__name__)

_CHECK = 10.0  # seconds between two looks at the files


class ServerTls(ssl.SSLContext):
    """Starts each connection with the newest certificates that could be loaded; open ones keep theirs.

    They are loaded into a context of their own: a live one that refuses a new key has dropped the old one already, and
    it trusts whom it has ever trusted.
    """

    _server: ServerSettings
    _stamps: list[object]
    _newest: ssl.SSLContext

    @classmethod
    def of(cls, server: ServerSettings) -> Self | None:
        """Load the certificates of a configuration, None if it has none; raises ConfigError."""
        if server.cert_file is None:
            return None
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made._server = server
        made._stamps = made._look()
        made._newest = _load(server)
        return made

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Start a connection, as an event loop does it."""
        return self._newest.wrap_bio(*args, **options)

    async def follow(self) -> None:
        """Load the files again whenever they change, until cancelled; those that do not fit are refused."""
        while True:
            await anyio.sleep(_CHECK)
            stamps = await anyio.to_thread.run_sync(self._look)
            if stamps == self._stamps:
                continue
            self._stamps = stamps
            try:
                self._newest = await anyio.to_thread.run_sync(_load, self._server)
            except ConfigError as error:
                log.warning("the new certificate is refused, the old one stays in use: %s", error)
            else:
                log.info("the certificate was loaded again")

    def _look(self) -> list[object]:
        files = (self._server.cert_file, self._server.key_file, self._server.client_ca_file)
        return [file_stamp(file) for file in files if file is not None]


def _load(server: ServerSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # An encrypted key would otherwise be asked for on the terminal.
        context.load_cert_chain(str(server.cert_file), str(server.key_file), password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"server.cert_file: cannot use {server.cert_file} with its key: {_reason(error)}") from error
    if server.client_ca_file is not None:
        try:
            context.load_verify_locations(server.client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"server.client_ca_file: cannot use {server.client_ca_file}: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
