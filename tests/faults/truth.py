"""Where every GPU really was, from step to step."""

import itertools
import time
from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from collector.simulator.fleet import Fleet

__all__ = ["Place", "Stay", "Truth"]

Place = tuple[str, str]  # cluster and node


class Stay(NamedTuple):
    """From when on a GPU was in these places: none if it was out, two if a node claims what another one has."""

    start: float  # Unix seconds; the beginning of the step that brought it there
    places: frozenset[Place]


class Truth:
    """The life of every GPU that ever was in a node, as the steps made it.

    A cluster that was never configured is nowhere: what is there is noticed when it is added.
    """

    def __init__(self) -> None:
        self.lives: dict[str, list[Stay]] = {}  # by UUID, the first stay first
        self.hidden: dict[Place, list[tuple[float, float]]] = defaultdict(list)  # when a node could be dropped
        self.numbers: dict[Place, set[int]] = defaultdict(set)  # how many GPUs a node has had
        self._begun = self._settled = time.time()
        self._open: dict[Place, float] = {}
        self._ending: set[Place] = set()
        self.names: dict[str, str] = {}  # the own names of clusters by others that they had in the configuration

    def begin(self) -> None:
        """Note that a step begins: what it changes is so from now on."""
        self._begun = time.time()

    def note(self, fleet: Fleet, clusters: Collection[str]) -> None:
        """Note where every GPU in these clusters is after a step; one that does not respond is still where it was."""
        now: dict[str, set[Place]] = defaultdict(set)
        for cluster in fleet.clusters:
            for node in fleet.nodes(cluster):
                cards = fleet.cards(cluster, node)
                self.numbers[cluster, node].add(len(cards))
                for card in cards if cluster in clusters else ():
                    now[card.uuid].add((cluster, node))
        for uuid in self.lives.keys() | now.keys():
            places = frozenset(now.get(uuid, ()))
            life = self.lives.setdefault(uuid, [])
            if not life or life[-1].places != places:
                life.append(Stay(self._begun, places))

    def has_changed(self, place: Place) -> bool:
        """Return whether a GPU has come to a node or left it since everything was noticed."""
        return any(
            (place in before.places) is not (place in after.places)
            for life in self.lives.values()
            for before, after in itertools.pairwise((Stay(0.0, frozenset()), *life))
            if after.start > self._settled
        )

    def places(self) -> dict[str, set[Place]]:
        """Return where every GPU is now that is anywhere."""
        return {uuid: set(life[-1].places) for uuid, life in self.lives.items() if life[-1].places}

    def hide(self, place: Place) -> None:
        """Note that a node may be dropped from now on: it is gone, or has no pod; with no name, any of the cluster."""
        self._open.setdefault(place, time.time())
        self._ending.discard(place)

    def show(self, place: Place) -> None:
        """Note that a node is there again: it may be dropped until that has been noticed."""
        if place in self._open:
            self._ending.add(place)

    def settle(self) -> None:
        """Note that everything has been noticed."""
        self._settled = time.time()
        for place in self._ending:
            self.hidden[place].append((self._open.pop(place), time.time()))
        self._ending.clear()

    def windows(self) -> dict[Place, list[tuple[float, float]]]:
        """Return from when to when each node could be dropped, those that still can included."""
        found = {place: list(windows) for place, windows in self.hidden.items()}
        for place, start in self._open.items():
            found.setdefault(place, []).append((start, time.time()))
        return found
