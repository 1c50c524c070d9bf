"""config/compose: read as Docker Compose reads it, then run, without its images, on two real clusters."""

import contextlib
import json
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from collector import __version__
from collector.simulator import Placed
from tests.control_plane.conftest import Planes
from tests.control_plane.plane import MODEL, binaries
from tests.control_plane.rights import remove_rights
from tests.support.container import Mount, contained
from tests.support.postgres import postgres_at
from tests.support.processes import CollectorProcess, Process
from tests.support.prometheus import Prometheus, answers, prometheus_program, promtool
from tests.support.waiting import until

__all__ = ["prometheus_program", "promtool"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "config" / "compose"
PLACED = {
    Placed(plane, "gpu-1", f"GPU-00000000-0000-0000-0000-00000000000{number}", f"165012200000{number}", "", MODEL)
    for plane, number in (("east", 1), ("west", 2))
}


class Project:
    """A user's copy of the repository's files in which the project is, and its services."""

    def __init__(self, folder: Path) -> None:
        for name in ("config", "grafana"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.py", "secrets", "kubeconfig"))
        self.folder = folder / "config" / "compose"
        self.root = folder

    def prepare(self, home: Path) -> None:
        """Run what the head of compose.yaml says, up to Docker itself."""
        head = re.findall(r"^#   (.+)$", (self.folder / "compose.yaml").read_text(), re.MULTILINE)
        assert head.pop() == "docker compose up --build --detach"
        programs = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(head)],
            cwd=self.folder,
            env={"HOME": str(home), "PATH": programs},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    def read(self) -> dict[str, Any]:
        """Return the project as Docker Compose understands it."""
        programs = binaries()
        if programs is None or not (programs / "compose-spec").is_file():
            pytest.skip("no compose-spec in $KUBEBUILDER_ASSETS or the cache: run tests/control_plane/build")
        command = [str(programs / "compose-spec"), "-format", "json", "compose.yaml"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        project: dict[str, Any] = json.loads(done.stdout)
        return project

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "repository")


def test_the_project_is_valid_and_pins_its_images(project: Project) -> None:
    services = project.read()["services"]
    assert services.keys() == {"gpuid", "postgres", "prometheus", "grafana"}
    for name, service in services.items():
        assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d+(\.\d+)?", service["image"]), name
        assert {port["host_ip"] for port in service.get("ports", ())} <= {"127.0.0.1"}, name
    assert services["gpuid"]["image"] == f"gpuid:{__version__}"
    assert Path(services["gpuid"]["build"]["context"]) == project.root


def test_grafana_finds_prometheus_and_the_dashboards(project: Project) -> None:
    services = project.read()["services"]
    grafana = services["grafana"]
    mounts = {volume["target"]: Path(volume["source"]) for volume in grafana["volumes"] if volume["type"] == "bind"}
    provisioning = mounts["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "$PROMETHEUS_URL"
    (port,) = services["prometheus"]["ports"]
    assert grafana["environment"]["PROMETHEUS_URL"] == f"http://prometheus:{port['target']}"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "gpuid.yaml").read_text())["providers"]
    assert list(mounts[provider["options"]["path"]].glob("*.json"))
    (secret,) = grafana["secrets"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"/run/secrets/{secret['source']}"


class Running:
    """The services, each at an address of its own instead of in a network of its own, known by their names."""

    def __init__(self, project: Project, folder: Path, stack: contextlib.ExitStack) -> None:
        self._project, self._folder, self._stack = project, folder, stack
        self.services = project.read()["services"]
        net = f"127.{random.randrange(16, 250)}.{random.randrange(1, 250)}"
        self.hosts = {name: f"{net}.{number}" for number, name in enumerate(self.services, start=2)}

    def command(self, name: str, *command: str | Path) -> list[str | Path]:
        """Return the command that runs a program where a service has its files."""
        service, folder = self.services[name], self._folder / name
        mounts = []
        for volume in service.get("volumes", ()):
            source = Path(volume["source"]) if volume["type"] == "bind" else folder / volume["source"]
            if volume["type"] == "volume":
                source.mkdir(parents=True, exist_ok=True)
            mounts.append(Mount(source, volume["target"], volume.get("read_only", False)))
        for secret in service.get("secrets", ()):
            path = self._project.folder / "secrets" / secret["source"]
            mounts.append(Mount(path, f"/run/secrets/{secret['source']}"))
        for target in service.get("tmpfs", ()):
            (folder / "tmpfs").mkdir(parents=True, exist_ok=True)
            mounts.append(Mount(folder / "tmpfs", target, read_only=False))
        runs = sum(path.name.startswith("container") for path in folder.glob("*"))
        return contained(
            command,
            folder / f"container-{runs}",
            mounts=mounts,
            env=service.get("environment") or {},
            hosts=self.hosts,
            hostname=name,
        )

    def start(self, process: Process) -> None:
        self._stack.callback(process.stop, signal.SIGKILL)
        process.start()


def merged(planes: Planes) -> dict[str, Any]:
    """Make one kubeconfig of those of the clusters' administrators."""
    documents = [json.loads(plane.kubeconfig.read_text()) for plane in planes.values()]
    for document in documents:
        (user,), (context,) = document["users"], document["contexts"]
        user["name"] = context["context"]["user"] = f"admin of {context['name']}"
    return documents[0] | {key: [one[key][0] for one in documents] for key in ("clusters", "contexts", "users")}


@pytest.fixture
def running(project: Project, planes: Planes, tmp_path: Path) -> Iterator[Running]:
    """The project's files as its head says, with the clusters `east` and `west`, and its PostgreSQL."""
    for number, plane in enumerate(planes.values(), start=1):
        remove_rights(plane)
        plane.add_node("gpu-1", [(f"165012200000{number}", f"GPU-00000000-0000-0000-0000-00000000000{number}")])
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    (home / ".kube" / "config").write_text(json.dumps(merged(planes)))
    file = project.folder / "gpuid" / "gpuid.toml"
    shipped = '[[clusters]]\ncontext = "prod-us-east"\n'
    assert shipped in file.read_text()
    clusters = "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in planes)
    file.write_text(file.read_text().replace(shipped, clusters))
    patient = project.folder / "prometheus.yml"
    patient.write_text(re.sub(r"_(interval|timeout): \w+$", r"_\1: 2s", patient.read_text(), flags=re.MULTILINE))
    project.prepare(home)
    with contextlib.ExitStack() as stack:
        running = Running(project, tmp_path / "services", stack)
        with file.open("a") as more:
            more.write(f'[server]\nlisten = "{running.hosts["gpuid"]}:8080"\n')
        environment = running.services["postgres"]["environment"]
        assert environment["POSTGRES_USER"] == "gpuid"
        password = project.secret(Path(environment["POSTGRES_PASSWORD_FILE"]).name)
        server = stack.enter_context(postgres_at(running.hosts["postgres"], password))
        server.make_database(environment["POSTGRES_DB"])
        yield running
    for plane in planes.values():
        remove_rights(plane)


def test_gpuid_records_in_postgresql_and_prometheus_has_its_series(
    running: Running, project: Project, prometheus_program: str, promtool: str, tmp_path: Path
) -> None:
    assert stat.S_IMODE((project.folder / "secrets").stat().st_mode) == 0o700
    gpuid = CollectorProcess(tmp_path, "gpuid")
    gpuid.url = f"http://{running.hosts['gpuid']}:8080"
    (gpuid.folder / "gpuid.log").touch()
    entrypoint = [sys.executable, "-m", "collector"]
    gpuid.command = [str(part) for part in running.command("gpuid", *entrypoint, "run")]
    running.start(gpuid)
    until(gpuid.gpus, PLACED, seconds=120)
    until(lambda: gpuid.total("gpuid_store_leader"), 1)
    assert httpx.get(f"{gpuid.url}/").status_code == 200
    healthy = subprocess.run(running.command("gpuid", *entrypoint, "health"), capture_output=True, text=True)
    assert healthy.returncode == 0, healthy.stderr

    checked = subprocess.run(
        running.command("prometheus", promtool, "check", "config", "/etc/prometheus/prometheus.yml"),
        capture_output=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert b"rules found" in checked.stdout
    address = f"{running.hosts['prometheus']}:9090"
    process = Process(
        running.command(
            "prometheus",
            prometheus_program,
            *running.services["prometheus"]["command"],
            f"--web.listen-address={address}",
        ),
        tmp_path / "prometheus.log",
    )
    running.start(process)
    until(lambda: answers(f"http://{address}/-/ready", process))
    prometheus = Prometheus(f"http://{address}")
    until(
        lambda: {one["metric"]["serial"] for one in prometheus.query("gpuid_gpu_info")}, {one.serial for one in PLACED}
    )
    groups = httpx.get(f"http://{address}/api/v1/rules").json()["data"]["groups"]
    assert {rule["name"] for group in groups for rule in group["rules"]} >= {"GpuidAbsent", "GpuidClusterDown"}
