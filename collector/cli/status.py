"""`gpuid status`: what is wrong of a running collector, as text, JSON and an exit code."""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from collector.cli.client import Client, connection_options
from collector.cli.completion import complete_cluster
from collector.cli.console import output_console
from collector.cli.output import Output, layout_of, print_rows
from collector.text import counted, one_line
from collector.views.columns import ProblemRow

__all__ = ["status"]

_FOUND_EXIT_CODE = 1
_WIDTH = 80  # columns, where the output is no terminal
_MIN_WIDTH = 40
_MARGIN = len("severe  ")

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
@click.option(
    "-o", "--output", type=click.Choice(("text", "json")), default="text", show_default=True, help="Output format."
)
@click.option("--json", "output", flag_value="json", help="Same as -o json.")
@connection_options
@click.pass_context
def status(ctx: click.Context, /, clusters: tuple[str, ...], output: str, **options: Any) -> None:
    r"""List what is wrong of a running collector and its clusters, the severe problems first.

    They are the problems of its page: the configuration, the store, the sinks, and the clusters with their
    nodes and GPUs. Exit code 0 if there are none, 1 if there are any, 2 if the collector does not answer.

    \b
    Examples:
      gpuid status
      gpuid status --cluster prod -o json | jq -r '.[] | select(.severe) | .text'
    """
    with Client(**options) as client:
        problems = client.problems(clusters)
    if output == "json":
        print_rows(_LAYOUT, problems, Output(format="json"), nothing="No problems.")
    else:
        _print(problems)
    ctx.exit(_FOUND_EXIT_CODE if problems else 0)


def _print(problems: Sequence[Row]) -> None:
    for problem in problems:
        _print_problem(problem)
    severe = sum(bool(problem["severe"]) for problem in problems)
    counts = f"{counted(len(problems), 'problem')}, {severe} of them severe." if problems else "No problems."
    click.echo(f"\n{counts}" if problems else counts)


def _print_problem(problem: Row) -> None:
    """Print a problem: its head in the first line, and below it, indented, what else is known."""
    severity = "severe" if problem["severe"] else "minor"
    since = f", since {one_line(problem['since'])}" if problem.get("since") else ""
    head = f"{one_line(problem['subject'])} {one_line(problem['text'])}{since}"
    lines = _wrapped(head) + _wrapped(one_line(problem.get("detail")))
    _print_line(severity, lines[0])
    for line in lines[1:]:
        _print_line("", line)


def _print_line(severity: str, text: str) -> None:
    margin = severity.ljust(_MARGIN)
    if not sys.stdout.isatty():
        click.echo(margin + text)
        return
    from rich.text import Text  # here, because the command starts faster without it

    style = {"severe": "red", "minor": "yellow"}.get(severity, "")
    output_console().print(Text.assemble((margin, style), text), soft_wrap=True)


def _wrapped(text: str) -> list[str]:
    """Return a text in lines that fit beside the margin; no word is broken, so that names can be copied."""
    columns = shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stdout.isatty() else _WIDTH
    width = max(_MIN_WIDTH, columns) - _MARGIN
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
