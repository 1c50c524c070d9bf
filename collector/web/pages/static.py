"""The page's static files, kept in memory: they are few and small."""

import hashlib
from pathlib import Path

from aiohttp import web

__all__ = ["SCRIPTS", "STATIC_PATHS", "STYLESHEETS", "static"]

CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {path.name: path.read_bytes() for path in (Path(__file__).parents[1] / "static").iterdir()}
# The URL changes with the content, so that a new release never gets an old script from the browser's cache.
STATIC_PATHS = {name: f"/static/{name}?v={hashlib.sha256(body).hexdigest()[:12]}" for name, body in FILES.items()}
# Every page has all of them: they are small and cached by the browser. The page's own comes first.
_ORDER = sorted(FILES, key=lambda name: (not name.startswith("page."), name))
STYLESHEETS = [STATIC_PATHS[name] for name in _ORDER if name.endswith(".css")]
SCRIPTS = [STATIC_PATHS[name] for name in _ORDER if name.endswith(".js")]


async def static(request: web.Request) -> web.Response:
    """Return one of the files."""
    name = request.match_info["name"]
    if name not in FILES:
        raise web.HTTPNotFound
    content_type = CONTENT_TYPES[Path(name).suffix]
    return web.Response(body=FILES[name], content_type=content_type, charset=None if "svg" in content_type else "utf-8")
