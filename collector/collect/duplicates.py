"""Detects configured clusters that are the same cluster, such as two contexts of one API server.

A server chooses the UIDs of its nodes, so a hostile one can present those of another cluster. Two contexts are the same
cluster only if TLS proves that they reach the same server (`collector.kube.identity`) and both have the same nodes:
then the later one is a duplicate, and is skipped. Without proof they resemble each other: this is reported, and both
are read.

What this cannot detect: a hostile cluster behind the same TLS-terminating proxy, on the same path, most of whose nodes
are copies of another cluster's, while no third cluster reveals that the proxy is shared. With the same settings, it
must copy more than half of the other's nodes; with others, which may select a part of them, a single node is enough.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from collector.collect.common_nodes import CommonNodes
from collector.kube.identity import Proof
from collector.model import NodeInfo, Place

__all__ = ["REMEDY", "Duplicate", "DuplicateDetector", "Resemblance", "Verdict"]

REMEDY = (
    "if they are the same cluster, remove one from the configuration, or have both verify the API server at the same"
    " address (server, tls-server-name, certificate-authority and proxy-url); if not, one of them imitates the other"
)


class Duplicate(msgspec.Struct, frozen=True):
    """A cluster that is skipped because it is the same as an earlier one in the configuration."""

    cluster: str
    node: Place  # in the cluster that is read; the duplicate has it too
    uid: str

    def __str__(self) -> str:
        """Return the problem and the remedy, for the author of the configuration."""
        return (
            f'it is the same cluster as "{self.node.cluster}" (node {self.node.node} has the same UID in both);'
            " remove one from the configuration"
        )


class Resemblance(msgspec.Struct, frozen=True):
    """A cluster with a node of an earlier one in the configuration, without proof that they are the same."""

    cluster: str
    node: Place  # in the other cluster
    uid: str

    def __str__(self) -> str:
        """Return the problem, without the remedy."""
        return (
            f'it resembles "{self.node.cluster}" (node {self.node.node} has the same UID in both), but nothing proves'
            " that they are the same cluster; both are published"
        )


class Verdict(msgspec.Struct):
    """New findings."""

    duplicates: list[Duplicate] = []  # skipped from now on
    resemblances: list[Resemblance] = []  # seen for the first time
    freed: list[str] = []  # clusters that are no longer duplicates


class _Grounds(msgspec.Struct, frozen=True):
    """Why a cluster is skipped."""

    proofs: frozenset[Proof]  # shared with the cluster that is read
    uids: frozenset[str]  # of the nodes that it had


@dataclasses.dataclass(slots=True)
class _Seen:
    """The nodes of one cluster in its current session."""

    scope: object = None  # which nodes it selects
    proofs: frozenset[Proof] = frozenset()
    complete: bool = False  # everything in it has been listed
    nodes: dict[str, str] = dataclasses.field(default_factory=dict)  # names of those with a GPU pod, by UID


class DuplicateDetector:
    """Tracks the nodes of each cluster, and the proofs that two clusters are the same.

    Two clusters are compared once both have been listed completely, which is before any node is read.
    """

    def __init__(self) -> None:
        self.duplicates: dict[str, Duplicate] = {}  # by the cluster that is skipped
        self._grounds: dict[str, _Grounds] = {}  # by the cluster that is skipped
        self._resemblances: dict[frozenset[str], Resemblance] = {}  # by the pair of clusters
        self._resembling: dict[str, tuple[str, ...]] = {}  # by cluster; replaced as a whole, for scrapes in threads
        self._reported: set[frozenset[str]] = set()  # pairs that resemble or once resembled each other
        self._order: dict[str, int] = {}  # of the clusters in the configuration
        self._clusters: dict[str, _Seen] = {}
        self._common = CommonNodes()

    def set_order(self, clusters: Sequence[str]) -> Collection[str]:
        """Set the configured clusters, in order; return those that are no longer duplicates."""
        self._order = {name: order for order, name in enumerate(clusters)}
        for name in {*self._clusters, *self.duplicates} - self._order.keys():
            self.add(name)
            self._end_resemblances(name)
            self._reported = {pair for pair in self._reported if name not in pair}
            self._clusters.pop(name, None)
        return self._free(
            duplicate
            for duplicate in self.duplicates.values()
            if not self._precedes(duplicate.node.cluster, duplicate.cluster)
        )

    def add(self, cluster: str, scope: object = None) -> None:
        """Add a cluster that is new or has new settings: nothing is known about it.

        Clusters with an equal `scope` select the same nodes, if they are the same cluster.
        """
        self.duplicates.pop(cluster, None)
        self._grounds.pop(cluster, None)
        self.new_session(cluster)
        self._clusters[cluster].scope = scope

    def new_session(self, cluster: str) -> None:
        """Forget a cluster's nodes: it has a new session, maybe with another server."""
        seen = self._clusters.setdefault(cluster, _Seen())
        for uid in list(seen.nodes):
            self._remove(cluster, uid)
        seen.complete, seen.proofs = False, frozenset()

    def prove(self, cluster: str, proofs: frozenset[Proof]) -> Verdict:
        """Set everything that is proven about a cluster's server."""
        verdict = Verdict()
        if cluster not in self._order or cluster in self.duplicates:
            return verdict
        seen = self._clusters.setdefault(cluster, _Seen())
        seen.proofs = proofs
        if seen.complete:
            verdict.freed += self._free_unproven(cluster)
            self._compare(cluster, verdict)
        return verdict

    def claim(self, cluster: str, node: NodeInfo) -> Verdict:
        """Record that a cluster has a node.

        A cluster that was removed from the configuration, and is about to stop, claims nothing.
        """
        verdict = Verdict()
        if not node.uid or cluster not in self._order or cluster in self.duplicates:
            return verdict
        seen = self._clusters.setdefault(cluster, _Seen())
        known = node.uid in seen.nodes
        seen.nodes[node.uid] = node.name
        if known:
            return verdict
        pairs = self._common.add(cluster, node.uid)
        if seen.complete and len(seen.nodes) == 1:  # an empty cluster had nothing to compare
            verdict.freed += self._free_unproven(cluster)
        for pair in pairs:
            # The cost of each new node of a resembling pair must be limited to what it can change.
            if self._listed(pair) and (pair not in self._resemblances or self._agrees_since_last_node(pair)):
                self._compare(cluster, verdict)
        return verdict

    def complete(self, cluster: str) -> Verdict:
        """Record that a cluster has claimed all of its current nodes."""
        verdict = Verdict()
        if cluster not in self._order or cluster in self.duplicates:
            return verdict
        seen = self._clusters.setdefault(cluster, _Seen())
        if not seen.complete:
            seen.complete = True
            verdict.freed += self._free_unproven(cluster)
            self._compare(cluster, verdict)
            self._end_resemblances(cluster, only_past=True)
        return verdict

    def release(self, cluster: str, node: NodeInfo) -> Collection[str]:
        """Record that a cluster no longer has a node; return the clusters that are no longer duplicates."""
        if cluster in self.duplicates:
            return ()
        self._remove(cluster, node.uid)
        self._end_resemblances(cluster, only_past=True)
        return self._free(
            duplicate
            for duplicate in self.duplicates.values()
            if (duplicate.node.cluster, duplicate.uid) == (cluster, node.uid)
        )

    def resemblances(self, cluster: str) -> list[str]:
        """Return the clusters that a cluster resembles, without proof that they are the same, sorted."""
        return list(self._resembling.get(cluster, ()))

    def _compare(self, cluster: str, verdict: Verdict) -> None:
        """Judge all pairs of a cluster and another one with a common node."""
        for pair in self._common.pairs(cluster):
            earlier, later = sorted(pair, key=lambda name: self._order[name])
            if not self._common.of(pair) or not self._listed(pair):
                continue  # a pair before this one may have ended the cluster
            uid = next(iter(self._common.of(pair)))
            node = Place(earlier, self._clusters[earlier].nodes[uid])
            if proofs := self._common_proofs(pair):
                duplicate = Duplicate(later, node, uid)
                grounds = _Grounds(proofs, frozenset(self._clusters[later].nodes))
                self.new_session(later)
                self._end_resemblances(later)
                self.duplicates[later], self._grounds[later] = duplicate, grounds
                verdict.duplicates.append(duplicate)
            elif pair not in self._resemblances:
                resemblance = self._resemblances[pair] = Resemblance(later, node, uid)
                self._note_resembling(pair)
                if pair not in self._reported:
                    self._reported.add(pair)
                    verdict.resemblances.append(resemblance)

    def _common_proofs(self, pair: frozenset[str]) -> frozenset[Proof]:
        """Return the proofs that two clusters are the same; empty if there are none, or the nodes contradict them."""
        one, other = (self._clusters[name] for name in pair)
        if 2 * len(self._common.of(pair)) <= self._expected(pair):
            return frozenset()
        return frozenset(proof for proof in one.proofs & other.proofs if not self._is_shared(proof))

    def _agrees_since_last_node(self, pair: frozenset[str]) -> bool:
        return 2 * (len(self._common.of(pair)) - 1) <= self._expected(pair) < 2 * len(self._common.of(pair))

    def _expected(self, pair: frozenset[str]) -> int:
        """Return how many nodes the same server would show to both: all, or those that one of them selects."""
        one, other = (self._clusters[name] for name in pair)
        sizes = (len(one.nodes), len(other.nodes))
        return max(sizes) if one.scope == other.scope else min(sizes)

    def _listed(self, pair: frozenset[str]) -> bool:
        return all(self._clusters[name].complete for name in pair)

    def _is_shared(self, proof: Proof) -> bool:
        """Return whether different clusters share this proof, so that it proves nothing.

        Clusters behind one TLS-terminating proxy do. Two without a common node count as different, whatever they
        select: parts of one cluster then only resemble a third part. A duplicate's former nodes are compared, too, but
        not with the cluster that it duplicates, which may have changed since.
        """
        having: list[tuple[str, AbstractSet[str]]] = [
            (name, seen.nodes.keys())
            for name, seen in self._clusters.items()
            if proof in seen.proofs and seen.complete and seen.nodes
        ]
        if any(
            not self._common.of(frozenset((one, other))) for (one, _), (other, _) in itertools.combinations(having, 2)
        ):
            return True
        skipped: list[tuple[str, AbstractSet[str]]] = [
            (duplicate.node.cluster, self._grounds[name].uids)
            for name, duplicate in self.duplicates.items()
            if proof in self._grounds[name].proofs
        ]
        return any(
            name != first and uids.isdisjoint(nodes)
            for (first, uids), (name, nodes) in itertools.product(skipped, having + skipped)
        )

    def _remove(self, cluster: str, uid: str) -> None:
        seen = self._clusters.get(cluster)
        if seen is not None and seen.nodes.pop(uid, None) is not None:
            self._common.remove(cluster, uid)

    def _end_resemblances(self, cluster: str, *, only_past: bool = False) -> None:
        for pair in [pair for pair in self._resemblances if cluster in pair]:
            if not only_past or (self._listed(pair) and not self._common.of(pair)):
                del self._resemblances[pair]
                self._note_resembling(pair)

    def _note_resembling(self, pair: frozenset[str]) -> None:
        for cluster in pair:
            others = {name for each in self._resemblances if cluster in each for name in each} - {cluster}
            self._resembling[cluster] = tuple(sorted(others))

    def _precedes(self, cluster: str, other: str) -> bool:
        return cluster in self._order and self._order[cluster] < self._order[other]

    def _free_unproven(self, cluster: str) -> list[str]:
        """End the duplicates of a cluster whose proofs have changed, and those whose proof is shared."""
        proofs = self._clusters[cluster].proofs
        return self._free(
            duplicate
            for duplicate in self.duplicates.values()
            if (duplicate.node.cluster == cluster and not self._grounds[duplicate.cluster].proofs & proofs)
            or all(map(self._is_shared, self._grounds[duplicate.cluster].proofs))
        )

    def _free(self, duplicates: Iterable[Duplicate]) -> list[str]:
        names = [duplicate.cluster for duplicate in duplicates]
        for name in names:
            del self.duplicates[name], self._grounds[name]
        return names
