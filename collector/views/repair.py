"""The boards that a technician should pull from a node, and the others in it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from collector.model import Gpu, NodeState, SilentGpu
from collector.text import counted
from collector.views.cluster_summary import missing_gpus
from collector.views.gpu_state import GpuState
from collector.views.humanize import describe_failure, describe_unread, utc
from collector.views.missing import MissingGpu
from collector.views.placements import in_words
from collector.views.trays import position

__all__ = ["Board", "boards", "doubts"]


class Board(NamedTuple):
    """One board: a GPU, or several that share its serial."""

    gpus: list[Gpu]  # in the order of their modules
    why: tuple[str, ...] = ()  # why it should be pulled; empty if it should not
    last_seen: float | None = None  # Unix seconds, of one that is missing

    @property
    def serial(self) -> str | None:
        """The number on its sticker, if known."""
        return self.gpus[0].serial

    def each(self, field: str) -> str:
        """Return the distinct values of a field of its GPUs: "3, 4"."""
        values = (getattr(gpu, field) for gpu in self.gpus)
        return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def boards(
    gpus: Iterable[Gpu],
    states: Mapping[str, GpuState],
    missing: Sequence[MissingGpu] = (),
    silent: Sequence[SilentGpu] = (),
) -> list[Board]:
    """Return the boards of a node, those to pull first.

    This includes `missing` ones, and those of GPUs known only by address (`silent`).
    """
    absent = {one.gpu.uuid: one for one in missing}
    by_board: dict[str, list[Gpu]] = {}
    for gpu in sorted([*gpus, *(one.gpu for one in missing)], key=position):
        by_board.setdefault(gpu.serial or gpu.uuid, []).append(gpu)
    found = []
    for members in by_board.values():
        why = [text for gpu in members if gpu.uuid in states for text in states[gpu.uuid].repair]
        gone = [absent[gpu.uuid] for gpu in members if gpu.uuid in absent]
        why += [_missing(gone, members)] if gone else []
        seen = max((one.last_seen for one in gone if one.last_seen is not None), default=None)
        found.append(Board(members, tuple(dict.fromkeys(why)), seen))
    found += [
        Board([Gpu(uuid="", pci_bus_id=one.pci_bus_id)], ("does not respond and was never read",)) for one in silent
    ]
    return sorted(found, key=lambda board: not board.why)


def doubts(entry: NodeState, missing: Sequence[MissingGpu]) -> list[str]:
    """Return sentences on why a node may have other boards to pull; `missing` are those known."""
    return list(_doubts(entry, missing))


def _doubts(entry: NodeState, missing: Sequence[MissingGpu]) -> Iterator[str]:
    if (unnamed := missing_gpus(entry) - len(missing)) > 0:
        yield f"{counted(unnamed, 'more GPU')} of the node's capacity not found, with unknown serials."
    read = "It was never read." if entry.time is None else f"Listed: the reading at {utc(int(entry.time))}."
    if entry.uncovered is not None:
        yield f"The node cannot be read: {describe_unread(entry.uncovered.reason)}. {read}"
    elif entry.failing is not None:
        why = describe_failure(entry.failing.reason)
        yield f"The node has been unreadable since {utc(int(entry.failing.since))}: {why}. {read}"


def _missing(gone: Sequence[MissingGpu], members: Sequence[Gpu]) -> str:
    """Describe the missing GPUs of a board, naming them if others are present."""
    if len(gone) == len(members):
        return "missing"
    return f"missing: {', '.join(in_words(one.gpu) or one.gpu.pci_bus_id or one.gpu.uuid for one in gone)}"
