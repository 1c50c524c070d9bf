"""The whole simulation: a fleet, an API server for each cluster, a control server and a kubeconfig for them."""

import base64
import contextlib
import functools
import itertools
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from collector.files import replace_file
from collector.simulator import certificates
from collector.simulator.cluster import DEFAULT_AGE_SECONDS, SimulatedCluster
from collector.simulator.control import ControlServer
from collector.simulator.driver_forms import DEFAULT_FORMS
from collector.simulator.fleet import Fleet
from collector.simulator.shapes import DEFAULT_SHAPE, SHAPES

__all__ = ["Simulator"]


class Simulator:
    """Simulated Kubernetes clusters `sim-0` … with a fleet of GPUs behind them, while the context is open.

    `nodes` is the number per cluster, `gpus` that per node; `latency` (of an exec) and `bookmark_interval` are seconds.
    The servers listen on `ports` and the following ones, the control server on the last; 0 means any free ports. Files
    are written to `directory`, by default a temporary one. The same `seed` makes the same fleet. The clusters have the
    `shapes` (keys of SHAPES) in turn, and the `drivers` (keys of DRIVER_FORMS), by default those usual on their GPUs.
    The first nodes and pods are `age` seconds old.
    """

    def __init__(
        self,
        *,
        clusters: int = 3,
        nodes: int = 20,
        gpus: int = 8,
        latency: float = 0.05,
        host: str = "127.0.0.1",
        ports: int = 0,
        directory: Path | None = None,
        seed: int = 0,
        bookmark_interval: float = 10.0,
        shapes: Sequence[str] = (DEFAULT_SHAPE.name,),
        drivers: Sequence[str] = (),
        age: float = DEFAULT_AGE_SECONDS,
    ) -> None:
        self.fleet = Fleet(clusters=clusters, nodes=nodes, gpus=gpus, seed=seed)
        self.clusters: dict[str, SimulatedCluster] = {}
        self._host = host
        self._ports = ports
        self._seed = seed
        self._latency = latency
        self._bookmark_interval = bookmark_interval
        self._age = age
        self._shapes = dict(
            zip(self.fleet.clusters, itertools.cycle([SHAPES[shape] for shape in shapes]), strict=False)
        )
        self.drivers = {  # their forms, by cluster
            name: driver or DEFAULT_FORMS[self.fleet.kind(name)]
            for name, driver in zip(self.fleet.clusters, itertools.cycle(drivers or (None,)), strict=False)
        }
        self._directory = directory
        self._control = ControlServer(self.clusters, self.fleet)
        self._open = contextlib.AsyncExitStack()
        self._authorities: dict[str, bytes] = {}  # PEM, by cluster

    @property
    def kubeconfig(self) -> Path:
        """The path of a kubeconfig with a context for each cluster; `sim-0` is the current context."""
        if self._directory is None:
            raise RuntimeError("the simulator has not been started")
        return self._directory / "kubeconfig"

    @property
    def control_url(self) -> str:
        """The URL of the control server."""
        return self._control.url

    async def __aenter__(self) -> Self:
        """Open every port; raises ConfigError when one is not available."""
        async with contextlib.AsyncExitStack() as opening:
            if self._directory is None:
                folder = opening.enter_context(tempfile.TemporaryDirectory(prefix="gpuid-simulator-"))
                opening.callback(setattr, self, "_directory", None)
                self._directory = Path(folder)
            self._directory.mkdir(parents=True, exist_ok=True)
            for index, name in enumerate(self.fleet.clusters):
                self._authorities[name], context = certificates.make(self._directory, self._host, name)
                renew = functools.partial(self._change_authority, name, context)
                cluster = self.clusters[name] = SimulatedCluster(
                    name,
                    self.fleet,
                    self._shapes[name],
                    siblings=self.clusters,
                    on_token=self._write_kubeconfig,
                    on_authority=renew,
                    seed=self._seed,
                    latency=self._latency,
                    bookmark_interval=self._bookmark_interval,
                    context=context,
                    host=self._host,
                    driver=self.drivers[name],
                    age=self._age,
                )
                await cluster.open(self._ports + index if self._ports else 0)
                opening.push_async_callback(cluster.server.stop)
            opening.push_async_callback(self._control.stop)
            # Every client of the control server may change the simulation, so it listens on the loopback only.
            await self._control.start("127.0.0.1", self._ports + len(self.clusters) if self._ports else 0)
            self._write_kubeconfig()
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every port and delete the temporary files."""
        await self._open.aclose()

    def _change_authority(self, cluster: str, context: ssl.SSLContext) -> None:
        self._authorities[cluster] = certificates.renew(context, self.kubeconfig.parent, self._host, cluster)

    def _write_kubeconfig(self) -> None:
        authorities = {name: base64.b64encode(pem).decode() for name, pem in self._authorities.items()}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": next(iter(self.clusters), ""),
            "preferences": {},
            "clusters": [
                {"name": name, "cluster": {"server": cluster.url, "certificate-authority-data": authorities[name]}}
                for name, cluster in self.clusters.items()
            ],
            "users": [{"name": name, "user": {"token": cluster.token}} for name, cluster in self.clusters.items()],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in self.clusters],
        }
        # JSON is YAML. The file is replaced atomically, so that nobody reads half of it; only its owner may read it.
        text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        replace_file(self.kubeconfig, text, 0o600)
