"""Conflicts by serial where one node reports a serial for many GPUs: their cost, and that results are the same."""

import random
from typing import Any

import msgspec
import pytest

from collector.inventory import Inventory
from collector.inventory.claims import Claims
from collector.model import Gpu, NodeInfo, Place, ReadFailure, Reading, on_one_board
from tests.inventory.test_inventory import fingerprint

SEAT: dict[str, Any] = {"chassis": "182", "tray": "5", "slot": "15"}


@pytest.fixture
def inventory() -> Inventory:
    return Inventory()


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The UUID of each GPU that is evaluated, again and again."""
    uuids: list[str] = []

    def decide(self: Claims, uuid: str, update: Any = Claims.update) -> None:
        uuids.append(uuid)
        update(self, uuid)

    monkeypatch.setattr(Claims, "update", decide)
    return uuids


def read(
    inventory: Inventory, cluster: str, node: str, time: float, gpus: list[Gpu], *, started: float | None = None
) -> None:
    place = Place(cluster, node)
    inventory.apply(
        Reading(
            cluster=cluster,
            node=NodeInfo(name=node),
            source="gpus/pod",
            fingerprint=fingerprint(place),
            time=time,
            driver_version="570",
            cuda_version="12.8",
            gpus=tuple(gpus),
            started=started,
            ended=time,
        )
    )


def test_a_board_that_is_only_claimed_is_not_in_conflict(inventory: Inventory) -> None:
    board = [Gpu(uuid=f"GPU-{index}", serial="board", module=str(index), **SEAT) for index in (1, 2)]
    moved = [msgspec.structs.replace(gpu, slot="3") for gpu in board]
    for claimed in (board, moved):
        read(inventory, "east", "a", 10.0, board)
        read(inventory, "west", "b", 20.0, claimed, started=9.0)
        assert (inventory.claims("west"), inventory.conflicts("east"), inventory.conflicts("west")) == (2, 0, 0)
        read(inventory, "east", "a", 30.0, board, started=21.0)
        assert (inventory.conflicts("east"), inventory.conflicts("west")) == (0, 0)
        read(inventory, "west", "b", 40.0, claimed, started=31.0)
        assert (inventory.claims("west"), inventory.conflicts("east"), inventory.conflicts("west")) == (0, 2, 2)
        read(inventory, "east", "a", 50.0, [], started=41.0)
        assert (inventory.conflicts("east"), inventory.conflicts("west")) == (0, 0)
        read(inventory, "west", "b", 60.0, [], started=51.0)


def test_a_gpu_that_moved_with_another_serial_is_in_conflict_with_its_owner(inventory: Inventory) -> None:
    read(inventory, "east", "a", 10.0, [Gpu(uuid="GPU-1", serial="s1")])
    read(inventory, "west", "c", 11.0, [Gpu(uuid="GPU-2", serial="s2")])
    read(inventory, "east", "b", 20.0, [Gpu(uuid="GPU-1", serial="s2")], started=12.0)
    assert (inventory.conflicts("east"), inventory.conflicts("west")) == (0, 0)  # it is only claimed
    read(inventory, "east", "a", 30.0, [], started=21.0)
    assert (set(inventory.contested("east")), set(inventory.contested("west"))) == ({"GPU-1"}, {"GPU-2"})


def test_a_conflict_without_a_serial_ends_with_the_loss_of_one_gpu(inventory: Inventory) -> None:
    gpu = Gpu(uuid="GPU-1")
    for node, time in (("a", 10.0), ("b", 20.0), ("a", 30.0), ("b", 40.0)):
        read(inventory, "east", node, time, [gpu], started=time - 1.0)
    assert inventory.conflicts("east") == 1
    inventory.read_failed(Place("east", "a"), ReadFailure.TIMEOUT, 50.0)
    read(inventory, "east", "c", 60.0, [gpu], started=59.0)  # so it is no longer in the unreadable one
    assert (inventory.conflicts("east"), inventory.claims("east")) == (0, 1)


@pytest.mark.parametrize("count", [8, 9])
def test_a_serial_of_nine_gpus_is_not_a_board(inventory: Inventory, count: int) -> None:
    read(inventory, "east", "a", 10.0, [Gpu(uuid=f"GPU-{index}", serial="board") for index in range(count)])
    assert inventory.conflicts("east") == 0
    read(inventory, "west", "a", 20.0, [Gpu(uuid="GPU-x", serial="board", multi_gpu_board=True)])
    many = count > 8
    assert (inventory.conflicts("east"), inventory.conflicts("west")) == (count * many, int(many))
    read(inventory, "west", "a", 30.0, [])
    assert inventory.conflicts("east") == 0


def board(node: str, count: int) -> list[Gpu]:
    return [Gpu(uuid=f"GPU-{node}-{index}", serial="board", multi_gpu_board=True) for index in range(count)]


def test_a_serial_of_two_gpus_on_each_of_five_nodes_is_not_a_board(inventory: Inventory) -> None:
    for node in "abcd":
        read(inventory, "east", node, 10.0, board(node, 2))
    assert inventory.conflicts("east") == 0
    read(inventory, "east", "e", 20.0, board("e", 2))
    assert inventory.conflicts("east") == 10
    inventory.remove_node(Place("east", "e"), 30.0)
    assert inventory.conflicts("east") == 0


def test_a_serial_that_two_nodes_gain_in_one_step_may_no_longer_be_a_board(inventory: Inventory) -> None:
    for node in "abcd":
        read(inventory, "east", node, 10.0, board(node, 2))
    moving, staying = board("x", 2), board("home", 2)
    unread = [msgspec.structs.replace(gpu, serial=None) for gpu in staying]  # of these, it is then only last known
    read(inventory, "east", "home", 10.0, staying)
    read(inventory, "east", "home", 20.0, [*unread, *(msgspec.structs.replace(gpu, serial="other") for gpu in moving)])
    read(inventory, "east", "e", 20.0, moving)
    assert inventory.conflicts("east") == 0
    read(inventory, "east", "home", 30.0, staying)
    assert inventory.conflicts("east") == 12


def test_of_two_crowded_nodes_with_a_serial_the_last_one_is_not_in_conflict(inventory: Inventory) -> None:
    for node, contested in (("a", 0), ("b", 18), ("c", 27)):
        read(inventory, "east", node, 10.0, board(node, 9))
        assert inventory.conflicts("east") == contested
    for node, contested in (("c", 18), ("b", 0)):
        inventory.remove_node(Place("east", node), 20.0)
        assert inventory.conflicts("east") == contested


def test_two_nodes_with_as_many_gpus_as_a_board_has_are_not_crowded(inventory: Inventory) -> None:
    for node, count, contested in (("a", 8, 0), ("b", 8, 0), ("c", 9, 25)):
        read(inventory, "east", node, 10.0, board(node, count))
        assert inventory.conflicts("east") == contested
    inventory.remove_node(Place("east", "c"), 20.0)
    assert inventory.conflicts("east") == 0


def test_a_serial_of_nine_gpus_is_a_board_again_when_one_is_lost(inventory: Inventory) -> None:
    read(inventory, "east", "a", 10.0, board("a", 9))
    read(inventory, "west", "b", 10.0, board("b", 1))
    assert (inventory.conflicts("east"), inventory.conflicts("west")) == (9, 1)
    read(inventory, "east", "c", 20.0, [Gpu(uuid="GPU-a-0", serial="other")])
    inventory.cannot_verify(Place("east", "a"))  # so it is only in the node that answers
    assert (inventory.conflicts("east"), inventory.conflicts("west")) == (0, 0)


def test_a_serial_of_eight_gpus_is_no_longer_a_board_when_a_ninth_has_moved_there(inventory: Inventory) -> None:
    ninth = Gpu(uuid="GPU-ninth", serial="board", multi_gpu_board=True)
    read(inventory, "east", "home", 10.0, [msgspec.structs.replace(ninth, serial="other")])
    read(inventory, "east", "a", 20.0, [*board("a", 8), ninth])
    read(inventory, "west", "b", 20.0, board("b", 1))
    assert (inventory.conflicts("east"), inventory.conflicts("west")) == (0, 0)
    inventory.cannot_verify(Place("east", "home"))
    assert (inventory.conflicts("east"), inventory.conflicts("west")) == (9, 1)


def test_a_serial_that_is_remembered_on_more_than_64_nodes_is_contested(inventory: Inventory) -> None:
    """It is made up, and comparing would take long; on fewer nodes, a serial that is only last known does not count."""
    for index in range(64):
        read(inventory, "east", f"n{index}", 10.0, [Gpu(uuid=f"GPU-{index}", serial="same")])
    assert inventory.conflicts("east") == 64
    for index in range(63):
        read(inventory, "east", f"n{index}", 20.0, [Gpu(uuid=f"GPU-{index}")])
    assert inventory.conflicts("east") == 0
    read(inventory, "east", "more", 30.0, [Gpu(uuid="GPU-more", serial="same")])
    assert set(inventory.contested("east")) == {"GPU-63", "GPU-more"}
    inventory.remove_node(Place("east", "more"), 40.0)
    assert inventory.conflicts("east") == 0


def test_boards_are_not_looked_for_among_more_than_64_nodes(inventory: Inventory) -> None:
    for index in range(63):
        read(inventory, "east", f"n{index}", 10.0, [Gpu(uuid=f"GPU-{index}", serial="same")])
    for index in range(62):
        read(inventory, "east", f"n{index}", 20.0, [Gpu(uuid=f"GPU-{index}")])
    for node, index in (("n62", 62), ("n63", 63)):
        read(inventory, "east", node, 30.0, [Gpu(uuid=f"GPU-{index}", serial="same", multi_gpu_board=True)])
    assert inventory.conflicts("east") == 0
    read(inventory, "east", "n64", 40.0, [Gpu(uuid="GPU-64", serial="same", multi_gpu_board=True)])
    assert set(inventory.contested("east")) == {"GPU-62", "GPU-63", "GPU-64"}


def test_one_gpu_with_its_serial_on_more_than_64_nodes_is_only_claimed(inventory: Inventory) -> None:
    for index in range(66):
        read(inventory, "east", f"n{index}", 10.0, [Gpu(uuid="GPU-1", serial="s1")])
    assert (inventory.claims("east"), inventory.conflicts("east")) == (1, 0)


@pytest.mark.parametrize(
    ("nodes", "count", "modules"),
    [(4, 64, False), (4, 64, True), (20, 64, False), (20, 64, True), (20, 1, False)],
)
def test_one_serial_everywhere_is_not_compared_quadratically(
    inventory: Inventory,
    monkeypatch: pytest.MonkeyPatch,
    decided: list[str],
    nodes: int,
    count: int,
    modules: bool,
) -> None:
    """Also of GPUs that say that they are the modules of one board."""
    compared = 0

    def compare(*args: Any, **kwargs: Any) -> bool:
        nonlocal compared
        compared += 1
        return on_one_board(*args, **kwargs)

    monkeypatch.setattr("collector.inventory.conflicts.on_one_board", compare)
    for node in range(nodes):
        compared = 0
        decided.clear()
        names = [f"{node}-{index}" for index in range(count)]
        gpus = [Gpu(uuid=f"GPU-{name}", serial="same", module=name if modules else None, **SEAT) for name in names]
        read(inventory, "east", f"n{node}", 10.0 + node, gpus)
        most = 3 if count == 64 else 6 if node < 5 else 1  # times the GPUs of a node; all, until it is no board
        assert (compared <= 8 * 64, len(decided) <= most * count) == (True, True)
        assert inventory.conflicts("east") == (count * (node + 1) if node else 0)


@pytest.mark.parametrize("serial", ["same", None])
def test_losing_every_gpu_to_another_node_stays_cheap(
    inventory: Inventory, decided: list[str], serial: str | None
) -> None:
    gpus = [Gpu(uuid=f"GPU-{index}", serial=serial or f"{index}") for index in range(64)]
    for node in ("a", "b"):
        read(inventory, "east", node, 10.0, gpus)
    decided.clear()
    inventory.cannot_verify(Place("east", "a"))
    assert (inventory.claims("east"), inventory.conflicts("east")) == (0, 0)
    assert len(decided) <= 24 * 64


def test_gpus_with_serials_of_their_own_are_evaluated_once(inventory: Inventory, decided: list[str]) -> None:
    read(inventory, "east", "a", 10.0, [Gpu(uuid=f"GPU-{index}", serial=f"{index}") for index in range(8)])
    assert sorted(decided) == [f"GPU-{index}" for index in range(8)]


@pytest.mark.parametrize("seed", range(20))
def test_conflicts_do_not_depend_on_the_order_of_events(inventory: Inventory, seed: int) -> None:
    """Among nodes that come, change and go, they are what a new inventory finds in the same nodes."""
    chance = random.Random(seed)
    for turn in range(60):
        cluster, node = chance.choice(["east", "west"]), f"n{chance.randrange(6)}"
        gpus = [
            Gpu(
                uuid=f"GPU-{index}" if index % 2 else f"GPU-{cluster}-{node}-{index}",
                serial=chance.choice("pq"),
                module=chance.choice("12"),
                multi_gpu_board=chance.random() < 0.7,
                **SEAT,
            )
            for index in range(chance.choice([0, 0, 1, 1, 2, 3, 8, 9, 17]))
        ]
        what = chance.random()
        if what < 0.1:
            inventory.remove_node(Place(cluster, node), 10.0 + turn)
        elif what < 0.3:
            inventory.cannot_verify(Place(cluster, node))
        else:
            started = chance.choice([None, 9.0 + turn, turn - 5.0])  # an answer, or from before a claim
            read(inventory, cluster, node, 10.0 + turn, gpus, started=started)
        new = Inventory()
        new.restore([state for cluster in ("east", "west") for state in inventory.nodes(cluster).values()], {})
        for cluster in ("east", "west"):
            assert set(inventory.contested(cluster)) == set(new.contested(cluster))
