"""What the body of an answer says to a person: the words of a page, or a text as it is."""

from html.parser import HTMLParser

from collector.text import one_line

__all__ = ["page_text"]

_PAGE_BYTES = 1 << 14  # of a body that is searched for words


def page_text(body: bytes) -> str:
    """Return what a body says to a person: a page's title and words, or its text."""
    text = body[:_PAGE_BYTES].decode(errors="replace")
    if "<" not in text:
        return one_line(text)
    page = _Page()
    page.feed(text)
    title, words = one_line(" ".join(page.title)), one_line(" ".join(page.words))
    return ": ".join(part for part in (title, words) if part)


class _Page(HTMLParser):
    """The words of an HTML page, the title first."""

    def __init__(self) -> None:
        super().__init__()
        self.title: list[str] = []
        self.words: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        """Note where the words are that follow."""
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        """Note that they have ended."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Keep what a person would see."""
        if self._inside == "title":
            self.title.append(data)
        elif self._inside not in {"script", "style"}:
            self.words.append(data)
