"""`gpuid simulate`: simulated Kubernetes API servers with a GPU fleet behind them, for any client."""

import shlex
import signal
import tempfile
from pathlib import Path

import anyio
import click

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
    help="Address and first port; the following ports are for the other servers. 0 takes any free ones.",
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
    """Run simulated Kubernetes API servers and print a kubeconfig for them.

    They speak what the real ones speak: lists, watches, exec, access reviews, tokens. Every client can be
    pointed at them. A control URL makes them misbehave: move a GPU, delete a node, drop connections.

    \b
    Examples:
      gpuid simulate --clusters 2 --nodes 5 --kubeconfig sim.kubeconfig
      gpuid init --kubeconfig sim.kubeconfig -o sim.toml && gpuid run -c sim.toml
      kubectl --kubeconfig sim.kubeconfig --context sim-0 get pods -A -w
    """  # noqa: D301  click reads the escape
    if output is not None and not force:
        _refuse_others(output)
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
        async with simulator:
            path = simulator.kubeconfig
            if output is not None:
                path = output
                _write(output, simulator.kubeconfig.read_text(encoding="utf-8"))
            click.echo(_banner(simulator, path))
            with anyio.move_on_after(duration):
                async for _ in signals:
                    break


def _banner(simulator: Simulator, path: Path) -> str:
    first, *_, last = [*simulator.clusters, *simulator.clusters]
    names = first if first == last else f"{first} … {last}"
    return "\n".join(
        (
            f"Simulating {len(simulator.clusters)} clusters until Ctrl-C.",
            "",
            f"Kubeconfig  {path}  (contexts {names})",
            f"  export KUBECONFIG={shlex.quote(str(path.resolve()))}",
            f"  kubectl --context {first} get pods -A -w",
            "",
            f"Control     {simulator.control_url}  (what it can do: curl {simulator.control_url})",
            f"  curl -X POST {simulator.control_url}/clusters/{first}/drop_connections",
        )
    )


def _refuse_others(path: Path) -> None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            own = file.readline() == _MARK
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if not own:
        raise ConfigError(f"{path}: exists and is not a simulator's kubeconfig; --force replaces it")


def _write(path: Path, text: str) -> None:
    """Put the kubeconfig in its place at once, whole, and readable by its owner alone, for it holds tokens."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.resolve().parent, prefix=f".{path.name}.", encoding="utf-8", delete=False
        ) as file:
            file.write(_MARK + text)
        Path(file.name).replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
