"""The end of one log, against a server that plays a script."""

from typing import Any

import anyio
import pytest
from aiohttp import web

from collector.config import Size
from collector.kube.logs import LogError, read_tail
from collector.model import ReadFailure

pytestmark = pytest.mark.anyio

PATH = "/api/v1/namespaces/ns/pods/pod-a/log"


class Server:
    """Sends a log, and remembers what it was asked for."""

    def __init__(self, plain_server: Any, kubeconfig: Any) -> None:
        kubeconfig.write({"server": plain_server.url})
        self._kubeconfig = kubeconfig
        self._paths = plain_server.paths
        self.query: dict[str, str] = {}

    def sends(self, *chunks: bytes, then: float = 0.0) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            self.query = dict(request.query)
            response = web.StreamResponse()
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
            await anyio.sleep(then)
            return response

        self._paths[PATH] = answer

    def refuses(self, code: int, message: str) -> None:
        async def answer(_request: web.Request) -> web.StreamResponse:
            return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)

        self._paths[PATH] = answer

    async def read(self, *, timeout: float = 10.0, **settings: Any) -> bytes:
        async with self._kubeconfig.client(**settings) as client:
            return await read_tail(client, "ns", "pod-a", "reader", lines=100, timeout=timeout)

    async def fails(self, **options: Any) -> LogError:
        with pytest.raises(LogError) as caught:
            await self.read(**options)
        return caught.value


@pytest.fixture
def server(plain_server: Any, kubeconfig: Any) -> Server:
    return Server(plain_server, kubeconfig)


async def test_the_end_of_a_log_is_requested_with_timestamps(server: Server) -> None:
    server.sends(b"2026-10-06T00:17:09.6Z a\n", b"2026-10-06T00:17:09.7Z \xff\n")
    assert await server.read() == b"2026-10-06T00:17:09.6Z a\n2026-10-06T00:17:09.7Z \xff\n"
    assert server.query == {
        "container": "reader",
        "timestamps": "true",
        "tailLines": "100",
        "limitBytes": str((8 << 20) + 1),
    }


async def test_an_empty_log_is_not_an_error(server: Server) -> None:
    server.sends()
    assert await server.read() == b""


async def test_more_than_the_budget_is_not_read(server: Server) -> None:
    server.sends(*[b"x" * 1024] * 1000, then=60)
    error = await server.fails(max_log_size=Size(4096))
    assert error.reason is ReadFailure.BAD_OUTPUT
    assert str(error) == "the last 100 lines of the log are larger than 4KiB (max_log_size)"


async def test_an_endless_log_is_abandoned(server: Server) -> None:
    server.sends(b"x\n", then=60)
    error = await server.fails(timeout=0.3)
    assert (error.reason, str(error)) == (ReadFailure.TIMEOUT, "reading the log timed out after 0.3 s")


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (403, 'pods "pod-a" is forbidden', ReadFailure.FORBIDDEN),
        (404, 'pods "pod-a" not found', ReadFailure.NOT_FOUND),
        (400, "container reader is not valid for pod pod-a", ReadFailure.NO_CONTAINER),
        (400, 'container "reader" in pod "pod-a" is waiting to start: ContainerCreating', ReadFailure.NO_DOCUMENT),
        (500, 'Get "https://10.0.0.1:10250/containerLogs": dial tcp: i/o timeout', ReadFailure.CONNECTION),
    ],
)
async def test_a_refusal_has_a_reason(server: Server, code: int, message: str, reason: ReadFailure) -> None:
    server.refuses(code, message)
    error = await server.fails()
    assert error.reason is reason
    assert message.partition(":")[0].strip('"') in str(error) or code == 500


async def test_a_missing_right_is_named(server: Server) -> None:
    server.refuses(403, 'pods "pod-a" is forbidden')
    assert "pods/log needs the verb get" in str(await server.fails())


async def test_an_absent_server_is_a_lost_connection(plain_server: Any, kubeconfig: Any) -> None:
    server = Server(plain_server, kubeconfig)
    kubeconfig.write({"server": "http://127.0.0.1:1"})
    assert (await server.fails()).reason is ReadFailure.CONNECTION
