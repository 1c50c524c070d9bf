"""The environment of a run: a simulated fleet, the processes of one installation of gpuid, their store and sinks."""

import contextlib
import enum
import functools
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

from collector.sharding import shard_of
from collector.simulator import Simulator
from collector.simulator.cluster import SimulatedCluster
from collector.simulator.fleet import Fleet, SimulationError
from tests.faults import settings, shifted
from tests.faults.link import Link, linked
from tests.faults.plan import KINDS, Step
from tests.faults.truth import Place, Truth
from tests.support import s3
from tests.support.postgres import PostgresServer, postgres_running
from tests.support.processes import CollectorProcess, Process
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import until

__all__ = ["CLUSTERS", "FURTHER_CLUSTERS", "Member", "Setup", "World", "new_world"]

CLUSTERS = tuple(f"sim-{number}" for number in range(4))  # sim-2 is of GB200, the others of H100
# Those that the first configuration does not name: one of H100 and one of GB200, each for another shard.
FURTHER_CLUSTERS = ("sim-4", "sim-5")
NODES, GPUS = 3, 4
DISK_MEGABYTES = 64
SHAPES = ("gpu-operator", "device-plugin", "helm", "gke", "driver", "dra")  # presets that read by exec
START_SECONDS = 400.0  # on a busy machine
MEASURING_SECONDS = 30.0
REQUIRE_ALL = os.environ.get("GPUID_REQUIRE_ALL") == "1"  # nothing is left out for want of a program or a right

# Steps during which a process that is starting ends by itself; a fault among them lasts until it is taken back.
PREVENTING_STARTS = (
    "break_configuration",
    "stop_postgres",
    "restart_postgres",
    "freeze_postgres",
    "refuse_connections",
    "end_sessions",
    "store_link",
)


class Setup(enum.StrEnum):
    """How gpuid is installed."""

    SQLITE = "sqlite"  # one process
    POSTGRES = "postgres"  # two replicas over one PostgreSQL
    SHARDS = "shards"  # two shards over one PostgreSQL


class Member(CollectorProcess):
    """One process of the installation."""

    def __init__(self, folder: Path, name: str, shard: int | None) -> None:
        super().__init__(folder, name)
        self.name, self.shard = name, shard
        self.starts = 0
        self._measured = 0  # how often its memory was
        self.frozen = False
        self.may_have_ended = False  # by a step, or because of one; `World.calm` makes up for it
        self._clock = folder / f"{name}.clock"
        self.set_clock(0.0)
        self.command = [sys.executable, shifted.__file__, str(self._clock), "run", "-c", str(self.config)]
        if shard is not None:
            self.command += ["--shard", str(shard), "--total-shards", "2"]

    def start(self) -> None:
        """Start it, again if it has ended."""
        self.starts += 1
        self.may_have_ended = self.frozen = False
        super().start()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """End it by a signal; it stays away until `start`."""
        if self.frozen:
            self.resume()
        self.may_have_ended = True
        return self.stop(number, seconds=20)

    def pause(self) -> None:
        """Freeze it (SIGSTOP)."""
        self.frozen = True
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue."""
        self.frozen = False
        self.send(signal.SIGCONT)

    def listens(self) -> bool:
        """Return whether it has started and answers: it handles signals then, and has opened its store."""
        return self.running and self.get("/healthz", seconds=1.0) is not None

    def assert_excused(self) -> None:
        """Make sure, of one that does not run, that a step is the reason."""
        assert self.may_have_ended, f"{self.name} has ended by itself: {self.tail()}"

    def set_clock(self, ahead: float) -> None:
        """Set its clock this many seconds ahead of the others'."""
        shifted.set_ahead(self._clock, ahead)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._popen is not None
        return self._popen.pid

    def descriptors(self) -> list[int]:
        """Return the numbers of its open files."""
        return [int(one.name) for one in Path(f"/proc/{self.pid}/fd").iterdir()]

    def memory_in_use(self) -> dict[str, int]:
        """Return what memory it uses after a full collection of garbage; empty if it does not say so in time."""
        self._measured += 1
        answer = shifted.memory(self._clock, self._measured)
        deadline = time.monotonic() + MEASURING_SECONDS
        while (found := answer()) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return found or {}

    def tasks(self) -> dict[str, int]:
        """Return how many tasks of each name its event loop had within the last second."""
        return shifted.tasks(self._clock)

    def limit_descriptors(self, most: int) -> None:
        """Limit how many files it has open, from now on."""
        hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (most, hard))

    def get(self, path: str, *, seconds: float = 60.0) -> httpx.Response | None:
        """Return what a path answers; None where nothing answers."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=seconds)
        except httpx.HTTPError:
            return None

    def api(self, path: str) -> Any:
        """Return what a path of the API answers; None where nothing, or an error, is answered."""
        answer = self.get(path)
        return answer.json() if answer is not None and answer.status_code == 200 else None


class World:
    """Everything that steps act on, and the truth that they made."""

    def __init__(
        self,
        setup: Setup,
        seed: int,
        folder: Path,
        simulator: Simulator,
        call: Callable[..., Any],
        receivers: Mapping[str, Receiver],
        *,
        store: str,
        postgres: PostgresServer | None,
        warehouse: str | None,
        lake: tuple[str, Process] | None,
        disk: Path | None,
    ) -> None:
        self.setup, self.seed = setup, seed
        self.folder, self.simulator = folder, simulator
        self.receivers = receivers  # by webhook
        self.store = store  # the URL
        self.postgres = postgres
        self.warehouse = warehouse  # the URL of a database that a sink writes to
        self.lake = None if lake is None else lake[0]  # the URL of S3
        self.lake_server = None if lake is None else lake[1]
        self.disk = disk  # a small one, that SQLite's file is on
        self.links: dict[str, Link] = {}  # to the receiver, S3, and from each process to its database
        self.contexts = {name: name for name in CLUSTERS}  # the configured clusters: contexts, and their names
        self.collected = set(CLUSTERS)  # those that ever were, and are again after a calm
        self.changed: dict[str, settings.Table] = {name: {} for name in self.clusters}  # of what all clusters have
        self.sinks: dict[str, settings.Table] = {}  # in the same way
        self.without_sinks: set[str] = set()  # those that are not configured now
        self.rereads = seed % 4 != 2  # whether nodes are read again soon though nothing has happened
        # Since the last calm: clusters that were not configured at some time, own names of clusters by others that they
        # had, UUIDs of the GPUs that two nodes have reported at the same time, and whether a clock was stepped.
        self.dropped: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.doubled: set[str] = set()
        self.clocks_stepped = False
        self.broken = False  # the configuration, which nothing can be read from
        self.call = call  # runs a function, or a coroutine function, in the simulator's loop
        self.active: list[Step] = []  # the faults that have not been taken back
        self.done: list[Step] = []
        self.calms = 0
        self.truth = Truth()
        self._note()
        self.extra: dict[str, Any] = {}  # what kinds of steps remember
        shards: Mapping[str, int | None] = {"one": None}
        if setup is Setup.POSTGRES:
            shards = {"one": None, "two": None}
        elif setup is Setup.SHARDS:
            shards = {"zero": 0, "one": 1}
        self.processes = [Member(folder, name, shard) for name, shard in shards.items()]
        for one in self.processes:
            if lake is not None:
                one.env |= {"AWS_ACCESS_KEY_ID": s3.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET_KEY}

    @property
    def receiver(self) -> Receiver:
        """What the webhook of the first configuration delivers to."""
        return self.receivers["hook"]

    def clusters_of(self, process: Member) -> set[str]:
        """Return the clusters that a process reads if every process runs."""
        return {name for name in self.collected if process.shard is None or shard_of(name, 2) == process.shard}

    @property
    def fleet(self) -> Fleet:
        """Which GPU is where."""
        return self.simulator.fleet

    @property
    def clusters(self) -> Mapping[str, SimulatedCluster]:
        """The API servers; whatever is called of them has to go through `call`."""
        return self.simulator.clusters

    def act(self, cluster: str, action: str, **arguments: Any) -> Any:
        """Do an action of a simulated cluster (collector/simulator/*_actions.py)."""
        return self.call(lambda: getattr(self.clusters[cluster], action)(**arguments))

    def urls(self) -> dict[str, str]:
        """Return what links lead to, by their names."""
        found = {name: receiver.url for name, receiver in self.receivers.items()}
        if self.lake is not None:
            found["lake"] = self.lake
        if self.postgres is not None:
            found |= {f"store-{one.name}": self.store for one in self.processes}
        if self.warehouse is not None:
            found["warehouse"] = self.warehouse
        return found

    def configure(self) -> None:
        """Write the configuration file of each process; those that run read it again by themselves."""
        before = settings.defaults(self.simulator.kubeconfig, rereads=self.rereads)
        configured = [(name, table) for name, table in self.sinks.items() if name not in self.without_sinks]
        sinks = settings.written(configured, {name: link.url for name, link in self.links.items()})
        clusters = "".join(
            settings.written_cluster(
                {"context": context, "name": name, "preset": self.clusters[context].shape.name, **self.changed[context]}
            )
            for context, name in self.contexts.items()
        )
        for one in self.processes:
            store = self.links[f"store-{one.name}"].url if self.postgres is not None else self.store
            after = f'{clusters}[store]\nurl = "{store}"\n{sinks}{"[" if self.broken else ""}'
            one.configure((), before=before, after=after)

    def perform(self, step: Step) -> bool:
        """Do a step, if it is possible."""
        kind = KINDS[step.kind]
        if step.kind in PREVENTING_STARTS:
            for process in self.processes:
                process.may_have_ended |= process.running and not process.listens()  # it may be starting
        self.truth.begin()
        try:
            kind.do(self, step.arguments)
        except SimulationError as error:
            logging.debug("left out %s: %s", step, error)
            return False
        finally:
            self._note()
        self.done.append(step)
        if kind.undo is not None:
            self.active.append(step)
        return True

    def _note(self) -> None:
        self.truth.note(self.fleet, self.collected)
        self.truth.note_machines(self.call(self._machines))

    def _machines(self) -> dict[Place, str]:
        """Return the name of the machine that each node is."""
        documents = {
            (name, node): msgspec.json.decode(cluster.objects.node_object(node))
            for name, cluster in self.clusters.items()
            for node in self.fleet.nodes(name)
        }
        return {place: one["spec"]["providerID"].rpartition("/")[2] for place, one in documents.items()}

    def take_back(self, step: Step) -> None:
        """Take one fault back."""
        self.active.remove(step)
        undo = KINDS[step.kind].undo
        assert undo is not None
        self.truth.begin()
        undo(self, step.arguments)
        self._note()

    def calm(self) -> None:
        """Take every fault back, the last one first."""
        for step in reversed(list(self.active)):
            self.take_back(step)
        for one in self.processes:
            if one.may_have_ended:  # or may do so yet, because of what there was when it started
                until(lambda: not one.running or one.listens(), seconds=START_SECONDS)  # noqa: B023  used at once
            if one.running:
                one.may_have_ended = False
            else:
                one.assert_excused()
                one.start()
        self.calms += 1

    def settle(self) -> None:
        """Note that everything is as it should be: what excuses anything ends."""
        self.truth.settle()
        self.dropped.clear()
        self.renamed.clear()
        self.doubled.clear()
        self.clocks_stepped = False

    @property
    def lets_start(self) -> bool:
        """Whether a process that starts has a sound configuration and a reachable store; else it ends at once."""
        return not any(self.faulty(kind) for kind in PREVENTING_STARTS)

    def faulty(self, kind: str, **arguments: Any) -> bool:
        """Return whether a fault of a kind, with these arguments among its own, is there."""
        return any(step.kind == kind and arguments.items() <= step.arguments.items() for step in self.active)


@contextlib.contextmanager
def new_world(setup: Setup, seed: int, folder: Path) -> Iterator[World]:
    """Start everything, and at the end stop it; the seed decides how GPU software is installed in each cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    simulator = Simulator(
        clusters=len(CLUSTERS + FURTHER_CLUSTERS),
        nodes=NODES,
        gpus=GPUS,
        latency=0.02,
        directory=folder / "simulator",
        bookmark_interval=2.0,
        shapes=random.Random(seed).choices(SHAPES, k=len(CLUSTERS + FURTHER_CLUSTERS)),
    )
    with contextlib.ExitStack() as stack:
        receivers = {name: stack.enter_context(receiving()) for name in ("hook", settings.FURTHER_SINK)}
        server = stack.enter_context(postgres_running()) if setup is not Setup.SQLITE else None
        lake = _lake(stack)
        disk = _disk(stack, folder / "disk") if server is None else None
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        stack.enter_context(portal.wrap_async_context_manager(simulator))
        world = World(
            setup,
            seed,
            folder,
            simulator,
            portal.call,
            receivers,
            store=f"sqlite://{disk or folder}/gpuid.db" if server is None else server.new_database(),
            postgres=server,
            warehouse=None if server is None else server.new_database(),
            lake=lake,
            disk=disk,
        )
        world.links = stack.enter_context(linked(world.urls()))
        world.sinks = settings.first_sinks(world.links)
        world.configure()
        for process in world.processes:
            stack.callback(process.stop, signal.SIGKILL)
            process.start()
            until(functools.partial(_answers, process), seconds=START_SECONDS)
        try:
            yield world
        finally:
            if (freezing := world.extra.pop("freezing", None)) is not None:
                freezing.close()  # a server that is frozen could not be stopped
            for process in world.processes:
                if process.frozen:
                    process.resume()


def _answers(process: Member) -> bool:
    """Return whether it answers already; it must not have ended, unless PostgreSQL was too busy to respond."""
    if not process.running:
        why = process.tail()
        assert "the server did not respond in time" in why.rstrip().rpartition("\n")[2], (
            f"{process.name} has ended: {why}"
        )
        process.start()
    return process.get("/readyz") is not None


def _lake(stack: contextlib.ExitStack) -> tuple[str, Process] | None:
    """Start an S3 with an empty bucket, where its program is there."""
    try:
        url, process = stack.enter_context(s3.versitygw())
    except pytest.skip.Exception:
        if REQUIRE_ALL:
            raise
        return None
    client = s3.client(url)
    client.create_bucket(Bucket=s3.BUCKET)
    client.close()
    return url, process


def _disk(stack: contextlib.ExitStack, folder: Path) -> Path | None:
    """Mount a small disk, where that is allowed."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=REQUIRE_ALL).returncode:
        return None
    stack.callback(lambda: subprocess.run(["umount", "--lazy", folder], check=True))
    return folder
