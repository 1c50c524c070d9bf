"""Connects to PostgreSQL host by host, like libpq: the driver has one time limit for all hosts."""

import asyncio
from typing import Any

import asyncpg

from collector.config.libpq import ConnectionOptions

__all__ = ["Connector", "error_text"]

_PLAIN = {  # the driver's texts, as operators would say it
    "connection was closed in the middle of operation": "the server closed the connection",
    "cannot perform operation: connection is closed": "the connection is closed",
    "cannot perform operation: another operation is in progress": "the connection is in use",
    "cannot perform operation: another operation is cancelling": "the connection is in use",
}


def error_text(error: BaseException) -> str:
    """Return the text of the driver's or the server's error, without the driver's terms for a lost connection."""
    text = str(error)
    return next((plain for said, plain in _PLAIN.items() if said in text), text)


class Connector:
    """Connects to the first host that responds within `timeout` seconds and matches target_session_attrs."""

    def __init__(self, options: ConnectionOptions, *, timeout: float) -> None:
        self._options = options
        self._timeout = timeout
        self._first = 0  # index of the host after the one at which the last attempt was cancelled

    async def connect(self, **driver: Any) -> asyncpg.Connection:
        """Return a connection; raises the driver's error, of the last host if none responds."""
        if not self._options.hosts:
            return await self._one(**driver)
        if self._options.target_session_attrs != "prefer-standby":
            return await self._any_of(**driver)
        try:
            return await self._any_of(target_session_attrs="standby", **driver)
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched):
            return await self._any_of(target_session_attrs="any", **driver)

    async def _any_of(self, **driver: Any) -> asyncpg.Connection:
        hosts = self._options.hosts
        failure: Exception | None = None
        for number in range(self._first, self._first + len(hosts)):
            host, port = hosts[number % len(hosts)]
            try:
                connection = await self._one(host=host, port=port, **driver)
            except asyncio.CancelledError:
                # Otherwise a caller with a shorter time limit would never get past a hanging host.
                self._first = (number + 1) % len(hosts)
                raise
            except (OSError, asyncpg.CannotConnectNowError) as error:
                failure = error
            except asyncpg.TargetServerAttributeNotMatched as error:
                failure = failure or error
            else:
                self._first = 0
                return connection
        assert failure is not None  # noqa: S101  there are hosts
        raise failure

    async def _one(self, **driver: Any) -> asyncpg.Connection:
        options = self._options
        return await asyncpg.connect(
            options.url, timeout=self._timeout, server_settings=options.server_settings, **driver
        )
