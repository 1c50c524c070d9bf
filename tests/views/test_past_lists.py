"""Lists of the fleet at a time, of which only a few rows are chosen."""

from typing import Any

import pytest

from collector.store import PastPlacement
from collector.views.past import PastGpu
from collector.views.past_lists import ROWS_PER_QUERY, list_past_gpus

pytestmark = pytest.mark.anyio

FLEET = 2500


class Then:
    """A fleet at a time that counts how often it is asked."""

    time = 5.0

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def gpus(self, _where: Any, *, after: Any, limit: int) -> list[PastGpu]:
        self.asked.append(limit)
        first = 0 if after is None else int(after.uuid) + 1
        return [PastGpu(placement(n), 1.0, None, None) for n in range(first, min(first + limit, FLEET))]

    async def total_gpus(self, _where: Any) -> int:
        return FLEET


def placement(number: int) -> PastPlacement:
    facts: dict[str, Any] = {"serial": None, "model": None, "chassis": None, "cluster": "c", "node": "n", "machine": ""}
    return PastPlacement(id=number, uuid=f"{number:04}", since=1.0, until=None, confirmed=1.0, **facts)


@pytest.mark.parametrize(
    ("filters", "words", "found"),
    [({}, ["2345"], ["2345"]), ({"state": frozenset(["lost"])}, [], []), ({"degraded": frozenset(["true"])}, [], [])],
)
async def test_rows_filtered_here_are_read_in_batches(filters: Any, words: Any, found: Any) -> None:
    then = Then()
    listed = await list_past_gpus(then, filters, words=words, limit=1)  # type: ignore[arg-type]
    assert [row.uuid for row in listed.rows] == found
    assert then.asked == [ROWS_PER_QUERY] * 3


async def test_the_store_returns_only_the_rows_shown() -> None:
    then = Then()
    listed = await list_past_gpus(then, {}, limit=2)  # type: ignore[arg-type]
    assert ([row.uuid for row in listed.rows], then.asked) == (["0000", "0001"], [3])
