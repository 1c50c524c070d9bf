"""Checks on clusters, each by itself, and whether one is configured twice."""

from collections.abc import Sequence

from collector.checks.check import CONCURRENT_CLUSTERS, run_checks
from collector.checks.cluster_check import ClusterCheck
from collector.checks.finding import Finding
from collector.collect.duplicates import REMEDY, DuplicateDetector
from collector.config import ClusterSettings

__all__ = ["check_clusters"]


async def check_clusters(clusters: Sequence[ClusterSettings], timeout: float) -> list[Finding]:
    """Check clusters concurrently, each for at most `timeout` seconds, and return their findings in order.

    A cluster that the collector would skip as a duplicate of an earlier one has that as a problem.
    """
    checks = [ClusterCheck(cluster, timeout) for cluster in clusters]
    findings = await run_checks(checks, timeout, concurrency=CONCURRENT_CLUSTERS)
    _report_duplicates(checks)
    return findings


def _report_duplicates(checks: Sequence[ClusterCheck]) -> None:
    detector, findings = DuplicateDetector(), {check.finding.name: check.finding for check in checks}
    detector.set_order(list(findings))
    for check in checks:
        name = check.finding.name
        detector.add(name, check.scope)
        detector.prove(name, check.proofs)
        for node in check.nodes:
            detector.claim(name, node)
    # A later comparison may show that the proof is shared, which refutes a duplicate.
    found = [detector.complete(name) for name in findings]
    for verdict in found:
        for duplicate in verdict.duplicates:
            if duplicate.cluster in detector.duplicates:
                findings[duplicate.cluster].add_problem(duplicate)
        for one in verdict.resemblances:
            findings[one.cluster].add_problem(one, REMEDY)
