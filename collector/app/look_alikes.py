"""Which clusters of different shards show the same nodes: possibly one cluster that is configured twice.

Each shard detects duplicates among its own clusters (`collector.collect.duplicates`) with the proof that TLS provides.
For clusters read by different shards there is no such proof, so these are only reported.
"""

import logging
from collections.abc import Callable

from collector.collect.common_nodes import CommonNodes
from collector.collect.duplicates import REMEDY
from collector.model import Step

__all__ = ["LookAlikes"]

log = logging.getLogger(__name__)


class LookAlikes:
    """The clusters that have nodes in common, except pairs that this shard reads itself.

    `reads` returns whether this shard reads a cluster.
    """

    def __init__(self, reads: Callable[[str], bool]) -> None:
        self._reads = reads
        self._uids: dict[str, dict[str, str]] = {}  # the uid of each node, by cluster and name
        self._common = CommonNodes()
        self._reported: set[frozenset[str]] = set()

    def on_step(self, step: Step) -> None:
        """Update the nodes affected by a step."""
        for place, node in step.nodes.items():
            uid = "" if node is None else node.node.uid
            known = self._uids.setdefault(place.cluster, {})
            before = known.pop(place.node, "")
            if uid:
                known[place.node] = uid
            if before != uid:
                self._common.remove(place.cluster, before)
                if uid:
                    self._add(uid, place.cluster, place.node)
            if not known:
                del self._uids[place.cluster]

    def of(self, cluster: str) -> set[str]:
        """Return the clusters that show nodes of this cluster."""
        return {name for pair in self._common.pairs(cluster) if self._concerns(pair) for name in pair} - {cluster}

    def _add(self, uid: str, cluster: str, node: str) -> None:
        for pair in self._common.add(cluster, uid):
            if pair not in self._reported and self._concerns(pair):
                self._reported.add(pair)
                (other,) = pair - {cluster}
                log.warning(
                    'cluster resembles one of another shard: node %s of "%s" has the same UID in "%s"; %s',
                    node,
                    cluster,
                    other,
                    REMEDY,
                    extra={"cluster": cluster, "other": other, "node": node},
                )

    def _concerns(self, pair: frozenset[str]) -> bool:
        return not all(map(self._reads, pair))
