"""Keeps the text of one cluster's nodes compressed, in shards, so that a change costs a few nodes' text."""

import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from collector.exposition.families import NODE_FAMILIES
from collector.exposition.gzip_concat import EMPTY, Checksum, deflate

__all__ = ["SHARD_NODES", "ClusterText", "ClusterTextStore", "DeflatedText", "PendingText", "compressed", "inflated"]

SHARD_NODES = 32  # nodes; with 8 GPUs each about 45 kB of text, compressed in half a millisecond to a sixth
GROUP_SHARDS = 16  # shards; in a cluster of 100,000 nodes a change concatenates the texts of 512
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
        if not self.text.deflated:  # all lines are new
            return compressed(b"".join([self.lines[slot] for slot in sorted(self.lines)]))
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

    __slots__ = ("_changes", "_digests", "_free", "_lengths", "_size", "group", "slots", "texts")

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}  # by node
        self.texts: list[DeflatedText] = [_EMPTY_TEXT] * _FAMILIES
        self.group: _Group | None = None
        self._size = 0  # slots
        self._free: list[int] = []  # slots
        # By family, of those that ever had lines here, which are few:
        self._lengths: dict[int, array[int]] = {}  # bytes of the lines in `texts`, by slot
        self._digests: dict[int, array[int]] = {}  # of the newest lines, by slot
        self._changes: dict[int, dict[int, bytes]] = {}  # lines not yet in `texts`, by slot

    def put(self, node: str, lines: Sequence[bytes]) -> bool:
        """Set the lines of a node and return whether any differ."""
        if (slot := self.slots.get(node)) is None:
            slot = self.slots[node] = self._new_slot()
        changed = False
        for family, new in enumerate(lines):
            if (digests := self._digests.get(family)) is None:
                if not new:
                    continue
                digests = self._digests[family] = array("q", [_NO_DIGEST]) * self._size
                self._lengths[family] = array("I", [0]) * self._size
            if digests[slot] != (digest := hash(new)):
                digests[slot] = digest
                self._changes.setdefault(family, {})[slot] = new
                changed = True
        return changed

    def remove(self, node: str) -> None:
        self.put(node, _NO_LINES)
        self._free.append(self.slots.pop(node))

    def stale(self) -> list[int]:
        """Return the families with lines not yet in the text."""
        return list(self._changes)

    def take(self, family: int) -> PendingText:
        """Return the text of a family with its new lines, which then count as applied."""
        lines, lengths = self._changes.pop(family), self._lengths[family]
        pending = PendingText(self.texts[family], lengths[:], lines)
        for slot, new in lines.items():
            lengths[slot] = len(new)
        return pending

    def _new_slot(self) -> int:
        if self._free:
            return self._free.pop()
        for family, digests in self._digests.items():
            digests.append(_NO_DIGEST)
            self._lengths[family].append(0)
        self._size += 1
        return self._size - 1


class _Group:
    """Several shards whose texts are concatenated."""

    __slots__ = ("shards", "stale", "texts")

    def __init__(self) -> None:
        self.shards: list[_Shard] = []
        self.stale: set[int] = set()  # families with a new shard text since they were concatenated
        self.texts: list[DeflatedText] = [_EMPTY_TEXT] * _FAMILIES

    def add(self, shard: _Shard) -> None:
        self.shards.append(shard)
        self.stale.update(range(_FAMILIES))
        shard.group = self

    def concat(self) -> None:
        """Concatenate the texts of the families with a new text."""
        for family in self.stale:
            self.texts[family] = DeflatedText.concat([shard.texts[family] for shard in self.shards])
        self.stale.clear()


class ClusterTextStore:
    """The text of one cluster's nodes, in shards of at most `shard_nodes` and groups of at most `group_shards`."""

    def __init__(self, *, shard_nodes: int = SHARD_NODES, group_shards: int = GROUP_SHARDS) -> None:
        self._shard_nodes = shard_nodes
        self._group_shards = group_shards
        self._shards: list[_Shard] = []
        self._changed: dict[_Shard, None] = {}  # those with lines not yet in their texts
        self._by_node: dict[str, _Shard] = {}
        self._groups: list[_Group] = []
        self._grouped = 0  # how many shards, the first ones, are in a group
        self._open: _Shard | None = None  # takes new nodes
        self._left: dict[_Shard, None] = {}  # those that nodes have left

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
            self._left[shard] = None

    def refreshed(self) -> ClusterText:
        """Compress what has changed and return the whole text; it is empty when no node is left."""
        groups: dict[_Group, None] = {}  # with changes
        for shard in self._changed:
            for family in (families := shard.stale()):
                shard.texts[family] = shard.take(family).apply()
            if shard.group is not None:
                shard.group.stale.update(families)
                groups[shard.group] = None
        if not all(shard.slots for shard in self._changed):
            self._shards = [shard for shard in self._shards if shard.slots]
            self._left = {shard: None for shard in self._left if shard.slots}
            self._groups.clear()
            self._grouped = 0
            groups.clear()
        self._changed.clear()
        for shard in self._shards[self._grouped :]:
            if not self._groups or len(self._groups[-1].shards) == self._group_shards:
                self._groups.append(_Group())
            self._groups[-1].add(shard)
            groups[self._groups[-1]] = None
        self._grouped = len(self._shards)
        for group in groups:
            group.concat()
        return tuple(zip(*(group.texts for group in self._groups), strict=True))

    def _shard_with_room(self) -> _Shard:
        if self._open is None or not 0 < len(self._open.slots) < self._shard_nodes:
            self._open = None
            while self._left and self._open is None:
                shard, _ = self._left.popitem()
                if len(shard.slots) < self._shard_nodes // 2:
                    self._open = shard
            if self._open is None:
                self._open = _Shard()
                self._shards.append(self._open)
        return self._open
