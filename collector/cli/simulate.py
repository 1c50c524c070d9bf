"""`gpuid simulate`: simulated Kubernetes API servers with a GPU fleet behind them, for any client."""

import shlex
import signal
import tempfile
from pathlib import Path

import anyio
import click
import watchfiles

from collector.cli.options import DURATION, LISTEN
from collector.config import ConfigError, Duration, Listen
from collector.simulator import Simulator

__all__ = ["simulate"]

_MARK = "# Written by gpuid simulate.\n"


@click.command()
@click.option("--clusters", type=click.IntRange(1), default=3, show_default=True, help="How many clusters.")
@click.option("--nodes", type=click.IntRange(0), default=20, show_default=True, help="Nodes in each cluster.")
@click.option("--gpus", type=click.IntRange(0), default=8, show_default=True, help="GPUs in each node.")
@click.option(
    "--kubeconfig",
    "output",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Where to write the kubeconfig. Default: a temporary file, deleted at the end.",
)
@click.option("--force", is_flag=True, help="Replace OUT even if it is not a simulator's kubeconfig.")
@click.option("--latency", type=DURATION, default="50ms", show_default=True, help="How long nvidia-smi takes.")
@click.option(
    "--listen",
    type=LISTEN,
    default="127.0.0.1:0",
    show_default=True,
    help="Address and first port; the next ones are the other clusters', then the control URL's. 0: any free ones.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same fleet.")
@click.option("--for", "duration", type=DURATION, help="End after this time. Default: run until Ctrl-C.")
def simulate(
    clusters: int,
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

    They speak what the real ones speak: lists, watches, exec, access reviews, tokens. Every client can be
    pointed at them. A control URL makes them misbehave: move a GPU, delete a node, drop connections.

    \b
    Examples:
      gpuid simulate --clusters 2 --nodes 5 --kubeconfig sim.kubeconfig
      gpuid init --kubeconfig sim.kubeconfig -o sim.toml && gpuid run -c sim.toml
      kubectl --kubeconfig sim.kubeconfig --context sim-0 get pods -A -w
    """
    if listen.port + clusters > 65535:
        raise click.BadParameter(
            f"{clusters} clusters need {clusters + 1} ports from {listen.port} on", param_hint="--listen"
        )
    if output is not None:
        _refuse_others(output, force=force)
    simulator = Simulator(
        clusters=clusters,
        nodes=nodes,
        gpus=gpus,
        latency=latency,
        host=listen.host or "0.0.0.0",  # noqa: S104  asked for
        ports=listen.port,
        seed=seed,
    )
    anyio.run(_simulate, simulator, output, duration, backend_options={"use_uvloop": True})


async def _simulate(simulator: Simulator, output: Path | None, duration: float | None) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with simulator, anyio.create_task_group() as tasks:
            ending = anyio.Event()
            if output is not None:
                _copy(simulator.kubeconfig, output)
                tasks.start_soon(_keep_copied, simulator.kubeconfig, output, ending)
            click.echo(_banner(simulator, output or simulator.kubeconfig, duration))
            with anyio.move_on_after(duration):
                async for _ in signals:
                    break
            ending.set()


async def _keep_copied(kubeconfig: Path, output: Path, ending: anyio.Event) -> None:
    """Follow the tokens, which can be told to change."""
    async for _ in watchfiles.awatch(kubeconfig.parent, step=50, stop_event=ending):
        _copy(kubeconfig, output)


def _banner(simulator: Simulator, path: Path, duration: float | None) -> str:
    first, last = next(iter(simulator.clusters)), next(reversed(simulator.clusters))
    what = f"{len(simulator.clusters)} clusters, contexts {first} … {last}," if first != last else f"cluster {first}"
    return "\n".join(
        (
            f"Simulating {what} {f'for {duration:g} s or ' if duration else ''}until Ctrl-C.",
            "",
            f"Kubeconfig  {path}",
            f"  export KUBECONFIG={shlex.quote(str(path.resolve()))}",
            f"  kubectl --context {first} get pods -A -w",
            "",
            f"Control     {simulator.control_url}",
            f"  curl {simulator.control_url}    lists what it can do",
            f"  curl -X POST {simulator.control_url}/clusters/{first}/swap_tray",
        )
    )


def _refuse_others(path: Path, *, force: bool) -> None:
    """Leave a file alone that somebody else has written."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            own = file.readline() == _MARK
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if not own and not force:
        raise ConfigError(f"{path}: exists and is not a simulator's kubeconfig; --force replaces it")


def _copy(kubeconfig: Path, output: Path) -> None:
    """Put the kubeconfig in its place at once, whole, and readable by its owner alone, for it holds tokens."""
    try:
        text = kubeconfig.read_text(encoding="utf-8")
        with tempfile.NamedTemporaryFile(
            "w", dir=output.resolve().parent, prefix=f".{output.name}.", encoding="utf-8", delete=False
        ) as file:
            file.write(_MARK + text)
        Path(file.name).replace(output)
    except OSError as error:
        raise ConfigError(f"{output}: {error.strerror}") from error
