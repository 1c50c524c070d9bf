"""What excuses a change at one calm excuses nothing at the next: the checker with a world of one GPU in one node."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from collector.simulator.fleet import SimulationError
from tests.faults.compare_history import stamp
from tests.faults.plan import KINDS
from tests.faults.run import Checker
from tests.faults.truth import Facts, Place, Stay, Truth
from tests.faults.world import Setup, World

A, B = ("prod", "n1"), ("prod", "n2")
OTHER = ("other", "n1")  # the first one under another name of its cluster


class CalmWorld(SimpleNamespace):
    """A world in which nothing has happened since the last calm."""

    processes = ()

    def settle(self) -> None:
        World.settle(self)  # type: ignore[arg-type]


class Calms:
    """The checker's calms; changes are recorded in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        truth = Truth()
        truth.lives["GPU-1"] = [Stay(time.time() - 100, frozenset([A]))]
        truth.facts["GPU-1"] = [Facts(time.time() - 100, "100", "H100", "", responds=True, health={})]
        truth.note_machines(dict.fromkeys([A, B, OTHER], "i-1"))
        empty: dict[str, Any] = {"dropped": set(), "renamed": {}, "doubled": set(), "clocks_stepped": False}
        fleet = SimpleNamespace(worn=dict, expected=lambda *_: [])
        world: Any = CalmWorld(
            setup=Setup.SQLITE, truth=truth, fleet=fleet, collected={"prod"}, sinks={}, done=[], **empty
        )
        self.world, self._checker = world, Checker(world, 1)
        monkeypatch.setattr(self._checker, "_now", lambda _begun: [])  # of what is recorded here, all is true now
        monkeypatch.setattr(self._checker, "_compare_placements", list)
        monkeypatch.setattr(self._checker, "_sinks", SimpleNamespace(odd=[]))
        self._recorded: list[dict[str, Any]] = self._checker._changes
        self.record(("appeared", A))
        assert self.wrong() == []

    def record(self, *events: tuple[str, Place], ahead: float = 0.0) -> None:
        """Record what happens by a clock that is ahead (seconds)."""
        for event, (cluster, node) in events:
            which = {"id": len(self._recorded) + 1, "uuid": "GPU-1", "previous_cluster": None, "previous_node": None}
            when = {"event": event, "cluster": cluster, "node": node, "time": stamp(time.time() + ahead)}
            what = {
                "serial": "100",
                "model": "H100",
                "chassis": None,
                "machine": "i-1",
                "mark": None,
                "last_known": None,
            }
            self._recorded.append(which | when | what)

    def hide(self, place: Place) -> None:
        """Have a place be one that may be dropped, until the next calm."""
        self.world.truth.hide(place)
        self.world.truth.show(place)

    def later(self) -> None:
        """Have what could be dropped so far be long ago."""
        for windows in self.world.truth.hidden.values():
            windows[:] = [(start - 100, end - 100) for start, end in windows]

    def wrong(self) -> list[str]:
        """Come to the next calm."""
        return self._checker.check()


@pytest.fixture
def calms(monkeypatch: pytest.MonkeyPatch) -> Calms:
    return Calms(monkeypatch)


AGAIN = ("vanished", A), ("appeared", A)


def test_a_clock_that_was_stepped(calms: Calms) -> None:
    calms.world.clocks_stepped = True
    calms.hide(A)
    calms.record(*AGAIN, ahead=-50.0)
    assert calms.wrong() == []
    calms.later()
    calms.record(*AGAIN)
    assert len(calms.wrong()) == 1


def test_a_clock_that_was_stepped_and_a_node_that_was_hidden_before(calms: Calms) -> None:
    calms.hide(A)
    assert calms.wrong() == []
    calms.later()
    calms.world.clocks_stepped = True
    calms.record(*AGAIN)
    assert len(calms.wrong()) == 1


def test_a_gpu_that_two_nodes_had(calms: Calms) -> None:
    calms.world.doubled.add("GPU-1")
    calms.world.truth.lives["GPU-1"] += [Stay(time.time(), frozenset([A, B])), Stay(time.time(), frozenset([A]))]
    calms.record(("appeared", B), ("vanished", B))
    assert calms.wrong() == []
    calms.world.truth.lives["GPU-1"] += [Stay(time.time(), frozenset([A, B])), Stay(time.time(), frozenset([A]))]
    calms.record(("appeared", B), ("vanished", B))
    assert len(calms.wrong()) == 1


def test_a_cluster_that_had_another_name(calms: Calms) -> None:
    calms.world.renamed["other"] = calms.world.truth.names["other"] = "prod"
    calms.record(("appeared", OTHER), ("vanished", OTHER))
    calms.hide(("prod", ""))
    assert calms.wrong() == []
    calms.record(("appeared", OTHER))
    assert len(calms.wrong()) == 1


@pytest.mark.parametrize(("setup", "wrong"), [(Setup.SHARDS, 0), (Setup.SQLITE, 2)])
def test_a_gpu_that_left_a_removed_cluster_earlier_than_is_recorded(calms: Calms, setup: Setup, wrong: int) -> None:
    calms.world.setup = setup
    calms.world.dropped.add("prod")
    calms.world.truth.lives["GPU-1"].append(Stay(time.time() - 10, frozenset([OTHER])))
    calms.hide(A)
    calms.record(("appeared", OTHER))
    calms.record(("vanished", A), ahead=-5.0)
    assert len(calms.wrong()) == wrong
    calms.record(("appeared", A), ("vanished", A))
    assert len(calms.wrong()) > 0


def test_a_node_has_changed_until_the_next_calm(calms: Calms) -> None:
    truth = calms.world.truth
    assert calms.wrong() == []
    assert not truth.has_changed(A)
    truth.lives["GPU-1"].append(Stay(time.time(), frozenset([B])))
    assert truth.has_changed(A)
    assert truth.has_changed(B)
    assert not truth.has_changed(OTHER)
    truth.settle()
    assert not truth.has_changed(A)


def test_no_gpu_is_lost_from_a_node_that_has_changed(calms: Calms) -> None:
    """In a shortened plan, the calm between a move and this step may be missing."""
    world, lost = calms.world, list[str]()
    world.act = lambda _cluster, _action, *, uuid, **_given: lost.append(uuid)
    step = {"cluster": "prod", "node": "n1", "uuid": "GPU-1"}
    KINDS["lose"].do(world, step)
    world.truth.lives["GPU-2"] = [Stay(time.time(), frozenset([A]))]
    with pytest.raises(SimulationError):
        KINDS["lose"].do(world, step)
    assert lost == ["GPU-1"]


@pytest.mark.parametrize("rereads", [False, True])
def test_the_pod_in_which_a_command_hung_is_restarted_where_its_node_is_not_read_again_soon(
    calms: Calms, monkeypatch: pytest.MonkeyPatch, rereads: bool
) -> None:
    problem = {"id": "node_failing:timeout", "nodes": [{"cluster": "prod", "node": "n1"}]}
    process = SimpleNamespace(api=lambda _path: {"problems": [problem, {"id": "other", "nodes": [problem]}]})
    restarted: list[Any] = []
    calms.world.processes, calms.world.rereads = (process,), rereads
    calms.world.act = lambda *what, **rest: restarted.append((*what, rest))
    answers = iter([["unread"], []])
    monkeypatch.setattr(calms._checker, "_now", lambda _begun: next(answers))
    for name in ("_counters", "_growth"):
        monkeypatch.setattr(calms._checker, name, list)
    assert calms.wrong() == []
    assert restarted == ([] if rereads else [("prod", "restart_container", {"node": "n1"})])
