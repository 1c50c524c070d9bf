"""Pages as a reader sees them: their text and their links."""

from collections.abc import Awaitable, Callable
from html.parser import HTMLParser

import httpx
import pytest

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Page(HTMLParser):
    """One answer, read."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer = answer
        self.status = answer.status_code
        self.links: list[str] = []
        self._words: list[str] = []
        self._moment = ""  # the title of the time that is being read
        self.feed(answer.text)
        self.close()

    @property
    def text(self) -> str:
        """What can be read, with single blanks; after a time that is written as an age, the time itself."""
        return " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links.append(dict(attrs)["href"] or "")
        elif tag == "time":
            self._moment = dict(attrs).get("title") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "time":
            self._words.append(f" {self._moment} ")

    def handle_data(self, data: str) -> None:
        self._words.append(data)


@pytest.fixture
def visit() -> Callable[[httpx.AsyncClient, str], Awaitable[Page]]:
    """Open a path as a browser does."""

    async def visit(client: httpx.AsyncClient, path: str) -> Page:
        return Page(await client.get(path, headers=BROWSER))

    return visit
