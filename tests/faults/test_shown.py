"""What is really wrong has to be shown by every process that reads the cluster, in metrics and API."""

import random
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults import shown
from tests.faults.plan import SHOW, Arguments, Kind, Step
from tests.faults.shown import show, to_show

LOST = {"cluster": "prod", "node": "n1", "uuid": "GPU-1", "listed": True}
OFF = {"cluster": "prod", "node": "n1", "uuid": "GPU-1"}
CLAIMED = {**OFF, "to_cluster": "test", "to_node": "n2"}
ROW = {"cluster": "prod", "node": "n1", "state": "lost"}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "SECONDS", 0.0)


def told(
    monkeypatch: pytest.MonkeyPatch,
    given: Arguments,
    samples: Any,
    rows: Any = (),
    *,
    clusters: Iterable[str] = ("prod", "test"),
    calm: bool = True,
    possible: bool = True,
    rereads: bool = True,
) -> list[str]:
    """What is not shown by a process that reads these clusters, with these samples and rows of GPUs."""
    process = SimpleNamespace(name="one", api=lambda _path: {"gpus": rows})
    done: list[Step] = []

    def perform(step: Step) -> bool:
        done.append(step)
        return possible

    world: Any = SimpleNamespace(
        rereads=rereads,
        processes=[process],
        clusters_of=lambda _process: set(clusters),
        perform=perform,
        act=lambda cluster, action, *, node: done.append(Step(action, {"cluster": cluster, "node": node})),
    )
    monkeypatch.setattr(shown, "scrape", lambda _process: samples)
    fault = "claim" if "to_node" in given else "lose"
    wrong = show(world, Step(SHOW, {"fault": fault, **given}), calm=calm)
    assert done[0] == Step(fault, given)
    restarted = [(step.arguments["cluster"], step.arguments["node"]) for step in done[1:]]
    nodes_read = [("prod", "n1"), *([("test", "n2")] if fault == "claim" else [])]
    assert restarted == ([] if rereads or not possible or not calm else nodes_read)
    return wrong


def nodes(**lost: float) -> list[Any]:
    return [("gpuid_node_gpus", {"cluster": "prod", "node": node, "state": "lost"}, one) for node, one in lost.items()]


def conflicts(**clusters: float) -> list[Any]:
    return [("gpuid_gpu_conflicts", {"cluster": cluster}, value) for cluster, value in clusters.items()]


def test_a_lost_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, LOST, nodes(n1=1), [ROW]) == []
    for samples in (nodes(), nodes(n1=0), nodes(n1=2), nodes(n2=1), None):
        assert told(monkeypatch, LOST, samples, [ROW]) == ["one: not shown: in its scrape that GPU-1 is lost"]
    for rows in ((), [ROW | {"node": "n2"}], [ROW | {"state": "found"}], [ROW | {"state": "gone"}]):
        assert told(monkeypatch, LOST, nodes(n1=1), rows) == ["one: not shown: in its API that GPU-1 is lost"]
    assert told(monkeypatch, LOST, nodes(), clusters=["test"]) == []
    assert told(monkeypatch, LOST, nodes(), calm=False) == []  # something else may hide it
    assert told(monkeypatch, LOST, nodes(), possible=False) == []


def test_a_gpu_that_fell_off_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    info = [("gpuid_gpu_info", {"uuid": "GPU-1"}, 1.0)]
    assert told(monkeypatch, OFF, nodes(), [ROW | {"state": "gone"}]) == []
    assert told(monkeypatch, OFF, nodes(n1=1) + info, [ROW]) == []
    assert told(monkeypatch, OFF, None, [ROW]) == ["one: not shown: in its scrape that GPU-1 is lost"]
    assert told(monkeypatch, OFF, info, [ROW]) == ["one: not shown: in its scrape that GPU-1 is lost"]
    assert told(monkeypatch, OFF, nodes(), [ROW | {"state": "found"}]) == [
        "one: not shown: in its API that GPU-1 is lost"
    ]


def test_a_gpu_that_two_nodes_report(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, CLAIMED, conflicts(prod=1, test=1)) == []
    assert told(monkeypatch, CLAIMED, conflicts(prod=1, test=0)) == ["one: not shown: the conflict in test about GPU-1"]
    assert len(told(monkeypatch, CLAIMED, [])) == 2
    assert told(monkeypatch, CLAIMED, conflicts(prod=1), clusters=["prod"]) == []
    assert told(monkeypatch, CLAIMED, conflicts(prod=1, test=1), rereads=False) == []


def test_only_what_is_configured_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    world: Any = SimpleNamespace(collected={"prod", "test"})
    draws: list[Arguments | None] = [None, LOST | {"cluster": "unknown"}, CLAIMED | {"to_cluster": "unknown"}, CLAIMED]
    for left in (draws, draws[:-1]):
        given = iter([*left, *[None] * shown.DRAWS])
        kinds = {
            name: Kind(name, 1, lambda *_, given=given: next(given), lambda *_: None) for name in ("lose", "claim")
        }
        monkeypatch.setattr(shown, "KINDS", kinds)
        monkeypatch.setattr(shown, "SHARE", 1.0)
        step = to_show(world, random.Random(1))
        assert (step is None) is (left == draws[:-1])
        assert step is None or step.arguments == {"fault": step.arguments["fault"], **CLAIMED}
    monkeypatch.setattr(shown, "SHARE", 0.0)
    assert to_show(world, random.Random(1)) is None
