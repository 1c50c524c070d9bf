"""Mirrors what other shards record: their nodes into the inventory, their changes, and their requests to read nodes."""

from collections.abc import Callable, Collection, Iterable, Mapping

import anyio
import anyio.lowlevel

from collector.app.publisher import Publisher
from collector.app.questions import Questions
from collector.app.shard_fleet import ShardFleet
from collector.inventory import MirroringInventory
from collector.model import NodeState, Place
from collector.store import News, ShardStore, Store
from collector.views.recent_changes import RecentChanges, as_change

__all__ = ["Mirror"]

NODES_AT_ONCE = 200  # between two turns of the event loop
CHANGES_AT_ONCE = 1000


class Mirror:
    """One shard's exchange with the others through the store. All coroutines raise StoreError.

    `verify` has a node of this shard read again.
    """

    def __init__(
        self,
        store: Store,
        shards: ShardStore,
        inventory: MirroringInventory,
        publisher: Publisher,
        fleet: ShardFleet,
        recent: RecentChanges,
        verify: Callable[[Place, float], None],
    ) -> None:
        self.questions = Questions(shards, inventory, verify)
        self.orphans: set[str] = set()  # recorded clusters that are no longer configured, which this shard must end
        self._store = store
        self._shards = shards
        self._inventory = inventory
        self._publisher = publisher
        self._fleet = fleet
        self._recent = recent
        self._cursor = 0
        self._last_change = 0  # the id of the last change that was processed

    def begin(self, version: int, last_change: int) -> None:
        """Start from data loaded after this commit and up to this change."""
        self._cursor, self._last_change = version, last_change

    async def poll(self) -> None:
        """Process what is new."""
        async with self._shards.snapshot() as connection:
            news = await self._shards.news(connection, self._cursor, all_clusters=not self._fleet.rows)
            if news.version == self._cursor:
                self._fleet.note(news)
                nodes: list[NodeState] = []
                names: dict[str, set[str]] = {}
            else:
                parts = self._store.nodes_since(connection, self._cursor, without=self._shards.owned)
                nodes = [node async for part in parts for node in part if self._is_news(node)]
                names = {
                    name: await self._shards.names(connection, name)
                    for name, row in news.clusters.items()
                    if row.removed > self._cursor and self._mirrors(name)
                }
        if news.version != self._cursor:
            await self._take_in(news, nodes, names)
            self._cursor = news.version
            await self._take_changes()
            self._store.history_writer.committed.pulse()  # there may be records for the sinks
        self.questions.pass_on()

    async def load(self, clusters: Collection[str]) -> None:
        """Replace everything known about some clusters with their records."""
        if not clusters:
            return
        async with self._shards.snapshot() as connection:
            parts = self._store.nodes_since(connection, 0, clusters=clusters)
            names: dict[str, set[str]] = {name: set() for name in clusters if self._mirrors(name)}
            nodes = []
            async for part in parts:
                for node in part:
                    if node.place.cluster in names:
                        names[node.place.cluster].add(node.place.node)
                nodes += [node for node in part if self._is_news(node)]
        await self._apply(nodes, names)
        for name in names:  # which this shard may have been about to read itself
            for home in self._inventory.homes_to_ask(name):
                self.questions.ask(home, 0.0)

    async def load_all(self) -> None:
        """Let all but the own clusters be as they are recorded, and what is known of absent GPUs, too."""
        await self.load(self._fleet.configured.keys() - self._shards.owned)
        away = await self._store.absent()
        absent = {uuid: place for uuid, place in away.absent.items() if place.cluster in self._fleet.configured}
        self._inventory.recall(absent, away.left, away.facts, away.lost)

    def _mirrors(self, cluster: str) -> bool:
        if cluster in self._shards.owned:
            return False
        return cluster in self._fleet.configured or cluster in self.orphans

    def _is_news(self, node: NodeState) -> bool:
        """Return whether a node is mirrored and not known as it is: many are merely numbered again when taken."""
        return self._mirrors(node.place.cluster) and node != self._inventory.node(node.place)

    async def _take_in(self, news: News, nodes: Iterable[NodeState], names: Mapping[str, set[str]]) -> None:
        answered = self.questions.answered(news)
        gone_at = {name: row.removed_at for name, row in news.clusters.items()}
        await self._apply(nodes, names, answered=answered, gone_at=gone_at)
        self._fleet.note(news)
        self.questions.note(news, answered)

    async def _apply(
        self,
        nodes: Iterable[NodeState],
        names: Mapping[str, set[str]],
        *,
        answered: Mapping[Place, float] = {},
        gone_at: Mapping[str, float] = {},
    ) -> None:
        """Mirror nodes; nodes of the clusters in `names` that are not among them are gone.

        Arrivals are processed before departures, so that a moved GPU is not gone in between. All departures are one
        step.
        """
        staying: dict[Place, NodeState | None] = {}
        leaving: dict[Place, NodeState | None] = {
            Place(cluster, node): None
            for cluster, present in names.items()
            for node in self._inventory.nodes(cluster)
            if node not in present
        }
        for index, node in enumerate(nodes):
            if index % NODES_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            before = self._inventory.node(node.place)
            (leaving if before is not None and _lacks(node, before) else staying)[node.place] = node
        places = list(staying)
        for start in range(0, len(places), NODES_AT_ONCE):
            some = {place: staying[place] for place in places[start : start + NODES_AT_ONCE]}
            self._publisher.publish(self._inventory.mirror(some, anyio.current_time()))
            await anyio.lowlevel.checkpoint()
        now = anyio.current_time()
        self._publisher.publish(self._inventory.mirror(leaving, now, answered=answered, gone_at=gone_at))

    async def _take_changes(self) -> None:
        """Show what other shards recorded among the latest changes, and note where GPUs were between two polls."""
        passed: set[str] = set()
        while found := await self._store.history.changes(after=self._last_change, limit=CHANGES_AT_ONCE):
            self._last_change = found[-1].id
            theirs = [as_change(one) for one in found if one.cluster not in self._shards.owned]
            self._recent.add(theirs)
            passed |= self._inventory.passed_by(theirs)
            if len(found) < CHANGES_AT_ONCE:
                break
        if passed:
            away = await self._store.absent()
            last = {uuid: place for uuid, place in away.absent.items() if uuid in passed}
            self._inventory.recall(
                last, {uuid: away.left[uuid] for uuid in last if uuid in away.left}, away.facts, away.lost
            )


def _lacks(node: NodeState, before: NodeState) -> bool:
    """Return whether a node has lost GPUs that it had before."""
    return not {gpu.uuid for gpu in before.gpus} <= {gpu.uuid for gpu in node.gpus}
