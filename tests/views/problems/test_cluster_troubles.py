"""What is wrong with a cluster, its nodes and GPUs, as problems in words."""

from collections.abc import Sequence

import pytest

from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.model import (
    ClusterState,
    Gpu,
    GpuRef,
    LabelFailure,
    LabelTrouble,
    Place,
    ReadFailure,
    SliceState,
    SliceStatus,
    Uncovered,
)
from collector.store import StoreStatus
from collector.views.cluster_summary import ClusterSummaries, summarize
from collector.views.problems.current import FleetProblems, cluster_problems, node_problems
from collector.views.problems.kinds import ProblemKind, Severity
from collector.views.problems.problem import Problem
from collector.views.rows import cluster_row
from tests.web.conftest import Site

pytestmark = pytest.mark.anyio

NO_HANDLE = "the command exited with status 9: Unable to determine the device handle for GPU 0000:4E:00.0"


def board(cluster: str, node: str, number: int) -> Gpu:
    name = f"{cluster}-{node}-{number}"
    return Gpu(uuid=f"GPU-{name}", serial=f"S-{name}", module=str(number), pci_bus_id=f"00000000:{number}B:00.0")


def boards(cluster: str, node: str, count: int = 8) -> list[Gpu]:
    return [board(cluster, node, number) for number in range(1, count + 1)]


def fleet(clusters: Sequence[str], nodes: Sequence[str] = ("n1", "n2")) -> Site:
    site = Site()
    for cluster in clusters:
        site.cluster(cluster)
        for node in nodes:
            site.read(cluster, node, *boards(cluster, node))
    return site


async def of(site: Site, cluster: str) -> list[Problem]:
    return await cluster_problems(site.collector, await summarize(site.collector, cluster))


async def everything(site: Site) -> list[Problem]:
    return await FleetProblems(site.collector, ClusterSummaries(site.collector)).all()


async def the_only(site: Site, cluster: str) -> Problem:
    (problem,) = await of(site, cluster)
    return problem


async def test_a_healthy_fleet_has_no_problems() -> None:
    assert await everything(fleet(["a", "b"])) == []


async def test_the_missing_gpu_is_named_with_where_it_sat() -> None:
    site = fleet(["a"])
    site.read("a", "n1", *boards("a", "n1", 7), time=1764000100.0)
    problem = await the_only(site, "a")
    assert (problem.kind, problem.severity, problem.title) == ("gpu_missing", "warning", "1 GPU missing on n1 (a)")
    assert (problem.since, problem.reason, problem.url) == (1764000100.0, "7 of 8 GPUs found", "/clusters/a/nodes/n1")
    (gpu,) = problem.gpus
    assert (gpu.serial, gpu.uuid, gpu.module) == ("S-a-n1-8", "GPU-a-n1-8", "8")
    assert (gpu.pci_bus_id, gpu.last_seen) == ("00000000:8B:00.0", 1764000000.0)


async def test_the_same_problem_in_many_clusters_is_one_row() -> None:
    names = [f"sim-{number}" for number in range(20)]
    site = fleet(names)
    for name in names:
        site.read(name, "n1", *boards(name, "n1", 7))
    (problem,) = await everything(site)
    assert problem.title == "20 GPUs missing on 20 nodes across 20 clusters"
    assert list(problem.clusters[:3]) == ["sim-0", "sim-1", "sim-2"]
    assert (problem.nodes_total, problem.gpus_total, problem.url) == (20, 20, "/problems#gpu_missing")


async def test_an_unreachable_cluster_hides_its_unread_nodes() -> None:
    site = fleet(["a", "b"], ["n1", "n2", "n3"])
    site.fail("a", "n1", ReadFailure.CONNECTION)
    site.uncover("a", "n2", Uncovered.POD_NOT_READY)
    site.cluster("a", ClusterState.UNREACHABLE, "https://10.0.0.1:6443: connection refused")
    (problem,) = await everything(site)
    assert (problem.title, problem.severity) == ("a is unreachable", Severity.CRITICAL)
    assert (problem.reason, problem.consequences) == ("https://10.0.0.1:6443: connection refused", 2)
    assert problem.gpus_affected == 24
    assert "`gpuid check --cluster a`" in problem.remedy


async def test_a_failing_node_quotes_the_command_and_attempts() -> None:
    site = fleet(["a"])
    for time in (1764000100.0, 1764000200.0):
        place = Place("a", "n1")
        step = site.inventory.read_failed(place, ReadFailure.EXIT_STATUS, time, NO_HANDLE, next_try=time + 300.0)
        site.publish(step)
    problem = await the_only(site, "a")
    assert problem.title == "n1 (a) is unreadable: nvidia-smi exited with an error"
    assert problem.reason == f"{NO_HANDLE}; 2 attempts, next at 2025-11-24T16:08:20Z"
    assert problem.since == 1764000100.0


async def test_an_unresponsive_gpu_is_named_only_with_its_node() -> None:
    site = fleet(["a"])
    bus = "00000000:4E:00.0"
    site.publish(
        site.inventory.read_failed(
            Place("a", "n1"), ReadFailure.EXIT_STATUS, 1764000100.0, NO_HANDLE, [GpuRef(None, bus)]
        )
    )
    problem = await the_only(site, "a")
    assert (problem.kind, problem.nodes_total, problem.consequences) == ("node_failing", 1, 1)
    assert [gpu.pci_bus_id for gpu in problem.gpus] == [bus]
    other = "00000000:8B:00.0"  # of which the message does not speak
    site.publish(
        site.inventory.read_failed(Place("a", "n2"), ReadFailure.EXIT_STATUS, 1764000100.0, "x", [GpuRef(None, other)])
    )
    found = await everything(site)
    assert [one.title for one in found if one.kind == "gpu_lost"] == ["1 GPU on n2 (a) does not respond"]


async def test_a_node_is_counted_once() -> None:
    site = fleet(["a"])
    site.collector.refresh_seconds = 60.0
    site.fail("a", "n1", ReadFailure.TIMEOUT)
    site.uncover("a", "n1", Uncovered.POD_NOT_READY)
    site.read("a", "n2", *boards("a", "n2"), time=1764000599.0)
    problem = await the_only(site, "a")
    assert problem.title == "n1 (a) is unreadable: GPU pod not ready"


async def test_missing_gpu_pods_hide_unread_nodes() -> None:
    site = Site()
    site.cluster("a")
    site.collector.pods = (0,)
    for node in ("n1", "n2"):
        site.add("a", node)
        site.uncover("a", node, Uncovered.NO_POD)
    problem = await the_only(site, "a")
    assert (problem.kind, problem.title, problem.consequences) == ("no_gpu_pods", "a has no GPU pods", 3)
    assert problem.reason == 'nothing matches "app=nvidia-device-plugin-daemonset" in namespace gpu-operator'
    assert problem.since == 1764000300.0
    assert problem.url == "/clusters/a?show=unread"


async def test_an_entirely_unreadable_cluster_has_its_nodes_reasons() -> None:
    site = fleet(["a"])
    for node in ("n1", "n2"):
        site.publish(site.inventory.read_failed(Place("a", node), ReadFailure.FORBIDDEN, 1.0, "pods exec forbidden"))
    problem = await the_only(site, "a")
    assert (problem.title, problem.reason) == (
        "a has no GPU node that can be read: permission missing",
        "pods exec forbidden",
    )
    assert (problem.severity, problem.consequences, problem.since) == (Severity.CRITICAL, 2, 1.0)


async def test_degraded_gpus_are_grouped_by_remedy() -> None:
    site = Site()
    site.cluster("prod-a")
    conditions = [Health(row_remap_failure=True), Health(row_remap_pending=True), Health(row_remap_pending=True), None]
    gpus = [Gpu(uuid=f"GPU-{number}", serial=f"S-{number}", health=one) for number, one in enumerate(conditions)]
    site.read("prod-a", "n1", *gpus, capacity=4)
    site.read("prod-a", "n1", *gpus[:3], time=1764000010.0, lost=(GpuRef("GPU-3"),), capacity=4)
    site.collector.marks.replace([Mark(uuid="GPU-3", kind=MarkKind.RMA, set_at=1.0, set_by="ann")])
    told = [(one.title, one.reason, one.count, one.consequences) for one in await of(site, "prod-a")]
    assert told == [
        ("1 GPU on n1 (prod-a) needs replacement", "row remapping failed", 1, 0),
        ("1 GPU on n1 (prod-a) does not respond", "", 1, 1),  # and is marked rma
        ("2 GPUs on n1 (prod-a) need a reset or drain", "row remapping pending", 2, 0),
    ]


async def test_a_gpu_is_lost_since_its_loss_was_recorded() -> None:
    site = fleet(["a"], ["n1"])
    (first, *_), seen = boards("a", "n1"), 1764000000.0
    site.read("a", "n1", *boards("a", "n1"), time=seen)
    for time in (seen + 100.0, seen + 200.0):
        site.read("a", "n1", *boards("a", "n1")[1:], time=time, lost=(GpuRef(first.uuid),))
    problem = await the_only(site, "a")
    assert (problem.kind, problem.since, problem.nodes[0].since) == ("gpu_lost", seen + 100.0, seen + 100.0)
    assert problem.gpus[0].last_seen == seen


async def test_a_gpu_marked_rma_in_service_is_its_own_problem() -> None:
    site = fleet(["a"])
    site.collector.marks.replace([Mark(uuid="GPU-a-n1-1", kind=MarkKind.RMA, set_at=1.0, set_by="ann")])
    problem = await the_only(site, "a")
    assert (problem.title, problem.severity) == ("1 GPU marked rma in service on n1 (a)", Severity.INFO)


async def test_a_gpu_in_conflict_between_two_clusters_is_counted_once() -> None:
    site = fleet(["a", "b"], nodes=())
    site.cluster("a")
    one = Gpu(uuid="GPU-1", serial="S-1")
    for number, cluster in enumerate("abab"):
        site.read(cluster, f"n-{cluster}", one, time=1764000001.0 + number, capacity=1, both=True)
    (problem,) = await everything(site)
    assert (problem.kind, problem.count, problem.gpus_affected) == (ProblemKind.CONFLICT, 1, 1)
    assert problem.title == "1 GPU confirmed in two places at once: 2 nodes across 2 clusters"
    assert {gpu.reason for gpu in problem.gpus} == {"also on n-a (a)", "also on n-b (b)"}
    assert problem.since == 1764000002.0  # when the second one reported it


async def test_a_node_has_its_own_problems() -> None:
    site = fleet(["a"])
    site.fail("a", "n2", ReadFailure.TIMEOUT)
    site.read("a", "n1", *boards("a", "n1", 6))
    entry = site.inventory.node(Place("a", "n1"))
    assert entry is not None
    assert [one.title for one in await node_problems(site.collector, entry)] == ["2 GPUs missing on n1 (a)"]


async def test_resembling_clusters_are_named_with_a_remedy() -> None:
    site = fleet(["prod-a", "prod-b"])
    site.collector.similar = {"prod-a": ["prod-b"], "prod-b": ["prod-a"]}
    (problem,) = await everything(site)
    assert problem.title == "prod-a and prod-b may be one cluster"
    assert problem.remedy.startswith("All of them are published. If they are one cluster, remove one")
    assert cluster_row(site.collector, "prod-a").resembles == ["prod-b"]


@pytest.mark.parametrize(
    ("reason", "nodes", "title"),
    [
        (LabelFailure.FORBIDDEN, None, "Labels that cannot be written on 2 nodes of a"),
        (LabelFailure.INVALID, 2, "Labels that cannot be written on 2 nodes of a"),
        (LabelFailure.CONTESTED, 1, "Labels that another client keeps changing on 1 node of a"),
    ],
)
async def test_labels_that_cannot_be_written_are_one_problem(
    reason: LabelFailure, nodes: int | None, title: str
) -> None:
    site = fleet(["a"])
    site.collector.label_troubles["a"] = LabelTrouble(reason=reason, message="why", since=2.0, nodes=nodes)
    problem = await the_only(site, "a")
    assert (problem.title, problem.reason, problem.since, problem.severity) == (title, "why", 2.0, "warning")


async def test_a_store_that_is_down_ranks_before_any_cluster() -> None:
    site = fleet(["a", "b"])
    for name in ("a", "b"):
        site.cluster(name, ClusterState.UNREACHABLE, "refused")
    site.collector.store_status = StoreStatus(up=False, since=5.0, message="disk full")
    assert [one.kind for one in await everything(site)] == ["store_down", "cluster_unreachable"]


async def test_a_node_with_a_lost_gpu_is_overdue_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = fleet(["a"], ["n1"])
    monkeypatch.setattr(site.collector, "refresh", lambda _cluster: 60.0)
    read = site.collector.time
    for lost, kinds in (((), ["node_overdue"]), ((GpuRef("GPU-a-n1-8"),), ["gpu_lost"])):
        site.read("a", "n1", *boards("a", "n1", 7 if lost else 8), time=read, lost=lost)
        site.collector.time = read + 500.0
        found = [one.kind for one in await of(site, "a")]
        assert [kind for kind in found if kind in {"node_overdue", "gpu_lost"}] == kinds


@pytest.mark.parametrize("lost", [False, True])
async def test_only_slices_seen_before_are_a_problem(lost: bool) -> None:
    site = fleet(["a"])
    site.collector.slice_statuses["a"] = SliceStatus(SliceState.FORBIDDEN, "may not list", lost=lost)
    told = [(one.title, one.reason) for one in await of(site, "a")]
    assert told == ([("ResourceSlices are no longer visible in a", "may not list")] if lost else [])
    assert cluster_row(site.collector, "a").resource_slices == "forbidden"


async def test_slices_that_cannot_be_watched_are_a_problem_from_the_start() -> None:
    site = fleet(["a"])
    site.collector.slice_statuses["a"] = SliceStatus(SliceState.FAILING, "too many")
    problem = await the_only(site, "a")
    assert (problem.title, problem.reason) == ("ResourceSlices cannot be watched in a", "too many")
