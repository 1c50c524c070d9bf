"""What each change says of its GPU is compared with what was true at the last calm and since."""

from typing import Any

import pytest

from collector.simulator.fleet import Fleet
from tests.faults.compare_facts import compare_facts
from tests.faults.compare_history import stamp
from tests.faults.truth import Facts, Truth

NEW = Facts(100.0, "165", "H100", "", responds=True, health={"row_remap_pending": False, "ecc_dram_correctable": 0})
WORN = NEW._replace(start=200.0, health={"row_remap_pending": True, "ecc_dram_correctable": 3})
CHANGE: dict[str, Any] = {
    "id": 1,
    "uuid": "GPU-1",
    "event": "health",
    "cluster": "prod",
    "node": "n1",
    "time": stamp(300.0),
    "serial": "165",
    "model": "H100",
    "chassis": None,
    "machine": "i-2",
    "mark": "rma",
    "last_known": {"serial": stamp(250.0)},
    "changes": {"ecc_dram_correctable": {"before": 0, "after": 3}, "lost": {"before": None, "after": False}},
}


def compared(*known: Facts, clocks: bool = True, **other: Any) -> list[str]:
    """Return what is wrong with a change that is as it should be except for these fields."""
    return compare_facts(
        [CHANGE | other],
        {"GPU-1": known or (NEW, WORN)},
        {("prod", "n1"): ["i-1", "i-2"]},
        lambda _uuid: {None, "rma"},
        names={"other": "prod"},
        clocks=clocks,
    )


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"cluster": "other"},
        {"machine": "i-1", "mark": None, "last_known": None},
        {"event": "vanished", "changes": None},
        {"changes": {"ecc_dram_correctable": {"before": 3, "after": None}}},
        {"changes": {"ecc_dram_correctable": {"before": 3, "after": 0}}},
    ],
)
def test_what_was_so_at_the_last_calm_or_since(other: dict[str, Any]) -> None:
    assert compared(**other) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("serial", "166"), ("serial", None), ("model", "H200"), ("chassis", "182"), ("machine", "i-3"), ("mark", "watch")],
)
def test_what_was_never_so(field: str, value: Any) -> None:
    (wrong,) = compared(**{field: value})
    assert f": {field} is {value!r}, and was " in wrong


def test_health_that_was_never_so() -> None:
    (wrong,) = compared(changes={"ecc_dram_correctable": {"before": 0, "after": 4}})
    assert wrong.endswith("ecc_dram_correctable became 4, and was 0 or 3 by then")
    (wrong,) = compared(changes={"lost": {"before": False, "after": True}})
    assert wrong.endswith("lost became True, and was False by then")


def test_health_that_was_not_so_yet() -> None:
    assert compared(time=stamp(199.0), last_known=None) == []  # times are rounded
    (wrong,) = compared(time=stamp(190.0), last_known=None)
    assert wrong.endswith("ecc_dram_correctable became 3, and was 0 by then")
    assert compared(time=stamp(190.0), clocks=False) == []


def test_what_was_true_at_the_last_calm_may_be_dated_earlier() -> None:
    assert compared(WORN, time=stamp(190.0), last_known=None) == []


def test_what_was_last_known_later() -> None:
    (wrong,) = compared(last_known={"serial": stamp(303.0)})
    assert wrong.endswith("serial was last known after that")


def test_a_gpu_and_a_node_that_never_existed() -> None:
    unknown: dict[str, Any] = {"uuid": "GPU-2", "node": "n2", "event": "appeared", "changes": None}
    wrong = compared(**unknown)
    assert [one.split(": ")[3].split()[0] for one in wrong] == ["serial", "model", "chassis", "machine"]


class TestTheTruth:
    def test_what_was_true_of_a_gpu_since_the_last_calm(self) -> None:
        fleet, truth = Fleet(clusters=1, nodes=1, gpus=2), Truth()
        truth.note(fleet, {"sim-0"})
        (uuid,) = fleet.wear("sim-0", "gpu-0000", None, {"ecc_dram_correctable": 3})
        truth.note(fleet, {"sim-0"})
        truth.note(fleet, {"sim-0"})
        assert [one.health["ecc_dram_correctable"] for one in truth.facts[uuid]][-2:] == [0, 3]
        truth.settle()
        assert [one.health["ecc_dram_correctable"] for one in truth.facts[uuid]] == [3]

    @pytest.mark.parametrize("how", [{}, {"listed": True}, {"silent": True}])
    def test_a_gpu_that_does_not_respond_for_a_while(self, how: dict[str, Any]) -> None:
        fleet, truth = Fleet(clusters=1, nodes=1, gpus=2), Truth()
        truth.note(fleet, {"sim-0"})
        (uuid,) = fleet.lose("sim-0", "gpu-0000", **how)
        truth.note(fleet, {"sim-0"})
        fleet.reboot("sim-0", "gpu-0000")
        truth.note(fleet, {"sim-0"})
        assert [one.responds for one in truth.facts[uuid]][-3:] == [True, False, True]

    def test_a_gpu_that_moved_may_count_as_lost_where_it_was(self) -> None:
        fleet, truth = Fleet(clusters=1, nodes=2, gpus=2), Truth()
        truth.note(fleet, {"sim-0"})
        truth.settle()
        (uuid,) = fleet.move("sim-0", "gpu-0000", "sim-0", "gpu-0001")
        truth.note(fleet, {"sim-0"})
        assert [one.responds for one in truth.facts[uuid]] == [True, False, True]
        assert all(len(known) == 1 for other, known in truth.facts.items() if other != uuid)

    def test_the_marks_of_a_gpu_since_the_last_calm(self) -> None:
        truth = Truth()
        truth.note_mark("GPU-1", ("rma", "OPS-1"))
        truth.note_mark("GPU-1", ("watch", "OPS-1"))
        assert truth.kinds_of_mark("GPU-1") == {None, "rma", "watch"}
        truth.settle()
        assert (truth.kinds_of_mark("GPU-1"), truth.kinds_of_mark("GPU-2")) == ({"watch"}, {None})
        truth.note_mark("GPU-1", None)
        assert (truth.kinds_of_mark("GPU-1"), truth.marks) == ({None, "watch"}, {})

    def test_the_machines_of_a_node_since_the_last_calm(self) -> None:
        truth, node = Truth(), ("prod", "n1")
        for machine in ("i-1", "i-2", "i-2"):
            truth.note_machines({node: machine})
        assert truth.machines[node] == ["i-1", "i-2"]
        truth.settle()
        truth.note_machines({})
        assert truth.machines[node] == ["i-2"]
