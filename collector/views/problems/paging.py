"""Pages of problems in which none is skipped or repeated while others come and go."""

import bisect
import math
from collections.abc import Sequence
from typing import Any

from collector.views.listing import EXPECTED_NEXT, Cursor, Listed
from collector.views.problems.problem import Problem

__all__ = ["list_problems"]

ORDER = "rank"  # in a cursor: the sort column


def list_problems(ranked: Sequence[Problem], *, after: Cursor | None = None, limit: int) -> Listed[Problem]:
    """Return one page of the problems, sorted by rank; raises ValueError for a bad cursor."""
    start = 0 if after is None else bisect.bisect_right(ranked, _rank(after), key=lambda problem: problem.rank)
    shown = list(ranked[start : start + limit])
    more = start + limit < len(ranked)
    return Listed(shown, Cursor(ORDER, None, tuple(map(str, shown[-1].rank))) if more else None, len(ranked))


def _rank(after: Cursor) -> tuple[Any, ...]:
    *numbers, name = after.named(6, ORDER)
    try:
        rank = tuple(map(float, numbers))
    except ValueError:
        raise ValueError(EXPECTED_NEXT) from None
    if any(map(math.isnan, rank)):  # with which nothing compares
        raise ValueError(EXPECTED_NEXT)
    return (*rank, name)
