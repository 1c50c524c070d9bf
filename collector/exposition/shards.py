"""Keeps the text of one cluster's nodes compressed, in shards, so that a change costs a few nodes' text."""

import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from collector.exposition.families import NODE_FAMILIES
from collector.exposition.gzip_concat import EMPTY, Checksum, deflate

__all__ = ["SHARD_NODES", "ClusterText", "ClusterTextStore", "DeflatedText", "PendingText", "compressed", "inflated"]

SHARD_NODES = 64  # nodes; with 8 GPUs each about 90 kB of text, compressed in under 1 ms to a sixth
GROUP_SHARDS = 32  # shards; in a cluster of 100,000 nodes a change concatenates the texts of 2,048

_FAMILIES = len(NODE_FAMILIES)
_NO_LINES = (b"",) * _FAMILIES
_NO_DIGEST = hash(b"")


class DeflatedText(msgspec.Struct, frozen=True, gc=False):
    """Some lines of one family, as blocks that can appear anywhere in a deflate stream."""

    deflated: tuple[bytes, ...]
    checksum: Checksum
    deflated_length: int  # bytes

    @classmethod
    def concat(cls, texts: Sequence["DeflatedText"]) -> "DeflatedText":
        """Return the concatenated texts."""
        return cls(
            tuple(chain.from_iterable(text.deflated for text in texts)),
            Checksum.concat(text.checksum for text in texts),
            sum(text.deflated_length for text in texts),
        )


ClusterText = tuple[tuple[DeflatedText, ...], ...]  # by family, as in NODE_FAMILIES: the texts of the shard groups

_EMPTY_TEXT = DeflatedText((), EMPTY, 0)


class PendingText(msgspec.Struct, frozen=True, gc=False):
    """The compressed text of one family in a shard, with lines to replace."""

    text: DeflatedText
    lengths: "array[int]"  # bytes of each slot's lines in `text`
    lines: dict[int, bytes]  # new lines, by slot

    def apply(self) -> DeflatedText:
        """Return the compressed text with the new lines."""
        before = b"".join(inflated(self.text))
        pieces, start = [], 0
        for slot, length in enumerate(self.lengths):
            pieces.append(self.lines.get(slot, before[start : start + length]))
            start += length
        return compressed(b"".join(pieces))


def compressed(plain: bytes) -> DeflatedText:
    """Return lines as compressed text."""
    if not plain:
        return _EMPTY_TEXT
    deflated = deflate(plain)
    return DeflatedText((deflated,), Checksum.of(plain), len(deflated))


def inflated(text: DeflatedText) -> Iterator[bytes]:
    """Yield the lines of a text, block by block."""
    for block in text.deflated:
        yield zlib.decompressobj(-zlib.MAX_WBITS).decompress(block)  # not `zlib.decompress`: no block ends the stream


class _Shard:
    """The lines of a few nodes, by family: each node has a slot, its position in the text of every family.

    Only the compressed lines are kept, a sixth of the plain ones; a digest shows whether new lines differ from them.
    """

    __slots__ = ("_changes", "_digests", "_free", "_lengths", "group", "slots", "texts")

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}  # by node
        self.texts: list[DeflatedText] = [_EMPTY_TEXT] * _FAMILIES
        self.group: _Group | None = None
        self._free: list[int] = []  # slots
        self._lengths = [array("I") for _ in range(_FAMILIES)]  # bytes of the lines in `texts`, by slot
        self._digests = [array("q") for _ in range(_FAMILIES)]  # of the newest lines, by slot
        self._changes: list[dict[int, bytes]] = [{} for _ in range(_FAMILIES)]  # lines not yet in `texts`, by slot

    def put(self, node: str, lines: Sequence[bytes]) -> bool:
        """Set the lines of a node and return whether any differ."""
        if (slot := self.slots.get(node)) is None:
            slot = self.slots[node] = self._new_slot()
        changed = False
        for family, new in enumerate(lines):
            if self._digests[family][slot] != (digest := hash(new)):
                self._digests[family][slot] = digest
                self._changes[family][slot] = new
                changed = True
        return changed

    def remove(self, node: str) -> None:
        self.put(node, _NO_LINES)
        self._free.append(self.slots.pop(node))

    def stale(self) -> list[int]:
        """Return the families with lines not yet in the text."""
        return [family for family, lines in enumerate(self._changes) if lines]

    def take(self, family: int) -> PendingText:
        """Return the text of a family with its new lines, which then count as applied."""
        lines, lengths = self._changes[family], self._lengths[family]
        pending = PendingText(self.texts[family], lengths[:], lines)
        self._changes[family] = {}
        for slot, new in lines.items():
            lengths[slot] = len(new)
        return pending

    def _new_slot(self) -> int:
        if self._free:
            return self._free.pop()
        for family in range(_FAMILIES):
            self._lengths[family].append(0)
            self._digests[family].append(_NO_DIGEST)
        return len(self.slots)


class _Group:
    """Several shards whose texts are concatenated."""

    __slots__ = ("_concatenated", "shards", "stale")

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self.shards = shards
        self.stale = set(range(_FAMILIES))  # families with a new shard text since they were concatenated
        self._concatenated: list[DeflatedText] = [_EMPTY_TEXT] * _FAMILIES
        for shard in shards:
            shard.group = self

    def text(self) -> Sequence[DeflatedText]:
        """Return the concatenated texts by family; a family without a new text is not concatenated again."""
        for family in self.stale:
            self._concatenated[family] = DeflatedText.concat([shard.texts[family] for shard in self.shards])
        self.stale.clear()
        return tuple(self._concatenated)


class ClusterTextStore:
    """The text of one cluster's nodes, in shards of at most `shard_nodes` and groups of at most `group_shards`."""

    def __init__(self, *, shard_nodes: int = SHARD_NODES, group_shards: int = GROUP_SHARDS) -> None:
        self._shard_nodes = shard_nodes
        self._group_shards = group_shards
        self._shards: list[_Shard] = []
        self._changed: dict[_Shard, None] = {}  # those with lines not yet in their texts
        self._by_node: dict[str, _Shard] = {}
        self._groups: list[_Group] = []
        self._open: _Shard | None = None  # takes new nodes

    def put(self, node: str, lines: Sequence[bytes]) -> bool:
        """Set the lines of a node, by family, and return whether any differ."""
        if (shard := self._by_node.get(node)) is None:
            shard = self._by_node[node] = self._shard_with_room()
        if changed := shard.put(node, lines):
            self._changed[shard] = None
        return changed

    def remove(self, node: str) -> None:
        """Remove the lines of a node."""
        if shard := self._by_node.pop(node, None):
            shard.remove(node)
            self._changed[shard] = None

    def refreshed(self) -> ClusterText:
        """Compress what has changed and return the whole text; it is empty when no node is left."""
        for shard in self._changed:
            for family in (families := shard.stale()):
                shard.texts[family] = shard.take(family).apply()
            if shard.group is not None:
                shard.group.stale.update(families)
        if not all(shard.slots for shard in self._changed):
            self._shards = [shard for shard in self._shards if shard.slots]
            self._groups.clear()
        self._changed.clear()
        if sum(len(group.shards) for group in self._groups) != len(self._shards):
            starts = range(0, len(self._shards), self._group_shards)
            self._groups = [_Group(self._shards[start : start + self._group_shards]) for start in starts]
        texts = [group.text() for group in self._groups]
        return tuple(tuple(family) for family in zip(*texts, strict=True))

    def _shard_with_room(self) -> _Shard:
        if self._open is None or not 0 < len(self._open.slots) < self._shard_nodes:
            self._open = next((shard for shard in self._shards if len(shard.slots) < self._shard_nodes // 2), None)
            if self._open is None:
                self._open = _Shard()
                self._shards.append(self._open)
        return self._open
