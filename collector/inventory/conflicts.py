"""Conflicts: GPUs that two nodes confirm, and serials that two GPUs on two nodes have."""

from collections.abc import Callable, Collection

from collector.inventory.claims import Claims
from collector.inventory.index import PlaceIndex
from collector.model import Gpu, NodeState, Place, on_one_board

__all__ = ["MAX_PLACES_OF_A_SERIAL", "Conflicts"]

MAX_PLACES_OF_A_SERIAL = 64  # whose conflicts are decided again when one of them changes

MAX_BOARD_NODES = 4  # to which one board's GPUs can be given; a serial on more nodes is no board's


class Conflicts:
    """Which GPUs are in conflict, by cluster; decided from where they are now, whenever that changes."""

    def __init__(
        self, locations: PlaceIndex, serials: PlaceIndex, claims: Claims, node: Callable[[Place], NodeState | None]
    ) -> None:
        self._locations = locations  # by UUID
        self._serials = serials
        self._claims = claims
        self._node = node
        self._uuids: dict[str, set[str]] = {}  # by cluster

    def contested(self, cluster: str) -> Collection[str]:
        """Return the UUIDs of a cluster's GPUs in conflict; the view is live."""
        return self._uuids.get(cluster, ())

    def serial_changed(self, serial: str, place: Place) -> None:
        """Decide again on the GPUs of a serial after a node got or lost it, unless that changes nothing for them."""
        places = self._serials.places(serial)
        # Among many nodes, such as those of a made-up serial, one more or less changes nothing for the others.
        if len(places) <= MAX_PLACES_OF_A_SERIAL and places != (place,):
            self.update_serial(serial)

    def update_serial(self, serial: str) -> None:
        """Decide again on all GPUs of a serial."""
        for place in self._serials.places(serial):
            for gpu in self._gpus(place):
                if gpu.serial == serial:
                    self.update(gpu.uuid)

    def update(self, uuid: str) -> None:
        """Decide in which clusters a GPU is in conflict, and in which it is claimed."""
        self._claims.update(uuid)
        homes = self._claims.homes(uuid)
        contested = len(homes) > 1 or any(
            self._serial_is_contested(gpu, home) for home in homes for gpu in self._gpus(home) if gpu.uuid == uuid
        )
        clusters = {home.cluster for home in homes} if contested else set()
        for cluster in clusters:
            self._uuids.setdefault(cluster, set()).add(uuid)
        for cluster in [name for name, uuids in self._uuids.items() if uuid in uuids and name not in clusters]:
            self._uuids[cluster].discard(uuid)

    def _serial_is_contested(self, gpu: Gpu, place: Place) -> bool:
        """Return whether another GPU on another node has the serial of this one, and no board explains it."""
        if gpu.serial is None or len(places := self._serials.places(gpu.serial)) < 2:
            return False
        if len(places) > max(MAX_PLACES_OF_A_SERIAL, len(self._locations.places(gpu.uuid))):
            return True
        others = [
            (other, node)
            for node in map(self._node, places)
            if node is not None and node.place != place  # one that is being removed decides nothing
            for other in node.gpus
            if other.serial == gpu.serial and other.uuid != gpu.uuid
        ]
        if len({node.place for _, node in others}) >= MAX_BOARD_NODES:
            return True
        home = self._node(place)
        sharing = home is not None and home.shares_board(gpu)
        return any(
            not on_one_board(
                gpu,
                sharing=sharing,
                other=other,
                other_sharing=node.shares_board(other),
                one_cluster=node.place.cluster == place.cluster,
            )
            for other, node in others
        )

    def _gpus(self, place: Place) -> tuple[Gpu, ...]:
        node = self._node(place)
        return () if node is None else node.gpus
