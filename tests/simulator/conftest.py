"""A small simulation and a raw HTTP client for each of its clusters."""

import base64
import contextlib
import json
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from collector.simulator import SimulatedCluster, Simulator

NVIDIA_SMI = ("nvidia-smi", "-q", "-x")


class Api:
    """One cluster's API as a client without a library sees it."""

    def __init__(self, cluster: SimulatedCluster, session: aiohttp.ClientSession, context: ssl.SSLContext) -> None:
        self.cluster = cluster
        self.session = session
        self.context = context  # of its TLS connections

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """The status and the JSON body of one request."""
        async with self.session.request(method, path, **options) as response:
            return response.status, json.loads(await response.read())

    async def get(self, path: str, **query: str) -> Any:
        """The JSON body of a GET that succeeds."""
        status, body = await self.ask("GET", path, params=query)
        assert status == 200, body
        return body

    async def refused(self, path: str, **query: str) -> dict[str, Any]:
        """The Status of a GET that does not succeed."""
        status, body = await self.ask("GET", path, params=query)
        assert status >= 400
        assert (body["kind"], body["apiVersion"], body["status"], body["code"]) == ("Status", "v1", "Failure", status)
        return body

    @contextlib.asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """A watch, as a function that gives the next event; None at its end."""
        async with self.session.get(path, params={"watch": "true"} | query) as response:
            assert response.status == 200, await response.text()

            async def following() -> Any:
                with anyio.fail_after(25):
                    line = await response.content.readuntil(b"\n")
                return json.loads(line) if line else None

            yield following

    @contextlib.asynccontextmanager
    async def socket(
        self, node: str, *command: str, protocols: tuple[str, ...] = ("v5.channel.k8s.io",), **query: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """An exec over WebSocket in the device plugin's container of a node."""
        async with self.session.ws_connect(
            self.exec_path(node, *command, **query), protocols=protocols, compress=0, max_msg_size=0
        ) as socket:
            yield socket

    def exec_path(self, node: str, *command: str, **query: str) -> str:
        """The path of an exec, with its query."""
        namespace, name = self.cluster.pod(node).split("/")
        words = [("command", word) for word in command or NVIDIA_SMI]
        words += ({"stdout": "true", "stderr": "true", "container": "nvidia-device-plugin"} | query).items()
        return f"/api/v1/namespaces/{namespace}/pods/{name}/exec?{urllib.parse.urlencode(words)}"

    async def run(self, node: str, *command: str, **query: Any) -> tuple[bytes, bytes, dict[str, Any]]:
        """What a command prints to stdout and stderr, and the Status that ends it."""
        async with self.socket(node, *command, **query) as socket:
            return await collect(socket)


async def collect(socket: aiohttp.ClientWebSocketResponse) -> tuple[bytes, bytes, dict[str, Any]]:
    """All that an exec sends: stdout, stderr and the Status."""
    channels = {1: b"", 2: b"", 3: b""}
    with anyio.fail_after(25):
        async for message in socket:
            channels[message.data[0]] += message.data[1:]
    return channels[1], channels[2], json.loads(channels[3])


@pytest.fixture
async def simulator(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Simulator]:
    """Three clusters of four nodes with four GPUs each; the third is made of GB200."""
    async with Simulator(nodes=4, gpus=4, latency=0.0, directory=tmp_path, bookmark_interval=0.05) as running:
        yield running


@pytest.fixture
async def api(simulator: Simulator) -> AsyncIterator[Api]:
    """The API of sim-0."""
    async with connected(simulator, "sim-0") as client:
        yield client


@pytest.fixture
def connect(simulator: Simulator) -> Callable[[str], contextlib.AbstractAsyncContextManager[Api]]:
    """The API of any cluster."""
    return lambda name: connected(simulator, name)


@contextlib.asynccontextmanager
async def connected(simulator: Simulator, name: str) -> AsyncIterator[Api]:
    """A client of one cluster, on new connections."""
    cluster = simulator.clusters[name]
    context = ssl.create_default_context(cadata=authority(simulator, name))
    async with aiohttp.ClientSession(
        cluster.url,
        connector=aiohttp.TCPConnector(ssl=context),
        headers={"Authorization": f"Bearer {cluster.token}"},
    ) as session:
        yield Api(cluster, session, context)


def authority(simulator: Simulator, name: str) -> str:
    """The certificate authority of a cluster in the kubeconfig, as PEM."""
    document = json.loads(simulator.kubeconfig.read_text())
    (entry,) = [entry for entry in document["clusters"] if entry["name"] == name]
    return base64.b64decode(entry["cluster"]["certificate-authority-data"]).decode()
