"""`gpuid status`: lists a running collector's problems, ranked, as text or JSON, with an exit code."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from collector.cli.client import Client, connection_options
from collector.cli.completion import complete_cluster
from collector.cli.console import output_console
from collector.cli.output import Output, age, layout_of, output_options, print_rows, taken
from collector.cli.table import wrapped
from collector.text import counted, one_line
from collector.views.columns import ProblemRow
from collector.views.problems.kinds import Severity

__all__ = ["status"]

_FOUND_EXIT_CODE = 1
_MAX_CLUSTERS = 10  # named below a problem
_MAX_GPUS = 3  # named below a problem
_MAX_NODES = 5  # likewise
_MARGIN = max(map(len, Severity)) + 2
_STYLES = {Severity.CRITICAL: "red", Severity.WARNING: "yellow"}

_LAYOUT = layout_of(ProblemRow)

Row = Mapping[str, Any]


@click.command()
@click.option(
    "--cluster",
    "clusters",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_cluster,
    help="Only the problems of this cluster.",
)
@output_options(_LAYOUT)
@connection_options
@click.pass_context
def status(ctx: click.Context, /, clusters: tuple[str, ...], output: Output, **options: Any) -> None:
    r"""List the problems of a running collector and its clusters, worst first.

    These are the problems on its page: of the configuration, the store, the sinks, and the clusters with their
    nodes and GPUs. The same trouble on many nodes is one problem, and its consequences are not listed.
    Exit code 0 if there are none, 1 if there are any, 2 if the collector does not respond.

    \b
    Examples:
      gpuid status
      gpuid status --cluster prod -o json | jq -r '.[] | select(.severity == "critical") | .title'
    """
    with Client(**options) as client:
        problems = client.problems(clusters)
    if output.format == "table":
        _print(list(taken(problems, output)), problems, headers=output.headers)
    else:
        print_rows(_LAYOUT, problems, output, nothing="No problems.", cells=_cells)
    ctx.exit(_FOUND_EXIT_CODE if problems else 0)


def _print(shown: Sequence[Row], problems: Sequence[Row], *, headers: bool) -> None:
    """Print problems and their number; without headers, only the problems go to standard output."""
    for problem in shown:
        _print_problem(problem)
    if not problems:
        click.echo("No problems.", err=not headers)
    elif headers:
        click.echo(f"\n{_counts(problems)}")


def _counts(problems: Sequence[Row]) -> str:
    found = Counter(one_line(problem["severity"]) for problem in problems)
    words = {Severity.WARNING: "warnings"}  # of several
    each = [
        f"{found[severity]:,} {severity if found[severity] == 1 else words.get(severity, severity)}"
        for severity in Severity
        if found[severity]
    ]
    return f"{counted(len(problems), 'problem')}{': ' if each else ''}{', '.join(each)}."


def _print_problem(problem: Row) -> None:
    """Print a problem: its title, and indented below it the details and what to do."""
    severity = one_line(problem["severity"])
    since = f", for {one_line(age(problem['since'], time.time()))}" if problem.get("since") else ""
    lines = _wrapped(one_line(problem["title"]) + since) + _wrapped(one_line(problem.get("reason")))
    for text in (_clusters(problem), _nodes(problem), *_gpus(problem)):
        lines += _wrapped(text)
    if remedy := one_line(problem.get("remedy")):
        lines += wrapped(f"→ {remedy}", _MARGIN).split("\n")
    _print_line(severity, lines[0] if lines else "")
    for line in lines[1:]:
        _print_line("", line)


def _cells(problem: Row) -> Row:
    """Return the cells that a wide table words differently: node names."""
    nodes = [_place(one) for one in _objects(problem.get("nodes"))]
    return {"nodes": ", ".join(nodes) + _more(problem.get("nodes_total"), len(nodes))}


def _clusters(problem: Row) -> str:
    """Return the first clusters of a problem, unless its title or nodes name them."""
    clusters, title = problem.get("clusters"), one_line(problem["title"])
    names = [one_line(one) for one in clusters] if isinstance(clusters, list) else []
    if all(name in title for name in names) or len(_objects(problem.get("nodes"))) > 1:
        return ""
    return ", ".join(names[:_MAX_CLUSTERS]) + _more(len(names), _MAX_CLUSTERS)


def _nodes(problem: Row) -> str:
    """Return the first nodes of a problem with several; the title names a single one."""
    nodes = _objects(problem.get("nodes"))
    if len(nodes) < 2:
        return ""
    return ", ".join(map(_place, nodes[:_MAX_NODES])) + _more(problem.get("nodes_total"), _MAX_NODES)


def _gpus(problem: Row) -> Iterator[str]:
    """Yield the first GPUs of a problem, each with where it is or was and when it was last seen."""
    gpus = _objects(problem.get("gpus"))
    places = {_place(gpu) for gpu in gpus}
    for gpu in gpus[:_MAX_GPUS]:
        told = {key: one_line(value) for key, value in gpu.items() if value not in (None, "")}
        words = [
            f"serial {told['serial']}" if "serial" in told else "",
            told.get("uuid", ""),
            f"on {_place(gpu)}" if len(places) > 1 else "",
            f"module {told['module']}" if "module" in told else "",
            f"bus {told['pci_bus_id']}" if "pci_bus_id" in told else "",
            f"last seen {told['seen_at']}" if "seen_at" in told else "",
        ]
        yield ", ".join(filter(None, words))
    total = problem.get("gpus_total")
    if isinstance(total, int) and total > _MAX_GPUS:
        yield f"and {counted(total - _MAX_GPUS, 'more GPU')} (see -o json)"


def _place(one: Row) -> str:
    return f"{one_line(one.get('node'))} ({one_line(one.get('cluster'))})"


def _objects(value: object) -> list[Row]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _more(total: object, shown: int) -> str:
    return f" and {total - shown:,} more" if isinstance(total, int) and total > shown else ""


def _print_line(severity: str, text: str) -> None:
    margin = severity.ljust(_MARGIN)
    if not sys.stdout.isatty():
        click.echo(margin + text)
        return
    from rich.text import Text  # here, because the command starts faster without it

    style = next((style for one, style in _STYLES.items() if one == severity), "")
    output_console().print(Text.assemble((margin, style), text), soft_wrap=True)


def _wrapped(text: str) -> list[str]:
    """Return a text wrapped to fit next to the margin."""
    return wrapped(text, _MARGIN, cut=True).split("\n") if text else []
