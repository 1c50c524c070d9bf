"""A shard's view of all clusters from the store: the owner of each, and the status its owner reports."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from collector.config import ClusterSettings
from collector.model import ClusterState, ClusterStatus
from collector.sharding import Shard
from collector.store import ClusterOwner, ClusterReport, ClusterRow, News, ShardLease, SharedLease
from collector.store.leadership import LEADER, LEASE_SECONDS, shard_lease, shard_of_lease

__all__ = ["ShardFleet"]


class ShardFleet:
    """The configured clusters, and the last data on them from the store; `owned` are those of this shard."""

    def __init__(self, shard: Shard, owned: Collection[str], *, clock: Callable[[], float] = time.time) -> None:
        self.shard = shard
        self.configured: Mapping[str, ClusterSettings] = {}
        self.rows: dict[str, ClusterRow] = {}
        self._leases: Mapping[str, SharedLease] = {}
        self._owned = owned
        self._clock = clock
        self._free_since: dict[str, float] = {}  # Unix seconds, by cluster
        self._began = clock()

    def note(self, news: News) -> None:
        """Update from data read from the store."""
        self._leases = news.leases
        self.rows.update(news.clusters)
        free = [name for name in self.configured if self._holder(name) is None]
        self._free_since = {name: self._free_since.get(name, self._clock()) for name in free}

    @property
    def unsharded_leads(self) -> bool:
        """Whether a collector without shards records, by what was read last."""
        lease = self._leases.get(LEADER)
        return lease is not None and lease.held

    def may_take(self, cluster: str) -> bool:
        """Return whether no other shard owns a cluster."""
        row = self.rows.get(cluster)
        return self._holder(cluster) is None or (row is not None and row.lease == shard_lease(self.shard.index))

    def owner(self, cluster: str) -> ClusterOwner:
        """Return which shard reads a cluster."""
        lease, row = self._holder(cluster), self.rows.get(cluster)
        if lease is None or row is None:
            last = None if row is None else self._leases.get(row.lease)
            return ClusterOwner(holder="" if last is None else last.holder)
        return ClusterOwner(shard=shard_of_lease(row.lease), holder=lease.holder, own=cluster in self._owned)

    def unowned(self) -> list[str]:
        """Return the configured clusters that no shard reads."""
        others = [name for name in self.configured if name not in self._owned]
        return [name for name in others if self.status(name).state is ClusterState.UNOWNED]

    def shards(self) -> Sequence[ShardLease]:
        """Return the shards that hold or held a lease, in order."""
        found = [
            ShardLease(shard=shard, holder=lease.holder, held=lease.held)
            for name, lease in self._leases.items()
            if (shard := shard_of_lease(name)) is not None
        ]
        return sorted(found, key=lambda one: one.shard)

    def report(self, cluster: str) -> ClusterReport | None:
        """Return the owner's report on a cluster; None if no shard reads it."""
        row = self.rows.get(cluster)
        return None if row is None or self._holder(cluster) is None else row.report

    def status(self, cluster: str) -> ClusterStatus:
        """Return the status of a cluster that this shard does not read."""
        if self._holder(cluster) is not None:
            report = self.report(cluster)
            if report is not None:
                return report.status
            return ClusterStatus(cluster=cluster, state=ClusterState.STARTING, since=self._began)
        since = self._free_since.get(cluster, self._began)
        if cluster not in self.rows and self._clock() - since < LEASE_SECONDS:  # its shard may still be starting
            return ClusterStatus(cluster=cluster, state=ClusterState.STARTING, since=since)
        last = self.owner(cluster).holder
        message = f"not read by any shard (last: {last})" if last else "not read by any shard"
        return ClusterStatus(cluster=cluster, state=ClusterState.UNOWNED, message=message, since=since)

    def _holder(self, cluster: str) -> SharedLease | None:
        """Return the lease that currently owns a cluster; None if it is free."""
        if (row := self.rows.get(cluster)) is None:
            return None
        lease = self._leases.get(row.lease)
        return lease if lease is not None and lease.held and lease.token == row.token else None
