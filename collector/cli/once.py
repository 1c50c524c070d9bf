"""The summary of `gpuid run --once`: each cluster, what changed, and what the sinks were sent."""

import contextlib
import sys
from collections.abc import Sequence

import click

from collector.app.outcome import ClusterOutcome, Outcome, SinkOutcome
from collector.cli.table import print_table, result_style, table_width, wrapped
from collector.model import ClusterState
from collector.text import counted, one_line

__all__ = ["print_outcome"]

_COLUMNS = ("cluster", "nodes", "read", "gpus", "result")


def print_outcome(outcome: Outcome, *, err: bool) -> None:
    """Print what came of a round, on standard output or, with `err`, on standard error."""
    with contextlib.redirect_stdout(sys.stderr) if err else contextlib.nullcontext():
        rows = [(one.cluster, one.nodes, one.read, one.gpus, _result(one)) for one in outcome.clusters]
        print_table(_COLUMNS, rows, styles={"result": result_style}, width=table_width())
        for one in outcome.clusters:
            if not one.ok and one.message:
                click.echo(f"\n{wrapped(f'{one_line(one.cluster)}: {one_line(one.message)}')}")
        click.echo("")
        for line in _summary(outcome):
            click.echo(line)  # in one piece: paths and addresses are copied


def _result(one: ClusterOutcome) -> str:
    if one.state is ClusterState.DUPLICATE:
        return "ok (the same as another cluster)"
    if one.state is not ClusterState.UP:
        return one.state.value
    problems = [f"{count:,} {reason}" for reason, count in sorted(one.unread.items())]
    if one.labels_failed:
        problems.append("labels failed")
    if problems:
        return ", ".join(problems)
    return f"ok ({counted(one.pending, 'new node')} not ready)" if one.pending else "ok"


def _summary(outcome: Outcome) -> Sequence[str]:
    clusters = outcome.clusters
    nodes, gpus = sum(one.read for one in clusters), sum(one.gpus for one in clusters)
    read = f"{sum(one.ok for one in clusters)} of {counted(len(clusters), 'cluster')} read completely"
    lines = [f"{read}: {counted(nodes, 'node')}, {counted(gpus, 'GPU')}."]
    if outcome.unrecorded:
        lines.append(f"Not recorded or delivered: {one_line(outcome.unrecorded)}")
    elif outcome.store:
        total = sum(outcome.changes.values())
        each = ", ".join(f"{count:,} {event}" for event, count in sorted(outcome.changes.items()))
        lines.append(f"Recorded {counted(total, 'change')}{f' ({each})' if each else ''} in {outcome.store}.")
    else:
        lines.append("Nothing is recorded: the configuration has no [store].")
    return [*lines, *map(_delivery, outcome.sinks)]


def _delivery(one: SinkOutcome) -> str:
    line = f"Sink {one_line(one.sink)}: delivered {counted(one.delivered, 'record')}"
    if one.waiting:
        line += f"; {counted(one.waiting, 'record')} waiting for the next run"
    if one.rejected:
        line += f"; {counted(one.rejected, 'batch')} rejected (see `gpuid outbox letters`)"
    return f"{line}: {one_line(one.message)}" if one.message and not one.ok else f"{line}."
