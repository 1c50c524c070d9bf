"""Two real control planes, and a collector that watches them as a user would run it."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid as command
from tests.control_plane.plane import ControlPlane, binaries
from tests.control_plane.rights import Grant, remove_rights
from tests.support.processes import CollectorProcess

Planes = Mapping[str, ControlPlane]
Collect = Callable[[Mapping[str, Path]], CollectorProcess]

# West has the API of ResourceSlices in its oldest version alone.
FLAGS = {"east": (), "west": ("--runtime-config=resource.k8s.io/v1=false,resource.k8s.io/v1beta1=true",)}
NODES = ("gpu-1", "gpu-2", "gpu-3")


@pytest.fixture(scope="session")
def control_planes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planes]:
    """The running control planes by name."""
    programs = binaries()
    if programs is None:
        pytest.skip(
            "no etcd, kube-apiserver and kwok in $KUBEBUILDER_ASSETS or the cache: run tests/control_plane/build"
        )
    folder = tmp_path_factory.mktemp("control-planes")
    planes = {name: ControlPlane(name, folder / name, programs, NODES, *FLAGS[name]) for name in ("east", "west")}
    with contextlib.ExitStack() as stack:
        for plane in planes.values():
            stack.enter_context(plane.running())
        for plane in planes.values():
            plane.wait_ready()
        yield planes


@pytest.fixture
def planes(control_planes: Planes) -> Iterator[Planes]:
    """The control planes, empty at the end of the test."""
    yield control_planes
    for plane in control_planes.values():
        plane.clear()


@pytest.fixture
def collect(tmp_path: Path) -> Iterator[Collect]:
    """Start `gpuid run` on clusters, given as name -> kubeconfig."""
    with contextlib.ExitStack() as stack:

        def start(kubeconfigs: Mapping[str, Path]) -> CollectorProcess:
            collector = CollectorProcess(tmp_path)
            collector.configure(kubeconfigs)
            stack.callback(collector.stop, signal.SIGKILL)
            collector.start()
            return collector

        yield start


@pytest.fixture
def east(planes: Planes) -> Iterator[ControlPlane]:
    """A control plane with one node of one GPU, and without rights of ours at the end."""
    plane = planes["east"]
    remove_rights(plane)  # those of tests before
    plane.add_node("gpu-1", [("1650122000001", "GPU-00000000-0000-0000-0000-000000000001")])
    yield plane
    remove_rights(plane)


@pytest.fixture
def grant(east: ControlPlane, tmp_path: Path) -> Grant:
    """Run `gpuid grant` for the cluster `east`, as an administrator, with more of a configuration."""

    def run(*args: str | Path, toml: str = "", kubeconfig: Path = east.kubeconfig) -> Result:
        config = tmp_path / "admin.toml"
        config.write_text(f'[[clusters]]\ncontext = "east"\nkubeconfig = "{kubeconfig}"\n{toml}')
        return CliRunner().invoke(command, ["grant", "-c", str(config), *map(str, args)])

    return run


@pytest.fixture
def kubeconfig(grant: Grant, tmp_path: Path) -> Path:
    """The collector's kubeconfig, once its rights are applied."""
    file = tmp_path / "collector" / "kubeconfig"
    result = grant("--apply", "--kubeconfig", file)
    assert result.exit_code == 0, result.output
    return file
