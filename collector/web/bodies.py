"""Reads request bodies, which may be large, slow or compressed."""

import anyio
from aiohttp import web

__all__ = ["read_body"]

BODY_TIMEOUT_SECONDS = 10.0  # for a body to arrive


async def read_body(request: web.Request, most: int) -> bytes:
    """Return a request body of at most `most` bytes; raises an HTTP error for any other."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(text="expected a body without Content-Encoding")
    received = bytearray()
    try:
        with anyio.fail_after(BODY_TIMEOUT_SECONDS):
            async for chunk in request.content.iter_any():
                received += chunk
                if len(received) > most:
                    text = f"expected a body of at most {most} bytes"
                    raise web.HTTPRequestEntityTooLarge(most, len(received), text=text)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="timed out waiting for the body") from None
    return bytes(received)
