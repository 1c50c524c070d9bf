"""What the outbox costs on the way to a sink: `python -m tests.benchmarks delivery` prints a table.

Changes that are committed already go from the outbox to a webhook and to S3 (moto's server), each in a process of its
own; then the same batches go there from memory, one after the other as well, by the plain client. Both several times.
The least that reads, sends and confirms them takes its turn, too.
"""

import asyncio
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import aioboto3
import anyio
import anyio.lowlevel
import boto3
import httpx
from aiohttp import web
from anyio.abc import TaskGroup

from collector.config import Duration
from collector.config.sinks import S3Settings, SinkSettings, WebhookSettings
from collector.delivery.delivery import Delivery
from collector.model import SinkRecord, Step
from collector.sinks import formats
from collector.store import Store, StoreSettings
from tests.benchmarks.history import fleet, rate, record
from tests.benchmarks.least_delivery import deliver_least
from tests.benchmarks.table import Row, duration, times
from tests.support.processes import free_ports

BATCH = 500  # records, as by default


ROUNDS = 5  # gpuid and its peer take turns: other programs on the machine slow both down


class Spent(NamedTuple):
    """What it took until a sink had everything, in seconds."""

    time: float
    cpu: float


def rows(*, small: bool = False) -> Iterator[Row]:
    """Run every case."""
    steps = list(fleet(200 if small else 16_000))
    records = [record(one) for step in steps for one in step.changes]
    batches = [records[start : start + BATCH] for start in range(0, len(records), BATCH)]
    rounds = 1 if small else ROUNDS
    with receiver() as url:
        hook = WebhookSettings(url=url, batch_age=Duration(1), backfill=True)
        found = []
        least = []
        for _ in range(rounds):
            found.append((asyncio.run(through_outbox(hook, steps)), asyncio.run(timed(post_all(url, batches)))))
            least.append((found[-1][0], asyncio.run(by_least(url, steps))))
        yield compared("a webhook", len(records), found, "a bare httpx POST of the same batches")
        yield compared("a webhook / the least", len(records), least, "the same read, sent and confirmed alone", aim="")
    with moto() as url:
        lake = S3Settings(
            bucket="lake",
            endpoint_url=url,
            path_style=True,
            region="us-east-1",
            batch_age=Duration(1),
            backfill=True,
        )
        found = [
            (asyncio.run(through_outbox(lake, steps)), asyncio.run(timed(put_all(url, batches)))) for _ in range(rounds)
        ]
        yield compared("S3 (moto)", len(records), found, "a bare aioboto3 put of the same batches as CSV")


def compared(sink: str, count: int, found: Sequence[tuple[Spent, Spent]], what: str, *, aim: str = "≥ 0.5 ×") -> Row:
    """Make a row of what the same records took on both ways, in the median of all rounds."""
    ours, peer = (
        Spent(*(statistics.median(one[side][kind] for one in found) for kind in range(2))) for side in range(2)
    )
    return Row(
        f"changes from the outbox to {sink} ({count:,}, in batches of {BATCH}; medians of {len(found)})",
        f"{rate(count / ours.time)}, with {duration(ours.cpu)} of CPU",
        f"{rate(count / peer.time)}, with {duration(peer.cpu)} of CPU: {what}",
        times(statistics.median(peer.time / ours.time for ours, peer in found)),
        aim,
    )


async def through_outbox(settings: SinkSettings, steps: Sequence[Step]) -> Spent:
    """Commit everything, then deliver it; returns what it takes until the sink has it all."""
    goal = sum(len(step.changes) for step in steps)
    with tempfile.TemporaryDirectory() as folder:
        async with filled(Path(folder), steps) as (store, tasks):
            counting = Counting()
            delivery = Delivery(store, counting)
            await delivery.reconcile({"sink": settings})
            tasks.start_soon(delivery.run)
            spent = await timed(counting.reaches(goal))
            tasks.cancel_scope.cancel()
    return spent


async def by_least(url: str, steps: Sequence[Step]) -> Spent:
    """Commit everything, then let the least program send it to a webhook; returns what that takes."""
    with tempfile.TemporaryDirectory() as folder:
        async with filled(Path(folder), steps) as (_, tasks):
            tasks.cancel_scope.cancel()
        return await timed(deliver_least(Path(folder) / "gpuid.db", url, BATCH))


@contextlib.asynccontextmanager
async def filled(folder: Path, steps: Sequence[Step]) -> AsyncIterator[tuple[Store, TaskGroup]]:
    """Commit everything to a new store, which runs in a task group."""
    async with (
        Store.open(StoreSettings(url=f"sqlite://{folder}/gpuid.db")) as store,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(store.run)
        for number, step in enumerate(steps):
            store.history_writer.append(step)
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
        if not await store.history_writer.flushed(600):
            raise SystemExit("the changes were not committed")
        yield store, tasks


class Counting:
    """Counts what a sink took."""

    exported = 0

    async def reaches(self, goal: int) -> None:
        """Return once it took that many."""
        while self.exported < goal:  # noqa: ASYNC110
            await anyio.sleep(0.005)

    def on_exported(self, sink: str, records: Any) -> None:
        """Count."""
        self.exported += sum(records.values())

    def on_export_failure(self, sink: str, records: Any, reason: str, message: str = "") -> None:
        """End: nothing may fail here."""
        raise SystemExit(f"the sink failed: {reason}")

    def on_backlog(self, sink: str, backlog: Any) -> None:
        """Ignore it."""


async def timed(work: Awaitable[None]) -> Spent:
    """Return what something takes."""
    started, cpu = time.monotonic(), time.process_time()
    await work
    return Spent(time.monotonic() - started, time.process_time() - cpu)


async def post_all(url: str, batches: Sequence[Sequence[SinkRecord]]) -> None:
    """Send batches one after the other."""
    async with httpx.AsyncClient() as client:
        for batch in batches:
            headers = {"Content-Type": "application/json"}
            (await client.post(url, content=formats.json_array(batch), headers=headers)).raise_for_status()


async def put_all(url: str, batches: Sequence[Sequence[SinkRecord]]) -> None:
    """Put batches one after the other."""
    async with aioboto3.Session().client("s3", endpoint_url=url, region_name="us-east-1") as client:
        for number, batch in enumerate(batches):
            await client.put_object(Bucket="lake", Key=f"plain/{number}.csv", Body=formats.csv(batch))


@contextlib.contextmanager
def receiver() -> Iterator[str]:
    """A webhook's other end that reads everything and answers 200; gives its URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=receive, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/"
    finally:
        process.terminate()
        process.join()


def receive(port: Connection) -> None:
    """Serve until terminated; the port goes through the pipe."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    async def serve() -> None:
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve())


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """An S3 with one bucket, `lake`, and credentials for it in the environment; gives its URL."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    os.environ.update(
        {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                break
            time.sleep(0.1)
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket="lake")
        client.close()
        yield url
    finally:
        process.terminate()
        process.wait(30)
