"""What is wrong with a cluster, in words."""

import pytest

from collector.model import ClusterState, ClusterStatus
from collector.views.cluster_summary import summarize
from collector.views.problems import cluster_problems
from collector.views.rows import cluster_row
from tests.web.conftest import Site

pytestmark = pytest.mark.anyio


async def test_clusters_that_resemble_each_other_are_named_with_what_to_do() -> None:
    site = Site()
    site.collector.statuses["prod-a"] = ClusterStatus(cluster="prod-a", state=ClusterState.UP, message="", since=1.0)
    site.collector.similar["prod-a"] = ["prod-c", "prod-b"]
    problems = list(cluster_problems(await summarize(site.collector, "prod-a")))
    (problem,) = [problem for problem in problems if "same uids" in problem.text]
    assert problem.text == (
        'shows nodes with the same uids as "prod-b", "prod-c", without proof that they are one cluster'
    )
    assert problem.detail.startswith("all of them are published. If they are one cluster, remove one")
    assert not problem.severe
    assert cluster_row(site.collector, "prod-a")["resembles"] == ["prod-c", "prod-b"]
