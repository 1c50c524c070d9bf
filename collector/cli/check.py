"""`gpuid check`: tries every cluster, the store and every sink of a configuration and shows what is missing."""

import sys
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path

import anyio
import click
import msgspec
from rich.console import Console

from collector import config as configuration
from collector.checks.clusters import Finding, find_duplicates, try_cluster
from collector.cli.destinations import print_destinations, try_destinations
from collector.cli.logs import configure
from collector.cli.options import TIMEOUT, config_option
from collector.cli.table import print_table, result_style
from collector.config import ClusterSettings, ConfigError, Duration
from collector.model import NodeInfo
from collector.text import one_line

__all__ = ["check"]

_HEADINGS = ("cluster", "version", "latency", "user", "pods", "gpus", "result")
_AT_ONCE = 32  # clusters; each may start a credential plugin


@click.command()
@config_option
@click.option(
    "--cluster", "names", metavar="NAME", multiple=True, help="Only this cluster; may be given several times."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything that was found as JSON.")
@click.option("--timeout", type=TIMEOUT, default="30s", show_default=True, help="How long each of them may take.")
@click.pass_context
def check(ctx: click.Context, config: Path, names: tuple[str, ...], as_json: bool, timeout: Duration) -> None:
    r"""Try every cluster of the configuration, its store and its sinks, and tell what is missing.

    For each cluster: is it reachable, who are we there, may we list and watch pods and nodes and run a
    command in the pods, which pods are there, and what does nvidia-smi say in one of them. For the store
    and each sink: is it reachable, may we write there. Nothing is changed anywhere and no record is sent;
    with --cluster only clusters are tried. Exit code 1 when something fails.

    \b
    Examples:
      gpuid check
      gpuid check --cluster prod-us-east --timeout 5s
      gpuid check --json | jq '.clusters[] | select(.ok | not)'
    """
    configure("error", "text")
    settings = configuration.load(config)
    clusters = _chosen(settings.clusters, names)
    with Console(stderr=True).status(f"Trying {len(clusters)} cluster{'s' if len(clusters) > 1 else ''} …"):
        findings = anyio.run(_try_all, clusters, timeout)
        store, sinks = (None, []) if names else anyio.run(try_destinations, settings, timeout)
    destinations = [*([store] if store else []), *sinks]
    if as_json:
        found = {"clusters": findings, "store": store, "sinks": sinks}
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        _print(findings)
        print_destinations(destinations)
    ctx.exit(0 if all(one.ok for one in findings) and all(one.ok for one in destinations) else 1)


async def _try_all(clusters: Sequence[ClusterSettings], timeout: float) -> list[Finding]:
    findings: dict[str, Finding] = {}
    nodes: dict[str, list[NodeInfo]] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def one(cluster: ClusterSettings) -> None:
        async with limiter:
            findings[cluster.name] = await try_cluster(cluster, timeout, nodes)

    async with anyio.create_task_group() as tasks:
        for cluster in clusters:
            tasks.start_soon(one, cluster, name=f"check {cluster.name}")
    find_duplicates(clusters, findings, nodes)
    return [findings[cluster.name] for cluster in clusters]


def _chosen(clusters: Sequence[ClusterSettings], names: Sequence[str]) -> list[ClusterSettings]:
    known = [cluster.name for cluster in clusters]
    for name in names:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)
            raise ConfigError(f'--cluster: the configuration has no cluster "{name}"; did you mean "{nearest[0]}"?')
    return [cluster for cluster in clusters if not names or cluster.name in names]


def _print(findings: Collection[Finding]) -> None:
    """Print a table; a terminal has the problems below it, elsewhere a cluster is one line that grep finds."""
    terminal = sys.stdout.isatty()
    rows = [[*_cells(finding), _result(finding, whole=not terminal)] for finding in findings]
    print_table(_HEADINGS, rows, styles={"result": result_style})
    for finding in findings if terminal else ():
        for problem in finding.problems:
            click.echo(f"\n{one_line(finding.cluster)}: {problem.text}")
            if problem.hint:
                click.echo(f"  {problem.hint}")
    if terminal:
        click.echo("")
    click.echo(f"{sum(finding.ok for finding in findings)} of {len(findings)} clusters are ready.")


def _cells(finding: Finding) -> list[str]:
    latency = finding.latency_seconds
    ready, total = sum(pods.ready for pods in finding.pods), sum(pods.total for pods in finding.pods)
    driver = f" (driver {finding.driver_version})" if finding.driver_version else ""
    return [
        one_line(finding.cluster),
        finding.version or "",
        f"{latency * 1000:.0f} ms" if latency is not None else "",
        finding.user or "",
        f"{ready}/{total} ready" if finding.pods else "",
        f"{finding.gpus} on {finding.node}{driver}" if finding.gpus is not None else "",
    ]


def _result(finding: Finding, *, whole: bool) -> str:
    if finding.ok or not whole:
        return "ok" if finding.ok else "failed"
    return "; ".join(problem.text + (f" ({problem.hint})" if problem.hint else "") for problem in finding.problems)
