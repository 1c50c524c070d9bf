"""Reads the bodies of requests, which may be large, slow or packed."""

import anyio
from aiohttp import web

__all__ = ["read_body"]

BODY_TIMEOUT_SECONDS = 10.0  # that a body may take to arrive


async def read_body(request: web.Request, most: int) -> bytes:
    """Return the body of a request of at most `most` bytes; raises an HTTP error for another one."""
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
        raise web.HTTPRequestTimeout(text="the body did not arrive in time") from None
    return bytes(received)
