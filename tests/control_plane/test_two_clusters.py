"""`gpuid run` on two real control planes: whatever happens in them, the scrape ends right."""

import signal

import pytest

from collector.simulator import Placed
from tests.control_plane.conftest import Collect, Planes
from tests.control_plane.plane import MODEL
from tests.support.processes import CollectorProcess
from tests.support.waiting import until

Gpus = list[tuple[str, str]]

ONE: Gpus = [("1650122000001", "GPU-00000000-0000-0000-0000-000000000001")]
TWO: Gpus = [
    ("1650122000002", "GPU-00000000-0000-0000-0000-000000000002"),
    ("1650122000003", "GPU-00000000-0000-0000-0000-000000000003"),
]
SWAPPED: Gpus = [
    ("1650122000002", "GPU-00000000-0000-0000-0000-000000000002"),
    ("1650122000009", "GPU-00000000-0000-0000-0000-000000000009"),
]
THREE: Gpus = [("1650122000004", "GPU-00000000-0000-0000-0000-000000000004")]


def rows(cluster: str, node: str, gpus: Gpus) -> set[Placed]:
    return {Placed(cluster, node, uuid, serial, chassis="", model=MODEL) for serial, uuid in gpus}


@pytest.fixture
def collector(planes: Planes, collect: Collect) -> CollectorProcess:
    """A collector that has read gpu-1 and gpu-2 of east and gpu-1 of west."""
    planes["east"].add_node("gpu-1", ONE)
    planes["east"].add_node("gpu-2", TWO)
    planes["west"].add_node("gpu-1", THREE)
    collector = collect({name: plane.kubeconfig for name, plane in planes.items()})
    expected = rows("east", "gpu-1", ONE) | rows("east", "gpu-2", TWO) | rows("west", "gpu-1", THREE)
    try:
        until(collector.gpus, expected, seconds=120)
    except AssertionError as error:
        logs = (collector, planes["east"].kwok, planes["west"].kwok)
        raise AssertionError("\n".join([str(error), *(process.tail() for process in logs)])) from None
    return collector


def test_the_scrape_has_kubernetes_and_driver_facts_per_node(collector: CollectorProcess) -> None:
    (labels,) = [labels for labels, _ in collector.samples("gpuid_node_info") if labels["node"] == "gpu-2"]
    assert labels == {
        "cluster": "east",
        "node": "gpu-2",
        "machine": "i-east-gpu-2",
        "provider_id": "aws:///us-east-1a/i-east-gpu-2",
        "chassis": "",
        "driver_version": "570.86.15",
        "cuda_version": "12.8",
    }
    assert collector.total("gpuid_node_gpus", cluster="east", node="gpu-2", state="found") == 2
    assert collector.total("gpuid_node_gpus", cluster="east", node="gpu-2", state="capacity") == 2
    assert collector.total("gpuid_node_gpus", cluster="east", node="gpu-2", state="allocatable") == 2
    assert collector.total("gpuid_cluster_up", cluster="west") == 1
    assert collector.total("gpuid_read_success_total", cluster="east") == 2


def test_a_new_node_appears(collector: CollectorProcess, planes: Planes) -> None:
    added: Gpus = [("1650122000005", "GPU-00000000-0000-0000-0000-000000000005")]
    planes["west"].add_node("gpu-2", added)
    until(
        collector.gpus,
        rows("east", "gpu-1", ONE)
        | rows("east", "gpu-2", TWO)
        | rows("west", "gpu-1", THREE)
        | rows("west", "gpu-2", added),
    )


def test_a_replaced_pod_is_read_again(collector: CollectorProcess, planes: Planes) -> None:
    planes["east"].replace_pod("gpu-2", SWAPPED)
    until(collector.gpus, rows("east", "gpu-1", ONE) | rows("east", "gpu-2", SWAPPED) | rows("west", "gpu-1", THREE))


def test_a_node_is_read_again_after_its_container_restarted(collector: CollectorProcess, planes: Planes) -> None:
    planes["east"].print_gpus("gpu-2-a", SWAPPED)
    planes["east"].restart_container("gpu-2")
    until(collector.gpus, rows("east", "gpu-1", ONE) | rows("east", "gpu-2", SWAPPED) | rows("west", "gpu-1", THREE))


def test_a_node_is_read_again_after_it_rebooted(collector: CollectorProcess, planes: Planes) -> None:
    planes["east"].print_gpus("gpu-2-a", SWAPPED)
    planes["east"].reboot("gpu-2")
    until(collector.gpus, rows("east", "gpu-1", ONE) | rows("east", "gpu-2", SWAPPED) | rows("west", "gpu-1", THREE))


def test_a_gpu_can_move_to_another_cluster(collector: CollectorProcess, planes: Planes) -> None:
    planes["east"].delete_node("gpu-1")
    planes["west"].replace_pod("gpu-1", THREE + ONE)
    until(collector.gpus, rows("east", "gpu-2", TWO) | rows("west", "gpu-1", THREE + ONE))


def test_a_deleted_node_loses_its_series(collector: CollectorProcess, planes: Planes) -> None:
    planes["east"].delete_node("gpu-2")
    until(collector.gpus, rows("east", "gpu-1", ONE) | rows("west", "gpu-1", THREE))
    assert [labels for labels, _ in collector.samples("gpuid_node_info") if labels["node"] == "gpu-2"] == []


def test_a_restart_of_the_api_server_loses_no_series(collector: CollectorProcess, planes: Planes) -> None:
    east = planes["east"]
    everything = collector.gpus()
    east.stop_apiserver()
    until(lambda: collector.total("gpuid_cluster_up", cluster="east"), 0)
    assert collector.gpus() == everything
    assert collector.total("gpuid_cluster_up", cluster="west") == 1
    east.start_apiserver()
    until(lambda: collector.total("gpuid_cluster_up", cluster="east"), 1)
    east.replace_pod("gpu-2", SWAPPED)
    until(collector.gpus, rows("east", "gpu-1", ONE) | rows("east", "gpu-2", SWAPPED) | rows("west", "gpu-1", THREE))


def test_a_watch_that_expired_meanwhile_causes_a_list(collector: CollectorProcess, planes: Planes) -> None:
    east = planes["east"]
    collector.send(signal.SIGSTOP)
    try:
        east.stop_apiserver()  # cuts the watches; the collector cannot take them up again
        east.start_apiserver()
        east.replace_pod("gpu-2", SWAPPED)
        east.delete_node("gpu-1")
        east.stop_apiserver()
        east.compact()  # etcd forgets the versions that the watches stood at,
        east.start_apiserver()  # and the API server's own memory begins only now
    finally:
        collector.send(signal.SIGCONT)
    until(collector.gpus, rows("east", "gpu-2", SWAPPED) | rows("west", "gpu-1", THREE))
    restarts = [labels["reason"] for labels, value in collector.samples("gpuid_watch_restarts_total") if value]
    assert "expired" in restarts


def test_sigterm_ends_it_promptly_with_status_0(collector: CollectorProcess) -> None:
    assert collector.stop(signal.SIGTERM, seconds=10) == 0
