"""Keeps the inventory's series ready as bytes: a change costs its node, a scrape costs its bytes.

Per cluster, nodes are grouped in shards. A node that changes has its lines written anew; of its shard, only the
families whose lines really differ are compressed anew. What a scrape sends is then joined from ready blocks. Only they
are held: who does not accept gzip, as no scraper does, is sent them inflated one by one.
"""

import functools
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import anyio
import anyio.to_thread
import msgspec

from collector.exposition.families import NODE_FAMILIES, label_names, render
from collector.exposition.gzip_join import FOOTER_BYTES, HEADER, Checksum, footer
from collector.exposition.metrics import Metrics
from collector.exposition.shards import ClusterText, ClusterTextStore, DeflatedText, compressed, inflated
from collector.inventory import Inventory
from collector.model import Place

__all__ = ["CLASSIC", "OPENMETRICS", "Body", "Exposition"]

CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_SLICE = 0.005  # seconds of rendering between two turns of the event loop
_UNCOMPRESSED = 8192  # nodes whose new lines may wait to be compressed, 15 MB; a restart renders a whole fleet
_PATIENCE = 0.1  # seconds that a scrape waits for the latest changes; while very many come, it has those before them
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
        self._dirty: dict[str, set[str]] = {}  # cluster -> nodes
        self._touched: set[str] = set()  # clusters with lines that are not compressed yet
        self._fresh: dict[str, ClusterText] = {}  # what is compressed and not published yet
        self._published = False  # a snapshot exists
        self._running = False  # and is kept up to date whether anybody asks or not
        self._wake = anyio.Event()
        self._shards: dict[str, ClusterTextStore] = {}
        self._snapshot: Mapping[str, ClusterText] = {}
        self._lock = anyio.Lock()

    def changed(self, place: Place) -> None:
        """Note that what is published of a node is out of date."""
        self._dirty.setdefault(place.cluster, set()).add(place.node)
        self._wake.set()

    async def run(self) -> None:
        """Keep the text up to date in the background, until cancelled."""
        self._running = True
        while True:
            await self._wake.wait()
            await self.refresh()
            await anyio.sleep(_PAUSE)

    async def refresh(self) -> None:
        """Bring the text in line with the inventory as it is at one instant.

        While one cluster's lines are compressed, the next one's are written.
        """
        async with self._lock:
            async with anyio.create_task_group() as tasks:
                compressing, ready = "", anyio.Event()
                ready.set()
                while waiting := self._dirty.keys() | self._touched - {compressing}:
                    cluster = next(iter(waiting - {compressing}), compressing)
                    if cluster == compressing:
                        await ready.wait()
                    await self._write(cluster)
                    await ready.wait()
                    if cluster in self._touched:
                        compressing, ready = cluster, anyio.Event()
                        tasks.start_soon(self._compress, cluster, ready)
                self._wake = anyio.Event()
            self._publish()

    async def _write(self, cluster: str) -> None:
        """Write the lines of a cluster's nodes that changed, in slices; another task may change more meanwhile."""
        written = 0
        while (nodes := self._dirty.get(cluster)) and written < _UNCOMPRESSED:
            deadline = time.perf_counter() + _SLICE
            while nodes and time.perf_counter() < deadline:
                self._put(Place(cluster, nodes.pop()))
                written += 1
            if not nodes:
                del self._dirty[cluster]
            await anyio.lowlevel.checkpoint()

    async def _compress(self, cluster: str, done: anyio.Event) -> None:
        """Bring a cluster's text in line with its lines; in a thread, which has the shards to itself."""
        # Shielded: who asks may go away, but what was begun must be ended.
        with anyio.CancelScope(shield=True):
            self._fresh[cluster] = await anyio.to_thread.run_sync(self._shards[cluster].refreshed)
        self._touched.discard(cluster)
        done.set()

    def _publish(self) -> None:
        snapshot = dict(self._snapshot)
        for cluster, text in self._fresh.items():
            if text:
                snapshot[cluster] = text
            else:
                del self._shards[cluster]
                snapshot.pop(cluster, None)
        self._fresh.clear()
        self._snapshot = snapshot
        self._published = True

    async def scrape(
        self, *, clusters: Collection[str] | None = None, openmetrics: bool = False, gzip: bool = False
    ) -> Body:
        """Answer with every series, or with those of some clusters only."""
        started = time.perf_counter()
        hurried = self._published and self._running
        with anyio.CancelScope(deadline=anyio.current_time() + _PATIENCE if hurried else math.inf):
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

    async def _own_text(self, *, clusters: Collection[str] | None, of_process: bool, openmetrics: bool) -> DeflatedText:
        def make() -> DeflatedText:
            return compressed(self._metrics.render(clusters=clusters, of_process=of_process, openmetrics=openmetrics))

        # prometheus-client takes about 4 µs for a series, too long for the event loop with a hundred clusters.
        return await anyio.to_thread.run_sync(make)

    def _put(self, place: Place) -> None:
        entry = self._inventory.node(place)
        if entry is None:
            if shards := self._shards.get(place.cluster):
                shards.remove(place.node)
                self._touched.add(place.cluster)
        elif self._shards.setdefault(place.cluster, ClusterTextStore()).put(place.node, self._render(entry)):
            self._touched.add(place.cluster)


def _body(chosen: Sequence[ClusterText] | None, own: DeflatedText, *, openmetrics: bool, gzip: bool) -> Body:
    """Lay the families one after the other, each with its header; `chosen` None leaves them out."""
    texts: list[DeflatedText] = []
    if chosen is not None:
        for family, header in enumerate(_HEADERS):
            texts.append(header)
            texts.extend(chain.from_iterable(cluster[family] for cluster in chosen))
    texts.append(own)
    content_type = OPENMETRICS if openmetrics else CLASSIC
    if not gzip:
        chunks = (plain for text in texts for plain in inflated(text))
        return Body(content_type, "identity", sum(text.checksum.length for text in texts), chunks)
    checksum = Checksum.joined(text.checksum for text in texts)
    blocks = (b"".join(text.deflated) for text in texts)
    length = len(HEADER) + sum(text.deflated_length for text in texts) + FOOTER_BYTES
    return Body(content_type, "gzip", length, chain((HEADER,), blocks, (footer(checksum),)))


_HEADERS = [
    compressed(f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n".encode())
    for family in NODE_FAMILIES
]
