"""Keeps the inventory's series ready as bytes: a change costs its node, a scrape costs its bytes.

Per cluster, nodes are grouped in shards. A node that changes has its lines written anew; of its shard, only the
families whose lines really differ are compressed anew. What a scrape sends is then joined from ready pieces.
"""

import functools
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import anyio
import anyio.to_thread
import msgspec

from collector.exposition.families import NODE_FAMILIES, label_names, render
from collector.exposition.gzip_join import EMPTY, FOOTER_BYTES, HEADER, Checksum, deflate, footer
from collector.exposition.metrics import Metrics
from collector.inventory import Inventory
from collector.model import Place

__all__ = ["CLASSIC", "OPENMETRICS", "Body", "Exposition"]

CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_SHARD_NODES = 64  # 64 nodes of 8 GPUs are about 90 kB of text: compressed in under 1 ms, 6.6 times smaller
_GROUP_SHARDS = 32  # so that a change in a cluster of 100,000 nodes joins anew what 2,048 of them have
_SLICE = 0.005  # seconds of rendering between two turns of the event loop
_PAUSE = 1.0  # seconds between two rounds in the background; a scrape does not wait for them


class Body(msgspec.Struct, frozen=True):
    """An answer to a scrape, in pieces that other answers share."""

    content_type: str
    encoding: str  # "gzip" or "identity"
    length: int  # bytes of all chunks
    chunks: Iterable[bytes]  # to be walked once


class Exposition:
    """The text that Prometheus scrapes, always ready."""

    def __init__(
        self,
        inventory: Inventory,
        metrics: Metrics,
        *,
        cluster_label: str = "cluster",
        node_labels: Sequence[str] = (),
    ) -> None:
        self._inventory = inventory
        self._metrics = metrics
        self._render = functools.partial(render, node_labels=label_names(node_labels), cluster_label=cluster_label)
        self._dirty: set[Place] = set()
        self._wake = anyio.Event()
        self._shards: dict[str, _Shards] = {}
        self._snapshot: Mapping[str, _ClusterText] = {}
        self._lock = anyio.Lock()

    def changed(self, place: Place) -> None:
        """Note that what is published of a node is out of date."""
        self._dirty.add(place)
        self._wake.set()

    async def run(self) -> None:
        """Keep the text up to date in the background, until cancelled."""
        while True:
            await self._wake.wait()
            await self.refresh()
            await anyio.sleep(_PAUSE)

    async def refresh(self) -> None:
        """Bring the text in line with the inventory as it is at one instant."""
        async with self._lock:
            while self._dirty:  # another task may have changed nodes while this one gave way
                self._render_slice()
                await anyio.lowlevel.checkpoint()
            self._wake = anyio.Event()
            jobs = [
                (shard, family, shard.take(family))
                for shards in self._shards.values()
                for shard, family in shards.stale()
            ]
            touched = [cluster for cluster, shards in self._shards.items() if shards.touched]
            if jobs:
                texts = await anyio.to_thread.run_sync(_compressed, [pieces for _, _, pieces in jobs])
                for (shard, family, _), text in zip(jobs, texts, strict=True):
                    shard.texts[family] = text
            self._publish(touched)

    async def scrape(
        self, *, clusters: Collection[str] | None = None, openmetrics: bool = False, gzip: bool = False
    ) -> Body:
        """Answer with every series, or with those of some clusters only."""
        started = time.perf_counter()
        await self.refresh()
        snapshot = self._snapshot
        names = snapshot.keys() if clusters is None else [name for name in clusters if name in snapshot]
        own = await self._own_text(clusters=clusters, of_process=clusters is None, openmetrics=openmetrics)
        body = _body([snapshot[name] for name in names], own, openmetrics=openmetrics, gzip=gzip)
        self._metrics.scraped(body.encoding, body.length, time.perf_counter() - started)
        return body

    async def scrape_collector(self, *, openmetrics: bool = False, gzip: bool = False) -> Body:
        """Answer with the series that belong to no cluster: the process and its work as a whole."""
        own = await self._own_text(clusters=(), of_process=True, openmetrics=openmetrics)
        return _body(None, own, openmetrics=openmetrics, gzip=gzip)

    async def _own_text(self, *, clusters: Collection[str] | None, of_process: bool, openmetrics: bool) -> bytes:
        # prometheus-client takes about 20 µs for a series, too long for the event loop with a hundred clusters.
        return await anyio.to_thread.run_sync(
            functools.partial(self._metrics.render, clusters=clusters, of_process=of_process, openmetrics=openmetrics)
        )

    def _render_slice(self) -> None:
        deadline = time.perf_counter() + _SLICE
        while self._dirty and time.perf_counter() < deadline:
            place = self._dirty.pop()
            entry = self._inventory.node(place)
            if entry is None:
                if shards := self._shards.get(place.cluster):
                    shards.remove(place.node)
            else:
                self._shards.setdefault(place.cluster, _Shards()).put(place.node, self._render(entry))

    def _publish(self, touched: Iterable[str]) -> None:
        snapshot = dict(self._snapshot)
        for cluster in touched:
            if text := self._shards[cluster].text():
                snapshot[cluster] = text
            else:
                del self._shards[cluster]
                snapshot.pop(cluster, None)
        self._snapshot = snapshot


class _Text(msgspec.Struct, frozen=True, gc=False):
    """Some lines of one family: as pieces, and compressed."""

    pieces: tuple[bytes, ...]
    deflated: tuple[bytes, ...]
    checksum: Checksum
    deflated_length: int

    @classmethod
    def joined(cls, texts: Sequence["_Text"]) -> "_Text":
        return cls(
            tuple(chain.from_iterable(text.pieces for text in texts)),
            tuple(chain.from_iterable(text.deflated for text in texts)),
            Checksum.joined(text.checksum for text in texts),
            sum(text.deflated_length for text in texts),
        )


_ClusterText = tuple[tuple[_Text, ...], ...]  # beside NODE_FAMILIES: the texts of groups of shards


class _Shard:
    """A few nodes' lines, by family."""

    def __init__(self) -> None:
        self.nodes: dict[str, tuple[bytes, ...]] = {}  # beside NODE_FAMILIES
        self.texts: list[_Text] = [_NOTHING] * len(NODE_FAMILIES)
        self.stale: set[int] = set()  # indexes of families whose text is older than the lines

    def put(self, node: str, lines: tuple[bytes, ...]) -> bool:
        before = self.nodes.get(node, _NO_LINES)
        differing = {family for family, (old, new) in enumerate(zip(before, lines, strict=True)) if old != new}
        self.nodes[node] = tuple(old if old == new else new for old, new in zip(before, lines, strict=True))
        self.stale |= differing
        return bool(differing)

    def remove(self, node: str) -> None:
        self.put(node, _NO_LINES)
        del self.nodes[node]

    def take(self, family: int) -> tuple[bytes, ...]:
        self.stale.discard(family)
        return tuple(lines[family] for lines in self.nodes.values() if lines[family])


class _Shards:
    """One cluster's nodes, spread over shards."""

    def __init__(self) -> None:
        self._all: list[_Shard] = []
        self._of: dict[str, _Shard] = {}
        self._groups: dict[
            tuple[int, int], tuple[list[_Text], _Text]
        ] = {}  # (family, group) -> what was joined, to what
        self._open: _Shard | None = None  # the one that takes new nodes
        self.touched = False

    def put(self, node: str, lines: tuple[bytes, ...]) -> None:
        if (shard := self._of.get(node)) is None:
            shard = self._of[node] = self._with_room()
        self.touched |= shard.put(node, lines)

    def remove(self, node: str) -> None:
        if shard := self._of.pop(node, None):
            shard.remove(node)
            self.touched = True

    def stale(self) -> Iterator[tuple[_Shard, int]]:
        for shard in self._all:
            for family in sorted(shard.stale):
                yield shard, family

    def text(self) -> _ClusterText:
        """Join the shards' texts; empty when no node is left."""
        self.touched = False
        self._all = [shard for shard in self._all if shard.nodes]
        self._open = self._open if self._open in self._all else None
        if not self._all:
            return ()
        starts = range(0, len(self._all), _GROUP_SHARDS)
        groups = [self._all[start : start + _GROUP_SHARDS] for start in starts]
        return tuple(
            tuple(self._joined(family, index, group) for index, group in enumerate(groups))
            for family in range(len(NODE_FAMILIES))
        )

    def _joined(self, family: int, index: int, group: Sequence[_Shard]) -> _Text:
        """Join a group's texts, unless they are the very ones that were joined last time."""
        texts = [shard.texts[family] for shard in group]
        before, joined = self._groups.get((family, index), ([], _NOTHING))
        if len(before) != len(texts) or any(old is not new for old, new in zip(before, texts, strict=True)):
            joined = _Text.joined(texts)
            self._groups[family, index] = texts, joined
        return joined

    def _with_room(self) -> _Shard:
        if self._open is None or len(self._open.nodes) >= _SHARD_NODES:
            self._open = next((shard for shard in self._all if len(shard.nodes) < _SHARD_NODES // 2), None)
            if self._open is None:
                self._open = _Shard()
                self._all.append(self._open)
        return self._open


def _compressed(jobs: Iterable[Sequence[bytes]]) -> list[_Text]:
    return [_text(pieces) for pieces in jobs]


def _text(pieces: Sequence[bytes]) -> _Text:
    plain = b"".join(pieces)
    if not plain:
        return _NOTHING
    deflated = deflate(plain)
    return _Text(tuple(pieces), (deflated,), Checksum.of(plain), len(deflated))


def _body(chosen: Sequence[_ClusterText] | None, own: bytes, *, openmetrics: bool, gzip: bool) -> Body:
    """Lay the families one after the other, each with its header; `chosen` None leaves them out."""
    texts: list[_Text] = []
    if chosen is not None:
        for family, header in enumerate(_HEADERS):
            texts.append(header)
            texts.extend(chain.from_iterable(cluster[family] for cluster in chosen))
    texts.append(_text([own]))
    content_type = OPENMETRICS if openmetrics else CLASSIC
    if not gzip:
        chunks = chain.from_iterable(_batches(text.pieces) for text in texts)
        return Body(content_type, "identity", sum(text.checksum.length for text in texts), chunks)
    checksum = Checksum.joined(text.checksum for text in texts)
    chunks = chain((HEADER,), chain.from_iterable(_batches(text.deflated) for text in texts), (footer(checksum),))
    length = len(HEADER) + sum(text.deflated_length for text in texts) + FOOTER_BYTES
    return Body(content_type, "gzip", length, chunks)


def _batches(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Join pieces to a size that is worth a write."""
    for start in range(0, len(pieces), _SHARD_NODES):
        yield b"".join(pieces[start : start + _SHARD_NODES])


_NOTHING = _Text((), (), EMPTY, 0)
_NO_LINES = (b"",) * len(NODE_FAMILIES)
_HEADERS = [
    _text([f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n".encode()])
    for family in NODE_FAMILIES
]
