"""Cursors of the API's lists from the store: opaque text that stays valid while rows are added."""

import re
from typing import NamedTuple

from collector.views.listing import EXPECTED_NEXT

__all__ = ["ChangeCursor", "row_id"]

_CHANGE = re.compile(r"(\d{1,18})(?:-(\d{1,15}(?:\.\d{1,20})?))?", re.ASCII)


class ChangeCursor(NamedTuple):
    """The last change of a page, or one known only by id, after which a client asks for newer ones."""

    id: int
    time: float | None  # Unix seconds

    def __str__(self) -> str:
        """Return it as text."""
        return str(self.id) if self.time is None else f"{self.id}-{self.time!r}"

    @classmethod
    def parse(cls, text: str) -> "ChangeCursor":
        """Return the cursor that `str` wrote; raises ValueError."""
        if (found := _CHANGE.fullmatch(text)) is None:
            raise ValueError(f"{EXPECTED_NEXT}, or the id of a change")
        return cls(int(found[1]), None if found[2] is None else float(found[2]))

    @property
    def moment(self) -> float:
        """The time, for a page sorted by time; raises ValueError if unknown."""
        if self.time is None:
            raise ValueError(EXPECTED_NEXT)
        return self.time


def row_id(text: str) -> int:
    """Return the id of a row; raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(EXPECTED_NEXT)
    return int(text)
