"""A watched cluster, and the rule that no log ever contains a secret."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collector.simulator import Simulator
from tests.collect.world import World
from tests.support.kubernetes import nothing_says_a_secret

__all__ = ["nothing_says_a_secret"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Simulator(clusters=2, nodes=4, gpus=2, latency=0.0, directory=tmp_path, bookmark_interval=0.2) as made:
        yield World(made)
