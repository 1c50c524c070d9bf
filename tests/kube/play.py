"""A server that plays a script of lists and watches, and a reflector that mirrors it."""

import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
from aiohttp import web
from kubernetes_asyncio.client import CoreV1Api

from collector.backoff import Backoff
from collector.collect.objects import PodObject, decode_pod
from collector.config import ClusterSettings
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError
from collector.kube.limits import LoopShare
from collector.kube.reflector import Reflector, Resource, WatchIntervals
from collector.kube.session import Session
from collector.model import WatchRestart
from tests.support.waiting import eventually

__all__ = [
    "FAST",
    "SECOND",
    "Play",
    "Step",
    "bookmark",
    "error",
    "event",
    "page",
    "playing",
    "pod",
    "refusal",
    "text",
    "watch",
]

FAST = WatchIntervals(
    watch=(40.0, 40.0),
    slack=20.0,
    trust=0.05,
    healthy=0.3,
    pause=0.01,
    backoff=Backoff(initial=0.01, maximum=0.02, jitter=0.0),
    limited=Backoff(initial=0.01, maximum=0.02, jitter=0.0),
)
SECOND = msgspec.structs.replace(FAST, watch=(1.0, 1.0))  # watches that are to last a second

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


def refusal(code: int, reason: str = "", *, more: dict[str, Any] | None = None, wait: int | None = None) -> Step:
    async def answer(request: web.Request) -> web.StreamResponse:
        document = {"kind": "Status", "code": code, "reason": reason} | (more or {})
        return web.json_response(document, status=code, headers={"Retry-After": str(wait)} if wait is not None else {})

    return answer


def text(body: str) -> Step:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body)

    return answer


def event(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(version), "creationTimestamp": None}})


def error(code: int, reason: str, **more: Any) -> bytes:
    return event("ERROR", {"kind": "Status", "code": code, "reason": reason, "message": "told so"} | more)


def watch(*chunks: bytes, then: str = "hang", after: float = 0.0) -> Step:
    """Send `chunks`, and `after` some seconds hang silently, end properly (`end`) or break (`drop`)."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["watch"] == "true"
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        await anyio.sleep(after)
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
    """A reflector that mirrors what the script says, and all that it reported to its owner."""

    def __init__(self) -> None:
        self.queries: list[dict[str, str]] = []
        self.changes: list[tuple[str | None, str | None]] = []
        self.restarts: list[WatchRestart] = []
        self.health: list[ClusterError | None] = []
        self.proofs = 0
        self.decoded = 0  # objects
        self.times: list[float] = []  # of the requests
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
async def playing(
    folder: Path, *steps: Step, timing: WatchIntervals = FAST, share: LoopShare | None = None, **settings: Any
) -> AsyncIterator[Play]:
    """Mirror a server that answers with one step after another, with these settings of the cluster."""
    play, script = Play(), iter(steps)

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.path == "/api/v1/namespaces/ns/pods"
        play.queries.append(dict(request.query))
        play.times.append(anyio.current_time())
        step = next(script, None)
        if step is None:  # the script is over
            await anyio.sleep(60)
            raise AssertionError
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
            ApiClient(Session(ClusterSettings(context="play", kubeconfig=str(kubeconfig), **settings))) as client,
            anyio.create_task_group() as tasks,
        ):
            play.client = client
            client.session.share = share or client.session.share
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
