"""Two real control planes, and a collector that watches them as a user would run it."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.control_plane.collector import Collector
from tests.control_plane.plane import ControlPlane, binaries
from tests.support.processes import Process, free_ports

NODES = ("gpu-1", "gpu-2", "gpu-3")


@pytest.fixture(scope="session")
def control_planes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ControlPlane]]:
    """The running control planes by name."""
    programs = binaries()
    if programs is None:
        pytest.skip(
            "no etcd, kube-apiserver and kwok in $KUBEBUILDER_ASSETS or the cache: run tests/control_plane/build"
        )
    folder = tmp_path_factory.mktemp("control-planes")
    planes = {name: ControlPlane(name, folder / name, programs, NODES) for name in ("east", "west")}
    with contextlib.ExitStack() as stack:
        for plane in planes.values():
            stack.enter_context(plane.running())
        for plane in planes.values():
            plane.wait_ready()
        yield planes


@pytest.fixture
def planes(control_planes: dict[str, ControlPlane]) -> Iterator[dict[str, ControlPlane]]:
    """The control planes, empty at the end of the test."""
    yield control_planes
    for plane in control_planes.values():
        plane.clear()


@pytest.fixture
def collect(tmp_path: Path) -> Iterator[Callable[[Mapping[str, Path]], Collector]]:
    """Starts `gpuid run` on clusters, given as name -> kubeconfig."""
    with contextlib.ExitStack() as stack:

        def start(kubeconfigs: Mapping[str, Path]) -> Collector:
            (port,) = free_ports(1)
            clusters = "".join(
                f'[[clusters]]\ncontext = "{name}"\nkubeconfig = "{path}"\n' for name, path in kubeconfigs.items()
            )
            config = tmp_path / "gpuid.toml"
            config.write_text(f'[server]\nlisten = "127.0.0.1:{port}"\n{clusters}')
            process = Process([sys.executable, "-m", "collector", "run", "-c", config], tmp_path / "gpuid.log")
            stack.callback(process.stop, signal.SIGKILL)
            process.start()
            return Collector(process, f"http://127.0.0.1:{port}")

        yield start
