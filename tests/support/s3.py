"""S3 for the tests of its sink: two independent servers, and one with scripted answers."""

import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import boto3
import botocore.exceptions
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from collector.config.sinks import S3Settings
from collector.sinks import open_sink
from tests.support.processes import Process, free_ports
from tests.support.waiting import until

__all__ = [
    "ACCESS_KEY",
    "BUCKET",
    "SECRET_KEY",
    "SERVERS",
    "Exchange",
    "answering",
    "client",
    "lake",
    "objects",
    "versitygw",
]

ACCESS_KEY, SECRET_KEY = "AKIAHUNTER2", "hunter2-secret"
BUCKET = "gpu-serials"


@asynccontextmanager
async def lake(endpoint: str | None, **settings: Any) -> AsyncIterator[Any]:
    """Open a sink to BUCKET."""
    given = {"bucket": BUCKET, "endpoint_url": endpoint, "path_style": True} | settings
    sink = open_sink("lake", S3Settings(**given))
    try:
        yield sink
    finally:
        await sink.aclose()


def client(url: str) -> Any:
    """Return a client of a server, as its owner."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


def objects(aws: Any, bucket: str = BUCKET) -> dict[str, bytes]:
    """Return what is in a bucket, by key."""
    listed = aws.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {entry["Key"]: aws.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read() for entry in listed}


@contextlib.contextmanager
def _moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextlib.contextmanager
def _versitygw() -> Iterator[str]:
    with versitygw() as (url, _):
        yield url


@contextlib.contextmanager
def versitygw() -> Iterator[tuple[str, Process]]:
    """Run versitygw, and yield its URL and its process; skips where it has not been built."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache / "gpuid" / "s3" / "versitygw"
    if not program.exists():
        pytest.skip(f"no {program}; tests/sinks/build_s3_server builds it")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="versitygw-") as folder:
        data, metadata, versions = (Path(folder) / name for name in ("data", "metadata", "versions"))
        for path in (data, metadata, versions):
            path.mkdir()
        process = Process(
            [
                *(program, "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", f"127.0.0.1:{port}"),
                *("--quiet", "--keep-alive", "posix", "--sidecar", metadata, "--versioning-dir", versions, data),
            ],
            Path(folder) / "log",
        )
        process.start()
        try:
            owner = client(f"http://127.0.0.1:{port}")
            until(lambda: _answers(owner))
            owner.close()
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.stop()


def _answers(owner: Any) -> bool:
    try:
        owner.list_buckets()
    except botocore.exceptions.EndpointConnectionError:
        return False
    return True


SERVERS: Mapping[str, Callable[[], contextlib.AbstractContextManager[str]]] = {"moto": _moto, "versitygw": _versitygw}


class Exchange(NamedTuple):
    """A request that `answering` got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@asynccontextmanager
async def answering(
    status: int | Callable[[Exchange], web.StreamResponse],
    code: str = "",
    message: str = "",
    *,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> AsyncIterator[tuple[str, list[Exchange]]]:
    """Serve an S3 that has one answer for everything, an error with this code; a function may answer instead.

    With status 0 it never answers.
    """
    seen: list[Exchange] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        exchange = Exchange(request.method, request.path, request.headers, await request.read())
        seen.append(exchange)
        if callable(status):
            return status(exchange)
        if status == 0:
            await ended.wait()
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return web.Response(status=status or 500, text=body, content_type="application/xml", headers=headers)

    ended = anyio.Event()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        ended.set()
        await runner.cleanup()
