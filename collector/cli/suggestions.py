"""The messages about unknown names."""

from collections.abc import Collection
from difflib import get_close_matches

from collector.text import natural_key, one_line

__all__ = ["listed", "unknown_name"]

_LISTED_NAMES = 10


def unknown_name(noun: str, name: str, known: Collection[str]) -> str:
    """Return `no NOUN "NAME"`, with the name probably meant or else the known names."""
    text = f'no {noun} "{one_line(name)}"'
    if nearest := get_close_matches(name, known, n=1):
        return f'{text}; did you mean "{one_line(nearest[0])}"?'
    if not known:
        return f"{text}; there are none"
    return f"{text}; there are {listed(sorted(known, key=natural_key))}"


def listed(names: Collection[str]) -> str:
    """Return the first names joined by commas, and the number of others."""
    first = [one_line(name) for name in list(names)[:_LISTED_NAMES]]
    more = f" and {len(names) - _LISTED_NAMES} more" if len(names) > _LISTED_NAMES else ""
    return ", ".join(first) + more
