"""The commands of a document are enough: run in order on real clusters, and on simulated ones where it takes thirty."""

import base64
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.control_plane.conftest import Planes
from tests.control_plane.guide import ROOT, Reader, shell_blocks
from tests.control_plane.plane import ControlPlane
from tests.control_plane.releases import CORE, ChartPod, hub
from tests.control_plane.rights import finish_namespace, remove_rights
from tests.support.processes import Process, free_ports
from tests.support.waiting import until

__all__ = ["hub"]

SIMULATED = 29  # the thirty-first cluster included
GRANT = "gpuid grant --all"
SERIALS = {"east": "1650122000001", "west": "1650122000002"}

Read = Callable[[str], Reader]


@pytest.fixture
def read(hub: ControlPlane, planes: Planes, tmp_path: Path) -> Iterator[Read]:
    """Make a reader with a kubeconfig; each real cluster has a GPU, and the hub no namespace yet."""
    for number, (name, plane) in enumerate(planes.items(), start=1):
        remove_rights(plane)
        plane.add_node("gpu-1", [(SERIALS[name], f"GPU-00000000-0000-0000-0000-00000000000{number}")])
    finish_namespace(hub)
    with contextlib.ExitStack() as stack:

        def start() -> ChartPod:
            (port,) = free_ports(1)
            pod = ChartPod(hub, "deployments", tmp_path / "pod", port, claims=tmp_path / "claims")
            stack.callback(pod.stop, signal.SIGKILL)
            pod.start()
            until(lambda: pod.text("/readyz"), seconds=120)
            return pod

        yield lambda kubeconfig: Reader(hub, tmp_path, kubeconfig, start)
    for plane in planes.values():
        if plane is not hub:  # which the fixture of the hub cleans up
            remove_rights(plane)


def contexts(planes: Planes, names: dict[str, str]) -> dict[str, Any]:
    """Make one kubeconfig of those of the clusters' administrators, with contexts of these names."""
    documents = []
    for plane in planes.values():
        name = names[plane.name]
        documents.append(json.loads(plane.kubeconfig.read_text().replace(f'"{plane.name}"', f'"{name}"')))
        (user,), (context,) = documents[-1]["users"], documents[-1]["contexts"]
        user["name"] = context["context"]["user"] = f"admin of {name}"
    return merged(*documents)


def merged(first: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    lists = ("clusters", "contexts", "users")
    return first | {key: [one for document in (first, *more) for one in document[key]] for key in lists}


@pytest.mark.parametrize("document", ["README.md", "docs/deploying.md"])
def test_helm_installs_a_collector_of_two_clusters(read: Read, planes: Planes, document: str) -> None:
    reader = read(json.dumps(contexts(planes, {name: name for name in planes})))
    for block in before_the_tests(document):
        for command in block:
            reader.run(command)
    collector = reader.collector
    until(collector.up, {"east": 1, "west": 1}, seconds=120)
    until(lambda: len(collector.gpus()), 2, seconds=120)
    page = collector.text("/gpus")
    for serial in SERIALS.values():
        assert serial in page


def before_the_tests(document: str) -> list[list[str]]:
    """Return the blocks up to the one that installs with helm, without what only tries gpuid out."""
    blocks = shell_blocks(document)
    last = next(number for number, block in enumerate(blocks) if any("helm install" in line for line in block))
    tried = ("gpuid run", ".venv/bin/gpuid demo")
    return [[line for line in block if not any(one in line for one in tried)] for block in blocks[: last + 1]]


def test_ten_commands_lead_to_thirty_clusters(read: Read, planes: Planes, hub: ControlPlane, tmp_path: Path) -> None:
    ten, four = shell_blocks("docs/thirty-clusters.md")
    assert (len(ten), len(four)) == (10, 4)
    real = contexts(planes, {"east": "prod-01", "west": "prod-02"})
    with simulated(tmp_path) as clusters:
        first, more = clusters[: SIMULATED - 1], clusters[SIMULATED - 1 :]
        reader = read(json.dumps(merged(real, *first)))
        follow(reader, hub, ten, first)
        collector = reader.collector
        until(collector.up, {f"prod-{number:02}": 1 for number in range(1, 31)}, seconds=120)
        until(lambda: len(collector.gpus()), 2 + 4 * len(first), seconds=120)
        assert SERIALS["west"] in collector.text(f"/gpus?q={SERIALS['west'][-5:]}")

        reader.kubeconfig.write_text(json.dumps(merged(real, *first, *more)))
        follow(reader, hub, four, [*first, *more])
        collector.sync()
        until(collector.up, {f"prod-{number:02}": 1 for number in range(1, 32)}, seconds=120)


def follow(reader: Reader, hub: ControlPlane, commands: list[str], clusters: list[dict[str, Any]]) -> None:
    """Run commands; simulated clusters know no RBAC, so their contexts come into the Secret as they are."""
    for command in commands:
        if not command.startswith(GRANT):
            if "gpuid status" in command:  # which fails until all have been read
                until(lambda: len(reader.collector.gpus()), 2 + 4 * len(clusters), seconds=120)
            reader.run(command)
            continue
        reader.run(command.replace(GRANT, "gpuid grant prod-01 prod-02"))
        path = f"{CORE}/secrets/gpuid-kubeconfig"
        secret = hub.http.get(path).raise_for_status().json()
        granted = yaml.safe_load(base64.b64decode(secret["data"]["config"]))
        whole = base64.b64encode(json.dumps(merged(granted, *clusters)).encode()).decode()
        hub.http.put(path, json=secret | {"data": {"config": whole}}).raise_for_status()


@contextlib.contextmanager
def simulated(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Run simulated clusters, and give a kubeconfig for each: `prod-03` and so on."""
    file = folder / "simulated.kubeconfig"
    sizes = ("--clusters", str(SIMULATED), "--nodes", "2", "--gpus", "2")
    command = [sys.executable, "-m", "collector", "simulate", *sizes, "--kubeconfig", str(file)]
    process = Process(command, folder / "simulate.log")
    process.start()
    try:
        until(lambda: file.exists() or not process.running)
        text = file.read_text()
        document = yaml.safe_load(text)
        found = []
        for number in range(SIMULATED):
            name, old = f"prod-{number + 3:02}", f"sim-{number}"
            (context,) = (one for one in document["contexts"] if one["name"] == old)
            (cluster,) = (one for one in document["clusters"] if one["name"] == context["context"]["cluster"])
            (user,) = (one for one in document["users"] if one["name"] == context["context"]["user"])
            found.append(
                {
                    "clusters": [{"name": name, "cluster": cluster["cluster"]}],
                    "users": [{"name": f"user of {name}", "user": user["user"]}],
                    "contexts": [{"name": name, "context": {"cluster": name, "user": f"user of {name}"}}],
                }
            )
        yield found
    finally:
        process.stop(signal.SIGKILL)


def test_every_command_of_the_guide_is_tested() -> None:
    text = (ROOT / "docs" / "thirty-clusters.md").read_text()
    rows = [row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| ") and "---" not in row]
    numbers = [int(one) for row in rows[1:] for one in row.split(",")]
    assert numbers == list(range(1, len(shell_blocks("docs/thirty-clusters.md")[0]) + 1))
