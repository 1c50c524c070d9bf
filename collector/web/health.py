"""Whether the collector lives and whether it has looked at every cluster."""

from aiohttp import web

from collector.model import ClusterStatus
from collector.web.auth import ADMITTED
from collector.web.context import CONTEXT

__all__ = ["READINESS", "Readiness", "healthz", "readyz"]


async def healthz(_request: web.Request) -> web.Response:
    """Answer ok: whoever gets this answer knows that the event loop turns."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """Answer 200 from when every cluster has had its first answer, good or bad; `?verbose` lists them.

    Once ready it stays so: a cluster that is added later must not take the others' series away.
    """
    context = request.app[CONTEXT]
    readiness = request.app[READINESS]
    starting = [] if readiness.reached else context.starting
    readiness.reached = not starting
    lines = []
    if ("verbose" in request.query or starting) and await request[ADMITTED]():
        lines = [_line(name, context.statuses.get(name)) for name in sorted(context.clusters())]
    verdict = f"not ready: {len(starting)} of {len(context.clusters())} clusters are starting" if starting else "ok"
    return web.Response(text="\n".join([*lines, verdict, ""]), status=503 if starting else 200)


class Readiness:
    """Whether the collector has ever been ready."""

    reached = False


READINESS = web.AppKey("readiness", Readiness)


def _line(name: str, status: ClusterStatus | None) -> str:
    if status is not None and status.up:
        return f"[+]{name} up"
    if status is None or not status.message:
        return f"[-]{name} {status.state if status else 'starting'}"
    return f"[-]{name} {status.state}: {status.message}"
