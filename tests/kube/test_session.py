"""Requests, streams and WebSockets to an API server, and what goes wrong with them."""

import asyncio
import gzip
import json
import socket
from pathlib import Path

import aiohttp
import anyio
import pytest
from aiohttp import web

from collector import __version__
from collector.kube import errors
from collector.kube.session import Request
from tests.support.kubernetes import get
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


@pytest.fixture
def session(kubeconfig, server, authority):
    kubeconfig.write({"server": server.url, "certificate-authority-data": authority.data}, {"token": "s3cr3t-token"})
    return kubeconfig.session()


def status(code, message, reason="", **headers):
    body = {"kind": "Status", "message": message, "reason": reason, "code": code}

    async def answer(request):
        return web.json_response(body, status=code, headers=headers)

    return answer


async def test_a_get_has_a_user_agent_gzip_and_the_token(session, server):
    async with session:
        body = await get(session, PODS)
    assert json.loads(body)["path"] == PODS
    (seen,) = server.seen
    assert seen.headers["User-Agent"] == f"gpuid/{__version__}"
    assert seen.headers["Accept-Encoding"] == "gzip"
    assert seen.headers["Accept"] == "application/json"
    assert seen.authorization == "Bearer s3cr3t-token"
    assert session.host == server.url


@pytest.mark.parametrize("headers", [{"X": "x" * 100_000}, {f"X-{number}": "x" * 200 for number in range(200)}])
async def test_long_and_many_headers_are_accepted(session, server, headers):
    async def answer(_request):
        return web.json_response({}, headers=headers)

    server.paths[PODS] = answer
    async with session:
        assert await get(session, PODS) == b"{}"


@pytest.mark.parametrize("headers", [{"X": "x" * 200_000}, {f"X-{number}": "x" for number in range(400)}])
async def test_excessive_headers_are_reported_as_such(session, server, failure, headers):
    async def answer(_request):
        return web.json_response({}, headers=headers)

    server.paths[PODS] = answer
    async with session:
        error = await failure(get(session, PODS))
    words = "the response headers are too long or too many; a proxy in between may add them"
    assert str(error) == f"{server.url}: {words}"


@pytest.mark.parametrize(
    ("location", "where"),
    [
        ("https://me:s3cr3t@login.example.com/s3cr3t?token=s3cr3t", " to login.example.com"),
        ("/s3cr3t", ""),
        ("https://[s3cr3t", ""),
        (None, ""),
    ],
)
async def test_a_redirect_is_reported_only_by_its_host(session, server, failure, location, where):
    async def redirect(_request):
        return web.Response(status=302, headers={"Location": location} if location else {})

    server.paths[PODS] = redirect
    async with session:
        error = await failure(get(session, PODS))
    assert str(error) == f"{server.url}: redirects (302){where}; set server in the kubeconfig to the final address"


async def test_a_query_is_encoded_correctly(session, server):
    arrived = []

    async def note(request):
        arrived.extend(request.query.items())
        return web.json_response({})

    server.paths[PODS] = note
    params = [("command", "nvidia-smi"), ("command", "-q"), ("labelSelector", "a in (b, c),d=e&f+g%20/ä")]
    async with session:
        await get(session, PODS, params)
    assert arrived == params


async def test_a_compressed_answer_is_unpacked(session, server):
    async def compressed(request):
        return web.Response(body=gzip.compress(b"x" * 100_000), headers={"Content-Encoding": "gzip"})

    server.paths[PODS] = compressed
    async with session:
        assert await get(session, PODS) == b"x" * 100_000


async def test_a_request_has_its_method_headers_and_body(session, server):
    async with session:
        kind = "application/merge-patch+json"
        request = Request(method="PATCH", path="/nodes/n", headers=[("Content-Type", kind)], body=b"[1]")
        answer = await session.fetch(request)
    (patch,) = server.seen
    assert (patch.method, patch.body, patch.headers["Content-Type"]) == ("PATCH", b"[1]", kind)
    assert answer.status == 200


async def test_a_server_under_a_path_is_requested_under_it(kubeconfig, server, authority):
    kubeconfig.write({"server": f"{server.url}/k8s/clusters/c-1/", "certificate-authority-data": authority.data})
    async with kubeconfig.session() as session:
        await get(session, PODS)
    assert server.seen[0].path == f"/k8s/clusters/c-1{PODS}"
    assert server.seen[0].authorization is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [(403, errors.ForbiddenError), (404, errors.NotFoundError), (410, errors.GoneError), (500, errors.ServerError)],
)
async def test_an_error_response_is_our_error_with_its_message(session, server, failure, code, kind):
    server.paths[PODS] = status(code, "because\nof this")
    async with session:
        error = await failure(get(session, PODS))
        assert (await get(session, "/other")) != b""
    assert type(error) is kind
    assert str(error).endswith(": because of this")
    assert len(server.connections) == 1, "an error costs no connection"


async def test_an_endless_error_body_is_cut_off(session, server, failure):
    async def endless(request):
        answer = web.StreamResponse(status=500)
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65536)

    server.paths[PODS] = endless
    async with session:
        error = await failure(get(session, PODS))
    assert len(str(error)) < 400


async def test_too_many_requests_slow_the_session_down(session, server, failure):
    server.paths[PODS] = status(429, "slow down", **{"Retry-After": "2"})
    async with session:
        error = await failure(get(session, PODS))
        assert session.limiter.rate == 50
    assert type(error) is errors.ThrottledError
    assert error.retry_after == 2


async def test_an_unchanged_refused_token_is_sent_only_once(session, server, failure):
    server.only("s3cr3t-other")
    async with session:
        error = await failure(get(session, PODS))
    assert type(error) is errors.UnauthorizedError
    assert str(error) == f"{server.url}: unauthorized: Unauthorized"
    assert len(server.seen) == 1


async def test_a_refused_connection_is_reported(kubeconfig, failure):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{closed.getsockname()[1]}"
        kubeconfig.write({"server": url})
        async with kubeconfig.session() as session:
            error = await failure(get(session, PODS))
    assert type(error) is errors.UnreachableError
    assert str(error) == f"{url}: connection refused"


async def test_a_name_that_does_not_resolve_is_reported(kubeconfig, failure):
    kubeconfig.write({"server": "https://api.gpuid.invalid:6443"})
    async with kubeconfig.session() as session:
        error = await failure(get(session, PODS))
    assert type(error) is errors.UnreachableError
    assert str(error) == "https://api.gpuid.invalid:6443: cannot resolve api.gpuid.invalid"


async def test_a_server_that_does_not_answer_in_time_is_unreachable(session, server, failure):
    async def hang(request):
        await asyncio.Event().wait()

    server.paths[PODS] = hang
    async with session:
        error = await failure(get(session, PODS, timeout=0.05))
    assert type(error) is errors.UnreachableError
    assert str(error) == f"{server.url}: timed out"


async def test_a_server_that_hangs_up_is_unreachable(session, server, failure):
    async def hang_up(request):
        request.transport.abort()

    server.paths[PODS] = hang_up
    async with session:
        error = await failure(get(session, PODS))
    assert type(error) is errors.UnreachableError


async def test_a_server_that_speaks_no_http_is_unreachable(kubeconfig, failure):
    async def answer(reader, writer):
        writer.write(b"220 mail ready\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    kubeconfig.write({"server": f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"})
    async with kubeconfig.session() as session:
        error = await failure(get(session, PODS))
    listener.close()
    assert type(error) is errors.UnreachableError


async def test_netrc_is_ignored(session, server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login nobody password s3cr3t-netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with session:
        await get(session, PODS)
    assert server.tokens == ["Bearer s3cr3t-token"]


class TestStream:
    async def test_chunks_come_as_they_are_sent_uncompressed(self, session, server):
        asked = anyio.Event()

        async def watch(request):
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(b"one\n")
            await asked.wait()
            await answer.write(b"two\n")
            return answer

        server.paths[PODS] = watch
        async with session, session.stream(Request(path=PODS, query=[("watch", "1")])) as chunks:
            assert await anext(chunks) == b"one\n"
            asked.set()
            assert [chunk async for chunk in chunks] == [b"two\n"]
        assert server.seen[0].headers["Accept-Encoding"] == "identity"

    async def test_a_stream_that_does_not_begin_times_out(self, session, server, failure):
        async def silent(request):
            await asyncio.Event().wait()

        server.paths[PODS] = silent
        async with session:
            error = await failure(session.stream(Request(path=PODS), timeout=0.1).__aenter__())
        assert type(error) is errors.UnreachableError
        assert str(error) == f"{server.url}: timed out"

    async def test_its_connections_detect_a_dead_peer(self, session, server):
        def timers() -> list[str]:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            return [row[5] for row in rows if row[2].endswith(f":{server.port:04X}") and row[3] == "01"]

        async def silent(request):
            answer = web.StreamResponse()
            await answer.prepare(request)
            await anyio.sleep_forever()

        server.paths[PODS] = silent
        async with session, session.stream(Request(path=PODS)):
            # `02` is the timer of keep-alive probes; the rest of it is when it goes off, in hundredths of a second.
            await eventually(lambda: any(timer[:3] == "02:" and int(timer[3:], 16) <= 3000 for timer in timers()))

    async def test_silence_does_not_end_a_stream(self, session, server):
        async def slow(request):
            answer = web.StreamResponse()
            await answer.prepare(request)
            await asyncio.sleep(1)
            await answer.write(b"late\n")
            return answer

        server.paths[PODS] = slow
        async with session, session.stream(Request(path=PODS), timeout=0.5) as chunks:
            assert [chunk async for chunk in chunks] == [b"late\n"]

    async def test_a_stream_that_breaks_is_unreachable(self, session, server, failure):
        async def broken(request):
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(b"one\n")
            request.transport.abort()
            return answer

        server.paths[PODS] = broken
        async with session, session.stream(Request(path=PODS)) as chunks:
            assert await anext(chunks) == b"one\n"
            error = await failure(anext(chunks))
        assert type(error) is errors.UnreachableError

    async def test_an_error_status_is_our_error(self, session, server, failure):
        server.paths[PODS] = status(410, "too old resource version", "Expired")
        async with session:
            error = await failure(session.stream(Request(path=PODS)).__aenter__())
        assert type(error) is errors.GoneError

    async def test_leaving_a_stream_ends_its_connection(self, session, server):
        ended = anyio.Event()

        async def endless(request):
            answer = web.StreamResponse()
            await answer.prepare(request)
            try:
                while True:
                    await answer.write(b"x\n")
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        server.paths[PODS] = endless
        async with session:
            async with session.stream(Request(path=PODS)) as chunks:
                await anext(chunks)
            await eventually(ended.is_set)


class TestWebSocket:
    @pytest.fixture
    def echo(self, server):
        """Serve a WebSocket that echoes and notes how it ended."""
        ended = []

        async def serve(request):
            answer = web.WebSocketResponse(protocols=["v5.channel.k8s.io", "v4.channel.k8s.io"])
            await answer.prepare(request)
            async for message in answer:
                await answer.send_bytes(message.data)
            ended.append(answer.close_code)
            return answer

        server.paths["/exec"] = serve
        return ended

    async def test_messages_go_both_ways_over_the_protocol_that_both_know(self, session, server, echo):
        async with session:
            protocols = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
            request = Request(path="/exec", query=[("command", "a"), ("command", "b")])
            async with session.websocket(request, protocols) as channel:
                assert channel.protocol == "v5.channel.k8s.io"
                await channel.send_bytes(b"\x00hello")
                assert (await channel.receive()).data == b"\x00hello"
            await eventually(lambda: echo)
        assert server.seen[0].path == "/exec?command=a&command=b"
        assert server.seen[0].authorization == "Bearer s3cr3t-token"
        assert echo == [aiohttp.WSCloseCode.OK]

    async def test_a_refused_handshake_has_the_status_message(self, session, server, failure):
        server.paths["/exec"] = status(403, 'pods "p" is forbidden: cannot create resource "pods/exec"')
        async with session:
            error = await failure(session.websocket(Request(path="/exec")).__aenter__())
        assert type(error) is errors.ForbiddenError
        assert str(error).endswith('forbidden: pods "p" is forbidden: cannot create resource "pods/exec"')

    @pytest.mark.parametrize(
        ("code", "body", "expected"),
        [
            (400, '{"kind": "Status", "message": "Upgrade request required", "code": 400}', True),
            (400, "<html>Bad Request</html>", True),
            (426, "", True),
            (502, "<html>nginx</html>", True),
            (502, "Bad Gateway", True),
            (200, "", True),
            (400, '{"kind": "Status", "message": "container x is not valid for pod p", "code": 400}', False),
            (500, '{"kind": "Status", "message": "error dialing backend", "code": 500}', False),
            (503, "", False),
        ],
    )
    async def test_a_refusal_by_an_intermediary_is_reported(self, session, server, failure, code, body, expected):
        async def refuse(_request):
            return web.Response(status=code, text=body)

        server.paths["/exec"] = refuse
        async with session:
            error = await failure(session.websocket(Request(path="/exec")).__aenter__())
        assert str(error).endswith("; a proxy or load balancer in between may not pass WebSockets") is expected

    async def test_an_absent_pod_is_not_found(self, session, server, failure):
        server.paths["/exec"] = status(404, 'pods "p" not found')
        async with session:
            assert type(await failure(session.websocket(Request(path="/exec")).__aenter__())) is errors.NotFoundError

    async def test_a_response_without_an_upgrade_is_reported(self, session, server, failure):
        async with session:
            error = await failure(session.websocket(Request(path="/plain")).__aenter__())
        assert str(error) == (
            f"{server.url}: the server did not upgrade to a WebSocket; a proxy or load balancer in between may not pass"
            " WebSockets"
        )

    async def test_a_hanging_handshake_times_out(self, session, server, failure):
        async def hang(request):
            await asyncio.Event().wait()

        server.paths["/exec"] = hang
        async with session:
            error = await failure(session.websocket(Request(path="/exec"), timeout=0.05).__aenter__())
        assert str(error) == f"{server.url}: timed out"

    async def test_cancelling_does_not_wait_for_the_server_s_close_frame(self, kubeconfig, session, server):
        session = kubeconfig.session(websocket_close_timeout=600)
        closed = anyio.Event()

        async def deaf(request):
            answer = web.WebSocketResponse(autoclose=False)
            await answer.prepare(request)
            try:
                while not request.transport.is_closing():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            finally:
                closed.set()
            return answer

        server.paths["/exec"] = deaf
        async with session:
            with anyio.fail_after(25):
                with anyio.CancelScope() as scope:
                    async with session.websocket(Request(path="/exec")) as channel:
                        scope.cancel()
                        await channel.receive()
                await eventually(closed.is_set)

    async def test_a_large_message_is_no_error(self, session, server, echo):
        server.paths["/exec"] = _large
        async with session, session.websocket(Request(path="/exec")) as channel:
            assert len((await channel.receive()).data) == 10 << 20

    async def test_many_websockets_do_not_block_a_request(self, session, server, echo):
        async with session, anyio.create_task_group() as tasks:
            opened = 0

            async def occupy():
                nonlocal opened
                async with session.websocket(Request(path="/exec")) as channel:
                    opened += 1
                    await channel.receive()

            for _ in range(120):
                tasks.start_soon(occupy)
            with anyio.fail_after(25):
                await eventually(lambda: opened == 120)
                await get(session, PODS)
            tasks.cancel_scope.cancel()


async def _large(request):
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    await answer.send_bytes(b"x" * (10 << 20))
    await answer.close()
    return answer
