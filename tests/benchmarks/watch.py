"""Watch events a second against kubernetes_asyncio's `Watch`, each reading the same bytes from the same server."""

import asyncio
import functools
import gc
import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import uvloop
from aiohttp import web
from kubernetes_asyncio import client, watch

from collector.collect import watcher
from collector.config import ClusterSettings, PodSource
from collector.kube.client import ApiClient
from collector.kube.reflector import Reflector
from collector.kube.session import Session
from collector.simulator import Simulator
from tests.benchmarks.clocks import Beat, heartbeat, idle_loop
from tests.benchmarks.table import Row, duration, times

__all__ = ["rows"]

_SOURCE = PodSource(
    namespace="gpu-operator", selector="app=nvidia-device-plugin-daemonset", container="nvidia-device-plugin"
)


def rows(*, small: bool = False) -> Iterator[Row]:
    """Let both watch pods of which each changes again and again, and let ours list a cluster with very many."""
    pods, repeats = (4, 5) if small else (1_000, 20)
    gc.collect()
    gc.freeze()  # what was imported, as gc_freeze.run does
    objects = uvloop.run(_pods(pods))
    with _served(objects, repeats) as url:
        ours = uvloop.run(_ours(url, pods * repeats))
        theirs = uvloop.run(_theirs(url, pods * repeats))
    events = pods * repeats
    yield Row(
        f"watch events of pods ({len(objects[0]) / 1000:.1f} kB each) / kubernetes_asyncio's Watch",
        f"{events / ours:,.0f} a second",
        f"{events / theirs:,.0f} a second",
        times(theirs / ours),
        "≥ 10 ×",
    )
    count = 40 if small else 10_000
    many = [objects[index % pods].replace(b'"name":"', b'"name":"%d-' % index, 1) for index in range(count)]
    beat = Beat()
    with _served(many, 0) as url, idle_loop() as idle:
        seconds = uvloop.run(_relist(url, count, beat))
    yield Row(
        f"a list of {count:,} pods: longest turn of the event loop on the processor",
        duration(beat.busy),
        f"{duration(idle.busy)} (an idle loop)",
        "",
        "≤ 20 ms",
    )
    yield Row(f"a list of {count:,} pods: time", duration(seconds), "", "")


async def _pods(count: int) -> list[bytes]:
    """Take pods from a simulated cluster, as it writes them."""
    async with Simulator(clusters=1, nodes=count, gpus=8) as simulator, _client(simulator.kubeconfig) as ours:
        body = json.loads(await ours.read(watcher.pods(ours, _SOURCE).method))
    return [json.dumps(one, separators=(",", ":")).encode() for one in body["items"]]


@asynccontextmanager
async def _client(kubeconfig: Path) -> AsyncIterator[ApiClient]:
    cluster = ClusterSettings(
        context="sim-0", kubeconfig=str(kubeconfig), loop_share=1.0
    )  # what it costs, not what it may
    async with ApiClient(Session(cluster)) as ours:
        yield ours


@contextmanager
def _served(objects: list[bytes], repeats: int) -> Iterator[str]:
    """Serve the objects in pages, and then each of them `repeats` times as a watch; in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, objects, repeats), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Any, objects: list[bytes], repeats: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await _stream(request, objects, repeats)
        start, limit = int(request.query.get("continue", "0")), int(request.query.get("limit", str(len(objects))))
        following = str(start + limit) if start + limit < len(objects) else ""
        head = b'{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1","continue":"%b"},"items":['
        page = b",".join(objects[start : start + limit])
        return web.Response(body=head % following.encode() + page + b"]}", content_type="application/json")

    async def main() -> None:
        application = web.Application()
        application.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    logging.disable()  # of the clients that leave in the middle of an answer
    uvloop.run(main())


async def _stream(request: web.Request, objects: list[bytes], repeats: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for count in range(repeats):
        version = b'"resourceVersion":"%d"' % (1_000_000 + count)
        lines = (b'{"type":"MODIFIED","object":%b}\n' % _with_version(one, version) for one in objects)
        for line in lines:
            await response.write(line)
    await asyncio.Event().wait()
    return response


def _with_version(one: bytes, version: bytes) -> bytes:
    head, _, rest = one.partition(b'"resourceVersion":"')
    return head + version + rest.partition(b'"')[2]


async def _mirrored(url: str, wanted: int, *, listed: bool) -> float:
    """Return the seconds until our reflector has reported `wanted` changes: new objects if `listed`, else later."""
    done, told, started = anyio.Event(), 0, time.perf_counter()

    def on_change(before: object, _after: object) -> None:
        nonlocal told, started
        if listed != (before is None):
            return
        if told == 0 and not listed:
            started = time.perf_counter()
        told += 1
        if told == wanted:
            done.set()

    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder, "kubeconfig")
        kubeconfig.write_text(json.dumps(_kubeconfig(url)))  # noqa: ASYNC240  before anything is timed
        async with _client(kubeconfig) as ours, anyio.create_task_group() as tasks:
            reflector = Reflector(
                ours,
                watcher.pods(ours, _SOURCE),
                on_change=on_change,
                on_proof=lambda: None,
                on_restart=lambda _reason: None,
                on_health=lambda _error: None,
            )
            tasks.start_soon(reflector.run)
            await done.wait()
            seconds = time.perf_counter() - started
            tasks.cancel_scope.cancel()
    return seconds


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sim-0", "cluster": {"server": url}}],
        "users": [{"name": "sim-0", "user": {}}],
        "contexts": [{"name": "sim-0", "context": {"cluster": "sim-0", "user": "sim-0"}}],
    }


_ours = functools.partial(_mirrored, listed=False)


async def _theirs(url: str, wanted: int) -> float:
    async with client.ApiClient(client.Configuration(host=url)) as api:
        core, told = client.CoreV1Api(api), 0
        started = time.perf_counter()
        async with watch.Watch() as stream:
            async for _ in stream.stream(
                core.list_namespaced_pod,
                _SOURCE.namespace,
                label_selector=_SOURCE.selector,
                resource_version="1",
                timeout_seconds=600,
            ):
                told += 1
                if told == wanted:
                    break
        return time.perf_counter() - started


async def _relist(url: str, count: int, beat: Beat) -> float:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heartbeat, beat)
        seconds = await _mirrored(url, count, listed=True)
        tasks.cancel_scope.cancel()
    return seconds
