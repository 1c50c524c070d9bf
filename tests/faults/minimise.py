"""Shortens a plan that fails: what is left out without making it pass was not needed (delta debugging)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["minimised"]

_Item = TypeVar("_Item")


def minimised(items: Sequence[_Item], fails: Callable[[list[_Item]], bool]) -> list[_Item]:
    """Return a part of what fails, in its order, that still fails and that no part of can be left out of.

    `fails` may say no where there is no time left: what was found so far is then the result.
    """
    left, parts = list(items), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        for start in range(0, len(left), size):
            if fails(rest := left[:start] + left[start + size :]):
                left, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(left))
    return left
