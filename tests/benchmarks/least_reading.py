"""The least that reading nodes takes: a TLS connection for each exec, whose request is ready as text, and the parser.

There is no WebSocket library, no check of what a server sends, no limit, no watch and no inventory. It prints how many
GPUs it read and stays, to be accounted for.
"""

import asyncio
import base64
import ssl
import sys
from typing import cast

import uvloop
from kubernetes_asyncio import client, config
from yarl import URL

from collector.collect import nvidia_smi

CONCURRENCY = 16  # gpuid's own default
_COMMAND = "container=nvidia-device-plugin&command=nvidia-smi&command=-q&command=-x&stdout=true&stderr=true"
_CLOSE = b"\x88\x02\x03\xe8"  # the frame with which a server ends an exec
_STDOUT = 1


async def main(kubeconfig: str, clusters: int) -> None:
    """Read every cluster at once."""
    found = await asyncio.gather(*(read(kubeconfig, f"sim-{index}") for index in range(clusters)))
    print(sum(found), flush=True)
    await asyncio.Event().wait()


async def read(kubeconfig: str, context: str) -> int:
    """Count the GPUs of one cluster."""
    settings = client.Configuration()
    await config.load_kube_config(kubeconfig, context, settings, persist_config=False)
    async with client.ApiClient(settings) as api:
        pods = await client.CoreV1Api(api).list_namespaced_pod(
            "gpu-operator", label_selector="app=nvidia-device-plugin-daemonset"
        )
    server, tls = URL(settings.host or ""), ssl.create_default_context(cafile=settings.ssl_ca_cert)
    token = (await settings.auth_settings())["BearerToken"]["value"]
    host = server.host or ""
    free, found = asyncio.Semaphore(CONCURRENCY), 0
    loop = asyncio.get_running_loop()

    async def count(pod: client.V1Pod) -> None:
        nonlocal found
        request = (
            f"GET /api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}/exec?{_COMMAND} HTTP/1.1\r\n"
            f"Host: {server.authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"
            f"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\nAuthorization: {token}\r\n\r\n"
        )
        async with free:
            ended = loop.create_future()
            await loop.create_connection(lambda: _Exec(request.encode(), ended), host, server.port or 443, ssl=tls)
            received = await ended
        found += len(nvidia_smi.parse(_stdout(received)).gpus)

    await asyncio.gather(*map(count, pods.items))
    return found


class _Exec(asyncio.Protocol):
    """Receives until the server ends the exec."""

    def __init__(self, request: bytes, ended: "asyncio.Future[bytes]") -> None:
        self._request = request
        self._ended = ended
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(_CLOSE):
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._ended.set_result(bytes(self._received))


def _stdout(received: bytes) -> bytes:
    """Return what a command printed, from the frames after the response's headers."""
    at, parts = received.index(b"\r\n\r\n") + 4, []
    while at < len(received):
        size, start = received[at + 1], at + 2
        if size >= 126:
            start += 2 if size == 126 else 8
            size = int.from_bytes(received[at + 2 : start])
        if size > 1 and received[start] == _STDOUT:
            parts.append(received[start + 1 : start + size])
        at = start + size
    return b"".join(parts)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
