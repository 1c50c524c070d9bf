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
from collector.store import OpenMode, Store, StoreSettings
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
    """Ask each question at many times."""
    settings = StoreSettings(url=f"sqlite://{path}")
    chance = random.Random(2)
    nodes, end = shape.alive // GPUS, START + YEAR
    found: dict[str, list[float]] = {}
    async with Store.open(settings) as store:
        started = time.perf_counter()
        while await keep(store.database, end):
            pass
        kept = time.perf_counter() - started
    async with Store.open(settings, OpenMode.READER) as store:
        for _ in range(TRIES):
            then = await look_back(store.past, chance.uniform(START + 20_000, end))
            place, gpu = place_of(chance.randrange(nodes)), chance.randrange(shape.alive)
            uuid = placement(gpu, 0, 0.0, None)[0]
            questions: dict[str, Callable[[], Awaitable[Any]]] = {
                "the fleet by cluster and model": then.counts,
                "a cluster: its nodes": lambda: then.nodes({"cluster": [place.cluster]}, limit=101),  # noqa: B023
                "a node": lambda: then.gpus({"cluster": [place.cluster], "node": [place.node]}),  # noqa: B023
                "a page of 100 GPUs": lambda: then.gpus(after=(*place, ""), limit=100),  # type: ignore[arg-type]  # noqa: B023
                "a page of 1,000 GPUs": lambda: then.gpus(after=(*place, ""), limit=1000),  # type: ignore[arg-type]  # noqa: B023
                "a GPU": lambda: then.gpus({"uuid": [uuid]}),  # noqa: B023
            }
            for name, question in questions.items():
                started = time.perf_counter()
                await question()
                found.setdefault(name, []).append(time.perf_counter() - started)
    scanned = scan(path)
    made = Row(f"checkpoints of {shape.words}, in the background", duration(kept), "–", "", "")
    return [made] + [
        Row(
            f"{name} at a time; {shape.words} (median; slowest of {TRIES})",
            f"{duration(statistics.median(seconds))}; {duration(max(seconds))}",
            f"{duration(scanned)}: counting the placements of that time without indexes",
            times(scanned / statistics.median(seconds)),
            "< 50 ms",
        )
        for name, seconds in found.items()
    ]


def scan(path: Path) -> float:
    """Count the GPUs by cluster and model at a time, with every index forbidden; returns the seconds."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        started = time.perf_counter()
        connection.execute(
            "SELECT cluster, model, count(*) FROM gpuid_placements NOT INDEXED"
            " WHERE since <= ? AND (until IS NULL OR until > ?) GROUP BY cluster, model",
            (START + YEAR / 2, START + YEAR / 2),
        ).fetchall()
        return time.perf_counter() - started
