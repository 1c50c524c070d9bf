"""Limits on what an API server may send: beyond them the session or the command fails with a reason."""

import asyncio
import inspect
import itertools
import json
import time
import zlib
from asyncio import selector_events, sslproto
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from collector.config import Size
from collector.kube.errors import ClusterError, LimitExceededError, ServerError
from collector.kube.exec import ExecError, Output, run
from collector.kube.limits import LoopShare
from collector.kube.session import Session
from collector.kube.transport import RECEIVE_BYTES, PacedReceiver
from collector.model import ClusterState, ReadFailure, WatchRestart
from tests.kube.play import Play, Step, bookmark, event, page, playing, pod, text, watch
from tests.support.kubernetes import get
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

KIB = 1 << 10
SUCCESS = b'\x03{"status": "Success"}'
PODS = "/api/v1/pods"


class TestAnAnswer:
    @pytest.fixture
    def session(self, plain_server: Any, kubeconfig: Any) -> Session:
        kubeconfig.write({"server": plain_server.url})
        session: Session = kubeconfig.session(max_answer_size=Size(100 * KIB), max_error_size=Size(KIB))
        return session

    async def test_may_be_as_large_as_its_limit(self, session: Session, plain_server: Any) -> None:
        plain_server.paths[PODS] = text("x" * 100 * KIB)
        async with session:
            assert len(await get(session, PODS)) == 100 * KIB

    async def test_is_abandoned_when_larger(self, session: Session, plain_server: Any, failure: Any) -> None:
        sent = 0

        async def endless(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 16 * KIB)
                sent += 16 * KIB

        plain_server.paths[PODS] = endless
        async with session:
            error = await failure(get(session, PODS))
        assert type(error) is LimitExceededError
        assert error.state is ClusterState.LIMIT_EXCEEDED
        assert str(error) == (
            f"{plain_server.url}: a response is larger than 100KiB, decompressed (max_answer_size);"
            " raise max_answer_size if the cluster needs it"
        )

    async def test_is_not_inflated_past_its_limit(self, session: Session, plain_server: Any, failure: Any) -> None:
        bomb = zlib.compress(b" " * (256 << 20), 9, wbits=31)
        assert len(bomb) < 300 * KIB

        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

        plain_server.paths[PODS] = answer
        before = memory()
        async with session:
            assert type(await failure(get(session, PODS))) is LimitExceededError
        assert memory() - before < 32 << 20

    async def test_of_an_error_is_read_up_to_its_limit(self, session: Session, plain_server: Any, failure: Any) -> None:
        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=500)
            await response.prepare(request)
            while True:
                await response.write(b"x" * KIB)

        plain_server.paths[PODS] = endless
        async with session:
            assert type(await failure(get(session, PODS))) is ServerError


def memory() -> int:
    """Return the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def endless_pages(*, size: int) -> Step:
    async def answer(request: web.Request) -> web.StreamResponse:
        number = int(request.query.get("continue", "0"))
        pods = [pod(f"p{number * size + index}", 1) for index in range(size)]
        return await page(1, *pods, more=str(number + 1))(request)

    return answer


async def first_failure(play: Play) -> ClusterError:
    await eventually(lambda: play.health)
    error = play.health[0]
    assert error is not None
    return error


class TestAList:
    @pytest.mark.parametrize("size", [0, 3])
    async def test_ends_at_its_number_of_pages(self, tmp_path: Path, size: int) -> None:
        async with playing(tmp_path, *[endless_pages(size=size)] * 50, max_list_pages=7) as play:
            error = await first_failure(play)
            assert type(error) is LimitExceededError
            assert "the list of pods has more than 7 pages (max_list_pages); raise max_list_pages" in str(error)
            assert len(play.queries) >= 7
            assert play.restarts[0] is WatchRestart.LIMIT_EXCEEDED
            assert play.names == set()

    async def test_ends_after_many_empty_pages(self, tmp_path: Path) -> None:
        async with playing(tmp_path, *[endless_pages(size=0)] * 150) as play:
            error = await first_failure(play)
            assert type(error) is LimitExceededError
            assert "the list of pods is endless: 100 consecutive pages are empty" in str(error)
            assert len(play.queries) == 100

    async def test_ends_at_its_number_of_objects(self, tmp_path: Path) -> None:
        async with playing(tmp_path, *[endless_pages(size=10)] * 50, max_objects=35) as play:
            error = await first_failure(play)
            assert "there are more than 35 pods (max_objects); raise max_objects" in str(error)

    async def test_may_reach_every_limit(self, tmp_path: Path) -> None:
        pods = [pod(f"p{number}", 1) for number in range(20)]
        steps = [page(1, *pods[:10], more="t1"), page(2, *pods[10:]), watch()]
        async with playing(tmp_path, *steps, max_objects=20, max_list_pages=2) as play:
            await play.watching(3)
            assert len(play.names) == 20

    @pytest.mark.parametrize("tokens", [("a", "a"), ("a", "b", "a"), ("a", "b", "c", "b")])
    async def test_ends_when_it_starts_over(self, tmp_path: Path, tokens: tuple[str, ...]) -> None:
        steps = [page(1, pod("a", 1), more=token) for token in tokens]
        async with playing(tmp_path, *steps) as play:
            error = await first_failure(play)
            assert type(error) is LimitExceededError
            assert f"the list of pods is endless: page {len(tokens)} repeats an earlier continue token" in str(error)

    async def test_ends_at_a_page_with_more_objects_than_requested(self, tmp_path: Path) -> None:
        body = '{"metadata": {"resourceVersion": "1"}, "items": [' + "1," * 200_000 + "1]}"
        async with playing(tmp_path, text(body)) as play:
            error = await first_failure(play)
            assert "a page of pods has more than 10,000 objects, though at most 500 were asked for" in str(error)

    async def test_ends_at_an_object_that_is_too_large(self, tmp_path: Path) -> None:
        large = pod("a", 1, annotations={"note": "x" * 20 * KIB})
        async with playing(tmp_path, page(1, large), max_object_size=Size(16 * KIB)) as play:
            error = await first_failure(play)
            assert "an object of the pods is larger than 16KiB (max_object_size); raise max_object_size" in str(error)

    async def test_may_have_an_object_with_much_unused_content(self, tmp_path: Path) -> None:
        large = pod("a", 1, annotations={"note": "x" * 800_000})  # as etcd takes it
        async with playing(tmp_path, page(1, large), watch(), max_kept_size=Size(KIB)) as play:
            await play.watching(2)
            assert play.names == {"ns/a"}

    async def test_ends_when_what_is_kept_is_too_large(self, tmp_path: Path) -> None:
        pods = [wide(f"p{number}", 1) for number in range(10)]
        async with playing(tmp_path, page(1, *pods), max_kept_size=Size(64 * KIB)) as play:
            error = await first_failure(play)
            assert "pods is larger than 64KiB (max_kept_size); raise max_kept_size" in str(error)

    async def test_is_repeated_in_pages_if_it_is_too_large_in_one_piece(self, tmp_path: Path) -> None:
        async def expired(request: web.Request) -> web.StreamResponse:
            return web.json_response({"reason": "Expired"}, status=410)

        large = pod("a", 1, annotations={"note": "x" * 20 * KIB})
        steps = [page(1, pod("a", 1), more="t1"), expired, page(2, large), page(3, pod("a", 1)), watch()]
        async with playing(tmp_path, *steps, max_answer_size=Size(16 * KIB)) as play:
            await play.watching(5)
            assert [query.get("limit") for query in play.queries] == ["100", "200", None, "100", None]

    @pytest.mark.parametrize("what", ["continue", "resourceVersion"])
    async def test_with_a_huge_token_is_malformed(self, tmp_path: Path, what: str) -> None:
        body = json.dumps({"metadata": {"resourceVersion": "1", what: "x" * 100_000}, "items": []})
        async with playing(tmp_path, text(body)) as play:
            assert "not a Kubernetes API response: a resource version or" in str(await first_failure(play))

    @pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
    async def test_with_an_impossible_number_is_malformed(self, tmp_path: Path, number: int) -> None:
        huge = pod("a", 1) | {"status": {"containerStatuses": [{"name": "c", "restartCount": number}]}}
        async with playing(tmp_path, page(1, huge)) as play:
            assert "not a Kubernetes API response" in str(await first_failure(play))

    async def test_of_deeply_nested_json_is_malformed(self, tmp_path: Path) -> None:
        body = '{"metadata": {}, "items": [' + "[" * 100_000
        async with playing(tmp_path, text(body)) as play:
            assert "not a Kubernetes API response" in str(await first_failure(play))

    async def test_that_exceeds_a_limit_keeps_the_previous_objects(self, tmp_path: Path) -> None:
        async def expired(request: web.Request) -> web.StreamResponse:
            return web.json_response({"reason": "Expired"}, status=410)

        steps = [page(1, pod("a", 1)), expired, *[endless_pages(size=10)] * 50]
        async with playing(tmp_path, *steps, max_objects=35) as play:
            await eventually(lambda: play.health)
            assert isinstance(play.health[-1], LimitExceededError)
            assert play.names == {"ns/a"}

    async def test_that_exceeds_a_limit_is_repeated_and_works_when_it_can(self, tmp_path: Path) -> None:
        steps = [page(1, more="a"), page(1, more="a"), page(7, pod("a", 1)), watch(bookmark(8))]
        async with playing(tmp_path, *steps) as play:
            await play.watching(4)
            assert isinstance(play.health[0], LimitExceededError)

    async def test_replaces_a_changed_object_with_an_unchanged_version(self, tmp_path: Path) -> None:
        """Or what is kept could grow past its limit, one lie at a time."""

        async def expired(request: web.Request) -> web.StreamResponse:
            return web.json_response({"reason": "Expired"}, status=410)

        steps = [page(1, wide("a", 1)), expired, page(1, pod("a", 1)), watch(bookmark(2))]
        async with playing(tmp_path, *steps) as play:
            await play.watching(4)
            assert play.reflector.objects["ns/a"].containers == ()
            assert play.changes == [(None, "a@1"), ("a@1", "a@1")]


def wide(name: str, version: int) -> dict[str, Any]:
    """Return a pod of which much is kept."""
    return pod(name, version) | {"status": {"containerStatuses": [{"name": f"c{number}"} for number in range(1000)]}}


class TestAWatch:
    async def test_ends_when_there_are_too_many_objects(self, tmp_path: Path) -> None:
        events = b"".join(event("ADDED", pod(f"p{number}", number)) for number in range(2, 50))
        async with playing(tmp_path, page(1, pod("p1", 1)), watch(events), page(60), watch(), max_objects=20) as play:
            await eventually(lambda: any(play.health))
            assert isinstance(play.health[-1], LimitExceededError)
            assert len(play.names) <= 20
            assert play.restarts == [WatchRestart.LIMIT_EXCEEDED]

    async def test_may_bring_new_objects_as_old_ones_go(self, tmp_path: Path) -> None:
        events = b"".join(
            event("ADDED", pod(f"p{number}", number)) + event("DELETED", pod(f"p{number}", number))
            for number in range(2, 500)
        )
        settings: dict[str, Any] = {"max_objects": 1, "max_kept_size": Size(KIB)}
        async with playing(tmp_path, page(1), watch(events), **settings) as play:
            await eventually(lambda: len(play.changes) == 2 * 498)
            assert not any(play.health)

    async def test_ends_when_its_objects_grow_too_large(self, tmp_path: Path) -> None:
        steps = [page(1, pod("a", 1)), watch(event("MODIFIED", wide("a", 2))), page(3), watch()]
        async with playing(tmp_path, *steps, max_kept_size=Size(16 * KIB)) as play:
            await eventually(lambda: any(play.health))
            assert "(max_kept_size)" in str(next(error for error in play.health if error))

    async def test_reports_a_changed_object_with_an_unchanged_version(self, tmp_path: Path) -> None:
        """Its owner would keep the object that has been replaced here, and so more than is counted."""
        events = event("ADDED", wide("a", 2)) + event("MODIFIED", pod("a", 2)) + event("MODIFIED", pod("a", 2))
        async with playing(tmp_path, page(1), watch(events)) as play:
            await eventually(lambda: len(play.changes) == 2)
            await anyio.sleep(0.1)
            assert play.changes == [(None, "a@2"), ("a@2", "a@2")]

    @pytest.mark.parametrize("end", [b"", b"\n"])
    async def test_ends_at_a_line_that_is_too_long(self, tmp_path: Path, end: bytes) -> None:
        line = b'{"type": "ADDED", "object": "' + b"x" * 32 * KIB + end
        async with playing(tmp_path, page(1), watch(line), page(2), watch(), max_object_size=Size(16 * KIB)) as play:
            await eventually(lambda: any(play.health))
            error = next(error for error in play.health if error)
            assert "an object of the pods is larger than 16KiB (max_object_size)" in str(error)


Say = Callable[[web.WebSocketResponse], Any]


class TestAnExec:
    @pytest.fixture
    def server(self, plain_server: Any, kubeconfig: Any) -> Callable[[Say], None]:
        kubeconfig.write({"server": plain_server.url})

        def says(say: Say) -> None:
            async def answer(request: web.Request) -> web.StreamResponse:
                socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",), autoping=False)
                await socket.prepare(request)
                await say(socket)
                return socket

            plain_server.paths["/api/v1/namespaces/ns/pods/p/exec"] = answer

        return says

    @staticmethod
    async def run(kubeconfig: Any, *, limit: int = 64 << 20, timeout: float = 30, **settings: Any) -> Output:
        async with kubeconfig.client(**settings) as client:
            return await run(client, "ns", "p", "c", ("nvidia-smi",), timeout=timeout, limit=limit)

    async def fails(self, kubeconfig: Any, **options: Any) -> str:
        with pytest.raises(ExecError) as caught:
            await self.run(kubeconfig, **options)
        assert caught.value.reason is ReadFailure.BAD_OUTPUT
        return str(caught.value)

    @pytest.mark.parametrize("channel", [1, 2, 9, 255])
    async def test_ends_at_its_byte_limit_on_any_channel(self, server: Any, kubeconfig: Any, channel: int) -> None:
        async def flood(socket: web.WebSocketResponse) -> None:
            while True:
                await socket.send_bytes(bytes([channel]) + b"x" * KIB)

        server(flood)
        text = await self.fails(kubeconfig, max_exec_size=Size(100 * KIB))
        assert text == "the command printed more than 100KiB (max_exec_size)"

    async def test_ends_at_a_frame_that_announces_more(self, server: Any, kubeconfig: Any) -> None:
        async def boast(socket: web.WebSocketResponse) -> None:
            await socket.send_bytes(b"\x01" + b"x" * 200 * KIB)

        server(boast)
        text = await self.fails(kubeconfig, max_exec_size=Size(100 * KIB))
        assert text == "the command printed more than 100KiB (max_exec_size)"

    async def test_ends_at_an_endless_status(self, server: Any, kubeconfig: Any) -> None:
        async def flood(socket: web.WebSocketResponse) -> None:
            while True:
                await socket.send_bytes(b"\x03" + b" " * KIB)

        server(flood)
        assert "exit status of more than 65536 bytes" in await self.fails(kubeconfig)

    async def test_takes_a_status_of_many_pieces_in_linear_time(self, server: Any, kubeconfig: Any) -> None:
        async def crumble(socket: web.WebSocketResponse) -> None:
            for byte in b" " * 60_000 + SUCCESS[1:]:
                await socket.send_bytes(bytes([3, byte]))
            await socket.close()

        server(crumble)
        started = time.process_time()
        assert await self.run(kubeconfig, timeout=200) == Output(b"", b"")
        assert time.process_time() - started < 20

    @pytest.mark.parametrize("kind", ["empty", "small", "text", "ping", "pong"])
    async def test_ends_at_its_frame_limit_with_any_content(self, server: Any, kubeconfig: Any, kind: str) -> None:
        async def flood(socket: web.WebSocketResponse) -> None:
            while True:
                match kind:
                    case "empty":
                        await socket.send_bytes(b"")
                    case "small":
                        await socket.send_bytes(b"\x01x")
                    case "text":
                        await socket.send_str("")
                    case "ping":
                        await socket.ping()
                    case "pong":
                        await socket.pong()
                await anyio.lowlevel.checkpoint()

        server(flood)
        text = await self.fails(kubeconfig, max_exec_frames=1000)
        assert text == "the server sent more than 1,000 frames (max_exec_frames)"

    async def test_may_ping(self, server: Any, kubeconfig: Any) -> None:
        answered: list[bytes] = []

        async def ping(socket: web.WebSocketResponse) -> None:
            for number in range(3):
                await socket.ping(b"%d" % number)
                answered.append((await socket.receive()).data)
            await socket.send_bytes(b"\x01out")
            await socket.send_bytes(SUCCESS)
            await socket.close()

        server(ping)
        assert await self.run(kubeconfig) == Output(b"out", b"")
        assert answered == [b"0", b"1", b"2"]


class FakeTransport(asyncio.Transport):
    """Records when it is asked to pause and resume reading."""

    def __init__(self) -> None:
        super().__init__()
        self.max_size = 1 << 18
        self.asked: list[str] = []

    def pause_reading(self) -> None:
        self.asked.append("pause")

    def resume_reading(self) -> None:
        self.asked.append("resume")


class TestReceiving:
    """Parsing takes time before anybody asks for the result."""

    @pytest.fixture
    async def receiver(self) -> tuple[PacedReceiver, FakeTransport]:
        ticks = itertools.count()
        share = LoopShare(0.5, turn=0.005, clock=lambda: next(ticks) * 0.01)  # receiving takes ten milliseconds
        receiver, transport = PacedReceiver(share, asyncio.get_running_loop()), FakeTransport()
        receiver.connection_made(transport)
        receiver.set_response_params()
        return receiver, transport

    async def test_stops_after_a_long_turn_and_continues(self, receiver: tuple[PacedReceiver, FakeTransport]) -> None:
        received, transport = receiver
        received.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert transport.asked == ["pause"]
        await eventually(lambda: transport.asked == ["pause", "resume"])

    async def test_does_not_continue_until_received_data_is_consumed(
        self, receiver: tuple[PacedReceiver, FakeTransport]
    ) -> None:
        received, transport = receiver
        received.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * (2 << 20))
        await anyio.sleep(0.1)
        assert "resume" not in transport.asked

    async def test_reads_no_more_than_a_short_turn_can_parse(self, receiver: Any) -> None:
        received, plain = receiver
        assert plain.max_size == RECEIVE_BYTES
        encrypted = FakeTransport()
        encrypted._ssl_protocol = SimpleNamespace(max_size=1 << 18)  # type: ignore[attr-defined]
        received.connection_made(encrypted)
        assert (encrypted.max_size, encrypted._ssl_protocol.max_size) == (1 << 18, RECEIVE_BYTES)  # type: ignore[attr-defined]

    async def test_finds_the_name_asyncio_uses(self) -> None:
        """The names are not part of the interface of asyncio; without them turns are only longer."""
        assert vars(selector_events)["_SelectorSocketTransport"].max_size > RECEIVE_BYTES
        assert sslproto.SSLProtocol.max_size > RECEIVE_BYTES
        assert "_ssl_protocol" in inspect.getsource(sslproto._SSLProtocolTransport.__init__)

    async def test_applies_to_every_connection(self, plain_server: Any, kubeconfig: Any) -> None:
        kubeconfig.write({"server": plain_server.url})
        async with kubeconfig.session() as session:
            await get(session, PODS)
            (transport,) = session._connector._open
            assert isinstance(transport.http.connector._factory(), PacedReceiver)
