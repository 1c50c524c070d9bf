"""What looking back costs: `python -m tests.benchmarks past` prints a table.

Two histories of a million placements, in 100 clusters: one year in which 100,000 GPUs are on nodes at any time and
900,000 placements have ended, two GPUs of any nodes changing places at a time; and a fleet of a million GPUs that stay
where they are. Times are drawn evenly from that year. Each query is asked of a store that was just opened, with
SQLite's small cache for answers, and of the checkpoints that a collector makes in the background.
"""

import asyncio
import contextlib
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from collector.model import Place
from collector.store import GpuPosition, OpenMode, Store, StoreSettings
from collector.store.checkpoints import keep
from collector.views.past import look_back
from tests.benchmarks.table import Row, duration, times

CLUSTERS, GPUS = 100, 8
START, YEAR = 1_760_000_000.0, 365 * 86_400.0
MODELS = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA H200")
TRIES = 50


class Shape(NamedTuple):
    """What a history is like."""

    words: str
    alive: int  # GPUs on nodes at any time
    ended: int  # placements


def rows(*, small: bool = False) -> Iterator[Row]:
    """Run every case."""
    scale = 100 if small else 1
    shapes = (
        Shape("100,000 GPUs at any time, 900,000 ended placements", 100_000 // scale, 900_000 // scale),
        Shape("1,000,000 GPUs, none ended", 1_000_000 // scale, 0),
    )
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gpuid.db"
            asyncio.run(fill(path, shape))
            yield from asyncio.run(ask(path, shape))


async def fill(path: Path, shape: Shape) -> None:
    """Write the placements as they would be recorded, and one change, by which the history begins."""
    async with Store.open(StoreSettings(url=f"sqlite://{path}")):
        pass  # for its tables and indexes
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        columns = "uuid, serial, model, cluster, node, machine, since, until, confirmed"
        connection.executemany(
            f"INSERT INTO gpuid_placements ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            placements(shape),
        )
        connection.execute(
            "INSERT INTO gpuid_changes (time, event, uuid, cluster, node, machine, source)"
            " VALUES (?, 'appeared', '', '', '', '', '')",
            (START,),
        )
        connection.commit()


def placements(shape: Shape) -> Iterator[tuple[Any, ...]]:
    """Yield all placements, by their beginning or end."""
    chance = random.Random(1)
    where = [number // GPUS for number in range(shape.alive)]
    since = [START + number * 0.01 for number in range(shape.alive)]
    moves = (chance.uniform(START + 20_000, START + YEAR) for _ in range(shape.ended // 2))
    for at in sorted(moves):
        one, other = chance.randrange(shape.alive), chance.randrange(shape.alive)
        for gpu in (one, other):
            yield placement(gpu, where[gpu], since[gpu], at)
            since[gpu] = at
        where[one], where[other] = where[other], where[one]
    for gpu in range(shape.alive):
        yield placement(gpu, where[gpu], since[gpu], None)


def placement(gpu: int, node: int, since: float, until: float | None) -> tuple[Any, ...]:
    """Return the row of one GPU on one node."""
    digits, place = f"{gpu:012x}", place_of(node)
    uuid = f"GPU-{digits[:8]}-{digits[8:]}-4a7b-9c3d-{digits}"
    machine = f"i-{place.node}"
    return (uuid, str(1_650_000_000_000 + gpu), MODELS[node % 3], *place, machine, since, until, until or since)


def place_of(node: int) -> Place:
    """Spread nodes over the clusters."""
    return Place(f"bench-{node % CLUSTERS}", f"gpu-node-{node:06}")


async def ask(path: Path, shape: Shape) -> list[Row]:
    """Make the checkpoints, then ask each question at many times."""
    settings = StoreSettings(url=f"sqlite://{path}")
    async with Store.open(settings) as store:
        started = time.process_time()
        while await keep(store.database, START + YEAR):
            pass
        kept = time.process_time() - started
    made = f"checkpoints of the past; {shape.words}; made in the background"
    return [Row(made, f"{duration(kept)} of CPU", "–", "", ""), *await answers(path, shape)]


async def answers(path: Path, shape: Shape) -> list[Row]:
    """Ask each question at many times."""
    chance = random.Random(2)
    nodes = shape.alive // GPUS
    found: dict[str, list[tuple[float, float]]] = {}
    async with Store.open(StoreSettings(url=f"sqlite://{path}"), OpenMode.READER) as store:
        for _ in range(TRIES):
            then = await look_back(store.past, chance.uniform(START + 20_000, START + YEAR))
            place, gpu = place_of(chance.randrange(nodes)), chance.randrange(shape.alive)
            uuid = placement(gpu, 0, 0.0, None)[0]
            questions: dict[str, Callable[[], Awaitable[Any]]] = {
                "the fleet by cluster and model": then.counts,
                "a cluster: 100 of its nodes": lambda: then.nodes({"cluster": [place.cluster]}, limit=101),  # noqa: B023
                "a node": lambda: then.gpus({"cluster": [place.cluster], "node": [place.node]}),  # noqa: B023
                "a page of 100 GPUs": lambda: then.gpus(after=GpuPosition(*place, ""), limit=100),  # noqa: B023
                "a page of 1,000 GPUs": lambda: then.gpus(after=GpuPosition(*place, ""), limit=1000),  # noqa: B023
                "a GPU": lambda: then.gpus({"uuid": [uuid]}),  # noqa: B023
            }
            for name, question in questions.items():
                elapsed, used = time.perf_counter(), time.process_time()
                await question()
                found.setdefault(name, []).append((time.process_time() - used, time.perf_counter() - elapsed))
    scanned = scan(path)
    rows = []
    for name, seconds in found.items():
        used, elapsed = (statistics.median(one) for one in zip(*seconds, strict=True))
        rows.append(
            Row(
                f"{name} at a time; {shape.words} (medians of {TRIES})",
                f"{duration(used)} of CPU, {duration(elapsed)} elapsed",
                f"{duration(scanned)} of CPU: counting the placements of that time without indexes",
                times(scanned / used),
                "< 50 ms",
            )
        )
    return rows


def scan(path: Path) -> float:
    """Count the GPUs by cluster and model at a time, with every index forbidden; returns the seconds."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        started = time.process_time()
        connection.execute(
            "SELECT cluster, model, count(*) FROM gpuid_placements NOT INDEXED"
            " WHERE since <= ? AND (until IS NULL OR until > ?) GROUP BY cluster, model",
            (START + YEAR / 2, START + YEAR / 2),
        ).fetchall()
        return time.process_time() - started
