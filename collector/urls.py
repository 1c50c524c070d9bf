"""Parses URLs that come from elsewhere."""

from yarl import URL

__all__ = ["InvalidUrlError", "parse_url"]


class InvalidUrlError(ValueError):
    """A text is no URL; it is not repeated, as it may hold a secret."""


def parse_url(text: str) -> URL:
    """Return the URL; raises InvalidUrlError, and nothing else, for what is none."""
    try:
        return URL(text)
    except (ValueError, IndexError):  # the latter for a user with brackets and no host after it: "http://[]@"
        raise InvalidUrlError("not a URL") from None
