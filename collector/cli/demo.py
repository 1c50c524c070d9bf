"""`gpuid demo`: a simulated fleet, a collector on it, and the story of what happens to both."""

import functools
import itertools
import signal
import time
from collections.abc import Awaitable, Callable, Iterator

import anyio
import click

from collector import config
from collector.app.service import Service
from collector.cli.logs import LEVELS, configure
from collector.cli.options import DURATION, LISTEN, told
from collector.config import Duration, Listen
from collector.inventory import Inventory
from collector.model import ClusterState
from collector.simulator import Done, Placed, SimulatedCluster, Simulator
from collector.store import StoreSettings

__all__ = ["demo"]

_PAUSE = 4.0  # seconds between two events
_AWAY = 3.0  # seconds for which a cluster goes away
_NOTICE = 60.0  # seconds after which an event that was not noticed is said to be so
_LOOK = 0.02  # seconds between two looks at whether an event has been noticed


@click.command()
@click.option("--clusters", type=click.IntRange(1, 100), default=3, show_default=True, help="How many clusters.")
@click.option("--nodes", type=click.IntRange(1), default=20, show_default=True, help="Nodes in each cluster.")
@click.option("--gpus", type=click.IntRange(1, 16), default=8, show_default=True, help="GPUs in each node.")
@click.option("--listen", type=LISTEN, default="127.0.0.1:8080", show_default=True, help="Where the collector serves.")
@click.option("--for", "duration", type=DURATION, help="End after this time. Default: run until Ctrl-C.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="error", show_default=True, help="The collector's log, on stderr."
)
def demo(clusters: int, nodes: int, gpus: int, listen: Listen, duration: Duration | None, log_level: str) -> None:
    r"""See gpuid work: simulated clusters, the collector of `gpuid run` on them, and a few accidents.

    The simulated API servers speak HTTPS and WebSocket like real ones; nothing else is needed and nothing
    is left behind.

    \b
    Examples:
      gpuid demo
      gpuid demo --clusters 10 --nodes 100 --for 60s
    """
    configure(log_level, "text")
    simulator = Simulator(clusters=clusters, nodes=nodes, gpus=gpus)
    with told(lambda error: error.replace("server.listen", "--listen", 1)):
        anyio.run(_demo, simulator, listen, duration, backend_options={"use_uvloop": True})


async def _demo(simulator: Simulator, listen: Listen, duration: float | None) -> None:
    async with simulator:
        service = Service(_config(simulator, listen))
        async with anyio.create_task_group() as tasks:

            async def end_on_signal() -> None:
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async for _ in signals:
                        break
                tasks.cancel_scope.cancel()

            async def end_in_time(seconds: float) -> None:
                await anyio.sleep(seconds)
                tasks.cancel_scope.cancel()

            def ready(url: str) -> None:
                click.echo(_banner(simulator, url))
                tasks.start_soon(_Story(simulator, service).tell)

            tasks.start_soon(end_on_signal)
            if duration is not None:
                tasks.start_soon(end_in_time, duration)
            await service.run(ready=ready)
    click.echo("The demo is over.")


def _config(simulator: Simulator, listen: Listen) -> config.Config:
    kubeconfig = str(simulator.kubeconfig)
    return config.Config(
        clusters=tuple(config.ClusterSettings(context=name, kubeconfig=kubeconfig) for name in simulator.clusters),
        server=config.ServerSettings(listen=listen),
        # Beside the simulator's own files, so it goes with them.
        store=StoreSettings(url=f"sqlite://{simulator.kubeconfig.with_name('gpuid.db')}"),
    )


def _banner(simulator: Simulator, url: str) -> str:
    nodes = sum(len(cluster.nodes) for cluster in simulator.clusters.values())
    return "\n".join(
        (
            f"A simulated fleet of {len(simulator.clusters)} clusters with {nodes} GPU nodes, and gpuid watching it.",
            "",
            f"  page       {url}/",
            f"  metrics    {url}/metrics",
            f"  discovery  {url}/sd",
            f"  API        {url}/api/v1/gpus",
            f"  accidents  curl {simulator.control_url}   (make your own)",
            "",
            "Ctrl-C ends it.",
            "",
        )
    )


class _Story:
    """Lets things happen to the fleet, one after the other, and tells when gpuid has noticed."""

    def __init__(self, simulator: Simulator, service: Service) -> None:
        self._simulator = simulator
        self._service = service

    async def tell(self) -> None:
        """Go on until cancelled."""
        await self._happens("the collector has started", self._agrees)
        for act in self._acts():
            await anyio.sleep(_PAUSE)
            await act()

    def _acts(self) -> Iterator[Callable[[], Awaitable[None]]]:
        acts: tuple[Callable[[SimulatedCluster], Awaitable[None]], ...] = (
            self._move_gpu,
            self._reboot,
            self._swap_tray,
            self._go_away,
            self._delete_node,
        )
        clusters = itertools.cycle(self._simulator.clusters.values())
        for act, cluster in zip(itertools.cycle(acts), clusters, strict=False):
            yield functools.partial(act, cluster)

    async def _move_gpu(self, cluster: SimulatedCluster) -> None:
        names = list(self._simulator.clusters)
        neighbour = names[(names.index(cluster.name) + 1) % len(names)]
        if sum(len(each.nodes) for each in self._simulator.clusters.values()) < 2:
            return
        await self._does(cluster.move_gpu(to_cluster=neighbour))

    async def _swap_tray(self, cluster: SimulatedCluster) -> None:
        await self._does(cluster.swap_tray())

    async def _delete_node(self, cluster: SimulatedCluster) -> None:
        if len(cluster.nodes) > 1:
            await self._does(cluster.delete_node())
            await self._does(cluster.add_node())

    async def _reboot(self, cluster: SimulatedCluster) -> None:
        rebooted = time.time()
        done = cluster.reboot_node()
        (node,) = done.nodes

        def read_again() -> bool:
            entry = self._service.inventory.nodes(cluster.name).get(node)
            return entry is not None and entry.time is not None and entry.time > rebooted

        await self._does(done, read_again)

    async def _go_away(self, cluster: SimulatedCluster) -> None:
        def state() -> ClusterState:
            return self._service.clusters.statuses[cluster.name].state

        await self._does(await cluster.stop(), lambda: state() is not ClusterState.UP)
        await anyio.sleep(_AWAY)
        await self._does(await cluster.start(), lambda: state() is ClusterState.UP)

    async def _does(self, done: Done, noticed: Callable[[], bool] | None = None) -> None:
        await self._happens(done.message, noticed or self._agrees)

    async def _happens(self, what: str, noticed: Callable[[], bool]) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')}  {what}")
        started = time.monotonic()
        with anyio.move_on_after(_NOTICE) as scope:
            while not noticed():  # noqa: ASYNC110  a look from outside, as a user would; nothing announces it
                await anyio.sleep(_LOOK)
        gpus = sum(1 for _ in _published(self._service.inventory))
        after = "has not noticed" if scope.cancelled_caught else f"noticed after {time.monotonic() - started:.1f} s"
        click.echo(f"{time.strftime('%H:%M:%S')}    gpuid {after}; {gpus} GPUs are published")

    def _agrees(self) -> bool:
        return set(_published(self._service.inventory)) == self._simulator.fleet.expected()


def _published(inventory: Inventory) -> Iterator[Placed]:
    for cluster in inventory.clusters():
        for node, entry in inventory.nodes(cluster).items():
            for gpu in entry.gpus:
                yield Placed(cluster, node, gpu.uuid or "", gpu.serial or "", gpu.chassis or "", gpu.model or "")
