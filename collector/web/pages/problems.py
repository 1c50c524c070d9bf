"""The page of all problems, with everything affected by each."""

from aiohttp import web

from collector.web.keys import PROBLEMS
from collector.web.pages.rendering import page

__all__ = ["problems"]


async def problems(request: web.Request) -> web.Response:
    """Show every problem with its remedy, worst first."""
    return await page(request, "problems.html", problems=await request.app[PROBLEMS].all())
