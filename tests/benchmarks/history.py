"""The cost of the history: `python -m tests.benchmarks history` prints a table.

One store is filled with 100,000 nodes of 8 GPUs and 200,000 moves between them, which makes 1,000,000 placements. It is
searched, and a collector is started on it. The peers run in the same minute on the same disk.
"""

import asyncio
import contextlib
import itertools
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
import httpx
import msgspec
import tomli_w

from collector.collect import nvidia_smi
from collector.health import shared
from collector.model import Change, Event, Fingerprint, Gpu, NodeInfo, NodeState, Place, SinkRecord, Step
from collector.simulator import certificates, smi
from collector.simulator.fleet import Fleet
from collector.simulator.wear import NEW
from collector.sinks import formats as forms
from collector.store import OpenMode, Store, StoreSettings
from tests.benchmarks.first_reading import checkout
from tests.benchmarks.processes import REPOSITORY, compile_modules, processor_time, running, usage
from tests.benchmarks.table import Row, amount, duration, times
from tests.support.processes import free_ports

COMMIT, COMMIT_SCHEMA = "f3998ea0", "0010"  # before the restart was made faster
CLUSTERS, GPUS = 100, 8
START = 1_760_000_000.0


def rows(*, small: bool = False) -> Iterator[Row]:
    """Run every case."""
    nodes = 400 if small else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gpuid.db"
        yield from large_store(path, nodes)
        yield from restart(path, nodes, small=small)
    with tempfile.TemporaryDirectory() as folder:
        yield restart_with_health(Path(folder) / "gpuid.db", nodes)


# What happens to the fleet


def fleet(nodes: int, *, health: bool = False) -> Iterator[Step]:
    """Every node appears; then each exchanges two GPUs with its neighbour: 10 placements for 8 GPUs."""
    made = worn if health else gpu
    held = {number: [made(number * GPUS + index) for index in range(GPUS)] for number in range(nodes)}
    for number, gpus in held.items():
        place, at = place_of(number), START + number * 0.01
        changes = tuple(change(Event.APPEARED, one, place, at) for one in gpus)
        yield Step(nodes={place: state(place, gpus, at)}, changes=changes)
    for number in range(0, nodes - 1, 2):
        one, other, at = place_of(number), place_of(number + 1), START + 100_000 + number * 0.01
        there, here = held[number][:2], held[number + 1][:2]
        moves = [change(Event.MOVED, gone, other, at, one) for gone in there]
        moves += [change(Event.MOVED, come, one, at, other) for come in here]
        after = {one: here + held[number][2:], other: there + held[number + 1][2:]}
        yield Step(nodes={place: state(place, gpus, at) for place, gpus in after.items()}, changes=tuple(moves))


def place_of(number: int) -> Place:
    """Spread nodes over the clusters, neighbours in the same one."""
    return Place(f"bench-{number // 2 % CLUSTERS}", f"gpu-node-{number:06}")


def gpu(number: int) -> Gpu:
    """Make a GPU as nvidia-smi describes an H100."""
    digits = f"{number:012x}"
    return Gpu(
        uuid=f"GPU-{digits[:8]}-{digits[8:]}-4a7b-9c3d-{digits}",
        serial=str(1_650_000_000_000 + number),
        model="NVIDIA H100 80GB HBM3",
        architecture="Hopper",
        pci_bus_id=f"00000000:{number % GPUS + 17:02X}:00.0",
        board_part_number="692-2G520-0200-000",
        gpu_part_number="2330-885-A1",
        minor_number=number % GPUS,
        vbios="96.00.74.00.01",
        mig=False,
    )


def worn(number: int) -> Gpu:
    """Make a GPU with its health as an H100 reports it: one in ten has counted errors, each its own number of them."""
    errors = number if number % 10 == 0 else 0
    health = msgspec.structs.replace(NEW["h100"], remapped_rows_correctable=min(errors, 1), ecc_sram_correctable=errors)
    return msgspec.structs.replace(gpu(number), health=shared(health))


def state(place: Place, gpus: Sequence[Gpu], at: float) -> NodeState:
    """Describe a node as the inventory does after a reading."""
    return NodeState(
        place=place,
        node=NodeInfo(name=place.node, provider_id=f"aws:///us-east-1a/i-{place.node}", boot_id="b", capacity=GPUS),
        time=at,
        driver_version="570.148.08",
        cuda_version="12.8",
        source=f"gpu-operator/nvidia-device-plugin-daemonset-{place.node[-5:]}",
        fingerprint=Fingerprint(pod_uid=place.node, container_id="c", restarts=0, boot_id="b", capacity=GPUS),
        gpus=tuple(gpus),
        since=(at,) * len(gpus),
    )


def change(event: Event, one: Gpu, place: Place, at: float, previous: Place | None = None) -> Change:
    """Say what happened to a GPU."""
    source = f"gpu-operator/nvidia-device-plugin-daemonset-{place.node[-5:]}"
    return Change(
        event=event, time=at, gpu=one, place=place, machine=f"i-{place.node}", source=source, previous=previous
    )


def record(change: Change) -> SinkRecord:
    """Write a change as the peers send it."""
    return SinkRecord(
        cluster=change.place.cluster,
        node=change.place.node,
        machine=change.machine,
        source=change.source,
        chassis="",
        gpu=change.gpu.serial or "",
        time="2026-06-07T10:30:45Z",
        uuid=change.gpu.uuid or "",
        model=change.gpu.model or "",
        event=change.event.value,
    )


# A large store


def large_store(path: Path, nodes: int) -> Iterator[Row]:
    """Fill it, weigh it, search it."""
    placements = nodes * GPUS + nodes // 2 * 4
    seconds = asyncio.run(fill(path, nodes))
    each = asyncio.run(plain_inserts(path.with_name("plain.db"), min(placements, 20_000)))
    ours = placements / seconds
    yield Row(
        f"changes into the history and the outbox, SQLite ({placements:,})",
        rate(ours),
        f"{rate(each)}: plain INSERTs of changes and placements, a transaction each",
        times(ours / each),
        "",
    )
    size = path.stat().st_size * 1e6 / placements
    lines = sum(len(forms.json_lines([record(one)])) for step in fleet(min(nodes, 1000)) for one in step.changes)
    peer = lines * 1e6 / (min(nodes, 1000) * 10)
    yield Row(
        "store for a million placements with their changes and indexes",
        f"{amount(size)} ({size / 1e6:.0f} MB)",
        f"{amount(peer)}: the records as JSON Lines, not searchable",
        times(peer / size),
        "≤ 350 MB",
    )
    found, scanned = asyncio.run(search(path, nodes)), scan(path, nodes)
    yield Row(
        f"`where SERIAL` among {placements:,} placements (median; slowest of {len(found)})",
        f"{duration(statistics.median(found))}; {duration(max(found))}",
        f"{duration(scanned)}: the same table without an index",
        times(scanned / statistics.median(found)),
        "< 50 ms",
    )


async def fill(path: Path, nodes: int, *, health: bool = False) -> float:
    """Record the whole fleet as a collector does; returns the seconds until all is committed."""
    seconds, steps = 0.0, fleet(nodes, health=health)
    async with Store.open(StoreSettings(url=f"sqlite://{path}")) as store, anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        while some := list(itertools.islice(steps, 2000)):
            started = time.monotonic()
            for step in some:
                store.history_writer.append(step)
            if not await store.history_writer.flushed(600):
                raise SystemExit("the store did not take everything")
            seconds += time.monotonic() - started
        tasks.cancel_scope.cancel()
    return seconds


async def plain_inserts(path: Path, count: int) -> float:
    """Insert the same rows without the history writer's batches, one transaction a change; returns changes a second."""
    async with Store.open(StoreSettings(url=f"sqlite://{path}")):
        pass  # for its tables and indexes
    changes = [one for step in fleet(count // GPUS) for one in step.changes if one.event is Event.APPEARED]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        started = time.monotonic()
        for one in changes:
            facts = (one.gpu.uuid, one.gpu.serial, one.gpu.model, *one.place, one.machine)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_PLAIN_CHANGE, (one.time, one.event.value, one.source, *facts))
            connection.execute(_PLAIN_PLACEMENT, (one.time, *facts))
            connection.execute("COMMIT")
        return len(changes) / (time.monotonic() - started)


_PLAIN_CHANGE = """INSERT INTO gpuid_changes (time, event, source, uuid, serial, model, cluster, node, machine)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_PLAIN_PLACEMENT = """INSERT INTO gpuid_placements (since, uuid, serial, model, cluster, node, machine)
VALUES (?, ?, ?, ?, ?, ?, ?)"""


async def search(path: Path, nodes: int) -> list[float]:
    """Look serials up; returns the seconds that each took."""
    seconds = []
    async with Store.open(StoreSettings(url=f"sqlite://{path}"), OpenMode.READER) as store:
        for number in random.Random(1).sample(range(nodes * GPUS), 200):
            started = time.perf_counter()
            found = await store.history.where(str(gpu(number).serial))
            seconds.append(time.perf_counter() - started)
            if len(found) != (2 if number % GPUS < 2 else 1):
                raise SystemExit(f"{len(found)} placements of GPU {number}")
    return seconds


def scan(path: Path, nodes: int) -> float:
    """Look serials up with the index forbidden; returns the median of the seconds."""
    seconds = []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for number in random.Random(1).sample(range(nodes * GPUS), 5):
            started = time.perf_counter()
            query = "SELECT * FROM gpuid_placements WHERE +serial = ? ORDER BY since DESC"
            connection.execute(query, (gpu(number).serial,)).fetchall()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# A restart


def restart(path: Path, nodes: int, *, small: bool) -> Iterator[Row]:
    """Start a collector on the store, whose clusters are out of reach, and scrape it; this one and an earlier one."""
    with checkout(COMMIT) as before:
        files = {REPOSITORY: path}
        if before is not None and not small:
            files[before] = downgraded(path)
        found: dict[Path, list[_Start]] = {tree: [] for tree in files}
        for tree in files:
            compile_modules(tree)
        least = []
        for _ in range(1 if small else 2):
            for tree, starts in found.items():
                starts.append(start(files[tree], nodes, tree))
            least.append(processor_time([sys.executable, "-m", "tests.benchmarks.least_restart", path]))
    ours, *theirs = ([min(values) for values in zip(*starts, strict=True)] for starts in found.values())
    seconds, cpu, _, size = ours
    sample = min(nodes, 300)
    again = parse_again(sample) * nodes / sample
    what = f"start to the first full scrape: {nodes:,} nodes × {GPUS} GPUs"
    yield Row(
        f"{what}, {amount(size)} of text",
        f"{duration(seconds)}, with {duration(cpu)} of CPU",
        f"{duration(again)}: parsing all nodes' output again, without the execs ({sample} parsed, scaled)",
        times(again / seconds),
        "< 5 s",
    )
    for name, index, written, aim in (("CPU", 1, duration, "≥ 3 ×"), ("peak memory", 2, amount, "< 1 GiB")):
        yield Row(
            f"{what}: {name} / commit {COMMIT}",
            written(ours[index]),
            written(theirs[0][index]) if theirs else "not measured",
            times(theirs[0][index] / ours[index]) if theirs else "",
            aim,
        )
    yield Row(
        f"{what}: CPU / reading, indexing and writing the same without anything else",
        duration(cpu),
        duration(min(least)),
        times(min(least) / cpu),
        "",
    )


def downgraded(path: Path) -> Path:
    """Give a copy of a store for the earlier commit."""
    copy, config = path.with_name("before.db"), path.with_name("before.toml")
    shutil.copy(path, copy)
    config.write_text(f'[store]\nurl = "sqlite://{copy}"\n[[clusters]]\ncontext = "away"\n')
    arguments = ["store", "downgrade", "--to", COMMIT_SCHEMA, "--yes", "-c", str(config)]
    subprocess.run([sys.executable, "-m", "collector", *arguments], check=True, stdout=subprocess.DEVNULL)
    return copy


def restart_with_health(path: Path, nodes: int) -> Row:
    """Start a collector on a store whose GPUs have their health, and scrape it."""
    asyncio.run(fill(path, nodes, health=True))
    found = start(path, nodes, REPOSITORY)
    return Row(
        f"start to the first full scrape: {nodes:,} nodes × {GPUS} GPUs with health: peak memory",
        f"{amount(found.peak)}, with {amount(found.size)} of text and {duration(found.cpu)} of CPU",
        "",
        "",
        "< 1 GiB",
    )


class _Start(NamedTuple):
    """What a start cost until the first full scrape."""

    seconds: float
    cpu: float  # seconds
    peak: float  # bytes
    size: int  # of the scrape, in bytes


def start(path: Path, nodes: int, tree: Path) -> _Start:
    """Start the collector whose source is in a folder, and scrape it once."""
    (port,) = free_ports(1)
    kubeconfig, config = path.with_name("kubeconfig"), path.with_name("gpuid.toml")
    kubeconfig.write_text(_KUBECONFIG)
    # As clusters have one; without, each would load the system's authorities, which takes 10 ms.
    path.with_name("ca.pem").write_bytes(certificates.make(path.parent, "127.0.0.1", "away").authority)
    config.write_text(
        tomli_w.dumps(
            {
                "server": {"listen": f"127.0.0.1:{port}"},
                "store": {"url": f"sqlite://{path}"},
                "defaults": {"kubeconfig": str(kubeconfig)},
                "clusters": [{"context": "away", "name": f"bench-{number}"} for number in range(CLUSTERS)],
            }
        )
    )
    command = [sys.executable, "-m", "collector", "run", "-c", str(config), "--log-level", "error"]
    started = time.monotonic()
    with running(command, cwd=tree) as process:
        size, count = scrape(port, process)
        found = _Start(time.monotonic() - started, *usage(process.pid), size)
    if count != nodes * GPUS:
        raise SystemExit(f"{count} of {nodes * GPUS} GPUs in the first scrape")
    return found


_KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: away, cluster: {server: "https://127.0.0.1:1", certificate-authority: ca.pem}}]
users: [{name: nobody, user: {token: none}}]
contexts: [{name: away, context: {cluster: away, user: nobody}}]
"""


def scrape(port: int, process: "subprocess.Popen[bytes]") -> tuple[int, int]:
    """Scrape once somebody answers; returns the size of the text and how many GPUs are in it."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        while process.poll() is None:
            with contextlib.suppress(httpx.ConnectError):
                text = client.get("/metrics").raise_for_status().content
                return len(text), text.count(b"\ngpuid_gpu_info{")
            time.sleep(0.02)
    raise SystemExit("the collector ended")


def parse_again(count: int) -> float:
    """Parse what as many simulated nodes print; returns the seconds."""
    simulated = Fleet(clusters=1, nodes=count, gpus=GPUS)
    outputs = [
        smi.render(simulated.kind("sim-0"), simulated.cards("sim-0", node), START) for node in simulated.nodes("sim-0")
    ]
    started = time.monotonic()
    for output in outputs:
        nvidia_smi.parse(output)
    return time.monotonic() - started


def rate(number: float) -> str:
    """Write this many per second."""
    return f"{number:,.0f} a second"
