"""What is really wrong has to be shown by every process that reads the cluster, in metrics and API."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults import shown
from tests.faults.plan import Arguments, Kind
from tests.faults.shown import show

LOST = {"cluster": "prod", "node": "n1", "uuid": "GPU-1", "listed": True}
OFF = {"cluster": "prod", "node": "n1", "uuid": "GPU-1"}
CLAIMED = {**OFF, "to_cluster": "test", "to_node": "n2"}
ROW = {"cluster": "prod", "node": "n1", "state": "lost"}


def given(monkeypatch: pytest.MonkeyPatch, kind: str, arguments: Arguments | None) -> None:
    """Let what happens after a calm be this."""
    monkeypatch.setattr(shown, "SHARE", 1.0)
    monkeypatch.setattr(shown, "SECONDS", 0.0)
    kinds = {name: Kind(name, 1, lambda *_: arguments, lambda *_: None) for name in ("lose", "claim")}
    monkeypatch.setattr(shown, "KINDS", kinds)
    monkeypatch.setattr(random.Random, "choice", lambda _self, _kinds: kind)


def told(
    monkeypatch: pytest.MonkeyPatch, samples: Any, rows: Any = (), *, clusters: Any = ("prod", "test")
) -> list[str]:
    """What is not shown by a process with these samples and rows of lost GPUs."""
    process = SimpleNamespace(name="one", api=lambda _path: {"gpus": rows})
    world: Any = SimpleNamespace(
        setup="sqlite",
        seed=1,
        rereads=True,
        collected={"prod", "test"},
        processes=[process],
        perform=lambda _step: True,
        clusters_of=lambda _process: set(clusters),
    )
    monkeypatch.setattr(shown, "scrape", lambda _process: samples)
    return show(world, random.Random(1), lambda _text: None)


def nodes(**lost: float) -> list[Any]:
    return [("gpuid_node_gpus", {"cluster": "prod", "node": node, "state": "lost"}, one) for node, one in lost.items()]


def conflicts(**clusters: float) -> list[Any]:
    return [("gpuid_gpu_conflicts", {"cluster": cluster}, value) for cluster, value in clusters.items()]


def test_a_lost_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "lose", LOST)
    assert told(monkeypatch, nodes(n1=1), [ROW]) == []
    for samples in (nodes(), nodes(n1=0), nodes(n1=2), nodes(n2=1), None):
        assert told(monkeypatch, samples, [ROW]) == ["one: does not show in its scrape that GPU-1 is lost"]
    for rows in ((), [ROW | {"node": "n2"}], [ROW | {"state": "found"}], [ROW | {"state": "gone"}]):
        assert told(monkeypatch, nodes(n1=1), rows) == ["one: does not show in its API that GPU-1 is lost"]
    assert told(monkeypatch, nodes(), (), clusters=["test"]) == []


def test_a_gpu_that_fell_off_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "lose", OFF)
    info = [("gpuid_gpu_info", {"uuid": "GPU-1"}, 1.0)]
    assert told(monkeypatch, nodes(), [ROW | {"state": "gone"}]) == []
    assert told(monkeypatch, nodes(n1=1) + info, [ROW]) == []
    assert told(monkeypatch, info, [ROW]) == ["one: does not show in its scrape that GPU-1 is lost"]
    assert told(monkeypatch, nodes(), [ROW | {"state": "found"}]) == [
        "one: does not show in its API that GPU-1 is lost"
    ]


def test_a_gpu_that_two_nodes_report(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "claim", CLAIMED)
    assert told(monkeypatch, conflicts(prod=1, test=1)) == []
    assert told(monkeypatch, conflicts(prod=1, test=0)) == ["one: does not show the conflict in test about GPU-1"]
    assert len(told(monkeypatch, [])) == 2
    assert told(monkeypatch, conflicts(prod=1), clusters=["prod"]) == []


def test_where_nothing_can_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (None, LOST | {"cluster": "unknown"}, CLAIMED | {"to_cluster": "unknown"}):
        given(monkeypatch, "claim", arguments)
        assert told(monkeypatch, []) == []
