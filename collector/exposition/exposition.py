"""Keeps the inventory's series ready as bytes: a change costs its node, a scrape costs its bytes.

The nodes of a cluster are grouped in shards. When a node changes, its lines are rendered, and its shard compresses only
the families whose lines differ. A scrape concatenates the compressed blocks. Only those are kept in memory: a client
that does not accept gzip gets them inflated one by one, which is rare, because every scraper accepts it.
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
from collector.exposition.metrics import Metrics
from collector.exposition.shards import ClusterText, ClusterTextStore, DeflatedText, compressed, inflated
from collector.model import NodeState, Place

__all__ = ["CLASSIC", "OPENMETRICS", "Body", "Exposition"]

CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_RENDER_SLICE_SECONDS = 0.005  # of rendering between two turns of the event loop
_MAX_UNCOMPRESSED_NODES = 8192  # rendered before they are compressed, 15 MB; a restart renders the whole fleet
_MAX_REFRESH_SECONDS = 0.1  # that a scrape waits for the latest changes; it is sent without them after that
_REFRESH_INTERVAL_SECONDS = 1.0  # between two refreshes in the background; a scrape does not wait for them

_FAMILY_HEADERS = [compressed(header(family)) for family in NODE_FAMILIES]


class Body(msgspec.Struct, frozen=True):
    """The response to a scrape, in chunks that other responses share."""

    content_type: str
    encoding: str  # "gzip" or "identity"
    length: int  # bytes of all chunks
    chunks: Iterable[bytes]  # can be iterated once


class Exposition:
    """The text that Prometheus scrapes, kept ready."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        cluster_label: str = "cluster",
        node_labels: Sequence[str] = (),
    ) -> None:
        self.gpu_counts = GpuCounts()  # of the nodes that are published
        self.renders: Callable[[str], bool] = lambda _cluster: True  # a cluster that scrapes are sent
        self._metrics = metrics
        metrics.count_gpus(self.gpu_counts.of)
        self._render = functools.partial(render, node_labels=label_names(node_labels), cluster_label=cluster_label)
        self._stores: dict[str, ClusterTextStore] = {}  # by cluster
        self._dirty: dict[str, dict[str, NodeState | None]] = {}  # nodes to be rendered, by cluster and name
        self._uncompressed: set[str] = set()  # clusters with rendered lines that are not compressed yet
        self._compressed: dict[str, ClusterText] = {}  # texts that are not in the snapshot yet
        self._snapshot: Mapping[str, ClusterText] = {}  # what scrapes are sent
        self._published = False  # there has been a snapshot
        self._behind_since: float | None = None  # when the oldest change that is not in the snapshot came
        self._running = False  # the snapshot is refreshed in the background
        self._changed = ResettableEvent()
        self._lock = anyio.Lock()

    def update(self, nodes: Mapping[Place, NodeState | None]) -> None:
        """Publish these states of nodes from the next refresh on; None: the node is gone."""
        self.gpu_counts.update(nodes)
        for place, state in nodes.items():
            if not self.renders(place.cluster):
                continue
            self._dirty.setdefault(place.cluster, {})[place.node] = state
        if nodes:
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
        """Update the text to the nodes as they are at one instant.

        While the lines of one cluster are compressed, those of the next are rendered.
        """
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
        """Render the nodes of a cluster that changed, in slices; another task may change more in between."""
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
        """Compress the rendered lines of a cluster in a thread, which no other may do at the same time."""
        # Shielded, because the scrape that waits for it may be cancelled, and half of it is no use to the next.
        with anyio.CancelScope(shield=True):
            self._compressed[cluster] = await anyio.to_thread.run_sync(self._stores[cluster].refreshed)
        self._uncompressed.discard(cluster)
        done.set()

    def _publish(self) -> None:
        snapshot = dict(self._snapshot)
        for cluster, text in self._compressed.items():
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
        """Return every series, or only those of some clusters."""
        started = time.perf_counter()
        with anyio.move_on_after(_MAX_REFRESH_SECONDS if self._published and self._running else None):
            await self.refresh()
        snapshot = self._snapshot
        names = snapshot.keys() if clusters is None else [name for name in clusters if name in snapshot]
        own = await self._own_text(clusters=clusters, with_process=clusters is None, openmetrics=openmetrics)
        body = _body([snapshot[name] for name in names], own, openmetrics=openmetrics, gzip=gzip)
        self._metrics.scraped(body.encoding, body.length, time.perf_counter() - started)
        return body

    async def scrape_collector(self, *, openmetrics: bool = False, gzip: bool = False) -> Body:
        """Return the series that belong to no cluster: those of the process and its work as a whole."""
        own = await self._own_text(clusters=(), with_process=True, openmetrics=openmetrics)
        return _body(None, own, openmetrics=openmetrics, gzip=gzip)

    async def _own_text(
        self, *, clusters: Collection[str] | None, with_process: bool, openmetrics: bool
    ) -> DeflatedText:
        """Return the series that gpuid keeps of its own work."""
        self._metrics.exposition_age(0.0 if self._behind_since is None else time.monotonic() - self._behind_since)
        if with_process:
            self._metrics.look_at_marks()
        render = functools.partial(
            self._metrics.render, clusters=clusters, with_process=with_process, openmetrics=openmetrics
        )
        # prometheus-client takes about 4 µs for a series, too long for the event loop with a hundred clusters.
        return await anyio.to_thread.run_sync(lambda: compressed(render()))

    def _render_node(self, cluster: str, node: str, state: NodeState | None) -> None:
        if state is None:
            if store := self._stores.get(cluster):
                store.remove(node)
                self._uncompressed.add(cluster)
        elif self._stores.setdefault(cluster, ClusterTextStore()).put(node, self._render(state)):
            self._uncompressed.add(cluster)


def _body(chosen: Sequence[ClusterText] | None, own: DeflatedText, *, openmetrics: bool, gzip: bool) -> Body:
    """Return the families of some clusters that have samples, then `own`; `chosen` None leaves them all out."""
    texts: list[DeflatedText] = []
    if chosen is not None:
        for family, header in enumerate(_FAMILY_HEADERS):
            samples = [text for cluster in chosen for text in cluster[family] if text.deflated]
            if samples:  # as prometheus-client has it: a family without samples has no header
                texts += [header, *samples]
    texts.append(own)
    content_type = OPENMETRICS if openmetrics else CLASSIC
    if not gzip:
        chunks = (plain for text in texts for plain in inflated(text))
        return Body(content_type, "identity", sum(text.checksum.length for text in texts), chunks)
    checksum = Checksum.concat(text.checksum for text in texts)
    blocks = (b"".join(text.deflated) for text in texts)
    length = len(HEADER) + sum(text.deflated_length for text in texts) + FOOTER_BYTES
    return Body(content_type, "gzip", length, chain((HEADER,), blocks, (footer(checksum),)))
