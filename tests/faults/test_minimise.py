"""A plan that fails is shortened to what the failure needs."""

import random
from pathlib import Path

import pytest

from tests.faults.minimise import minimised
from tests.faults.plan import Step, load, save


@pytest.mark.parametrize("needed", [{3}, {0, 99}, {17, 18, 60}, set(range(40, 48)), {5, 25, 45, 65, 85}])
def test_what_is_needed_remains_in_its_order(needed: set[int]) -> None:
    tried = 0

    def fails(items: list[int]) -> bool:
        nonlocal tried
        tried += 1
        return needed <= set(items)

    assert minimised(range(100), fails) == sorted(needed)
    assert tried < 300


def test_without_time_the_plan_stays_as_it_is() -> None:
    assert minimised([1, 2, 3], lambda items: False) == [1, 2, 3]


def test_nothing_more_can_be_left_out() -> None:
    chance = random.Random(1)
    for _ in range(50):
        needed = set(chance.sample(range(30), chance.randint(1, 6)))
        other = set(chance.sample(range(30), chance.randint(1, 6)))  # another failure of the same plan

        def fails(items: list[int], needed: set[int] = needed, other: set[int] = other) -> bool:
            return needed <= set(items) or other <= set(items)

        left = minimised(range(30), fails)
        assert fails(left)
        assert not any(fails([one for one in left if one != item]) for item in left)


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    steps = [Step("move", {"node": "n1", "reboot": True, "uuid": None}), Step("calm"), Step("wear", {"count": 3})]
    save(tmp_path / "plan.jsonl", "sqlite", 7, steps)
    assert load(tmp_path / "plan.jsonl") == ("sqlite", 7, steps)
