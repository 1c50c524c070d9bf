"""The text of web pages, with which proxies and servers answer when something fails."""

from contextlib import suppress
from html.parser import HTMLParser

from collector.text import one_line

__all__ = ["without_markup"]

MAX_PAGE_LENGTH = 1 << 14  # characters of a web page that are searched for text


def without_markup(text: str) -> str:
    """Return the text of a web page, each phrase once, as error pages repeat their title; other text is unchanged.

    Only the first MAX_PAGE_LENGTH characters of a page count.
    """
    start = text[:1000].lstrip("\ufeff \t\r\n").lower()
    if not start.startswith("<") or not any(
        mark in start for mark in ("<!doctype html", "<html", "<head", "<title", "<body", "<h1")
    ):
        return text
    page = _Page()
    with suppress(AssertionError, ValueError):  # which Python raises for some broken markup
        page.feed(text[:MAX_PAGE_LENGTH])
        page.close()
    return "; ".join(dict.fromkeys(page.phrases))


class _Page(HTMLParser):
    """Collects the visible text of a web page."""

    def __init__(self) -> None:
        super().__init__()
        self.phrases: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._hidden = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden and (phrase := one_line(data)):
            self.phrases.append(phrase)
