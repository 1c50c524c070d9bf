"""Finds ids in the present fleet: by index, or in one scan for everything without an index."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from collector.inventory import Inventory
from collector.model import Gpu, NodeState, canonical_bus_id
from collector.views.cooperative import yielding
from collector.views.fleet import walk_nodes
from collector.views.lookup_view import LookupView
from collector.views.matches import Hunt, Kind, Match
from collector.views.terms import is_digits, short_bus
from collector.views.trays import position

__all__ = ["MIN_PART_LENGTH", "Hunts", "find_exact", "find_parts", "find_within", "keyed", "parts_of"]

MIN_PART_LENGTH = 4  # fewest characters of a partial match
MAX_ENDINGS = 40  # different lengths of ids whose ends are searched
MAX_MODEL_WORDS = 10

_INDEXED = (Kind.SERIAL, Kind.UUID, Kind.CHASSIS)
Hunts = dict[str, list[Hunt]]  # by possible spelling, in lower case


async def keyed(hunts: Iterable[Hunt]) -> Hunts:
    """Return the hunts by possible spelling, in lower case."""
    found: Hunts = {}
    async for hunt in yielding(hunts):
        for key in dict.fromkeys(reading.lower() for reading in hunt.term.readings):
            found.setdefault(key, []).append(hunt)
    return found


def parts_of(hunt: Hunt) -> list[str]:
    """Return the possible substrings of a term, in lower case, since phones capitalize automatically."""
    readings = dict.fromkeys(reading.lower() for reading in hunt.term.readings)
    return [reading for reading in readings if len(reading) >= MIN_PART_LENGTH]


def find_indexed(inventory: Inventory, hunt: Hunt) -> None:
    """Find a serial, UUID or chassis, in any case."""
    for name in hunt.term.readings:
        for spelling in dict.fromkeys((name, name.upper(), name.lower())):
            for kind in _INDEXED:
                placements = inventory.find(**{kind.value: spelling})
                for placement in sorted(placements, key=lambda one: (one.place.cluster, position(one.gpu))):
                    hunt.add_gpu(kind, placement)


async def find_exact(view: LookupView, hunts: Sequence[Hunt]) -> None:
    """Find exact matches that `find_indexed` does not cover: nodes, clusters and shared properties of GPUs."""
    clusters = {name.lower(): name for name in view.clusters()}
    keys = await keyed(hunts)
    names = _Names(keys, hunts)
    names.find_clusters(clusters)
    rest = [hunt for hunt in hunts if not hunt.found]
    common = await _Common.of(rest)
    async for entry in walk_nodes(view.inventory):
        names.look_at(entry)
        if rest:
            common.look_at(entry)


class _Names:
    """Finds nodes by name, machine, provider id and place, and clusters by name."""

    def __init__(self, names: Hunts, hunts: Sequence[Hunt]) -> None:
        self._names = names
        self._places: dict[tuple[str, str], list[Hunt]] = {}
        for hunt in hunts:
            for place in hunt.term.places:
                self._places.setdefault((place.cluster.lower(), place.node.lower()), []).append(hunt)

    def find_clusters(self, clusters: Mapping[str, str]) -> None:
        """Add clusters, given by their names in lower case."""
        for key in self._names.keys() & clusters.keys():
            for hunt in self._names[key]:
                hunt.add(("cluster", key), Match(kind=Kind.CLUSTER, cluster=clusters[key]))

    def look_at(self, entry: NodeState) -> None:
        """Add a node to the hunts that match it."""
        node, info = entry.place.node.lower(), entry.node
        for hunt in self._names.get(node, ()):
            hunt.add_node(Kind.NODE, entry)
        if self._places:
            for hunt in self._places.get((entry.place.cluster.lower(), node), ()):
                hunt.add_node(Kind.NODE, entry)
        if info.provider_id:
            for key in (info.machine.lower(), info.provider_id.lower()):
                for hunt in self._names.get(key, ()):
                    hunt.add_node(Kind.MACHINE, entry)


class _Common:
    """Finds properties that GPUs share: part numbers, models and bus addresses."""

    def __init__(self, parts: Hunts) -> None:
        self._parts = parts
        self._models: Hunts = {}
        self._buses: Hunts = {}
        self._of_model: dict[str, list[Hunt]] = {}

    @classmethod
    async def of(cls, hunts: Sequence[Hunt]) -> "_Common":
        """Return a finder for these."""
        common = cls(await keyed(hunts))
        async for hunt in yielding(hunts):
            for reading in hunt.term.readings:
                common._models.setdefault(_squeezed(reading), []).append(hunt)
            if hunt.term.bus:
                common._buses.setdefault(hunt.term.bus, []).append(hunt)
        return common

    def look_at(self, entry: NodeState) -> None:
        """Add the matches of a node's GPUs."""
        for gpu, since in zip(entry.gpus, entry.since, strict=True):
            for number in {gpu.board_part_number, gpu.gpu_part_number}:
                for hunt in self._parts.get(number.lower(), ()) if number else ():
                    hunt.add_gpu(Kind.PART_NUMBER, entry.placement(gpu, since))
            for hunt in self._wanted(gpu.model) if gpu.model else ():
                if hunt.full:
                    hunt.total += 1
                else:
                    hunt.add_gpu(Kind.MODEL, entry.placement(gpu, since))
            for hunt in self._at(entry, gpu.pci_bus_id) if self._buses and gpu.pci_bus_id else ():
                hunt.add_gpu(Kind.BUS, entry.placement(gpu, since))

    def _at(self, entry: NodeState, address: str) -> Iterator[Hunt]:
        """Yield the hunts for a bus address of a node."""
        canonical = canonical_bus_id(address)
        for key in (canonical, short_bus(canonical)):
            for hunt in self._buses.get(key, ()):
                if hunt.term.node.lower() in ("", entry.place.node.lower()):
                    yield hunt

    def _wanted(self, model: str) -> list[Hunt]:
        """Return the hunts that match a model; fleets have few models, so each is compared once."""
        if (known := self._of_model.get(model)) is None:
            found = {id(hunt): hunt for name in _names_of(model) for hunt in self._models.get(name, ())}
            known = self._of_model[model] = list(found.values())
        return known


def _squeezed(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text).lower()


@functools.lru_cache(maxsize=256)
def _names_of(model: str) -> frozenset[str]:
    """Return the short forms of a model: each run of its words without blanks, except "NVIDIA" and plain numbers.

    "NVIDIA H100 80GB HBM3" also matches "h100" and "h10080gb".
    """
    words = [word.lower() for word in re.split(r"[\s_-]+", model) if word][:MAX_MODEL_WORDS]
    runs = {"".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)}
    return frozenset(run for run in runs if run != "nvidia" and not is_digits(run))


async def find_within(inventory: Inventory, hunts: Sequence[Hunt]) -> None:
    """Find substrings, case-insensitively; only for a few terms, since each is compared with everything."""
    wanted = [(hunt, parts) for hunt in hunts if (parts := parts_of(hunt))]
    if not wanted:
        return
    async for entry in walk_nodes(inventory):
        named = f"{entry.place.node}\n{entry.node.machine}".lower()
        for hunt, parts in wanted:
            if any(part in named for part in parts):
                hunt.add_node(Kind.PARTIAL, entry)
        for gpu, since in zip(entry.gpus, entry.since, strict=True):
            text = _text_of(gpu)
            for hunt, parts in wanted:
                if any(part in text for part in parts):
                    hunt.add_gpu(Kind.PARTIAL, entry.placement(gpu, since))


def _text_of(gpu: Gpu) -> str:
    told = (gpu.serial, gpu.uuid, gpu.chassis, gpu.board_part_number, gpu.gpu_part_number)
    return "\n".join(filter(None, told)).lower()


async def find_parts(inventory: Inventory, hunts: Sequence[Hunt]) -> None:
    """Find GPUs whose serial ends with a term or whose UUID begins with it; for any number of terms."""
    by_length: dict[int, Hunts] = {}
    async for hunt in yielding(hunts):
        for part in parts_of(hunt):
            by_length.setdefault(len(part), {}).setdefault(part, []).append(hunt)
    wanted = dict(sorted(by_length.items())[:MAX_ENDINGS])
    if not wanted:
        return
    async for entry in walk_nodes(inventory):
        for gpu, since in zip(entry.gpus, entry.since, strict=True):
            for hunt in _by_end(gpu, wanted):
                hunt.add_gpu(Kind.PARTIAL, entry.placement(gpu, since))


def _by_end(gpu: Gpu, wanted: Mapping[int, Hunts]) -> Iterator[Hunt]:
    serial, uuid = (gpu.serial or "").lower(), gpu.uuid.lower()
    bare = uuid.removeprefix("gpu-")
    for length, hunts in wanted.items():
        for part in {serial[-length:], uuid[:length], bare[:length]}:
            yield from hunts.get(part, ())
