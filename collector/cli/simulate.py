"""`gpuid simulate`: simulated Kubernetes API servers with a GPU fleet behind them, for any client."""

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio
import click
import watchfiles

from collector.cli.options import DURATION, LISTEN
from collector.cli.signals import run_until_stopped, stop_signals
from collector.config import ConfigError, Duration, Listen
from collector.simulator import DEFAULT_SHAPE, DRIVER_FORMS, SHAPES, Simulator
from collector.text import counted, describe_os_error

__all__ = ["simulate"]

_CLUSTERS = 3  # if neither their number nor their shapes are given
_FIRST_LINE = "# Written by gpuid simulate.\n"


@click.command()
@click.option("--clusters", type=click.IntRange(1), help="Number of clusters. Default: 3, or one for each --shape.")
@click.option(
    "--shape",
    "shapes",
    metavar="NAME",
    type=click.Choice([*SHAPES, "all"]),
    multiple=True,
    help=f"Distribution to imitate; repeat for several, used in rotation: {', '.join(SHAPES)}, or all. "
    f"[default: {DEFAULT_SHAPE.name}]",
)
@click.option(
    "--driver",
    "drivers",
    metavar="FORM",
    type=click.Choice(list(DRIVER_FORMS)),
    multiple=True,
    help=f"Driver to imitate; repeat for several, used in rotation: {', '.join(DRIVER_FORMS)}. [default: 570]",
)
@click.option("--nodes", type=click.IntRange(0), default=20, show_default=True, help="Nodes per cluster.")
@click.option("--gpus", type=click.IntRange(0), default=8, show_default=True, help="GPUs per node.")
@click.option(
    "--kubeconfig",
    "output",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Kubeconfig to write. Default: a temporary file, deleted at the end.",
)
@click.option("--force", is_flag=True, help="Replace OUT even if it was not written by gpuid simulate.")
@click.option("--latency", type=DURATION, default="50ms", show_default=True, help="Run time of nvidia-smi.")
@click.option(
    "--listen",
    type=LISTEN,
    default="127.0.0.1:0",
    show_default=True,
    help="Address and first port; the other clusters and the control URL use the following ones. 0: any free ports.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the fleet; the same seed gives the same fleet."
)
@click.option("--for", "duration", type=DURATION, help="Stop after this time. Default: run until Ctrl-C.")
def simulate(
    clusters: int | None,
    shapes: tuple[str, ...],
    drivers: tuple[str, ...],
    nodes: int,
    gpus: int,
    output: Path | None,
    force: bool,
    latency: Duration,
    listen: Listen,
    seed: int,
    duration: Duration | None,
) -> None:
    r"""Run simulated Kubernetes API servers and print a kubeconfig for them.

    They support lists, watches, exec, access reviews and tokens like real ones, for any client. A control URL
    injects faults and changes: move or wear out a GPU, delete a node, drop connections.

    \b
    Examples:
      gpuid simulate --clusters 2 --nodes 5 --kubeconfig sim.kubeconfig
      gpuid simulate --shape gke --shape helm
      gpuid init --kubeconfig sim.kubeconfig -f sim.toml && gpuid run -c sim.toml
      kubectl --kubeconfig sim.kubeconfig --context sim-0 get pods -A -w
    """
    if "all" in shapes:
        shapes = tuple(SHAPES)
    clusters = clusters or len(shapes) or _CLUSTERS
    if listen.port + clusters > 65535:
        raise click.BadParameter(
            f"{counted(clusters, 'cluster')} need {clusters + 1} ports from {listen.port} up", param_hint="--listen"
        )
    if output is not None:
        _check_replaceable(output, force=force)
    simulator = Simulator(
        clusters=clusters,
        nodes=nodes,
        gpus=gpus,
        latency=latency,
        host=listen.host or "0.0.0.0",  # noqa: S104  asked for
        ports=listen.port,
        seed=seed,
        shapes=shapes or (DEFAULT_SHAPE.name,),
        drivers=drivers,
    )
    run_until_stopped(_simulate, simulator, output, duration)


async def _simulate(simulator: Simulator, output: Path | None, duration: float | None) -> None:
    with stop_signals() as stopped:
        async with simulator, anyio.create_task_group() as tasks:
            stopping = anyio.Event()
            if output is not None:
                _copy(simulator.kubeconfig, output)
                tasks.start_soon(_keep_copied, simulator.kubeconfig, output, stopping)
            click.echo(_banner(simulator, output or simulator.kubeconfig, duration))
            with anyio.move_on_after(duration):
                await stopped()
            stopping.set()


async def _keep_copied(kubeconfig: Path, output: Path, stopping: anyio.Event) -> None:
    """Copy the kubeconfig whenever it changes, such as when tokens are rotated."""
    async for _ in watchfiles.awatch(kubeconfig.parent, step=50, stop_event=stopping):
        _copy(kubeconfig, output)


def _banner(simulator: Simulator, path: Path, duration: float | None) -> str:
    first, last = next(iter(simulator.clusters)), next(reversed(simulator.clusters))
    simulated = (
        f"{len(simulator.clusters)} clusters, contexts {first} … {last}," if first != last else f"cluster {first}"
    )
    shapes = {name: cluster.shape.name for name, cluster in simulator.clusters.items()}
    return "\n".join(
        (
            f"Simulating {simulated} {f'for {duration:g} s or ' if duration else ''}until Ctrl-C.",
            "",
            f"Kubeconfig  {path}",
            f"  export KUBECONFIG={shlex.quote(str(path.resolve()))}",
            f"  kubectl --context {first} get pods -A -w",
            "",
            *(_shapes(shapes) if set(shapes.values()) != {DEFAULT_SHAPE.name} else ()),
            f"Control     {simulator.control_url}",
            f"  curl {simulator.control_url}    lists the actions",
            f"  curl -X POST {simulator.control_url}/clusters/{first}/swap_tray",
        )
    )


def _shapes(shapes: Mapping[str, str]) -> Iterator[str]:
    """Yield lines with each cluster's shape, which is also the name of its preset."""
    first = "Presets"
    for name, shape in shapes.items():
        yield f"{first:<12}{name} {shape}"
        first = ""
    yield ""


def _check_replaceable(path: Path, *, force: bool) -> None:
    """Raise ConfigError for a file that `gpuid simulate` did not write."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            own = file.readline() == _FIRST_LINE
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: {describe_os_error(error, 'cannot be read')}") from error
    if not own and not force:
        raise ConfigError(f"{path}: exists and was not written by gpuid simulate; use --force to replace it")


def _copy(kubeconfig: Path, output: Path) -> None:
    """Replace a file with the kubeconfig atomically, readable only by its owner, since it holds tokens."""
    try:
        text = kubeconfig.read_text(encoding="utf-8")
        with tempfile.NamedTemporaryFile(
            "w", dir=output.resolve().parent, prefix=f".{output.name}.", encoding="utf-8", delete=False
        ) as file:
            file.write(_FIRST_LINE + text)
        Path(file.name).replace(output)
    except OSError as error:
        raise ConfigError(f"{output}: {describe_os_error(error, 'cannot be written')}") from error
