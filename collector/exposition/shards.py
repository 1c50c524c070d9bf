"""Keeps the text of one cluster's nodes compressed, in shards, so that a change costs a few nodes' text."""

import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from collector.exposition.families import NODE_FAMILIES
from collector.exposition.gzip_join import EMPTY, Checksum, deflate

__all__ = ["ClusterText", "ClusterTextStore", "DeflatedText", "PendingText", "compressed", "inflated"]

_SHARD_NODES = 64  # 64 nodes of 8 GPUs are about 90 kB of text: compressed in under 1 ms, 6.6 times smaller
_GROUP_SHARDS = 32  # so that a change in a cluster of 100,000 nodes joins anew what 2,048 of them have


class DeflatedText(msgspec.Struct, frozen=True, gc=False):
    """Some lines of one family, as blocks that can stand anywhere in a deflate stream."""

    deflated: tuple[bytes, ...]
    checksum: Checksum
    deflated_length: int

    @classmethod
    def joined(cls, texts: Sequence["DeflatedText"]) -> "DeflatedText":
        """Lay texts one after the other."""
        return cls(
            tuple(chain.from_iterable(text.deflated for text in texts)),
            Checksum.joined(text.checksum for text in texts),
            sum(text.deflated_length for text in texts),
        )


ClusterText = tuple[tuple[DeflatedText, ...], ...]  # beside NODE_FAMILIES: the texts of groups of shards


class PendingText(msgspec.Struct, frozen=True, gc=False):
    """What a family's text in a shard was, and which nodes' lines in it are to be others."""

    text: DeflatedText
    lengths: "array[int]"  # of each slot's lines in `text`
    lines: dict[int, bytes]  # by slot

    def apply(self) -> DeflatedText:
        """Compress the text anew."""
        before = b"".join(inflated(self.text))
        pieces, start = [], 0
        for slot, length in enumerate(self.lengths):
            pieces.append(self.lines.get(slot, before[start : start + length]))
            start += length
        return compressed(b"".join(pieces))


def compressed(plain: bytes) -> DeflatedText:
    """Make a text of lines."""
    if not plain:
        return _NOTHING
    deflated = deflate(plain)
    return DeflatedText((deflated,), Checksum.of(plain), len(deflated))


def inflated(text: DeflatedText) -> Iterator[bytes]:
    """Give a text's lines, block by block."""
    for block in text.deflated:
        yield zlib.decompressobj(-zlib.MAX_WBITS).decompress(block)  # no block is the stream's last


class _Shard:
    """A few nodes' lines, by family: each node has a slot, that is, a place in the text of every family.

    The lines themselves are held in compressed form alone, which is a sixth of them; a digest tells whether new ones
    differ.
    """

    __slots__ = ("_changes", "_digests", "_free", "_lengths", "group", "slots", "texts")

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}  # by node
        self.texts: list[DeflatedText] = [_NOTHING] * _FAMILIES
        self.group: _Group | None = None
        self._free: list[int] = []
        self._lengths = [array("I") for _ in range(_FAMILIES)]  # of the lines in `texts`, by slot
        self._digests = [array("q") for _ in range(_FAMILIES)]  # of the lines as they are to be, by slot
        self._changes: list[dict[int, bytes]] = [{} for _ in range(_FAMILIES)]  # lines that `texts` has not yet

    def put(self, node: str, lines: Sequence[bytes]) -> bool:
        """Give a node its lines; tells whether that changes anything."""
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
        """Name the families whose text is older than the lines."""
        return [family for family, lines in enumerate(self._changes) if lines]

    def take(self, family: int) -> PendingText:
        """Give what is to become of a family's text."""
        lines, lengths = self._changes[family], self._lengths[family]
        change = PendingText(self.texts[family], lengths[:], lines)
        self._changes[family] = {}
        for slot, new in lines.items():
            lengths[slot] = len(new)
        return change

    def _new_slot(self) -> int:
        if self._free:
            return self._free.pop()
        for family in range(_FAMILIES):
            self._lengths[family].append(0)
            self._digests[family].append(_NO_DIGEST)
        return len(self.slots)


class _Group:
    """Some shards whose texts are joined."""

    __slots__ = ("_joined", "_texts", "shards", "stale")

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self.shards = shards
        self.stale = True  # a shard's text may be another one than when they were joined
        self._texts: list[list[DeflatedText]] = [[] for _ in range(_FAMILIES)]  # what was joined
        self._joined: list[DeflatedText] = [_NOTHING] * _FAMILIES
        for shard in shards:
            shard.group = self

    def text(self) -> Sequence[DeflatedText]:
        """Join the texts, beside NODE_FAMILIES; those that are the very ones of last time stay joined."""
        if self.stale:
            self.stale = False
            for family, before in enumerate(self._texts):
                texts = [shard.texts[family] for shard in self.shards]
                if len(before) != len(texts) or any(old is not new for old, new in zip(before, texts, strict=True)):
                    self._texts[family], self._joined[family] = texts, DeflatedText.joined(texts)
        return tuple(self._joined)


class ClusterTextStore:
    """One cluster's nodes, spread over shards."""

    def __init__(self) -> None:
        self._all: list[_Shard] = []
        self._changed: dict[_Shard, None] = {}  # those whose texts are older than their lines
        self._of: dict[str, _Shard] = {}
        self._groups: list[_Group] = []
        self._open: _Shard | None = None  # the one that takes new nodes

    def put(self, node: str, lines: Sequence[bytes]) -> bool:
        """Give a node its lines, beside NODE_FAMILIES; tells whether that changes anything."""
        if (shard := self._of.get(node)) is None:
            shard = self._of[node] = self._with_room()
        if changed := shard.put(node, lines):
            self._changed[shard] = None
        return changed

    def remove(self, node: str) -> None:
        """Take a node's lines out."""
        if shard := self._of.pop(node, None):
            shard.remove(node)
            self._changed[shard] = None

    def refreshed(self) -> ClusterText:
        """Compress what was changed and join the shards' texts; empty when no node is left."""
        for shard in self._changed:
            for family in shard.stale():
                shard.texts[family] = shard.take(family).apply()
            if shard.group is not None:
                shard.group.stale = True
        if not all(shard.slots for shard in self._changed):
            self._all = [shard for shard in self._all if shard.slots]
            self._groups.clear()
        self._changed.clear()
        if sum(len(group.shards) for group in self._groups) != len(self._all):
            starts = range(0, len(self._all), _GROUP_SHARDS)
            self._groups = [_Group(self._all[start : start + _GROUP_SHARDS]) for start in starts]
        joined = [group.text() for group in self._groups]
        return tuple(tuple(families) for families in zip(*joined, strict=True))

    def _with_room(self) -> _Shard:
        if self._open is None or not 0 < len(self._open.slots) < _SHARD_NODES:
            self._open = next((shard for shard in self._all if len(shard.slots) < _SHARD_NODES // 2), None)
            if self._open is None:
                self._open = _Shard()
                self._all.append(self._open)
        return self._open


_FAMILIES = len(NODE_FAMILIES)
_NOTHING = DeflatedText((), EMPTY, 0)
_NO_LINES = (b"",) * _FAMILIES
_NO_DIGEST = hash(b"")
