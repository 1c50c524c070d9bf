"""What is wrong with a cluster, in words."""

import pytest

from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.model import (
    ClusterState,
    ClusterStatus,
    Gpu,
    GpuRef,
    LabelFailure,
    LabelTrouble,
    SliceState,
    SliceStatus,
)
from collector.store import StoreStatus
from collector.store.damaged import SetAside
from collector.views.cluster_summary import summarize
from collector.views.problems import cluster_problems, store_problems
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
    assert cluster_row(site.collector, "prod-a").resembles == ["prod-c", "prod-b"]


@pytest.mark.parametrize(
    ("reason", "nodes", "text"),
    [
        (LabelFailure.FORBIDDEN, None, "has labels that cannot be written onto its nodes"),
        (LabelFailure.INVALID, 2, "has labels that cannot be written onto 2 nodes"),
        (LabelFailure.CONTESTED, 1, "has labels on 1 node that another client keeps changing"),
    ],
)
async def test_labels_that_cannot_be_written_are_one_problem(
    reason: LabelFailure, nodes: int | None, text: str
) -> None:
    site = Site()
    site.collector.statuses["prod-a"] = ClusterStatus(cluster="prod-a", state=ClusterState.UP, message="", since=1.0)
    site.collector.label_troubles["prod-a"] = LabelTrouble(reason=reason, message="why", since=2.0, nodes=nodes)
    problems = list(cluster_problems(await summarize(site.collector, "prod-a")))
    (problem,) = [problem for problem in problems if "labels" in problem.text]
    assert (problem.text, problem.detail, problem.since, problem.severe) == (text, "why", 2.0, False)


@pytest.mark.parametrize("lost", [False, True])
async def test_slices_that_are_no_longer_seen_are_a_problem_and_those_never_seen_are_none(lost: bool) -> None:
    site = Site()
    site.collector.statuses["prod-a"] = ClusterStatus(cluster="prod-a", state=ClusterState.UP, message="", since=1.0)
    site.collector.slice_statuses["prod-a"] = SliceStatus(SliceState.FORBIDDEN, "may not list", lost=lost)
    problems = [one for one in cluster_problems(await summarize(site.collector, "prod-a")) if "Slices" in one.text]
    told = [(one.text, one.detail, one.severe) for one in problems]
    text = "has ResourceSlices that are no longer seen; what they said last stands"
    assert told == ([(text, "may not list", False)] if lost else [])
    assert cluster_row(site.collector, "prod-a").resource_slices == "forbidden"


async def test_slices_that_cannot_be_watched_are_a_problem_from_the_start() -> None:
    site = Site()
    site.collector.statuses["prod-a"] = ClusterStatus(cluster="prod-a", state=ClusterState.UP, message="", since=1.0)
    site.collector.slice_statuses["prod-a"] = SliceStatus(SliceState.FAILING, "too many")
    problems = [one for one in cluster_problems(await summarize(site.collector, "prod-a")) if "Slices" in one.text]
    assert [(one.text, one.detail) for one in problems] == [
        ("may have ResourceSlices, which cannot be watched", "too many")
    ]


def test_a_damaged_file_of_the_store_is_a_problem_until_it_is_taken_away() -> None:
    files = SetAside(files=2, bytes=1_500_000, newest="/data/gpuid.db.damaged-20261126T012345Z")
    (problem,) = store_problems(StoreStatus(set_aside=files))
    assert f"{problem.subject} {problem.text}" == (
        "The store was damaged and began a new history; 2 damaged files set aside (1.5 MB)"
    )
    assert problem.detail == (
        "newest: /data/gpuid.db.damaged-20261126T012345Z. Recover what it holds or delete it; gpuid never does."
    )
    assert not problem.severe
    assert list(store_problems(StoreStatus())) == []


async def test_degraded_gpus_are_problems_by_what_they_need() -> None:
    site = Site()
    site.cluster("prod-a")
    conditions = [Health(row_remap_failure=True), Health(row_remap_pending=True), Health(row_remap_pending=True), None]
    gpus = [Gpu(uuid=f"GPU-{number}", serial=f"S-{number}", health=one) for number, one in enumerate(conditions)]
    site.read("prod-a", "n1", *gpus)
    site.read("prod-a", "n1", *gpus[:3], time=1764000010.0, lost=(GpuRef("GPU-3"),))
    site.collector.marks.replace([Mark(uuid="GPU-3", kind=MarkKind.RMA, set_at=1.0, set_by="ann")])
    found = cluster_problems(await summarize(site.collector, "prod-a"))
    told = [(one.text, one.detail, one.severe) for one in found if "GPU" in one.text and "missing" not in one.text]
    assert told == [
        ("has 1 GPU that does not answer", "S-3 in n1", True),
        ("has 1 GPU that needs replacement", "S-0 in n1 (row remapping failed)", True),
        (
            "has 2 GPUs that need a reset or drain",
            "S-1 in n1 (row remapping pending), S-2 in n1 (row remapping pending)",
            False,
        ),
        ("has 1 GPU in service that is marked rma", "S-3 in n1", False),
    ]
