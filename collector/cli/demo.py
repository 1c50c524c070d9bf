"""`gpuid demo`: a simulated fleet, a collector that watches it, and events that show how it reacts."""

import functools
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator

import anyio
import anyio.to_thread
import click

from collector import config
from collector.app.service import Service
from collector.cli.demo_past import write_past
from collector.cli.demo_story import DAY_SECONDS, PAST_DAYS, Story
from collector.cli.demo_teller import DRIVERS, tell
from collector.cli.logs import LEVELS, configure
from collector.cli.options import DURATION, LISTEN, reworded
from collector.cli.signals import run_until_stopped, stop_signals
from collector.config import Duration, Listen
from collector.inventory import Inventory
from collector.model import ClusterState, GpuidError, Place
from collector.simulator import Done, Placed, SimulatedCluster, SimulationError, Simulator
from collector.store import StoreSettings
from collector.text import counted
from collector.web import check_address

__all__ = ["demo"]

_EVENT_INTERVAL_SECONDS = 4.0
_OUTAGE_SECONDS = 3.0
_NOTICE_TIMEOUT_SECONDS = 60.0  # then the demo continues, even if gpuid has not noticed the event
_POLL_SECONDS = 0.02
_SIGHTS = 3  # pages linked in the banner


@click.command()
@click.option("--clusters", type=click.IntRange(1, 100), default=3, show_default=True, help="Number of clusters.")
@click.option("--nodes", type=click.IntRange(1), default=20, show_default=True, help="Nodes per cluster.")
@click.option("--gpus", type=click.IntRange(1, 16), default=8, show_default=True, help="GPUs per node.")
@click.option("--listen", type=LISTEN, default="127.0.0.1:8080", show_default=True, help="Address of the collector.")
@click.option("--for", "duration", type=DURATION, help="Stop after this time. Default: run until Ctrl-C.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="error", show_default=True, help="Minimum log level, on stderr."
)
def demo(clusters: int, nodes: int, gpus: int, listen: Listen, duration: Duration | None, log_level: str) -> None:
    r"""Run simulated clusters and a collector that watches them, and inject a few faults.

    The simulated API servers speak HTTPS and WebSocket like real ones. The fleet has a made-up history of 60 days,
    with one GPU for each kind of problem. It needs nothing else and leaves nothing behind.

    \b
    Examples:
      gpuid demo
      gpuid demo --clusters 10 --nodes 100 --for 60s
    """
    configure(log_level, "text")
    simulator = Simulator(clusters=clusters, nodes=nodes, gpus=gpus, drivers=DRIVERS, age=PAST_DAYS * DAY_SECONDS)
    with reworded(lambda error: error.replace("server.listen", "--listen", 1)):
        run_until_stopped(_demo, simulator, listen, duration)


async def _demo(simulator: Simulator, listen: Listen, duration: float | None) -> None:
    with stop_signals() as stopped:  # before anything could be left behind
        async with anyio.create_task_group() as tasks:

            async def stop() -> None:
                await stopped()
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop)
            await check_address(listen)  # before any expensive work
            story = await anyio.to_thread.run_sync(tell, simulator.fleet, simulator.drivers, abandon_on_cancel=True)
            async with simulator:
                # In the simulator's own temporary folder, which is deleted at the end.
                store = StoreSettings(url=f"sqlite://{simulator.kubeconfig.with_name('gpuid.db')}")
                await write_past(story, simulator, store)
                service = Service(_config(simulator, listen, store))

                def ready(url: str) -> None:
                    click.echo(_banner(simulator, story, url))
                    tasks.start_soon(_Scenario(simulator, service, story).run)

                with anyio.move_on_after(duration):
                    await service.run(ready=ready)
                tasks.cancel_scope.cancel()
    click.echo("Demo stopped.")


def _config(simulator: Simulator, listen: Listen, store: StoreSettings) -> config.Config:
    kubeconfig = str(simulator.kubeconfig)
    return config.Config(
        clusters=tuple(config.ClusterSettings(context=name, kubeconfig=kubeconfig) for name in simulator.clusters),
        server=config.ServerSettings(listen=listen),
        store=store,
    )


def _banner(simulator: Simulator, story: Story, url: str) -> str:
    nodes = sum(len(cluster.nodes) for cluster in simulator.clusters.values())
    return "\n".join(
        (
            f"gpuid is watching a simulated fleet of {counted(len(simulator.clusters), 'cluster')}"
            f" with {counted(nodes, 'GPU node')}.",
            "",
            f"  page       {url}/",
            f"  metrics    {url}/metrics",
            f"  discovery  {url}/sd",
            f"  API        {url}/api/v1/gpus",
            f"  faults     curl {simulator.control_url}   (inject your own)",
            "",
            *_sights(story, url),
            "Press Ctrl-C to stop.",
            "",
        )
    )


def _sights(story: Story, url: str) -> Iterator[str]:
    """Yield lines with the pages to look at first, if there are any."""
    if story.sights:
        yield "It has a made-up history of 60 days, with one fault of each kind. Look here first:"
        yield ""
        for number, sight in enumerate(story.sights[:_SIGHTS], 1):
            yield f"  {number}  {sight.title}"
            yield f"     {url}{sight.path}"
        yield ""


class _Scenario:
    """Changes the fleet, one event at a time, and prints when gpuid notices."""

    def __init__(self, simulator: Simulator, service: Service, story: Story | None = None) -> None:
        self._simulator = simulator
        self._service = service
        self._story = story or Story()
        self._troubled = self._story.troubled
        self._random = random.Random(0)  # noqa: S311  the events must be the same each time
        self._started = time.time()

    async def run(self) -> None:
        """Run until cancelled; events that are not possible are skipped."""
        await self._watch("the collector started", self._has_read_all)
        for event in self._events():
            await anyio.sleep(_EVENT_INTERVAL_SECONDS)
            try:
                await event()
            except GpuidError as error:  # such as in a fleet that the user changed
                click.echo(f"{time.strftime('%H:%M:%S')}  nothing: {error}")

    def _events(self) -> Iterator[Callable[[], Awaitable[None]]]:
        events: tuple[Callable[[SimulatedCluster], Awaitable[None]], ...] = (
            self._move_gpu,
            self._wear,
            self._reboot,
            self._swap_tray,
            self._stop_server,
            self._delete_node,
        )
        clusters = itertools.cycle(self._simulator.clusters.values())
        for event, cluster in zip(itertools.cycle(events), clusters, strict=False):
            yield functools.partial(event, cluster)

    async def _move_gpu(self, cluster: SimulatedCluster) -> None:
        names = list(self._simulator.clusters)
        neighbour = names[(names.index(cluster.name) + 1) % len(names)]
        if sum(len(each.nodes) for each in self._simulator.clusters.values()) < 2:
            return
        node = self._node(cluster)
        target = self._node(self._simulator.clusters[neighbour], other_than=Place(cluster.name, node))
        await self._watch_action(cluster.move_gpu(node=node, to_node=target, to_cluster=neighbour))

    def _node(self, cluster: SimulatedCluster, *, other_than: Place | None = None) -> str:
        """Return a random node of a cluster; nodes with a lasting problem only if there are no others."""
        nodes = [node for node in cluster.nodes if Place(cluster.name, node) != other_than]
        calm = [node for node in nodes if Place(cluster.name, node) not in self._troubled]
        if not nodes:
            raise SimulationError(f"{cluster.name}: no GPU nodes left")
        return self._random.choice(calm or nodes)

    async def _swap_tray(self, cluster: SimulatedCluster) -> None:
        await self._watch_action(cluster.swap_tray(self._node(cluster)))

    async def _delete_node(self, cluster: SimulatedCluster) -> None:
        if len(cluster.nodes) > 1:
            await self._watch_action(cluster.delete_node(self._node(cluster)))
            await self._watch_action(cluster.add_node())

    async def _wear(self, cluster: SimulatedCluster) -> None:
        done = cluster.wear_gpu(row_remap_pending=True, recovery_action="Reset")
        await self._watch_action(done, lambda: self._pending(done))
        await self._watch_action(cluster.reset_gpu(done.nodes[0], done.gpus[0]), lambda: not self._pending(done))

    def _pending(self, done: Done) -> bool:
        (node,), (uuid,) = done.nodes, done.gpus
        entry = self._service.inventory.node(Place(done.cluster, node))
        gpus = () if entry is None else entry.gpus
        return any(gpu.uuid == uuid and gpu.health is not None and gpu.health.row_remap_pending for gpu in gpus)

    async def _reboot(self, cluster: SimulatedCluster) -> None:
        rebooted = time.time()
        done = cluster.reboot_node(self._node(cluster))
        (node,) = done.nodes

        def read_again() -> bool:
            entry = self._service.inventory.nodes(cluster.name).get(node)
            return entry is not None and entry.time is not None and entry.time > rebooted

        await self._watch_action(done, read_again)

    async def _stop_server(self, cluster: SimulatedCluster) -> None:
        def state() -> ClusterState:
            return self._service.clusters.statuses[cluster.name].state

        await self._watch_action(await cluster.stop(), lambda: state() is not ClusterState.UP)
        await anyio.sleep(_OUTAGE_SECONDS)
        await self._watch_action(await cluster.start(), lambda: state() is ClusterState.UP)

    async def _watch_action(self, done: Done, noticed: Callable[[], bool] | None = None) -> None:
        await self._watch(done.message, noticed or self._is_current)

    async def _watch(self, event: str, noticed: Callable[[], bool]) -> None:
        """Print an event and how long it takes until `noticed`."""
        click.echo(f"{time.strftime('%H:%M:%S')}  {event}")
        started = time.monotonic()
        with anyio.move_on_after(_NOTICE_TIMEOUT_SECONDS) as scope:
            while not noticed():  # noqa: ASYNC110  seen from outside, as a user sees it; there is no event to wait for
                await anyio.sleep(_POLL_SECONDS)
        gpus = sum(1 for _ in _published(self._service.inventory))
        seconds = time.monotonic() - started
        result = (
            f"did not notice within {seconds:.0f} s" if scope.cancelled_caught else f"noticed after {seconds:.1f} s"
        )
        click.echo(f"{time.strftime('%H:%M:%S')}    gpuid {result}; {counted(gpus, 'GPU')} published")

    def _has_read_all(self) -> bool:
        inventory = self._service.inventory
        unreadable = {place for place, _ in self._story.unreadable}
        entries = (entry for cluster in inventory.clusters() for entry in inventory.nodes(cluster).values())
        times = [entry.time for entry in entries if entry.place not in unreadable]
        return all(time is not None and time > self._started for time in times) and self._is_current()

    def _is_current(self) -> bool:
        """Return whether the published GPUs are those of the fleet, except on nodes that cannot be read."""
        unreadable = {place for place, _ in self._story.unreadable}
        return _readable(_published(self._service.inventory), unreadable) == _readable(
            self._simulator.fleet.expected(), unreadable
        )


def _readable(gpus: Iterable[Placed], unreadable: Collection[Place]) -> set[Placed]:
    return {gpu for gpu in gpus if Place(gpu.cluster, gpu.node) not in unreadable}


def _published(inventory: Inventory) -> Iterator[Placed]:
    for cluster in inventory.clusters():
        for node, entry in inventory.nodes(cluster).items():
            lost = entry.lost_uuids
            for gpu in (gpu for gpu in entry.gpus if gpu.uuid not in lost):
                yield Placed(cluster, node, gpu.uuid, gpu.serial or "", gpu.chassis or "", gpu.model or "")
