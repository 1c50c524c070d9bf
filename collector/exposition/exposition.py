"""Keeps the inventory's series ready as bytes: a change costs its node, a scrape costs its bytes.

The nodes of a cluster are grouped in shards. When a node changes, its lines are rendered, and its shard compresses only
the families whose lines differ. A scrape concatenates the compressed blocks, which are all that is kept in memory: for
a client that does not accept gzip, which is rare among scrapers, they are inflated one by one.
"""

import functools
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain

import anyio
import anyio.to_thread
import msgspec

from collector.events import ResettableEvent
from collector.exposition.families import NODE_FAMILIES, header, label_names, render
from collector.exposition.gpu_counts import GpuCounts
from collector.exposition.gzip_concat import FOOTER_BYTES, HEADER, Checksum, footer
from collector.exposition.mark_series import MarkSeries
from collector.exposition.metrics import Metrics
from collector.exposition.shards import ClusterText, ClusterTextStore, DeflatedText, compressed, inflated
from collector.model import NodeState, Place

__all__ = ["CLASSIC", "OPENMETRICS", "Body", "Exposition"]

CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_RENDER_SLICE_SECONDS = 0.005  # of rendering between two turns of the event loop
_MAX_UNCOMPRESSED_NODES = 8192  # rendered before they are compressed, 15 MB; a restart renders the whole fleet
_MAX_REFRESH_SECONDS = 0.1  # for which a scrape waits for the latest changes; then it is sent without them
_LOOKED_AT_ONCE = 16  # clusters whose own series are collected between two turns of the event loop
_REFRESH_INTERVAL_SECONDS = 1.0  # between two background refreshes, for which a scrape does not wait

_FAMILY_HEADERS = [compressed(header(family)) for family in NODE_FAMILIES]


class Body(msgspec.Struct, frozen=True):
    """The response to a scrape, in chunks that other responses share."""

    content_type: str
    encoding: str  # "gzip" or "identity"
    length: int  # bytes of all chunks
    chunks: Iterable[bytes]  # can be iterated once


class _NodesText(msgspec.Struct, frozen=True):
    """The families of some clusters' nodes that have samples."""

    texts: list[DeflatedText]
    checksum: Checksum
    deflated_length: int  # bytes

    @classmethod
    def of(cls, clusters: Sequence[ClusterText]) -> "_NodesText":
        texts: list[DeflatedText] = []
        for family, family_header in enumerate(_FAMILY_HEADERS):
            samples = [text for cluster in clusters for text in cluster[family] if text.deflated]
            if samples:  # as in prometheus-client: a family without samples has no header
                texts += [family_header, *samples]
        checksum = Checksum.concat(text.checksum for text in texts)
        return cls(texts, checksum, sum(text.deflated_length for text in texts))


class Exposition:
    """The text that Prometheus scrapes, kept ready."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        cluster_label: str = "cluster",
        node_labels: Sequence[str] = (),
    ) -> None:
        self.gpu_counts = GpuCounts()  # of published nodes
        self.marks = MarkSeries()
        self.renders: Callable[[str], bool] = lambda _cluster: True  # a cluster that scrapes are sent
        self._metrics = metrics
        metrics.count_gpus(self.gpu_counts.of)
        self._render = functools.partial(render, node_labels=label_names(node_labels), cluster_label=cluster_label)
        self._stores: dict[str, ClusterTextStore] = {}  # by cluster
        self._dirty: dict[str, dict[str, NodeState | None]] = {}  # nodes to render, by cluster and name
        self._uncompressed: set[str] = set()  # clusters with rendered lines not yet compressed
        self._compressed: dict[str, ClusterText] = {}  # texts not yet in the snapshot
        self._snapshot: Mapping[str, ClusterText] = {}  # sent to scrapers
        self._nodes_texts: dict[str | None, _NodesText] = {}  # of the snapshot, by cluster (None: all), as last scraped
        self._published = False  # there has been a snapshot
        self._behind_since: float | None = None  # time of the oldest change not in the snapshot
        self._running = False  # the snapshot is refreshed in the background
        self._changed = ResettableEvent()
        self._lock = anyio.Lock()

    def update(self, nodes: Mapping[Place, NodeState | None]) -> None:
        """Publish these node states from the next refresh on; None: the node is gone."""
        self.gpu_counts.update(nodes)
        for place, state in nodes.items():
            if not self.renders(place.cluster):
                continue
            self._dirty.setdefault(place.cluster, {})[place.node] = state
        if nodes:
            self.marks.inventory_changed()
            self._behind_since = self._behind_since or time.monotonic()
            self._changed.set()

    def withdraw(self, cluster: str, nodes: Iterable[str]) -> None:
        """Send scrapes nothing of a cluster any more, which has these nodes."""
        if gone := dict.fromkeys(nodes):
            self._dirty.setdefault(cluster, {}).update(gone)
            self._changed.set()

    async def run(self) -> None:
        """Refresh the text in the background until cancelled."""
        self._running = True
        while True:
            await self._changed.wait()
            await self.refresh()
            await anyio.sleep(_REFRESH_INTERVAL_SECONDS)

    async def refresh(self) -> None:
        """Update the text to a consistent state of the nodes.

        While one cluster's lines are compressed, the next one's are rendered.
        """
        # A refresh that was cancelled may have left compressed texts.
        changed = self._dirty or self._uncompressed or self._compressed
        if self._published and self._behind_since is None and not changed:
            return
        async with self._lock:
            async with anyio.create_task_group() as tasks:
                compressing, done = "", anyio.Event()
                done.set()
                while waiting := self._dirty.keys() | self._uncompressed - {compressing}:
                    cluster = next(iter(waiting - {compressing}), compressing)
                    if cluster == compressing:
                        await done.wait()
                    await self._render_nodes(cluster)
                    await done.wait()
                    if cluster in self._uncompressed:
                        compressing, done = cluster, anyio.Event()
                        tasks.start_soon(self._compress, cluster, done)
                self._changed.clear()
            self._publish()

    async def _render_nodes(self, cluster: str) -> None:
        """Render a cluster's changed nodes, in slices; other tasks may change more in between."""
        rendered = 0
        while (nodes := self._dirty.get(cluster)) and rendered < _MAX_UNCOMPRESSED_NODES:
            deadline = time.perf_counter() + _RENDER_SLICE_SECONDS
            while nodes and time.perf_counter() < deadline:
                self._render_node(cluster, *nodes.popitem())
                rendered += 1
            if not nodes:
                del self._dirty[cluster]
            await anyio.lowlevel.checkpoint()

    async def _compress(self, cluster: str, done: anyio.Event) -> None:
        """Compress a cluster's rendered lines in a thread, one at a time."""
        # Shielded, because the waiting scrape may be cancelled, and a partial result would be useless.
        with anyio.CancelScope(shield=True):
            self._compressed[cluster] = await anyio.to_thread.run_sync(self._stores[cluster].refreshed)
        self._uncompressed.discard(cluster)
        done.set()

    def _publish(self) -> None:
        snapshot = dict(self._snapshot)
        for cluster, text in self._compressed.items():
            self._nodes_texts.pop(None, None)
            self._nodes_texts.pop(cluster, None)
            if text:
                snapshot[cluster] = text
            else:
                del self._stores[cluster]
                snapshot.pop(cluster, None)
        self._compressed.clear()
        self._snapshot = snapshot
        self._published = True
        if not self._dirty:
            self._behind_since = None

    async def scrape(
        self, *, clusters: Collection[str] | None = None, openmetrics: bool = False, gzip: bool = False
    ) -> Body:
        """Return all series, or only those of some clusters."""
        started = time.perf_counter()
        with anyio.move_on_after(_MAX_REFRESH_SECONDS if self._published and self._running else None):
            await self.refresh()
        nodes = self._nodes_text(clusters)
        own = await self._own_text(clusters=clusters, with_process=clusters is None, openmetrics=openmetrics)
        body = _body(nodes, own, openmetrics=openmetrics, gzip=gzip)
        self._metrics.scraped(body.encoding, body.length, time.perf_counter() - started)
        return body

    async def scrape_collector(self, *, openmetrics: bool = False, gzip: bool = False) -> Body:
        """Return the series that belong to no cluster: those of the process as a whole."""
        own = await self._own_text(clusters=(), with_process=True, openmetrics=openmetrics)
        return _body(_NodesText.of([]), own, openmetrics=openmetrics, gzip=gzip)

    def _nodes_text(self, clusters: Collection[str] | None) -> _NodesText:
        """Return the text of all clusters' nodes, or of some; that of several that are not all is not kept."""
        snapshot = self._snapshot
        names = list(snapshot) if clusters is None else [name for name in clusters if name in snapshot]
        if clusters is not None and len(names) != 1:
            return _NodesText.of([snapshot[name] for name in names])
        key = None if clusters is None else names[0]
        if (kept := self._nodes_texts.get(key)) is None:
            kept = self._nodes_texts[key] = _NodesText.of([snapshot[name] for name in names])
        return kept

    async def _own_text(
        self, *, clusters: Collection[str] | None, with_process: bool, openmetrics: bool
    ) -> DeflatedText:
        """Return the series about gpuid itself and, with those of the process, about marked GPUs."""
        self._metrics.exposition_age(0.0 if self._behind_since is None else time.monotonic() - self._behind_since)
        for count, cluster in enumerate(self._metrics.clusters() if clusters is None else clusters, 1):
            self._metrics.look_at(cluster)
            if count % _LOOKED_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
        text = functools.partial(
            self._metrics.text, clusters=clusters, with_process=with_process, openmetrics=openmetrics
        )
        own = await anyio.to_thread.run_sync(text)
        if not with_process or not (marks := await self.marks.text()).deflated:
            return own
        return DeflatedText.concat((marks, own))  # in this order: the end of OpenMetrics is in the latter

    def _render_node(self, cluster: str, node: str, state: NodeState | None) -> None:
        if state is None:
            if store := self._stores.get(cluster):
                store.remove(node)
                self._uncompressed.add(cluster)
        elif self._stores.setdefault(cluster, ClusterTextStore()).put(node, self._render(state)):
            self._uncompressed.add(cluster)


def _body(nodes: _NodesText, own: DeflatedText, *, openmetrics: bool, gzip: bool) -> Body:
    """Return the answer: the nodes' families, then `own`."""
    content_type = OPENMETRICS if openmetrics else CLASSIC
    checksum = Checksum.concat((nodes.checksum, own.checksum))
    if not gzip:
        chunks = (plain for text in (*nodes.texts, own) for plain in inflated(text))
        return Body(content_type, "identity", checksum.length, chunks)
    blocks = (b"".join(text.deflated) for text in (*nodes.texts, own))
    length = len(HEADER) + nodes.deflated_length + own.deflated_length + FOOTER_BYTES
    return Body(content_type, "gzip", length, chain((HEADER,), blocks, (footer(checksum),)))
