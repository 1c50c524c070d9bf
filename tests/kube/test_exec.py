"""One command in one container, against a server that plays a script."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import WSCloseCode, web

from collector.kube.exec import ExecError, Output, run
from collector.kube.limits import SharedLimiter
from collector.model import ReadFailure

pytestmark = pytest.mark.anyio

PATH = "/api/v1/namespaces/ns/pods/pod-a/exec"
SUCCESS = json.dumps({"metadata": {}, "status": "Success"}).encode()

Play = Callable[[web.WebSocketResponse], Awaitable[None]]


def exited(code: int) -> bytes:
    return json.dumps(
        {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: exit code {code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    ).encode()


def internal(message: str) -> bytes:
    status = {"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500}
    return json.dumps(status).encode()


def says(*messages: tuple[int, bytes], close: bool = True) -> Play:
    async def play(socket: web.WebSocketResponse) -> None:
        for channel, data in messages:
            await socket.send_bytes(bytes((channel,)) + data)
        if not close:
            await anyio.sleep(60)

    return play


class Server:
    """Plays an exec, or refuses it, and remembers what it was asked."""

    def __init__(self, plain_server: Any, kubeconfig: Any) -> None:
        kubeconfig.write({"server": plain_server.url})
        self._kubeconfig = kubeconfig
        self.paths = plain_server.paths
        self.queries: list[list[tuple[str, str]]] = []
        self.offers: list[str] = []
        self.protocols: list[str | None] = []
        self.over = anyio.Event()
        self.close_codes: list[int | None] = []
        self.session_options: dict[str, Any] = {}

    def plays(self, play: Play, protocols: tuple[str, ...] = ("v5.channel.k8s.io", "v4.channel.k8s.io")) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            self.queries.append(list(request.query.items()))
            self.offers.append(request.headers["Sec-WebSocket-Protocol"])
            socket = web.WebSocketResponse(protocols=protocols, max_msg_size=0)
            await socket.prepare(request)
            self.protocols.append(socket.ws_protocol)
            try:
                await play(socket)
                await socket.close()
                self.close_codes.append(socket.close_code)
            finally:
                self.over.set()
            return socket

        self.paths[PATH] = answer

    def refuses(self, code: int, message: str) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)

        self.paths[PATH] = answer

    async def run(self, *, timeout: float = 10.0, limit: int = 64 << 20, held: float | None = None) -> Output:
        async with self._kubeconfig.client(**self.session_options) as client:
            if held is not None:
                client.session.limiter.throttled(held)
            return await run(client, "ns", "pod-a", "ctr", ("nvidia-smi", "-q", "-x"), timeout=timeout, limit=limit)

    async def fails(self, **options: Any) -> tuple[ReadFailure, str]:
        with pytest.raises(ExecError) as caught:
            await self.run(**options)
        return caught.value.reason, str(caught.value)


@pytest.fixture
def server(plain_server: Any, kubeconfig: Any) -> Server:
    return Server(plain_server, kubeconfig)


class TestACommandThatEndsWell:
    async def test_returns_stdout_and_stderr_separately(self, server: Server) -> None:
        server.plays(says((1, b""), (1, b"<xml"), (2, b"a warn"), (1, b"/>"), (2, b"ing"), (3, SUCCESS)))
        assert await server.run() == Output(b"<xml/>", b"a warning")

    async def test_is_requested_word_by_word_in_one_container(self, server: Server) -> None:
        server.plays(says((3, SUCCESS)))
        await server.run()
        assert server.queries == [
            [
                ("command", "nvidia-smi"),
                ("command", "-q"),
                ("command", "-x"),
                ("container", "ctr"),
                ("stderr", "true"),
                ("stdout", "true"),
            ]
        ]

    @pytest.mark.parametrize("spoken", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
    async def test_runs_over_either_protocol_preferring_the_newer(self, server: Server, spoken: str) -> None:
        server.plays(says((1, b"out"), (3, SUCCESS)), protocols=(spoken,))
        assert (await server.run()).stdout == b"out"
        assert server.offers[0].replace(" ", "") == "v5.channel.k8s.io,v4.channel.k8s.io"
        assert server.protocols == [spoken]

    async def test_may_print_a_lot(self, server: Server) -> None:
        server.plays(says(*[(1, bytes([n]) * 1_000_000) for n in range(8)], (3, SUCCESS)))
        assert (await server.run()).stdout == b"".join(bytes([n]) * 1_000_000 for n in range(8))

    async def test_may_print_after_its_status(self, server: Server) -> None:
        server.plays(says((1, b"a"), (3, SUCCESS), (1, b"b")))
        assert (await server.run()).stdout == b"ab"

    async def test_is_not_waited_for_when_the_server_forgets_to_close(self, server: Server) -> None:
        server.plays(says((1, b"a"), (3, SUCCESS), close=False))
        with anyio.fail_after(25):
            assert (await server.run(timeout=30)).stdout == b"a"

    async def test_ends_with_the_servers_close_frame_which_needs_no_answer(self, server: Server) -> None:
        server.plays(says((1, b"a"), (3, SUCCESS)))
        await server.run()
        with anyio.fail_after(60):
            await server.over.wait()
        assert server.close_codes == [WSCloseCode.ABNORMAL_CLOSURE]

    async def test_may_use_unknown_channels(self, server: Server) -> None:
        server.plays(says((255, b"\x01"), (9, b"?"), (1, b"a"), (3, SUCCESS)))
        assert (await server.run()).stdout == b"a"


class TestACommandThatEndsBadly:
    async def test_has_its_exit_status_and_its_output(self, server: Server) -> None:
        server.plays(says((2, b"Unable to determine\nthe device handle"), (3, exited(15))))
        assert await server.fails() == (
            ReadFailure.EXIT_STATUS,
            "the command exited with status 15: Unable to determine the device handle",
        )

    async def test_is_quoted_from_stdout_when_stderr_is_empty(self, server: Server) -> None:
        server.plays(says((1, b"NVIDIA-SMI has failed" + b"!" * 5000), (3, exited(9))))
        reason, text = await server.fails()
        assert reason is ReadFailure.EXIT_STATUS
        assert text.startswith("the command exited with status 9: NVIDIA-SMI has failed!!!")
        assert len(text) < 400

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (exited(1), ReadFailure.EXIT_STATUS),
            (exited(137), ReadFailure.EXIT_STATUS),
            (exited(126), ReadFailure.NO_BINARY),
            (exited(127), ReadFailure.NO_BINARY),
            (internal('exec: "nvidia-smi": executable file not found in $PATH: unknown'), ReadFailure.NO_BINARY),
            (internal('exec: "/x/nvidia-smi": stat /x/nvidia-smi: no such file or directory'), ReadFailure.NO_BINARY),
            (internal('exec: "nvidia-smi": permission denied: unknown'), ReadFailure.NO_BINARY),
            (internal('unable to upgrade connection: container not found ("ctr")'), ReadFailure.NO_CONTAINER),
            (internal("container is in CONTAINER_EXITED state"), ReadFailure.NO_CONTAINER),
            (internal("cannot exec in a stopped container: unknown"), ReadFailure.NO_CONTAINER),
            (internal("unable to upgrade connection: pod does not exist"), ReadFailure.NOT_FOUND),
            (internal("error dialing backend: dial tcp 10.0.0.1:10250: i/o timeout"), ReadFailure.CONNECTION),
            (b"{}", ReadFailure.CONNECTION),
            (b"not json", ReadFailure.CONNECTION),
            (exited(3).replace(b'"3"', b'"three"'), ReadFailure.CONNECTION),
        ],
    )
    async def test_differs_from_one_that_never_ran(self, server: Server, status: bytes, reason: ReadFailure) -> None:
        server.plays(says((3, status)))
        assert (await server.fails())[0] is reason

    @pytest.mark.parametrize(
        "preamble",
        [
            "exec failed: unable to start container process: ",
            "exec failed: container_linux.go:380: starting container process caused: ",
        ],
    )
    async def test_quotes_the_runtimes_final_message(self, server: Server, preamble: str) -> None:
        cause = (
            'exec: "/usr/local/nvidia/bin/nvidia-smi": stat /usr/local/nvidia/bin/nvidia-smi: no such file or directory'
        )
        text = (
            "error executing command in container: failed to exec in container: failed to start exec "
            f'"{"5e" * 32}": OCI runtime exec failed: {preamble}{cause}: unknown'
        )
        server.plays(says((3, internal(text))))
        assert await server.fails() == (ReadFailure.NO_BINARY, f"the command did not run: {cause}: unknown")


class TestAnExecThatIsRefused:
    @pytest.mark.parametrize(
        ("code", "message", "reason"),
        [
            (403, "User cannot create resource pods/exec", ReadFailure.FORBIDDEN),
            (404, 'pods "pod-a" not found', ReadFailure.NOT_FOUND),
            (404, 'container not found ("ctr")', ReadFailure.NO_CONTAINER),
            (400, "container ctr is not valid for pod pod-a", ReadFailure.NO_CONTAINER),
            (500, 'unable to upgrade connection: container not found ("ctr")', ReadFailure.NO_CONTAINER),
            (500, "etcdserver: request timed out", ReadFailure.CONNECTION),
            (502, "<html>", ReadFailure.CONNECTION),
            (401, "Unauthorized", ReadFailure.CONNECTION),
            (429, "slow down", ReadFailure.CONNECTION),
        ],
    )
    async def test_fails_with_the_reason(self, server: Server, code: int, message: str, reason: ReadFailure) -> None:
        server.refuses(code, message)
        assert (await server.fails())[0] is reason

    async def test_for_a_missing_right_names_the_right(self, server: Server) -> None:
        server.refuses(403, "no")
        assert (await server.fails())[1].endswith("(pods/exec needs the verbs get and create)")

    @pytest.mark.parametrize(
        "denial",
        [
            "ValidatingAdmissionPolicy 'gpuid-exec' with binding 'gpuid-exec' denied request: no",
            'admission webhook "guard.corp" denied the request: no',
        ],
    )
    async def test_by_admission_is_not_a_missing_right(self, server: Server, denial: str) -> None:
        server.refuses(403, denial)
        text = (await server.fails())[1]
        assert denial in text
        assert "needs the verbs" not in text


class TestAnExecThatGoesWrong:
    async def test_ends_at_its_deadline_and_leaves_nothing_open(self, server: Server) -> None:
        async def hang(socket: web.WebSocketResponse) -> None:
            await socket.send_bytes(b"\x01<xml>")
            async for _ in socket:
                pass

        server.plays(hang)
        reason, text = await server.fails(timeout=0.2)
        assert (reason, text) == (ReadFailure.TIMEOUT, "the command timed out after 0.2 s")
        with anyio.fail_after(25):
            await server.over.wait()

    async def test_does_not_time_out_while_waiting_for_our_limiter(self, server: Server) -> None:
        server.plays(says((1, b"a"), (3, SUCCESS)))
        assert (await server.run(timeout=0.5, held=1.0)).stdout == b"a"

    async def test_waits_while_the_limit_of_all_clusters_is_reached(self, server: Server) -> None:
        server.session_options = {"websockets": SharedLimiter("test", 2)}
        opened = most = 0

        async def count(socket: web.WebSocketResponse) -> None:
            nonlocal opened, most
            opened += 1
            most = max(most, opened)
            await socket.send_bytes(b"\x01a")
            await anyio.sleep(0.02)
            opened -= 1
            await socket.send_bytes(b"\x03" + SUCCESS)

        server.plays(count)
        ended: list[bytes] = []

        async def run_one() -> None:
            ended.append((await server.run()).stdout)

        async with anyio.create_task_group() as tasks:
            for _ in range(8):  # each in a session of its own
                tasks.start_soon(run_one)
        assert (ended, most) == ([b"a"] * 8, 2)

    async def test_releases_its_slot_when_refused(self, server: Server) -> None:
        server.session_options = {"websockets": SharedLimiter("test", 1)}
        server.refuses(500, "no")
        await server.fails()
        server.plays(says((1, b"a"), (3, SUCCESS)))
        with anyio.fail_after(30):
            assert (await server.run()).stdout == b"a"

    async def test_is_a_lost_connection_when_it_never_begins(self, server: Server) -> None:
        async def silent(request: web.Request) -> web.StreamResponse:
            await anyio.sleep_forever()
            raise AssertionError

        server.paths[PATH] = silent
        reason, text = await server.fails(timeout=0.1)
        assert reason is ReadFailure.CONNECTION
        assert text.endswith(": timed out")

    async def test_ends_when_it_prints_more_than_the_limit(self, server: Server) -> None:
        async def flood(socket: web.WebSocketResponse) -> None:
            while True:
                await socket.send_bytes(b"\x01" + b"x" * 4000)
                await socket.send_bytes(b"\x02" + b"x" * 4000)
                await anyio.lowlevel.checkpoint()

        server.plays(flood)
        with anyio.fail_after(25):
            assert await server.fails(limit=100_000) == (
                ReadFailure.BAD_OUTPUT,
                "the command printed more than 100000 bytes",
            )
            await server.over.wait()

    async def test_may_print_exactly_the_limit(self, server: Server) -> None:
        server.plays(says((1, b"x" * 600), (2, b"x" * 400), (3, SUCCESS)))
        assert len((await server.run(limit=1000)).stdout) == 600

    async def test_is_a_lost_connection_when_no_status_came(self, server: Server) -> None:
        server.plays(says((1, b"<xml/>")))
        assert (await server.fails())[0] is ReadFailure.CONNECTION

    async def test_is_a_lost_connection_when_it_breaks(self, server: Server) -> None:
        async def drop(socket: web.WebSocketResponse) -> None:
            await socket.send_bytes(b"\x01<xml")
            assert socket._req is not None
            assert socket._req.transport is not None
            socket._req.transport.abort()

        server.plays(drop)
        assert (await server.fails())[0] is ReadFailure.CONNECTION
