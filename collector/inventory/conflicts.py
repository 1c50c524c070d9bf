"""Conflicts: GPUs that two nodes confirm, and serials that two GPUs on two nodes have."""

import re
from collections.abc import Callable, Collection, Iterable

from collector.inventory.claims import Claims
from collector.inventory.index import PlaceIndex
from collector.model import Gpu, NodeState, Place

__all__ = ["MAX_PLACES_OF_A_SERIAL", "Conflicts"]

MAX_PLACES_OF_A_SERIAL = 64  # whose conflicts are decided again when one of them changes

# Grace superchips carry two GPUs on one board under one serial, also where each is given to a node of its own.
_SUPERCHIP = re.compile(r"\bGB\d{3}\b")


class Conflicts:
    """Which GPUs are in conflict, by cluster; decided from where they are now, whenever that changes."""

    def __init__(
        self, locations: PlaceIndex, serials: PlaceIndex, claims: Claims, node: Callable[[Place], NodeState]
    ) -> None:
        self._locations = locations  # by UUID
        self._serials = serials
        self._claims = claims
        self._node = node
        self._shared_serials: set[str] = set()  # seen on two GPUs of one node: a board of several GPUs
        self._uuids: dict[str, set[str]] = {}  # by cluster

    def contested(self, cluster: str) -> Collection[str]:
        """Return the UUIDs of a cluster's GPUs in conflict; the view is live."""
        return self._uuids.get(cluster, ())

    def note_shared_serials(self, gpus: Iterable[Gpu]) -> None:
        """Learn from the GPUs of one node which serials are those of boards with several GPUs."""
        seen: set[str] = set()
        for gpu in gpus:
            if gpu.serial is not None:
                shared = gpu.serial in seen or (gpu.model is not None and _SUPERCHIP.search(gpu.model))
                if shared and gpu.serial not in self._shared_serials:
                    self._shared_serials.add(gpu.serial)
                    self.update_serial(gpu.serial)
                seen.add(gpu.serial)

    def serial_changed(self, serial: str, place: Place) -> None:
        """Decide again on the GPUs of a serial after a node got or lost it, unless that changes nothing for them."""
        places = self._serials.places(serial)
        # Among many nodes, such as those of a made-up serial, one more or less changes nothing for the others.
        if len(places) <= MAX_PLACES_OF_A_SERIAL and places != (place,):
            self.update_serial(serial)

    def update_serial(self, serial: str) -> None:
        """Decide again on all GPUs of a serial."""
        for place in self._serials.places(serial):
            for gpu in self._node(place).gpus:
                if gpu.serial == serial:
                    self.update(gpu.uuid)

    def update(self, uuid: str) -> None:
        """Decide in which clusters a GPU is in conflict."""
        homes = self._claims.homes(uuid, self._locations.places(uuid))
        contested = len(homes) > 1 or any(
            self._serial_is_contested(gpu, home) for home in homes for gpu in self._node(home).gpus if gpu.uuid == uuid
        )
        clusters = {home.cluster for home in homes} if contested else set()
        for cluster in clusters:
            self._uuids.setdefault(cluster, set()).add(uuid)
        for cluster in [name for name, uuids in self._uuids.items() if uuid in uuids and name not in clusters]:
            self._uuids[cluster].discard(uuid)

    def _serial_is_contested(self, gpu: Gpu, place: Place) -> bool:
        """Return whether another GPU on another node has the serial of this one, and no board explains it."""
        if gpu.serial is None or gpu.serial in self._shared_serials:
            return False
        places = self._serials.places(gpu.serial)
        return len(places) > len(self._locations.places(gpu.uuid)) or any(
            other.serial == gpu.serial and other.uuid != gpu.uuid
            for one in places
            if one != place
            for other in self._node(one).gpus
        )
