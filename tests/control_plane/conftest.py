"""Two real control planes, and a collector that watches them as a user would run it."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.control_plane.plane import ControlPlane, binaries
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
