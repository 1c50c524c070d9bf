"""The physical state of a simulated fleet: which GPU is in which host, and changes to that."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from collector.health import Health
from collector.model import GpuidError
from collector.simulator.wear import NEW, after_reset, flashed, ill, worn

__all__ = ["Card", "Fleet", "Host", "Placed", "SimulationError"]

MODELS = {"h100": "NVIDIA H100 80GB HBM3", "gb200": "NVIDIA GB200", "v100": "Tesla V100-SXM2-32GB"}
VIRTUAL_MODEL = "GRID H100-40C"

_SERIAL_PREFIX = {"h100": "165", "gb200": "176", "v100": "032"}
_GPUS_PER_BOARD = {"h100": 1, "gb200": 2, "v100": 1}
_FIRST_GPU = {"h100": 0, "gb200": 5_000_000_000, "v100": 8_000_000_000}
_TRAYS_PER_CHASSIS = 18
_H100_BUSES = (0x19, 0x3B, 0x4C, 0x5D, 0x9B, 0xBB, 0xCB, 0xDB)


class SimulationError(GpuidError):
    """An action is impossible; the message says what is possible."""


class Placed(NamedTuple):
    """One GPU and its true place; missing values are empty strings."""

    cluster: str
    node: str
    uuid: str
    serial: str
    chassis: str
    model: str


class Card(NamedTuple):
    """One GPU as the driver of its host sees it; values that the hardware does not report are empty strings."""

    kind: str  # a key of MODELS
    uuid: str
    serial: str
    minor: int
    bus_id: str
    module: int
    chassis: str
    slot: str
    tray: str
    host: str
    fabric_guid: str
    mig: bool
    lost: bool  # still listed, but the driver cannot talk to it any more
    silent: bool = False  # the driver gives no handle for it, which ends nvidia-smi
    virtual: bool = False  # a share of a board of the host's
    shares_board: bool = False  # its board carries several GPUs, and says so
    process: bytes = b""  # the name of a process that runs on it
    health: Health | None = None  # how worn it is; None: as a new one


class Host:
    """One physical machine (or compute tray), with the numbers of its GPUs in the order of their sockets."""

    __slots__ = ("chassis", "gpus", "kind", "tray")

    def __init__(self, kind: str, chassis: int, tray: int, gpus: Sequence[int]) -> None:
        self.kind = kind
        self.chassis = chassis
        self.tray = tray  # position in its chassis
        self.gpus = gpus  # a range until the first change, so that a large fleet needs little memory


class Fleet:
    """Every host and GPU of the clusters `sim-0` … `sim-(clusters-1)`, determined by `seed`.

    A GPU is a number; its UUID and serial are derived from the number and the seed. Every third cluster consists of
    GB200 trays (two GPUs share a board and its serial, 18 trays share a chassis), the others of H100 machines.
    """

    def __init__(self, *, clusters: int, nodes: int, gpus: int, seed: int = 0) -> None:
        self.gpus_per_host = gpus
        self._salt = f"{seed}/".encode()
        self._next_gpu = dict.fromkeys(_SERIAL_PREFIX, 0)
        self._next_host: dict[str, int] = {}
        self._kinds: dict[str, str] = {}
        self._index: dict[str, int] = {}
        self._machines: dict[str, dict[str, Host]] = {}
        self._spare: dict[str, list[Host]] = {}
        self._repair: list[list[int]] = []  # boards that were taken out, and are nowhere
        self._dropped: set[int] = set()  # fallen off the bus
        self._lost: set[int] = set()  # listed as "GPU is lost"
        self._silent: set[int] = set()  # the driver gives no handle for them
        self._virtual: set[int] = set()
        self._paired: set[int] = set()  # two GPUs on each board
        self._processes: dict[int, bytes] = {}  # name of a process that runs on it
        self._health: dict[int, Health] = {}  # of the cards that are not as new; it follows them wherever they go
        self._mig: set[int] = set()
        self._without_serial: set[int] = set()
        for index in range(clusters):
            name = f"sim-{index}"
            self._index[name] = index
            self._kinds[name] = "gb200" if index % 3 == 2 else "h100"
            self._next_host[name] = 0
            self._spare[name] = []
            self._machines[name] = {f"gpu-{node:04d}": self._new_host(name) for node in range(nodes)}

    @property
    def clusters(self) -> list[str]:
        """The names of the clusters."""
        return list(self._machines)

    def kind(self, cluster: str) -> str:
        """Return the kind of the machines of a cluster: `h100` or `gb200`."""
        return self._kinds[cluster]

    def nodes(self, cluster: str) -> list[str]:
        """Return the names of the GPU nodes of a cluster."""
        return list(self._machines[cluster])

    def capacity(self, cluster: str, node: str) -> int:
        """Return how many GPUs the driver finds on a node."""
        host = self._host(cluster, node)
        return sum(number not in self._dropped | self._lost | self._silent for number in host.gpus)

    def cards(self, cluster: str, node: str) -> list[Card]:
        """Return the GPUs that the driver lists on a node, in the order of the bus."""
        host = self._host(cluster, node)
        chassis = self._chassis(cluster, host)
        return [
            self._card(number, index, host, chassis)
            for index, number in enumerate(host.gpus)
            if number not in self._dropped
        ]

    def impaired(self, cluster: str) -> list[str]:
        """Return the nodes with GPUs that have fallen off the bus or do not respond."""
        bad = self._dropped | self._lost | self._silent
        return [node for node, host in self._machines[cluster].items() if not bad.isdisjoint(host.gpus)]

    def expected(self, *clusters: str) -> set[Placed]:
        """Return every GPU that a correct reading of the given clusters (default: all) must find, with its place."""
        return {placed for cluster in clusters or self.clusters for placed in self._placed(cluster)}

    # Changes; each returns the UUIDs of the GPUs that it is about

    def move(self, cluster: str, node: str, to_cluster: str, to_node: str, uuid: str | None = None) -> list[str]:
        """Move a GPU (GB200: the board with two) to another host; without `uuid` the last one of the node."""
        source, target = self._host(cluster, node), self._host(to_cluster, to_node)
        if source is target:
            raise SimulationError(f"{cluster}: the GPU is already on {node}")
        board = set(self._board(self._number(cluster, node, uuid)))
        moved = [number for number in source.gpus if number in board]
        source.gpus = [number for number in source.gpus if number not in board]
        target.gpus = [*target.gpus, *moved]
        return [self._uuid(number) for number in moved]

    def double(self, cluster: str, node: str, to_cluster: str, to_node: str, uuid: str | None = None) -> list[str]:
        """Have another host claim a GPU as well: it replaces the last one there, which is then not in any host."""
        source, target = self._host(cluster, node), self._host(to_cluster, to_node)
        if source is target:
            raise SimulationError(f"{cluster}: the GPU is already on {node}")
        number = self._number(cluster, node, uuid)
        target.gpus = [*target.gpus[:-1], number]
        return [self._uuid(number)]

    def swap_tray(self, cluster: str, node: str, kind: str | None = None) -> list[str]:
        """Replace every GPU of a node with a new one, as in a repair of its tray; return the new UUIDs.

        They are of the kind of the host unless another one is given.
        """
        host = self._host(cluster, node)
        host.gpus = self._new_gpus(kind or host.kind, len(host.gpus))
        return [self._uuid(number) for number in host.gpus]

    def replace(self, cluster: str, node: str, uuid: str | None = None, by: str | None = None) -> list[str]:
        """Take a GPU (GB200: the board with two) out for repair and put another one in its slot.

        `by` is the UUID of one that was taken out before, anywhere; without it a new one is put in. Returns the UUIDs
        that are there now, and then those that were.
        """
        host = self._host(cluster, node)
        board = self._board(self._number(cluster, node, uuid))
        out = [number for number in host.gpus if number in board]
        if by is None:
            put = list(self._new_gpus(_kind(out[0]), len(out)))
        else:
            put = next((numbers for numbers in self._repair if by in map(self._uuid, numbers)), [])
            if len(put) != len(out) or _kind(put[0]) != _kind(out[0]):
                raise SimulationError(f"{cluster}: no GPU {by} of the kind was taken out that could be put in")
            self._repair.remove(put)
        new = iter(put)
        host.gpus = [next(new) if number in board else number for number in host.gpus]
        self._repair.append(out)
        return [self._uuid(number) for number in (*put, *out)]

    def migrate(self, cluster: str, node: str) -> list[str]:
        """Move a VM to another host (a free one, or else a new one); return the UUIDs there."""
        before = self._host(cluster, node)
        host = self._machines[cluster][node] = self._free_host(cluster)
        self._spare[cluster].append(before)
        return [self._uuid(number) for number in host.gpus]

    def add(self, cluster: str, node: str) -> list[str]:
        """Create a VM on a host (a free one, or else a new one), which is power-cycled; return the UUIDs there."""
        if node in self._machines[cluster]:
            raise SimulationError(f"{cluster}: node {node} exists already")
        host = self._machines[cluster][node] = self._free_host(cluster)
        self.reboot(cluster, node)
        return [self._uuid(number) for number in host.gpus]

    def remove(self, cluster: str, node: str) -> list[str]:
        """Delete a VM and free its host; return the UUIDs there."""
        host = self._host(cluster, node)
        self._spare[cluster].append(host)
        del self._machines[cluster][node]
        return [self._uuid(number) for number in host.gpus]

    def reboot(self, cluster: str, node: str) -> None:
        """Power-cycle a host: GPUs that had fallen off its bus are back, and all of them are reset."""
        numbers = self._host(cluster, node).gpus
        for number in numbers:
            if number in self._health:
                self._set_health(number, after_reset(self._health[number]))
        self._dropped.difference_update(numbers)
        self._lost.difference_update(numbers)
        self._silent.difference_update(numbers)

    def lose(
        self, cluster: str, node: str, uuid: str | None = None, *, listed: bool = False, silent: bool = False
    ) -> list[str]:
        """Make a GPU fall off the bus.

        `listed` keeps its entry, with "GPU is lost" for every value; with `silent` the driver gives no handle for it.
        """
        number = self._number(cluster, node, uuid)
        (self._silent if silent else self._lost if listed else self._dropped).add(number)
        return [self._uuid(number)]

    def set_mig(self, cluster: str, node: str, enabled: bool) -> list[str]:
        """Turn MIG on or off on all GPUs of a node."""
        numbers = self._host(cluster, node).gpus
        (self._mig.update if enabled else self._mig.difference_update)(numbers)
        return [self._uuid(number) for number in numbers]

    def hide_serials(self, cluster: str, node: str) -> list[str]:
        """Make the GPUs of a node report no serial, as consumer cards do."""
        numbers = self._host(cluster, node).gpus
        self._without_serial.update(numbers)
        return [self._uuid(number) for number in numbers]

    def make_virtual(self, cluster: str, node: str) -> list[str]:
        """Turn a node into a virtual machine whose GPUs are shares of its host's boards."""
        numbers = self._host(cluster, node).gpus
        self._virtual.update(numbers)
        return [self._uuid(number) for number in numbers]

    def pair_gpus(self, cluster: str, node: str) -> list[str]:
        """Put the GPUs of a node on boards of two, which share and report a serial."""
        numbers = self._host(cluster, node).gpus
        self._paired.update(numbers)
        return [self._uuid(number) for number in numbers]

    def run_process(self, cluster: str, node: str, name: bytes) -> list[str]:
        """Run a process of this name on every GPU of a node."""
        numbers = self._host(cluster, node).gpus
        self._processes.update(dict.fromkeys(numbers, name))
        return [self._uuid(number) for number in numbers]

    # Wear

    def worn(self) -> dict[str, dict[str, int | bool | str | None]]:
        """Return the health values that differ from a new card's, by UUID and field of Health."""
        return {self._uuid(number): ill(_kind(number), health) for number, health in self._health.items()}

    def wear(self, cluster: str, node: str, uuid: str | None, wear: Mapping[str, int | bool | str]) -> list[str]:
        """Change the wear of a GPU, by fields of Health; without `uuid` the last one of the node."""
        number = self._number(cluster, node, uuid)
        try:
            self._set_health(number, worn(_kind(number), self._health_of(number), wear))
        except ValueError as error:
            raise SimulationError(f"{cluster}: {node}: {error}") from error
        return [self._uuid(number)]

    def wearable(self, cluster: str, fields: Iterable[str]) -> list[str]:
        """Return the nodes whose last GPU responds and has all these fields of Health; if any are like new, those."""
        asked, mute = list(fields), self._lost | self._silent
        found: dict[str, int] = {}
        for node, host in self._machines[cluster].items():
            number = next((one for one in reversed(host.gpus) if one not in self._dropped), None)
            if number is None or number in mute:
                continue
            if all(getattr(NEW[_kind(number)], field, None) is not None for field in asked):
                found[node] = number
        return [node for node, number in found.items() if number not in self._health] or list(found)

    def reset(self, cluster: str, node: str, uuid: str | None = None) -> list[str]:
        """Reset a GPU: pending repairs are done."""
        number = self._number(cluster, node, uuid)
        self._set_health(number, after_reset(self._health_of(number)))
        return [self._uuid(number)]

    def flash(self, cluster: str, node: str, uuid: str | None = None) -> list[str]:
        """Write another InfoROM to a GPU: its counters restart at zero."""
        number = self._number(cluster, node, uuid)
        self._set_health(number, flashed(self._health_of(number)))
        return [self._uuid(number)]

    def _health_of(self, number: int) -> Health:
        return self._health.get(number, NEW[_kind(number)])

    def _set_health(self, number: int, health: Health) -> None:
        if health == NEW[_kind(number)]:
            self._health.pop(number, None)
        else:
            self._health[number] = health

    # Numbers to serials and UUIDs

    def _placed(self, cluster: str) -> Iterator[Placed]:
        for node in self._machines[cluster]:
            for card in self.cards(cluster, node):
                if not card.lost:
                    model = VIRTUAL_MODEL if card.virtual else MODELS[card.kind]
                    yield Placed(cluster, node, card.uuid, card.serial, card.chassis, model)

    def _card(self, number: int, index: int, host: Host, chassis: str) -> Card:
        kind = _kind(number)
        return Card(
            kind=kind,
            uuid=self._uuid(number),
            serial="" if number in self._without_serial | self._virtual else self._serial(number),
            minor=index,
            bus_id=_bus_id(kind, index),
            module=index + 1,
            chassis=chassis if number not in self._virtual else "",
            slot=str(host.tray + 1) if chassis else "",
            tray=str(host.tray) if chassis else "",
            host="1" if chassis else "",
            fabric_guid="0x" + self._digest(b"fabric", number).hex()[:16] if kind == "gb200" else "",
            mig=number in self._mig,
            lost=number in self._lost,
            silent=number in self._silent,
            virtual=number in self._virtual,
            shares_board=number in self._paired,
            process=self._processes.get(number, b""),
            health=self._health.get(number),
        )

    def _uuid(self, number: int) -> str:
        digits = self._digest(b"gpu", number).hex()
        return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def _serial(self, number: int) -> str:
        kind = _kind(number)
        board = (number - _FIRST_GPU[kind]) // _GPUS_PER_BOARD[kind]
        if number in self._paired:
            board -= board % 2
        return _SERIAL_PREFIX[kind] + self._scrambled(board)

    def _chassis(self, cluster: str, host: Host) -> str:
        return "182" + self._scrambled(self._index[cluster] * 100_000 + host.chassis) if host.kind == "gb200" else ""

    def _scrambled(self, number: int) -> str:
        """Return ten digits that look random and differ for each number (the factor is not divisible by 2 or 5)."""
        offset = int.from_bytes(self._digest(b"offset", 0)[:4])
        return f"{(number * 3_141_592_653 + offset) % 10_000_000_000:010d}"

    def _digest(self, what: bytes, number: int) -> bytes:
        return hashlib.blake2b(b"%b%b/%d" % (self._salt, what, number), digest_size=16).digest()

    # Hosts and their GPUs

    def _host(self, cluster: str, node: str) -> Host:
        try:
            return self._machines[cluster][node]
        except KeyError:
            if cluster not in self._machines:
                raise SimulationError(f"no cluster {cluster}; there are {_some(self._machines)}") from None
            raise SimulationError(
                f"{cluster}: no GPU node {node}; there are {_some(self._machines[cluster])}"
            ) from None

    def _number(self, cluster: str, node: str, uuid: str | None) -> int:
        present = [number for number in self._host(cluster, node).gpus if number not in self._dropped]
        if not present:
            raise SimulationError(f"{cluster}: {node} has no GPUs left")
        if uuid is None:
            return present[-1]
        by_uuid = {self._uuid(number): number for number in present}
        if uuid not in by_uuid:
            raise SimulationError(f"{cluster}: {node} has no GPU {uuid}; it has {_some(by_uuid)}")
        return by_uuid[uuid]

    def _board(self, number: int) -> range:
        kind = _kind(number)
        size = _GPUS_PER_BOARD[kind]
        first = number - (number - _FIRST_GPU[kind]) % size
        return range(first, first + size)

    def _free_host(self, cluster: str) -> Host:
        return self._spare[cluster].pop() if self._spare[cluster] else self._new_host(cluster)

    def _new_host(self, cluster: str) -> Host:
        kind, number = self._kinds[cluster], self._next_host[cluster]
        self._next_host[cluster] += 1
        chassis, tray = divmod(number, _TRAYS_PER_CHASSIS)
        return Host(kind, chassis, tray, self._new_gpus(kind, self.gpus_per_host))

    def _new_gpus(self, kind: str, count: int) -> range:
        first = _FIRST_GPU[kind] + self._next_gpu[kind]
        self._next_gpu[kind] += -count // _GPUS_PER_BOARD[kind] * -_GPUS_PER_BOARD[kind]  # whole boards
        return range(first, first + count)


def _kind(number: int) -> str:
    if number < _FIRST_GPU["gb200"]:
        return "h100"
    return "gb200" if number < _FIRST_GPU["v100"] else "v100"


def _bus_id(kind: str, index: int) -> str:
    if kind == "gb200":
        return f"{index // 2 * 16 + 8 + index % 2:08X}:01:00.0"
    return f"{index // 8:08X}:{_H100_BUSES[index % 8]:02X}:00.0"


def _some(names: Iterable[str]) -> str:
    """Return the names, shortened if there are many."""
    listed = list(names)
    return ", ".join(listed) if len(listed) <= 4 else f"{listed[0]}, {listed[1]} … {listed[-1]}"
