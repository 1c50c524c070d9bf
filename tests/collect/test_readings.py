"""When a node is given up, by a clock that the tests turn."""

import random

import pytest

from collector.collect.objects import NodeObject, PodObject
from collector.collect.readings import Readings, RetryPolicy
from collector.config import ClusterSettings, Duration
from collector.model import NodeInfo
from tests.collect.test_watcher import Observed

pytestmark = pytest.mark.anyio

GRACE = 600.0
POD = PodObject(key="gpu-operator/p", uid="u", version="1", node="n")


class World:
    """A node with a pod, which is not ready, so that nothing is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("collector.collect.readings.anyio.current_time", lambda: self.now)
        self.seen = Observed()
        self._cluster = ClusterSettings(context="c", grace=Duration(GRACE))
        self._readings = Readings(self._cluster, self.seen, known={}, pace=RetryPolicy(), rng=random.Random(0))
        self._readings.set_node(None, NodeObject(version="1", facts=NodeInfo(name="n")))
        self.add_pod()
        self._readings.resume()

    def add_pod(self) -> None:
        self._readings.set_pod(0, self._cluster.watched[0], None, POD)

    def delete_pod(self) -> None:
        self._readings.set_pod(0, self._cluster.watched[0], POD, None)

    def gone_at(self, now: float) -> list[str]:
        """Turn the clock and tell what was given up by then."""
        self.now = now
        assert self._readings._take() is None
        return self.seen.gone


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_a_node_without_a_pod_goes_after_its_grace(world: World) -> None:
    assert world.gone_at(10_000) == []
    world.delete_pod()
    assert world.gone_at(10_599) == []
    assert world.gone_at(10_600) == ["n"]


async def test_not_when_its_pod_comes_back_in_time(world: World) -> None:
    world.delete_pod()
    world.now = 500
    world.add_pod()
    assert world.gone_at(10_000) == []


async def test_only_after_a_whole_grace_each_time(world: World) -> None:
    world.delete_pod()
    world.now = 500
    world.add_pod()
    world.now = 550
    world.delete_pod()
    assert world.gone_at(1_149) == []
    assert world.gone_at(1_150) == ["n"]
