"""The open connections of one API server, which can be dropped, frozen and taken over."""

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

from aiohttp import web

from collector.events import ResettableEvent

__all__ = ["Connections"]

_Successor = TypeVar("_Successor", bound=asyncio.Protocol)


class Connections:
    """The connections of a running server; a frozen one stays open, but nothing is sent on it."""

    def __init__(self) -> None:
        self.server: web.Server | None = None
        self.freezes_new = False
        self._frozen: set[object] = set()
        self._thawed = ResettableEvent()
        self._taken: set[asyncio.Transport] = set()

    @property
    def taken_over(self) -> int:
        """The number of open connections that another protocol has."""
        return len(self._taken)

    def drop(self) -> int:
        """Break every connection and return their number."""
        transports = {protocol.transport for protocol in self._protocols() if protocol.transport is not None}
        transports |= self._taken
        for transport in transports:
            transport.abort()  # not narrowed by isinstance: those of uvloop are no subclass of asyncio.Transport
        self._frozen.clear()
        return len(transports)

    def freeze(self, *, new: bool) -> int:
        """Freeze the open connections, and with `new` also later ones; return the number of frozen ones."""
        self._frozen.update(self._protocols())
        self.freezes_new = new
        return len(self._frozen)

    def thaw(self) -> None:
        """Thaw every frozen connection; pending data is sent now."""
        self.freezes_new = False
        self._frozen.clear()
        self._thawed.pulse()

    async def wait_until_thawed(self, request: web.BaseRequest) -> None:
        """Wait until the connection of a request may send: immediately, or after a thaw."""
        while self.freezes_new or request.protocol in self._frozen:
            await self._thawed.wait()

    def take_over(
        self, request: web.BaseRequest, protocol: Callable[[asyncio.Transport, Callable[..., None]], _Successor]
    ) -> tuple[asyncio.Transport, _Successor]:
        """Hand a connection over to another protocol; the HTTP server still learns of its end."""
        transport, http = cast("asyncio.Transport", request.transport), request.protocol
        self._taken.add(transport)

        def lost(error: Exception | None) -> None:
            self._taken.discard(transport)
            http.connection_lost(error)

        successor = protocol(transport, lost)
        transport.set_protocol(successor)
        return transport, successor

    def _protocols(self) -> list[web.RequestHandler]:
        return [] if self.server is None else self.server.connections
