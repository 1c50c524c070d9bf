"""Which part of a long list a page shows, and where the parts beside it are."""

from aiohttp import web

from collector.web.pages.links import address

__all__ = ["ROWS", "Window", "chosen", "window"]

ROWS = 100  # of one page


class Window:
    """Part `number`, counted from 1, of a list with `total` rows."""

    def __init__(self, path: str, query: dict[str, str], number: int, total: int) -> None:
        self._path, self._query = path, query
        self.total = total
        self.pages = max(1, -(-total // ROWS))
        self.number = min(number, self.pages)
        self.offset = (self.number - 1) * ROWS
        self.first = min(total, self.offset + 1)
        self.last = min(total, self.offset + ROWS)

    def at(self, number: int) -> str:
        """Give the address of another part of the same list."""
        return self.with_query(page=None if number == 1 else number)

    def with_query(self, **changed: object) -> str:
        """Give the address of the same list seen otherwise."""
        return address(self._path, {**self._query, **changed})


def window(request: web.Request, total: int) -> Window:
    """Read which part of a list of `total` rows is wanted; raises HTTPBadRequest. Past the end is the last part."""
    text = request.query.get("page", "1")
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise web.HTTPBadRequest(text="page: expected a whole number from 1")
    query = {key: value for key, value in request.query.items() if key != "page"}
    return Window(request.rel_url.raw_path, query, int(text), total)


def chosen(request: web.Request, key: str, known: list[str]) -> str:
    """Read a choice from the question, by default the first one; raises HTTPBadRequest."""
    value = request.query.get(key) or known[0]
    if value not in known:
        raise web.HTTPBadRequest(text=f"{key}: expected one of {', '.join(name for name in known if name)}")
    return value
