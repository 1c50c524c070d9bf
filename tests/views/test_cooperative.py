"""Walking and sorting a whole fleet between the turns of the event loop."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.views.cooperative import sorted_window, yielding


@given(
    items=st.lists(st.tuples(st.integers(0, 20), st.integers()), max_size=60),
    offset=st.integers(0, 70),
    limit=st.integers(0, 70),
    reverse=st.booleans(),
    copies=st.sampled_from([1, 100]),
)
def test_a_window_equals_a_slice_of_the_sorted_whole(items, offset, limit, reverse, copies) -> None:
    items = items * copies  # beyond what is sorted at once

    async def window() -> list[tuple[int, int]]:
        return await sorted_window(items, lambda item: item[0], offset, limit, reverse=reverse)

    expected = sorted(items, key=lambda item: item[0], reverse=reverse)[offset : offset + limit]
    assert [item[0] for item in anyio.run(window)] == [item[0] for item in expected]


@pytest.mark.anyio
async def test_walking_a_fleet_yields_to_other_tasks() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        walked = [item async for item in yielding(range(300_000))]
        tasks.cancel_scope.cancel()
    assert len(walked) == 300_000
    assert turns > 1
