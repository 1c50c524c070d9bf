"""Answers that no client of an API server expects."""

from aiohttp import web

from collector.simulator import errors
from collector.simulator.faults import Faults, Misbehaviour

__all__ = ["answer", "tear"]

_BEYOND = "https://192.0.2.1/"  # an address that is reserved for documentation


async def answer(faults: Faults, request: web.BaseRequest) -> web.StreamResponse | None:
    """Return what a misbehaving server answers to any request; None if this one is answered as usual."""
    if faults.misbehaves(Misbehaviour.SERVER_ERROR):
        raise errors.internal("etcdserver: request timed out")
    if faults.misbehaves(Misbehaviour.UNAVAILABLE):
        return web.Response(status=503, text="upstream connect error or disconnect/reset before headers")
    if faults.misbehaves(Misbehaviour.GARBAGE):
        return web.Response(body=bytes(range(256)) * 8, content_type="application/json")
    if faults.misbehaves(Misbehaviour.EMPTY):
        return web.Response(content_type="application/json")
    if faults.misbehaves(Misbehaviour.REDIRECT):
        return web.Response(status=302, headers={"Location": _BEYOND})
    if faults.misbehaves(Misbehaviour.NO_HTTP) and request.transport is not None:
        request.transport.write(bytes(range(256)))
        request.transport.close()
        return web.Response()
    return None


async def tear(request: web.BaseRequest, whole: web.StreamResponse) -> web.StreamResponse:
    """Send half of a response, and break the connection."""
    if not isinstance(whole, web.Response) or not isinstance(whole.body, bytes):
        return whole
    half = web.StreamResponse(headers={"Content-Type": "application/json"})
    half.content_length = len(whole.body)
    await half.prepare(request)
    await half.write(whole.body[: len(whole.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half
