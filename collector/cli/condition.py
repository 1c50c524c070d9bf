"""A GPU's condition and mark in a collector's rows, whose contents are not trusted."""

from collections.abc import Mapping, Sequence
from typing import Any

from collector.health import Degradation, Level
from collector.views.humanize import LEVEL_WORDS

__all__ = ["badness", "condition_words", "flat_condition", "level_style", "mark_of", "needs", "reasons_of"]

Row = Mapping[str, Any]


def reasons_of(row: Row) -> list[str]:
    """Return why a GPU is degraded, worst reason first; empty for a healthy one."""
    reasons = row.get("degraded")
    return list(map(str, reasons)) if isinstance(reasons, list) else []


def mark_of(row: Row) -> Row:
    """Return the mark of a GPU; empty if it has none."""
    mark = row.get("mark")
    return mark if isinstance(mark, Mapping) else {}


def needs(row: Row) -> str:
    """Return what a degraded GPU needs, in words; empty for a healthy one."""
    level = row.get("level")
    return next((LEVEL_WORDS[one] for one in Level if one == level), "")


def flat_condition(row: Row) -> dict[str, Any]:
    """Return a GPU's condition and mark as a table or CSV file shows them."""
    mark = mark_of(row)
    return {"degraded": ",".join(reasons_of(row)), "mark": mark.get("kind"), "ticket": mark.get("ticket")}


def condition_words(row: Row) -> list[str]:
    """Return in a few words what a GPU needs and how it is marked; only the mark if it is merely lost."""
    mark = mark_of(row).get("kind")
    words = [needs(row)] if needs(row) and reasons_of(row) != [Degradation.LOST] else []
    return words + ([f"marked {mark}"] if mark else [])


def badness(row: Row) -> tuple[int, int]:
    """Return the sort key of degraded GPUs, worst first: what they need, then their worst reason."""
    return _rank(row.get("level"), list(Level)), _rank(next(iter(reasons_of(row)), None), list(Degradation))


def level_style(text: str) -> str:
    """Return the style of what a GPU needs, as a level or in words."""
    if Level.REPLACE in text:  # in the words, too
        return "red"
    return "yellow" if Level.RESET in text else ""


def _rank(value: object, known: Sequence[object]) -> int:
    return known.index(value) if value in known else len(known)
