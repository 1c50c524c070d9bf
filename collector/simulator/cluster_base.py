"""The parts of a simulated cluster, and what several of its actions do."""

import random
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from collector.simulator import smi
from collector.simulator.actions import Done
from collector.simulator.cluster_objects import ClusterObjects
from collector.simulator.faults import Counters
from collector.simulator.fleet import Fleet, SimulationError
from collector.simulator.objects import ObjectFactory
from collector.simulator.server import ApiServer, describe
from collector.simulator.shapes import Shape
from collector.simulator.slices import Slices
from collector.simulator.storage import Storage
from collector.text import counted

__all__ = ["ClusterBase", "new_token"]


class ClusterBase:
    """The API server of a cluster with its nodes, pods and GPUs."""

    def __init__(
        self,
        name: str,
        fleet: Fleet,
        shape: Shape,
        *,
        siblings: Mapping[str, "ClusterBase"],
        on_token: Callable[[], None],
        on_authority: Callable[[], None],
        seed: int,
        latency: float,
        bookmark_interval: float,
        context: ssl.SSLContext,
        host: str,
        driver: str,
        age: float,
    ) -> None:
        self.name = name
        self._fleet = fleet
        self._siblings = siblings
        self._on_token = on_token
        self._on_authority = on_authority
        self._random = random.Random(f"{seed}/{name}")  # noqa: S311  a simulation must be repeatable
        self._storage = Storage()
        self._driver = driver
        self._drivers: dict[str, str] = {}  # the forms of those that are other ones, by node
        factory = ObjectFactory(name, fleet.kind(name), shape, seed, time.time() - age, self._driver)
        self.objects = ClusterObjects(name, fleet, self._storage, factory)
        self.slices = Slices(name, fleet, self._storage, factory)
        if shape.slices:
            self.slices.publish("v1")
        self.server = ApiServer(
            self._storage,
            token=new_token(name),
            slices=self.slices,
            run_smi=self._run_smi,
            image=shape.image,
            latency=latency,
            bookmark_interval=bookmark_interval,
            context=context,
            host=host,
        )
        self._port = 0

    @property
    def url(self) -> str:
        """The URL of the API server, whether it runs or not."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.server.host, self.server.host)  # noqa: S104  compared
        return f"https://{host}:{self._port}"

    @property
    def token(self) -> str:
        """The bearer token that the server accepts."""
        return self.server.token

    @property
    def counters(self) -> Counters:
        """The counters of the API server."""
        return self.server.counters

    @property
    def shape(self) -> Shape:
        """The distribution that it imitates."""
        return self.objects.shape

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes with GPUs."""
        return self._fleet.nodes(self.name)

    def pod(self, node: str) -> str:
        """Return the GPU pod of a node, as `namespace/name`."""
        return self.objects.pod(node)

    def node_object(self, node: str) -> bytes:
        """Return a node as the API server sends it, as JSON."""
        return self.objects.node_object(node)

    def describe(self) -> dict[str, Any]:
        """Return the state and counters of the cluster as JSON values."""
        facts = {
            "name": self.name,
            "shape": self.shape.name,
            "kind": self._fleet.kind(self.name),
            "driver": self._driver,
            "gpu_nodes": len(self.nodes),
        }
        return facts | describe(self.server)

    async def open(self, port: int) -> None:
        """Start the API server for the first time; raises ConfigError when the port is not available."""
        await self.server.start(port)
        self._port = self.server.port

    def _boot(self, node: str) -> None:
        self.objects.node_down(node)
        if has_pod := self.objects.has_pod(node):
            self._stop_pod(node)
        self._fleet.reboot(self.name, node)
        self.objects.node_up(node)
        self.slices.update(node)
        if has_pod:
            self.objects.start_pod(node, new_sandbox=True)

    def _restart(self, node: str, *, new_sandbox: bool) -> None:
        self._stop_pod(node)
        self.objects.start_pod(node, new_sandbox=new_sandbox)

    def _restart_if_there(self, node: str) -> None:
        if self.objects.has_pod(node):
            self._restart(node, new_sandbox=False)

    def _stop_pod(self, node: str) -> None:
        self.objects.stop_pod(node)
        self.server.execs.kill(self.pod(node))

    def _notice(self, node: str, restart: bool) -> None:
        if restart:
            self._restart_if_there(node)

    def _gpu(self, node: str | None, uuid: str | None, index: int | None) -> tuple[str, str | None]:
        """Return the node and UUID of a GPU that is given by its UUID, or by its number on a node."""
        if uuid is not None and node is None:
            place = next((one.node for one in self._fleet.expected(self.name) if one.uuid == uuid), None)
            if place is None:
                raise SimulationError(f"{self.name}: no GPU {uuid}")
            return place, uuid
        node = self._node(node)
        if uuid is None and index is not None:
            cards = self._fleet.cards(self.name, node)
            if not 0 <= index < len(cards):
                raise SimulationError(f"{self.name}: {node} has {counted(len(cards), 'GPU')}, no index {index}")
            return node, cards[index].uuid
        return node, uuid

    def _node(self, node: str | None) -> str:
        if node is None:
            if not self.nodes:
                raise SimulationError(f"{self.name}: no GPU nodes left")
            return self._random.choice(self.nodes)
        self._fleet.capacity(self.name, node)  # raises for an unknown node
        return node

    def _sibling(self, name: str) -> "ClusterBase":
        if name not in self._siblings:
            raise SimulationError(f"no cluster {name}; there are {', '.join(self._siblings)}")
        return self._siblings[name]

    def _run_smi(self, node: str, argv: Sequence[str]) -> smi.Printed:
        form = self._drivers.get(node, self._driver)
        return smi.run(self._fleet.kind(self.name), self._fleet.cards(self.name, node), argv, time.time(), form)

    def _done(self, message: str, nodes: tuple[str, ...] = (), gpus: list[str] | None = None) -> Done:
        return Done(f"{self.name}: {message}", self.name, nodes, tuple(gpus or ()))


def new_token(name: str) -> str:
    """Return a new bearer token for a cluster."""
    return f"{name}.{secrets.token_urlsafe(24)}"
