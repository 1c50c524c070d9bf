"""The part of a long list that a page shows, and the URLs of the other parts."""

from aiohttp import web

from collector.web.pages.links import address
from collector.web.public_url import local_path, public_url

__all__ = ["PAGE_ROWS", "Window", "window"]

PAGE_ROWS = 100


class Window:
    """Part `number`, counted from 1, of a list with `total` rows; beyond the end, the last part."""

    def __init__(self, path: str, query: dict[str, str], number: int, total: int) -> None:
        self._path, self._query = path, query
        self.total = total
        self.pages = max(1, -(-total // PAGE_ROWS))
        self.number = min(number, self.pages)
        self.offset = (self.number - 1) * PAGE_ROWS
        self.first = min(total, self.offset + 1)
        self.last = min(total, self.offset + PAGE_ROWS)

    @property
    def numbers(self) -> list[int]:
        """The parts to link to: the first, the last and those around this one; 0 stands for a gap."""
        near = {1, self.pages, *range(max(1, self.number - 2), min(self.pages, self.number + 2) + 1)}
        shown: list[int] = []
        for number in sorted(near):
            if shown and number - shown[-1] > 1:
                shown.append(0 if number - shown[-1] > 2 else number - 1)
            shown.append(number)
        return shown

    def at(self, number: int) -> str:
        """Return the address of another part of the same list."""
        return self.with_query(page=None if number == 1 else number)

    def with_query(self, **changed: object) -> str:
        """Return the address of the same list with other parameters."""
        return address(self._path, {**self._query, **changed})


def window(request: web.Request, total: int) -> Window:
    """Return the requested part of a list of `total` rows; raises HTTPBadRequest."""
    text = request.query.get("page", "1")
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise web.HTTPBadRequest(text="page: expected a whole number of at least 1")
    query = {key: value for key, value in request.query.items() if key != "page"}
    return Window(public_url(request).prefix + local_path(request), query, int(text), total)
