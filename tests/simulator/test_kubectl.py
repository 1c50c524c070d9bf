"""The real kubectl against the simulation."""

import os
import shutil
import subprocess
from typing import Any

import anyio
import anyio.to_thread
import pytest

from collector.collect import nvidia_smi
from collector.simulator import Simulator
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH"),
]


@pytest.fixture
def kubectl(simulator: Simulator) -> Any:
    async def run(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--kubeconfig", str(simulator.kubeconfig), *arguments]
        home = {"HOME": str(simulator.kubeconfig.parent)}  # kubectl keeps what it discovers there
        process = await anyio.run_process(command, env=os.environ | home | environment, check=False)
        done = subprocess.CompletedProcess(
            command, process.returncode, process.stdout.decode(), process.stderr.decode()
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


async def test_it_lists_pods(kubectl: Any) -> None:
    header, *lines = (await kubectl("get", "pods", "-A")).stdout.splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert len([line for line in lines if "nvidia-device-plugin-daemonset-" in line and "Running" in line]) == 4


async def test_it_lists_nodes(kubectl: Any) -> None:
    _, *lines = (await kubectl("get", "nodes", "-o", "wide")).stdout.splitlines()
    assert [line.split()[:2] for line in lines][-1] == ["gpu-0003", "Ready"]


async def test_it_selects(kubectl: Any) -> None:
    done = await kubectl("get", "nodes", "-l", "nvidia.com/gpu.present=true", "-o", "name", "--context", "sim-1")
    assert done.stdout.split() == ["node/gpu-0000", "node/gpu-0001", "node/gpu-0002", "node/gpu-0003"]


@pytest.mark.parametrize("websockets", ["true", "false"])
async def test_exec_prints_the_xml(kubectl: Any, simulator: Simulator, websockets: str) -> None:
    namespace, name = simulator.clusters["sim-0"].pod("gpu-0001").split("/")
    done = await kubectl(
        "exec", "-n", namespace, name, "--", "nvidia-smi", "-q", "-x", KUBECTL_REMOTE_COMMAND_WEBSOCKETS=websockets
    )
    assert {gpu.uuid for gpu in nvidia_smi.parse(done.stdout.encode()).gpus} == {
        gpu.uuid for gpu in simulator.fleet.expected("sim-0") if gpu.node == "gpu-0001"
    }


@pytest.mark.parametrize("websockets", ["true", "false"])
async def test_exec_passes_on_exit_status_and_stderr(kubectl: Any, simulator: Simulator, websockets: str) -> None:
    namespace, name = simulator.clusters["sim-0"].pod("gpu-0001").split("/")
    simulator.clusters["sim-0"].fail_exec(exit_status=9, stderr="no driver\n")
    done = await kubectl(
        "exec", "-n", namespace, name, "--", "nvidia-smi", check=False, KUBECTL_REMOTE_COMMAND_WEBSOCKETS=websockets
    )
    assert done.returncode == 9
    assert "no driver\n" in done.stderr


async def test_auth_can_i_answers_no_to_what_is_denied(kubectl: Any, simulator: Simulator) -> None:
    assert (await kubectl("auth", "can-i", "create", "pods", "--subresource=exec")).stdout == "yes\n"
    simulator.clusters["sim-0"].deny("create", "pods/exec")
    done = await kubectl("auth", "can-i", "create", "pods", "--subresource=exec", check=False)
    assert (done.returncode, done.stdout[:2]) == (1, "no")


async def test_it_labels_nodes(kubectl: Any) -> None:
    await kubectl("label", "node", "gpu-0000", "rack=12")
    done = await kubectl("get", "node", "gpu-0000", "-o", "jsonpath={.metadata.labels.rack}")
    assert done.stdout == "12"


async def test_errors_are_printed_in_its_format(kubectl: Any, simulator: Simulator) -> None:
    done = await kubectl("get", "pod", "none", check=False)
    assert 'Error from server (NotFound): pods "none" not found' in done.stderr
    simulator.clusters["sim-0"].deny("list", "nodes")
    done = await kubectl("get", "nodes", check=False)
    assert "Error from server (Forbidden): nodes is forbidden" in done.stderr


async def test_it_watches_pods(simulator: Simulator) -> None:
    cluster = simulator.clusters["sim-0"]
    command = ["kubectl", "--kubeconfig", str(simulator.kubeconfig), "get", "pods", "-A", "-w", "--no-headers"]
    environment = os.environ | {"HOME": str(simulator.kubeconfig.parent)}
    async with await anyio.open_process(command, env=environment) as process:
        await eventually(lambda: cluster.counters.open_watches == 1)
        cluster.replace_pod("gpu-0000")
        new, seen = cluster.pod("gpu-0000").split("/")[1], b""
        assert process.stdout is not None
        with anyio.fail_after(25):
            while not (new.encode() in seen and b"Pending" in seen):
                seen += await process.stdout.receive()
        process.terminate()


async def test_it_shows_logs(kubectl: Any, simulator: Simulator) -> None:
    simulator.clusters["sim-0"].add_readers("gpu-0000")
    name = (await kubectl("-n", "gpuid", "get", "pods", "-o", "name")).stdout.strip()
    shown = (await kubectl("-n", "gpuid", "logs", name)).stdout
    assert len(nvidia_smi.parse(shown.encode()).gpus) > 0
    tail = (await kubectl("-n", "gpuid", "logs", name, "--tail=1", "--timestamps")).stdout
    assert tail.endswith("Z </nvidia_smi_log>\n")
    assert "previous terminated" in (await kubectl("-n", "gpuid", "logs", name, "--previous", check=False)).stderr
