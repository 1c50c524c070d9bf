"""Conflicts: GPUs confirmed by two nodes, and serials shared by two GPUs on two nodes.

A serial that is only last known, because the GPU no longer reports it, does not conflict with another GPU's.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

from collector.inventory.claims import Claims
from collector.inventory.index import PlaceIndex
from collector.model import Gpu, NodeState, Place, on_one_board

__all__ = ["Conflicts"]

_MAX_PLACES_OF_A_SERIAL = 64  # whose GPUs are compared; a serial on more nodes is made up

MAX_BOARD_NODES = 4  # that can have GPUs of one board; a serial on more nodes is not a board's
MAX_BOARD_GPUS = 8  # of one board, such as an A16 with four; a serial of more on one node is not a board's

_MAX_SORTED_NODES = 1024  # nodes whose GPUs are kept sorted by serial

# A node's GPUs that report the same serial, each with whether the node shows that its board has several GPUs.
_Board = tuple[tuple[Gpu, bool], ...]


class _Sorted(NamedTuple):
    """A node's GPUs by serial, valid as long as it has these GPUs and claims."""

    gpus: tuple[Gpu, ...]
    claims: frozenset[str]
    boards: dict[str, _Board]


class Conflicts:
    """The GPUs in conflict, by cluster; re-evaluated whenever the places of GPUs change."""

    def __init__(
        self, locations: PlaceIndex, serials: PlaceIndex, claims: Claims, node: Callable[[Place], NodeState | None]
    ) -> None:
        self._locations = locations  # by UUID
        self._serials = serials
        self._claims = claims
        self._node = node
        self._uuids: dict[str, set[str]] = {}  # by cluster
        self._sorted: dict[Place, _Sorted] = {}
        self._no_boards: set[str] = set()  # serials all of whose GPUs were contested when last evaluated

    def contested(self, cluster: str) -> Collection[str]:
        """Return the UUIDs of a cluster's GPUs in conflict; the view is live."""
        return self._uuids.get(cluster, ())

    def serial_changed(self, serial: str, place: Place) -> None:
        """Re-evaluate the GPUs with a serial after a node gained or lost it, unless nothing can change for them.

        The node's own GPUs have already been evaluated, or are unaffected (`gpu_lost`).
        """
        places = self._serials.places(serial)
        # With many nodes, such as those with a made-up serial, one more or less changes nothing for the others, except
        # that one more than are compared puts all of them in conflict.
        if len(places) > _MAX_PLACES_OF_A_SERIAL + 1 or places == (place,):
            return
        contested = self._is_no_board(serial)
        if contested and serial in self._no_boards:
            return
        self.update_serial(serial)
        if contested:
            self._no_boards.add(serial)
        else:
            self._no_boards.discard(serial)

    def gpu_lost(self, gpu: Gpu, place: Place) -> None:
        """Re-evaluate after a node lost one GPU and nothing else changed on it."""
        self.update(gpu.uuid)
        # More GPUs with the serial than a board can have remain there: nothing changes for the others.
        if gpu.serial is not None and len(self._board(gpu.serial, place)) <= MAX_BOARD_GPUS:
            self.serial_changed(gpu.serial, place)

    def gpu_moved(self, gpu: Gpu, place: Place) -> None:
        """Re-evaluate the others after a node became the home of a GPU that it had claimed, and is otherwise unchanged.

        That GPU itself is evaluated when it has left its previous home.
        """
        # Likewise: if there already were more than a board can have, nothing changes for the others.
        if gpu.serial is not None and len(self._board(gpu.serial, place)) <= MAX_BOARD_GPUS + 1:
            self.serial_changed(gpu.serial, place)

    def update_serial(self, serial: str) -> None:
        """Re-evaluate all GPUs that report a serial."""
        gpus = {gpu.uuid: gpu for place in self._serials.places(serial) for gpu, _ in self._board(serial, place)}
        for uuid, gpu in gpus.items():
            self._decide(uuid, gpu)

    def update(self, uuid: str) -> None:
        """Determine in which clusters a GPU is in conflict, and in which it is claimed."""
        self._decide(uuid)

    def _decide(self, uuid: str, gpu: Gpu | None = None) -> None:
        """Evaluate a GPU, whose data in its home is given if it is known to have one."""
        self._claims.update(uuid)
        homes = self._claims.homes(uuid)
        if len(homes) == 1:
            (home,) = homes
            if gpu is None:
                gpu = next((one for one in self._gpus(home) if one.uuid == uuid), None)
            if gpu is None or not self._serial_is_contested(gpu, home):
                homes = []
        clusters = {home.cluster for home in homes}
        for cluster in clusters:
            self._uuids.setdefault(cluster, set()).add(uuid)
        for cluster in [name for name, uuids in self._uuids.items() if uuid in uuids and name not in clusters]:
            self._uuids[cluster].discard(uuid)

    def _serial_is_contested(self, gpu: Gpu, place: Place) -> bool:
        """Return whether a different GPU on another node has this GPU's serial without sharing its board."""
        if gpu.serial is None or not gpu.reports("serial") or len(places := self._serials.places(gpu.serial)) < 2:
            return False
        if len(places) > max(_MAX_PLACES_OF_A_SERIAL, len(self._locations.places(gpu.uuid))):
            return True
        own = self._board(gpu.serial, place)
        nodes = 0
        others: list[tuple[Gpu, bool, Place]] = []
        for there in places:
            if there == place:
                continue
            board = self._board(gpu.serial, there)
            if len(board) > MAX_BOARD_GPUS:
                return True
            found = [(other, sharing, there) for other, sharing in board if other.uuid != gpu.uuid]
            if found:
                nodes += 1
                if nodes >= MAX_BOARD_NODES or len(own) > MAX_BOARD_GPUS:
                    return True
                others += found
        sharing = any(shows and one.uuid == gpu.uuid for one, shows in own)
        return any(
            not on_one_board(
                gpu,
                sharing=sharing,
                other=other,
                other_sharing=other_sharing,
                one_cluster=there.cluster == place.cluster,
            )
            for other, other_sharing, there in others
        )

    def _is_no_board(self, serial: str) -> bool:
        """Return whether all GPUs with a serial are contested: more nodes, or two with more GPUs, than a board has."""
        crowded = nodes = 0
        for place in self._serials.places(serial):
            count = len(self._board(serial, place))
            crowded += count > MAX_BOARD_GPUS
            nodes += count > 0
            if crowded > 1 or nodes > MAX_BOARD_NODES:
                return True
        return False

    def _board(self, serial: str, place: Place) -> _Board:
        """Return a node's GPUs that report a serial; empty for a node that is being removed, which does not count.

        GPUs that it only claims are not confirmed there, so they are omitted.
        """
        node = self._node(place)
        if node is None or not node.gpus:
            self._sorted.pop(place, None)
            return ()
        known = self._sorted.get(place)
        if known is None or known.gpus is not node.gpus or known.claims is not node.claims:
            if len(self._sorted) >= _MAX_SORTED_NODES:
                self._sorted.clear()
            gpus = [gpu for gpu in node.gpus if gpu.uuid not in node.claims] if node.claims else node.gpus
            known = self._sorted[place] = _Sorted(node.gpus, node.claims, _by_serial(gpus))
        return known.boards.get(serial, ())

    def _gpus(self, place: Place) -> tuple[Gpu, ...]:
        node = self._node(place)
        return () if node is None else node.gpus


def _by_serial(gpus: Collection[Gpu]) -> dict[str, _Board]:
    found: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        if gpu.serial is not None:
            found.setdefault(gpu.serial, []).append(gpu)
    return {
        serial: tuple((gpu, gpu.multi_gpu_board or len(board) > 1) for gpu in board if gpu.reports("serial"))
        for serial, board in found.items()
    }
