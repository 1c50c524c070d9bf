"""Hostile API servers of every kind, for fifteen seconds each, among healthy clusters that must not notice.

Several are there at the same time, or it would take ten minutes; together they may use of the event loop what one may
by default. `python -m tests.benchmarks.hostile --seconds 300` tries each of them alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.benchmarks.hostile import SECONDS, Neighbours, Seen, neighbours, noticed
from tests.support.hostile import KINDS

GROUPS = 4
ATTEMPTS = 3  # whatever else the machine has to do in one of them is no fault of ours


class Neighbourhood(NamedTuple):
    """The healthy clusters, and what was seen of them alone."""

    neighbours: Neighbours
    alone: Seen


@pytest.fixture(scope="module")
def neighbourhood(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbourhood]:
    with neighbours(tmp_path_factory.mktemp("hostile")) as found:
        yield Neighbourhood(found, found.alone(SECONDS / 2))


@pytest.mark.alone
@pytest.mark.parametrize("group", range(GROUPS))
def test_hostile_clusters_do_not_affect_healthy_ones(neighbourhood: Neighbourhood, group: int) -> None:
    kinds, healthy, alone = list(KINDS)[group::GROUPS], neighbourhood.neighbours, neighbourhood.alone
    faults: list[list[str]] = []
    while len(faults) < ATTEMPTS:
        seen = healthy.watch(*kinds, seconds=SECONDS)
        print(f"{alone=}\n{seen=}")
        faults.append(noticed(seen, alone))
        if not faults[-1]:
            break
        alone = healthy.alone(SECONDS / 2)
    assert not faults[-1], (kinds, faults)
    assert healthy.crashes() == 0
