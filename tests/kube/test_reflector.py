"""List and watch, against a server that plays a script."""

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from aiohttp import web
from kubernetes_asyncio.client import CoreV1Api

from collector.backoff import Backoff
from collector.collect.objects import PodObject, decode_pod
from collector.config import ClusterSettings
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError
from collector.kube.reflector import OBJECTS_PER_TURN, Reflector, Resource, WatchIntervals
from collector.kube.session import Session
from collector.model import ClusterState, WatchRestart
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

FAST = WatchIntervals(
    watch=(40.0, 40.0), slack=20.0, healthy=30.0, backoff=Backoff(initial=0.01, maximum=0.02, jitter=0.0)
)

Step = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pod(name: str, version: int, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": str(version)} | metadata
    }


def page(version: int, *pods: dict[str, Any], more: str = "") -> Step:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert "watch" not in request.query
        return web.json_response({"metadata": {"resourceVersion": str(version), "continue": more}, "items": pods})

    return answer


def refusal(code: int, reason: str = "", **headers: str) -> Step:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "code": code, "reason": reason}, status=code, headers=headers)

    return answer


def text(body: str) -> Step:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body)

    return answer


def event(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(version), "creationTimestamp": None}})


def error(code: int, reason: str) -> bytes:
    return event("ERROR", {"kind": "Status", "code": code, "reason": reason, "message": "told so"})


def watch(*chunks: bytes, then: str = "hang") -> Step:
    """Send `chunks`, then stay open without a word (`hang`), end in order (`end`) or break the connection (`drop`)."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["watch"] == "true"
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then == "hang":
            await anyio.sleep(60)
        if then == "drop":
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


def versioned(pod: PodObject | None) -> str | None:
    return None if pod is None else f"{pod.name}@{pod.version}"


class Play:
    """A reflector that mirrors what the script says, and all that it told its owner."""

    def __init__(self) -> None:
        self.queries: list[dict[str, str]] = []
        self.changes: list[tuple[str | None, str | None]] = []
        self.restarts: list[WatchRestart] = []
        self.health: list[ClusterError | None] = []
        self.proofs = 0
        self.decoded = 0  # objects
        self.reflector: Reflector[PodObject]
        self.client: ApiClient

    def changed(self, before: PodObject | None, after: PodObject | None) -> None:
        self.changes.append((versioned(before), versioned(after)))

    def decode(self, thing: msgspec.Raw) -> PodObject:
        self.decoded += 1
        return decode_pod(thing)

    def proven(self) -> None:
        self.proofs += 1

    @property
    def names(self) -> set[str]:
        return set(self.reflector.objects)

    async def watching(self, count: int) -> None:
        """Wait until `count` requests were made and the last one is an open watch."""
        await eventually(lambda: len(self.queries) >= count and self.health and self.health[-1] is None)
        await anyio.sleep(0.05)
        assert len(self.queries) == count


@asynccontextmanager
async def playing(folder: Path, *steps: Step, timing: WatchIntervals = FAST) -> AsyncIterator[Play]:
    play, script = Play(), iter(steps)

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.path == "/api/v1/namespaces/ns/pods"
        play.queries.append(dict(request.query))
        step = next(script, None)
        assert step is not None, "the script is over"
        return await step(request)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "play", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    try:
        async with (
            ApiClient(Session(ClusterSettings(context="play", kubeconfig=str(kubeconfig)))) as client,
            anyio.create_task_group() as tasks,
        ):
            play.client = client
            play.reflector = Reflector(
                client,
                Resource(
                    name="pods",
                    method=functools.partial(CoreV1Api(client).list_namespaced_pod, "ns", label_selector="a=b"),
                    decode=play.decode,
                ),
                on_change=play.changed,
                on_proof=play.proven,
                on_restart=play.restarts.append,
                on_health=play.health.append,
                timing=timing,
            )
            tasks.start_soon(play.reflector.run)
            yield play
            tasks.cancel_scope.cancel()
    finally:
        await runner.cleanup()


class TestListing:
    async def test_lists_in_pages_and_watches_from_the_last_version(self, tmp_path: Path) -> None:
        async with playing(
            tmp_path, page(7, pod("a", 1), pod("b", 2), more="t1"), page(8, pod("c", 3)), watch()
        ) as play:
            await play.watching(3)
            assert play.names == {"ns/a", "ns/b", "ns/c"}
            assert play.queries == [
                {"labelSelector": "a=b", "limit": "100"},
                {"labelSelector": "a=b", "limit": "100", "continue": "t1"},
                {
                    "labelSelector": "a=b",
                    "watch": "true",
                    "allowWatchBookmarks": "true",
                    "resourceVersion": "8",
                    "timeoutSeconds": "40",
                },
            ]
            assert (play.proofs, play.restarts, play.health) == (1, [], [None])

    async def test_passes_over_objects_without_a_name(self, tmp_path: Path) -> None:
        nameless: dict[str, Any] = {"metadata": None}
        steps = (
            page(7, nameless, pod("a", 1)),
            watch(event("ADDED", nameless), event("ADDED", pod("b", 8)), bookmark(9)),
        )
        async with playing(tmp_path, *steps) as play:
            await play.watching(2)
            assert play.names == {"ns/a", "ns/b"}

    async def test_of_nothing_is_a_proof_too(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7), watch()) as play:
            await play.watching(2)
            assert (play.names, play.proofs) == (set(), 1)

    async def test_lists_without_pages_when_the_continue_token_expires(self, tmp_path: Path) -> None:
        async with playing(
            tmp_path,
            page(7, pod("gone", 1), more="t1"),
            refusal(410, "Expired"),
            page(9, pod("a", 1), pod("b", 2)),
            watch(),
        ) as play:
            await play.watching(4)
            assert play.queries[2] == {"labelSelector": "a=b"}
            assert play.names == {"ns/a", "ns/b"}
            assert play.restarts == []

    async def test_of_thousands_lets_others_have_their_turn(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7, *(pod(f"p{n}", n) for n in range(5000))), watch()) as play:
            most = 0
            while (before := play.decoded + len(play.changes)) < 2 * 5000:
                await anyio.lowlevel.checkpoint()
                most = max(most, play.decoded + len(play.changes) - before)
            assert len(play.names) == 5000
            assert most <= OBJECTS_PER_TURN


class TestWatching:
    async def test_follows_objects_that_come_change_and_go(self, tmp_path: Path) -> None:
        events = [event("ADDED", pod("b", 8)), event("MODIFIED", pod("a", 9)), event("DELETED", pod("b", 10))]
        async with playing(tmp_path, page(7, pod("a", 1)), watch(*events)) as play:
            await eventually(lambda: len(play.changes) == 4)
            assert play.changes == [(None, "a@1"), (None, "b@8"), ("a@1", "a@9"), ("b@8", None)]
            assert (play.names, play.proofs) == ({"ns/a"}, 4)

    async def test_reads_events_wherever_the_stream_is_cut(self, tmp_path: Path) -> None:
        stream = event("ADDED", pod("b", 8)) + event("ADDED", pod("c", 9))
        async with playing(tmp_path, page(7), watch(*(bytes([byte]) for byte in stream))) as play:
            await eventually(lambda: len(play.changes) == 2)
            assert play.names == {"ns/b", "ns/c"}

    async def test_takes_an_event_that_it_has_seen_for_none(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7, pod("a", 1)), watch(event("ADDED", pod("a", 1)), bookmark(9))) as play:
            await eventually(lambda: play.proofs == 3)
            assert play.changes == [(None, "a@1")]

    async def test_resumes_from_the_last_bookmark(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7), watch(bookmark(42), then="end"), watch()) as play:
            await play.watching(3)
            assert play.queries[2]["resourceVersion"] == "42"
            assert (play.restarts, play.health) == ([], [None, None])

    async def test_passes_over_events_that_it_does_not_know(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7), watch(event("SPLIT", {}), event("ADDED", pod("b", 8)))) as play:
            await eventually(lambda: play.names == {"ns/b"})


class TestStartingOver:
    @pytest.mark.parametrize(
        "step",
        [
            refusal(410, "Expired"),
            refusal(410),
            watch(error(410, "Gone")),
            watch(error(410, "Expired")),
            watch(error(0, "Expired")),
        ],
    )
    async def test_after_410_lists_again_and_removes_what_vanished_meanwhile(self, tmp_path: Path, step: Step) -> None:
        async with playing(
            tmp_path,
            page(7, pod("a", 1), pod("b", 2), pod("c", 3)),
            step,
            page(20, pod("b", 2), pod("c", 15), pod("d", 16)),
            watch(),
        ) as play:
            await play.watching(4)
            assert play.changes[3:] == [("c@3", "c@15"), (None, "d@16"), ("a@1", None)]
            assert play.queries[3]["resourceVersion"] == "20"
            assert play.restarts == [WatchRestart.EXPIRED]
            assert set(play.health) == {None}

    async def test_resumes_from_the_last_version_after_a_dropped_connection(self, tmp_path: Path) -> None:
        async with playing(
            tmp_path, page(7), watch(event("ADDED", pod("a", 9)), then="drop"), watch(event("ADDED", pod("b", 10)))
        ) as play:
            await eventually(lambda: play.names == {"ns/a", "ns/b"})
            assert play.queries[2]["resourceVersion"] == "9"
            assert (play.restarts, set(play.health)) == ([WatchRestart.CONNECTION], {None})

    async def test_leaves_a_watch_that_is_silent_past_its_time(self, tmp_path: Path) -> None:
        quick = msgspec.structs.replace(FAST, watch=(0.1, 0.1), slack=0.1)
        async with playing(
            tmp_path, page(7), watch(bookmark(11)), watch(event("ADDED", pod("a", 12))), timing=quick
        ) as play:
            await eventually(lambda: play.names == {"ns/a"})
            assert play.queries[2]["resourceVersion"] == "11"
            assert play.restarts == [WatchRestart.SILENT]

    @pytest.mark.parametrize(
        ("step", "reason"),
        [
            (watch(b"{not json\n"), WatchRestart.SERVER_ERROR),
            (watch(event("ADDED", {"metadata": 3})), WatchRestart.SERVER_ERROR),
            (watch(error(500, "InternalError")), WatchRestart.SERVER_ERROR),
        ],
    )
    async def test_lists_again_after_what_it_cannot_use(self, tmp_path: Path, step: Step, reason: WatchRestart) -> None:
        async with playing(tmp_path, page(7), step, page(9, pod("a", 8)), watch()) as play:
            await play.watching(4)
            assert (play.names, play.restarts) == ({"ns/a"}, [reason])

    async def test_backs_off_if_a_watch_closes_immediately(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7), watch(then="end"), watch(then="end"), watch()) as play:
            await play.watching(4)
            assert play.restarts == [WatchRestart.CONNECTION] * 2

    @pytest.mark.parametrize(
        ("step", "reason", "state"),
        [
            (refusal(401), WatchRestart.UNAUTHORIZED, ClusterState.UNAUTHORIZED),
            (refusal(403), WatchRestart.FORBIDDEN, ClusterState.FORBIDDEN),
            (refusal(500), WatchRestart.SERVER_ERROR, ClusterState.SERVER_ERROR),
            (refusal(429), WatchRestart.SERVER_ERROR, ClusterState.SERVER_ERROR),
            (text("<html>"), WatchRestart.SERVER_ERROR, ClusterState.SERVER_ERROR),
        ],
    )
    async def test_reports_a_refused_list_until_it_succeeds(
        self, tmp_path: Path, step: Step, reason: WatchRestart, state: ClusterState
    ) -> None:
        async with playing(tmp_path, step, step, page(7, pod("a", 1)), watch()) as play:
            await play.watching(4)
            assert play.restarts == [reason] * 2
            assert [error and error.state for error in play.health] == [state, state, None]

    async def test_reports_a_refused_watch_and_keeps_its_objects(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7, pod("a", 1)), refusal(403), refusal(403), watch()) as play:
            await play.watching(4)
            assert [query.get("resourceVersion") for query in play.queries] == [None, "7", "7", "7"]
            assert play.changes == [(None, "a@1")]

    async def test_resets_the_backoff_after_a_watch_that_ended_well(self, tmp_path: Path) -> None:
        steep = msgspec.structs.replace(FAST, backoff=Backoff(initial=0.01, maximum=1e6, factor=1e6, jitter=0.0))
        end = watch(bookmark(8), then="end")
        async with playing(tmp_path, page(7), refusal(500), end, refusal(500), end, watch(), timing=steep) as play:
            await play.watching(6)
            assert play.restarts == [WatchRestart.SERVER_ERROR] * 2

    @pytest.mark.parametrize("code", [400, 403, 500])
    async def test_lists_again_when_a_watch_was_refused_three_times(self, tmp_path: Path, code: int) -> None:
        refused = refusal(code)
        async with playing(
            tmp_path, page(7, pod("a", 1)), refused, refused, refused, page(9), refused, refused, watch()
        ) as play:
            await play.watching(8)
            versions = [query.get("resourceVersion") for query in play.queries]
            assert versions == [None, "7", "7", "7", None, "9", "9", "9"]

    async def test_does_not_list_again_when_throttled(self, tmp_path: Path) -> None:
        slow = refusal(429)
        async with playing(tmp_path, page(7), slow, slow, slow, slow, watch()) as play:
            await play.watching(6)
            assert [query.get("resourceVersion") for query in play.queries] == [None, *["7"] * 5]

    async def test_does_not_count_its_own_limiter_as_silence(self, tmp_path: Path) -> None:
        quick = msgspec.structs.replace(FAST, slack=1.5)
        plays: list[Play] = []

        async def listed(request: web.Request) -> web.StreamResponse:
            plays[0].client.session.limiter.throttled(2.0)
            return await page(7)(request)

        async with playing(tmp_path, listed, watch(), timing=quick) as play:
            plays.append(play)
            await play.watching(2)
            assert (play.restarts, play.health) == ([], [None])

    async def test_gives_up_a_server_that_does_not_answer_a_watch(self, tmp_path: Path) -> None:
        async def silent(request: web.Request) -> web.StreamResponse:
            await anyio.sleep(60)
            raise AssertionError

        quick = msgspec.structs.replace(FAST, slack=1.5)
        async with playing(tmp_path, page(7), silent, watch(), timing=quick) as play:
            await play.watching(3)
            assert play.restarts == [WatchRestart.CONNECTION]
            assert str(play.health[0]).endswith(": timed out")

    async def test_waits_as_long_as_the_server_asks(self, tmp_path: Path) -> None:
        async with playing(tmp_path, refusal(503, **{"Retry-After": "1"}), page(7), watch()) as play:
            started = anyio.current_time()
            await play.watching(3)
            assert anyio.current_time() - started > 0.9
