"""Reports the status of a shard's clusters to the other shards, through the store."""

import msgspec

from collector.app.collected import CollectedClusters
from collector.store import ClusterReport, ShardStore

__all__ = ["ClusterReports"]

SYNCED_SECONDS = 30.0  # between two reports that a cluster's view is still current


class ClusterReports:
    """The last report on each cluster of this shard."""

    def __init__(self, shards: ShardStore, collected: CollectedClusters) -> None:
        self._shards = shards
        self._collected = collected
        self._reported: dict[str, ClusterReport] = {}

    def forget(self, cluster: str) -> None:
        """Report a cluster next time, whatever was reported before: this shard has just taken it."""
        self._reported.pop(cluster, None)

    async def send(self) -> None:
        """Report the status of this shard's clusters to the others, if it has changed."""
        reports = {}
        for name in self._shards.owned & self._collected.keys():
            report = self._report_of(name)
            if (before := self._reported.get(name)) is None or _is_news(before, report):
                reports[name] = report
        if reports:
            await self._shards.report(reports)
            self._reported |= reports

    def _report_of(self, cluster: str) -> ClusterReport:
        collected = self._collected[cluster]
        return ClusterReport(
            status=collected.status,
            synced=collected.synced,
            survey=collected.survey,
            slices=collected.slices,
            resembles=tuple(self._collected.resemblances(cluster)),
            label_trouble=collected.supervisor.label_trouble if collected.status.up else None,
        )


def _is_news(before: ClusterReport, after: ClusterReport) -> bool:
    """Return whether to send a report to other shards, given the one that they have."""
    if (after.synced or 0.0) - (before.synced or 0.0) >= SYNCED_SECONDS:
        return True
    return msgspec.structs.replace(before, synced=after.synced) != after
