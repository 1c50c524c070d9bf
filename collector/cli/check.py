"""`gpuid check`: checks every cluster, the store and every sink of a configuration, and prints the problems."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec

from collector import config as configuration
from collector.checks.check import Check, run_checks
from collector.checks.clusters import check_clusters
from collector.checks.finding import ClusterDetails, Finding, Subject
from collector.checks.sinks import SinkCheck
from collector.checks.stores import StoreCheck
from collector.cli.completion import complete_configured_cluster
from collector.cli.console import error_console, print_json
from collector.cli.logs import configure
from collector.cli.options import TIMEOUT, config_option
from collector.cli.suggestions import unknown_name
from collector.cli.table import print_table, result_style, table_width, wrapped
from collector.config import ClusterSettings, Config, ConfigError, Duration
from collector.text import counted, one_line

__all__ = ["check"]

_CLUSTER_COLUMNS = ("cluster", "version", "latency", "pods", "gpus", "result")
_WIDE_CLUSTER_COLUMNS = ("cluster", "version", "latency", "user", "pods", "gpus", "node", "driver_version", "result")
_DESTINATION_COLUMNS = ("destination", "type", "result")
_STYLES = {"result": result_style}


@click.command()
@config_option
@click.option(
    "--cluster",
    "names",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_configured_cluster,
    help="Check only this cluster; may be given several times.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "wide", "json")),
    default="table",
    show_default=True,
    help="Output format: wide has more columns than table; json has every detail.",
)
@click.option("--json", "output", flag_value="json", hidden=True, help="Same as -o json.")
@click.option("--timeout", type=TIMEOUT, default="30s", show_default=True, help="Timeout per check.")
@click.pass_context
def check(ctx: click.Context, config: Path, names: tuple[str, ...], output: str, timeout: Duration) -> None:
    r"""Check every cluster of the configuration, its store and its sinks.

    For each cluster, this checks reachability, identity and permissions (list and watch nodes and pods, exec
    or logs, and whatever else its settings need), counts the GPU pods and reads one of them. Where they do not
    cover every GPU node, it suggests a preset or sources that cover more. For the store and each sink, it checks
    reachability and write permission. No record is sent: a webhook gets an empty array, and an s3 bucket
    one small object, which is deleted. With --cluster, the store and the sinks are not checked. Exit code 1
    if any check fails.

    \b
    Examples:
      gpuid check
      gpuid check --cluster prod-us-east --timeout 5s
      gpuid check -o json | jq '.clusters[] | select(.ok | not)'
    """
    configure("error", "text")
    settings = configuration.load(config)
    clusters = _select(settings.clusters, names)
    with error_console().status(f"Checking {counted(len(clusters), 'cluster')} …"):
        findings = anyio.run(_check_all, settings, clusters, not names, timeout)
    if output == "json":
        print_json(_as_json(findings))
    else:
        _print(findings, wide=output == "wide")
    ctx.exit(0 if all(finding.ok for finding in findings) else 1)


def _select(clusters: Sequence[ClusterSettings], names: Sequence[str]) -> list[ClusterSettings]:
    known = [cluster.name for cluster in clusters]
    for name in names:
        if name not in known:
            raise ConfigError(f"--cluster: {unknown_name('cluster', name, known)}")
    return [cluster for cluster in clusters if not names or cluster.name in names]


async def _check_all(
    settings: Config, clusters: Sequence[ClusterSettings], destinations: bool, timeout: float
) -> list[Finding]:
    findings = await check_clusters(clusters, timeout)
    if destinations:
        checks: list[Check] = [] if settings.store is None else [StoreCheck(settings.store)]
        checks += [SinkCheck(name, sink) for name, sink in settings.sinks.items()]
        findings += await run_checks(checks, timeout)
    return findings


def _of(subject: Subject, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.subject is subject]


def _as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    stores = [_destination_json(finding) for finding in _of(Subject.STORE, findings)]
    return {
        "clusters": [_cluster_json(finding) for finding in _of(Subject.CLUSTER, findings)],
        "store": stores[0] if stores else None,
        "sinks": [_destination_json(finding) for finding in _of(Subject.SINK, findings)],
    }


def _cluster_json(finding: Finding) -> dict[str, Any]:
    details = finding.details or ClusterDetails(context=None)
    head = {"cluster": finding.name, "context": details.context, "ok": finding.ok}
    return head | msgspec.structs.asdict(details) | {"problems": finding.problems}


def _destination_json(finding: Finding) -> dict[str, Any]:
    return {"name": finding.name, "type": finding.type, "ok": finding.ok, "text": finding.text}


def _print(findings: Sequence[Finding], *, wide: bool) -> None:
    """Print a table that fits the terminal, with problems below it, or a wide one with each problem in its row."""
    clusters = _of(Subject.CLUSTER, findings)
    columns = _WIDE_CLUSTER_COLUMNS if wide else _CLUSTER_COLUMNS
    width = None if wide else table_width()
    rows = [{**_cluster_cells(finding), "result": _result(finding, whole=wide)} for finding in clusters]
    print_table(columns, ([row[column] for column in columns] for row in rows), styles=_STYLES, width=width)
    if not wide:
        _print_problems(clusters)
        click.echo("")
    click.echo(f"{sum(finding.ok for finding in clusters)} of {len(clusters)} clusters are ready.")
    if destinations := [*_of(Subject.STORE, findings), *_of(Subject.SINK, findings)]:
        click.echo("")
        cells = [[finding.name, finding.type, _result(finding, whole=wide)] for finding in destinations]
        print_table(_DESTINATION_COLUMNS, cells, styles=_STYLES, width=width)
        for finding in destinations:
            if not wide and not finding.ok:
                click.echo(f"\n{wrapped(f'{one_line(finding.name)}: {finding.text}')}")


def _print_problems(findings: Sequence[Finding]) -> None:
    for finding in findings:
        for problem in finding.problems:
            click.echo(f"\n{wrapped(f'{one_line(finding.name)}: {problem.text}')}")
            if problem.hint:
                click.echo(f"  {problem.hint}")  # on one line, as it may be meant for copying


def _cluster_cells(finding: Finding) -> dict[str, object]:
    details = finding.details or ClusterDetails(context=None)
    latency = details.latency_seconds
    ready, total = sum(pods.ready for pods in details.pods), sum(pods.total for pods in details.pods)
    return {
        "cluster": finding.name,
        "version": details.version,
        "latency": f"{latency * 1000:.0f} ms" if latency is not None else None,
        "user": details.user,
        "pods": f"{ready}/{total} ready" if details.pods else None,
        "gpus": details.gpus,
        "node": details.node if details.gpus is not None else None,
        "driver_version": details.driver_version,
    }


def _result(finding: Finding, *, whole: bool) -> str:
    if finding.ok:
        return f"ok ({finding.text})" if finding.text else "ok"
    return finding.text if whole else "failed"
