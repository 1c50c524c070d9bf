"""Reads the body of a response in small pieces, each charged to its cluster's share of the event loop."""

from typing import Self

import aiohttp

from collector.kube.errors import LimitExceededError, from_transport
from collector.kube.limits import LoopShare

__all__ = ["Chunks", "read_body"]

PIECE_BYTES = 64 << 10  # bytes of a body taken in one piece, and so processed in one turn


async def read_body(response: aiohttp.ClientResponse, host: str, share: LoopShare, limit: int) -> bytes:
    """Return the body, decompressed in small pieces and never beyond the limit; LimitExceededError for a larger one."""
    body = bytearray()
    while True:
        chunk = await _read(response.content, share)
        if not chunk:
            return bytes(body)
        started = share.clock()
        body += chunk
        if len(body) > limit:
            response.close()
            raise LimitExceededError.of(host, f"a response is larger than {limit}, decompressed", "max_answer_size")
        await share.pause(started)


class Chunks:
    """A body as it arrives, with our errors."""

    def __init__(self, content: aiohttp.StreamReader, host: str, share: LoopShare) -> None:
        self._content = content
        self._host = host
        self._share = share

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk; raises ClusterError."""
        try:
            chunk = await _read(self._content, self._share)
        except (aiohttp.ClientError, OSError) as error:
            raise from_transport(self._host, error) from None
        if not chunk:
            raise StopAsyncIteration
        return chunk


async def _read(content: aiohttp.StreamReader, share: LoopShare) -> bytes:
    """Return what has arrived of a body, at least a byte, or nothing at its end; charge for reading it.

    It may come in thousands of pieces, and reading one triggers parsing and decompressing the next.
    """
    first = await content.read(1)
    if not first:
        return b""
    started = share.clock()
    chunk = first + content.read_nowait(PIECE_BYTES)
    share.charge(started)
    return chunk
