"""Where every GPU really was, from step to step."""

import itertools
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from collector.simulator.fleet import MODELS, Card, Fleet
from collector.simulator.wear import NEW

__all__ = ["Facts", "Place", "Stay", "Truth"]

Place = tuple[str, str]  # cluster and node


class Stay(NamedTuple):
    """From when on a GPU was in these places: none if it was out, two if a node claims what another one has."""

    start: float  # Unix seconds; the beginning of the step that brought it there
    places: frozenset[Place]


class Facts(NamedTuple):
    """What was true of a GPU from some time on."""

    start: float  # Unix seconds; the beginning of the step that made it so
    serial: str
    model: str
    chassis: str  # of the host that it is in
    responds: bool
    health: Mapping[str, Any]  # by field of Health


class Truth:
    """The life of every GPU that ever was in a node, as the steps made it.

    A cluster that was never configured is nowhere: what is there is noticed when it is added.
    """

    def __init__(self) -> None:
        self.lives: dict[str, list[Stay]] = {}  # by UUID, the first stay first
        self.hidden: dict[Place, list[tuple[float, float]]] = defaultdict(list)  # when a node could be dropped
        self.numbers: dict[Place, set[int]] = defaultdict(set)  # how many GPUs a node has had
        self.facts: dict[str, list[Facts]] = {}  # by UUID, at the last calm and since
        self.machines: dict[Place, list[str]] = defaultdict(list)  # of each node, at the last calm and since
        self.marks: dict[str, tuple[str, str]] = {}  # kind and ticket by UUID
        self._marked: dict[str, set[str | None]] = defaultdict(set)  # the kinds that GPUs had since the last calm
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
        there: set[str] = set()
        for cluster in fleet.clusters:
            for node in fleet.nodes(cluster):
                cards = fleet.cards(cluster, node)
                self.numbers[cluster, node].add(len(cards))
                for card in cards:
                    self._note_facts(card)
                there.update(card.uuid for card in cards)
                for card in cards if cluster in clusters else ():
                    now[card.uuid].add((cluster, node))
        self._note_absent(there)
        for uuid in self.lives.keys() | now.keys():
            places = frozenset(now.get(uuid, ()))
            life = self.lives.setdefault(uuid, [])
            if not life or life[-1].places != places:
                life.append(Stay(self._begun, places))
                self._note_left(uuid)

    def note_machines(self, machines: Mapping[Place, str]) -> None:
        """Note which machine each node is."""
        for place, machine in machines.items():
            if machine not in self.machines[place][-1:]:
                self.machines[place].append(machine)

    def note_mark(self, uuid: str, mark: tuple[str, str] | None) -> None:
        """Note a GPU's mark, by kind and ticket; None: it has none any more."""
        self._marked[uuid] = self.kinds_of_mark(uuid)
        self.marks.pop(uuid, None)
        if mark is not None:
            self.marks[uuid] = mark

    def kinds_of_mark(self, uuid: str) -> set[str | None]:
        """Return the kinds of mark that a GPU had at the last calm and since; None among them if it had none."""
        kind, _ = self.marks.get(uuid, (None, None))
        return {kind, *self._marked.get(uuid, ())}

    def _note_facts(self, card: Card) -> None:
        health = msgspec.structs.asdict(card.health or NEW[card.kind])
        responds = not card.lost and not card.silent
        now = Facts(self._begun, card.serial, MODELS[card.kind], card.chassis, responds, health)
        known = self.facts.setdefault(card.uuid, [])
        if not known or known[-1][1:] != now[1:]:
            known.append(now)

    def _note_absent(self, there: Collection[str]) -> None:
        """Note that GPUs no longer respond that no driver lists: they have fallen off the bus, or were taken out."""
        for uuid in self.facts.keys() - there:
            last = self.facts[uuid][-1]
            if last.responds:
                self.facts[uuid].append(last._replace(start=self._begun, responds=False))

    def _note_left(self, uuid: str) -> None:
        """Note that a GPU did not respond for a moment: where it was, it may count as lost until that boots."""
        if known := self.facts.get(uuid):
            known += [known[-1]._replace(start=self._begun, responds=False), known[-1]._replace(start=self._begun)]

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
        self.facts = {uuid: known[-1:] for uuid, known in self.facts.items()}
        self._marked.clear()
        self.machines = defaultdict(list, {place: known[-1:] for place, known in self.machines.items()})
        for place in self._ending:
            self.hidden[place].append((self._open.pop(place), time.time()))
        self._ending.clear()

    def windows(self) -> dict[Place, list[tuple[float, float]]]:
        """Return from when to when each node could be dropped, those that still can included."""
        found = {place: list(windows) for place, windows in self.hidden.items()}
        for place, start in self._open.items():
            found.setdefault(place, []).append((start, time.time()))
        return found
