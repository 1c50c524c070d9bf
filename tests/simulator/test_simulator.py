"""The whole simulation: its ports, its files and its kubeconfig."""

import json
import socket
from pathlib import Path

import anyio
import pytest

from collector.config import ConfigError
from collector.simulator import Simulator
from tests.support.processes import free_ports

pytestmark = pytest.mark.anyio


async def test_the_kubeconfig_has_a_context_for_each_cluster(simulator: Simulator) -> None:
    document = json.loads(simulator.kubeconfig.read_text())
    assert document["current-context"] == "sim-0"
    assert [context["name"] for context in document["contexts"]] == ["sim-0", "sim-1", "sim-2"]
    assert document["clusters"][1]["cluster"]["server"] == simulator.clusters["sim-1"].url
    assert document["users"][1]["user"] == {"token": simulator.clusters["sim-1"].token}


async def test_the_kubeconfig_is_private_to_its_owner(simulator: Simulator) -> None:
    assert simulator.kubeconfig.stat().st_mode & 0o777 == 0o600


async def test_each_cluster_has_its_own_token(simulator: Simulator) -> None:
    assert len({cluster.token for cluster in simulator.clusters.values()}) == 3


async def test_without_a_directory_a_temporary_one_is_used_and_deleted() -> None:
    async with Simulator(clusters=1, nodes=0, gpus=0) as running:
        path = running.kubeconfig
        assert path.exists()
    assert not path.parent.exists()


async def test_ports_follow_the_first_one(tmp_path: Path) -> None:
    first, *_ = free_ports(3)
    async with Simulator(clusters=2, nodes=1, ports=first, directory=tmp_path) as running:
        assert [cluster.url for cluster in running.clusters.values()] == [
            f"https://127.0.0.1:{first}",
            f"https://127.0.0.1:{first + 1}",
        ]
        assert running.control_url == f"http://127.0.0.1:{first + 2}"


async def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^127\.0\.0\.1:{port}: cannot listen here: "):
            async with Simulator(clusters=1, nodes=1, ports=port, directory=tmp_path):
                pass


async def test_a_hundred_clusters_of_a_thousand_nodes_start_in_seconds(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with Simulator(clusters=100, nodes=1000, directory=tmp_path) as running:
            assert len(running.clusters) == 100
