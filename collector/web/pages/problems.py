"""The page of all problems, with all that have each of them."""

from aiohttp import web

from collector.web.keys import PROBLEMS
from collector.web.pages.rendering import page

__all__ = ["problems"]


async def problems(request: web.Request) -> web.Response:
    """Show every problem, the worst first, with its remedy."""
    return await page(request, "problems.html", problems=await request.app[PROBLEMS].all())
