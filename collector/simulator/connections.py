"""The open connections of one API server, and what can be done to them: dropped, frozen, taken over."""

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

from aiohttp import web

__all__ = ["Connections"]

_Successor = TypeVar("_Successor", bound=asyncio.Protocol)


class Connections:
    """Knows every connection of a running server; a frozen one stays open, and nothing is sent on it."""

    def __init__(self) -> None:
        self.server: web.Server | None = None
        self.freezes_new = False
        self._frozen: set[object] = set()
        self._thawed = asyncio.Event()
        self._taken: set[asyncio.Transport] = set()

    def drop(self) -> int:
        """Break every connection at once; returns how many there were."""
        transports = {protocol.transport for protocol in self._protocols() if protocol.transport is not None}
        transports |= self._taken
        for transport in transports:
            transport.abort()  # uvloop's are no asyncio.Transport by their class
        self._frozen.clear()
        return len(transports)

    def freeze(self, *, new: bool) -> int:
        """Freeze the connections that there are, and with `new` those that come; returns how many it found."""
        self._frozen.update(self._protocols())
        self.freezes_new = new
        return len(self._frozen)

    def thaw(self) -> None:
        """Let every frozen connection go on; what waited is sent now."""
        self.freezes_new = False
        self._frozen.clear()
        self._thawed.set()
        self._thawed = asyncio.Event()

    async def pass_gate(self, request: web.BaseRequest) -> None:
        """Return when something may be sent on the request's connection: at once, or after a thaw."""
        while self.freezes_new or request.protocol in self._frozen:
            await self._thawed.wait()

    def take_over(
        self, request: web.BaseRequest, protocol: Callable[[asyncio.Transport, Callable[..., None]], _Successor]
    ) -> tuple[asyncio.Transport, _Successor]:
        """Give a connection to another protocol; HTTP is still told of its end, and forgets it then."""
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
