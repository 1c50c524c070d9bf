"""A GPU's condition and mark in the rows that a collector answers, which may be anything."""

from collections.abc import Mapping
from typing import Any

from collector.health import Degradation, Level
from collector.views.humanize import LEVEL_WORDS

__all__ = ["badness", "condition_words", "flat_condition", "level_style", "needs"]

_LEVELS = (Level.REPLACE, Level.RESET)  # the worst first

Row = Mapping[str, Any]


def needs(row: Row) -> str:
    """Return what a degraded GPU needs, in words; empty for a healthy one."""
    level = row.get("level")
    return next((LEVEL_WORDS[one] for one in _LEVELS if one == level), "")


def flat_condition(row: Row) -> dict[str, Any]:
    """Return what a table or a CSV file has of a GPU's condition and its mark."""
    mark = row.get("mark")
    marked = mark if isinstance(mark, Mapping) else {}
    return {"degraded": ",".join(_reasons(row)), "mark": marked.get("as"), "ticket": marked.get("ticket")}


def condition_words(row: Row) -> list[str]:
    """Return in a few words what a GPU needs and how it is marked; of one that is merely lost, only the mark."""
    mark = flat_condition(row)["mark"]
    words = [needs(row)] if needs(row) and _reasons(row) != [Degradation.LOST] else []
    return words + ([f"marked {mark}"] if mark else [])


def badness(row: Row) -> tuple[int, int]:
    """Return by what degraded GPUs are sorted, the worst first: what they need, then their worst reason."""
    level, reasons, known = row.get("level"), _reasons(row), list(Degradation)
    worst = known.index(Degradation(reasons[0])) if reasons and reasons[0] in known else len(known)
    return _LEVELS.index(Level(level)) if level in _LEVELS else len(_LEVELS), worst


def level_style(text: str) -> str:
    """Return the style of what a GPU needs, as a level or in words."""
    if Level.REPLACE in text:  # in the words, too
        return "red"
    return "yellow" if Level.RESET in text else ""


def _reasons(row: Row) -> list[str]:
    reasons = row.get("degraded")
    return list(map(str, reasons)) if isinstance(reasons, list) else []
