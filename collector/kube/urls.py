"""Parses URLs that come from elsewhere."""

from yarl import URL

__all__ = ["parse_url"]


def parse_url(text: str) -> URL:
    """Return the URL; raises ValueError, and nothing else, for what is none."""
    try:
        return URL(text)
    except IndexError:  # yarl's own, for a user with brackets and no host after it: "http://[]@"
        raise ValueError("not a URL") from None
