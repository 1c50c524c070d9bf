"""`gpuid run`: the collector, until a signal ends it or, with `--once`, until it has read and delivered everything."""

import functools
import logging
from pathlib import Path

import anyio
import click
from anyio.abc import TaskGroup

from collector.app import Outcome, Round, Service, load
from collector.cli.logs import configure
from collector.cli.once import print_outcome
from collector.cli.options import TIMEOUT, config_option, log_options, reworded
from collector.cli.progress import show_first_inventory
from collector.cli.shards import check_sharded, shard_options
from collector.cli.signals import run_until_stopped, stop_signals
from collector.config import Config, ConfigError, Duration
from collector.config.sinks import StdoutSettings
from collector.files import in_time
from collector.sharding import Shard
from collector.stop import process_stop
from collector.text import counted

__all__ = ["run"]

log = logging.getLogger(__name__)

ONCE_SECONDS = 600.0  # that a single round may take


@click.command()
@config_option
@click.option("--once", is_flag=True, help="Read every node, record and deliver what changed, print a summary, exit.")
@click.option("--timeout", type=TIMEOUT, help="With --once: give up what is not read after this time. Default: 10m.")
@shard_options
@log_options
@click.pass_context
def run(
    ctx: click.Context,
    config: Path,
    once: bool,
    timeout: Duration | None,
    shard: Shard,
    log_level: str,
    log_format: str,
) -> None:
    r"""Collect from all clusters of a configuration and serve metrics, API and page.

    The configuration is reloaded on SIGHUP and when the file changes; clusters that have not changed keep
    running. SIGTERM and Ctrl-C stop the collector within 8 seconds; a second one stops it at once.

    With --once, nothing is served: gpuid reads every GPU node of every cluster, records what changed since the
    last run, delivers it to the sinks, prints a summary and exits. What fails is retried for 30 seconds. Exit
    code 0 if everything was read, recorded and delivered, 1 if not, 2 for wrong input. What was not delivered
    stays in the store for the next run. The summary is on standard output, or on standard error if a sink
    writes to standard output.

    \b
    Examples:
      gpuid run -c gpuid.toml
      gpuid run -c gpuid.toml --shard 0 --total-shards 3     one of three that share a PostgreSQL store
      gpuid run --once --timeout 5m                          from cron or as a CronJob
    """
    if timeout is not None and not once:
        raise click.UsageError("--timeout needs --once")
    if once and shard.sharded:
        raise click.UsageError("--once reads all clusters: use it without --total-shards and $GPUID_TOTAL_SHARDS")
    configure(log_level, log_format)
    settings = _load(config, shard)
    round_ = Round() if once else None
    service = Service(settings, shard=shard, once=round_)
    process_stop.report = functools.partial(_report_losses, service)
    process_stop.is_complete = not once
    outcomes: list[Outcome] = []
    with reworded(lambda error: f"{config}: {error}"):
        if once:
            run_until_stopped(_run_once, service, timeout or ONCE_SECONDS, outcomes)
        else:
            run_until_stopped(_run, service, config)
    for outcome in outcomes:
        print_outcome(outcome, err=any(isinstance(sink, StdoutSettings) for sink in settings.sinks.values()))
        ctx.exit(0 if outcome.ok else 1)


def _load(path: Path, shard: Shard) -> Config:
    # In a thread, because Python gets no signal while the main thread hangs in a file system.
    try:
        config = in_time(path, functools.partial(load, path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    with reworded(lambda error: f"{path}: {error}"):
        check_sharded(config, shard)
    return config


async def _run(service: Service, path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        with service.end.calling(process_stop.begin):
            tasks.start_soon(_handle_signals, service, path, tasks, name="signals")

            def ready(url: str) -> None:
                log.info("serving on %s", url, extra={"config": str(path)})
                tasks.start_soon(show_first_inventory, service, name="progress")

            await service.run(ready=ready, reload_from=path)


async def _run_once(service: Service, timeout: float, outcomes: list[Outcome]) -> None:
    async with anyio.create_task_group() as tasks:
        with service.end.calling(process_stop.begin):
            tasks.start_soon(_handle_signals, service, None, tasks, name="signals")
            tasks.start_soon(show_first_inventory, service, name="progress")
            outcomes.append(await service.run_once(timeout=timeout))
            process_stop.is_complete = True
            tasks.cancel_scope.cancel()


async def _handle_signals(service: Service, path: Path | None, tasks: TaskGroup) -> None:
    def reload() -> None:
        if path is not None:
            tasks.start_soon(service.reload, path, name="reload")  # in its own task: reloading may take a while

    with stop_signals(on_hangup=reload) as stopped:
        received = await stopped()
    log.info("stopping on %s", received.name)
    service.end.begin(process_stop.since)
    tasks.cancel_scope.cancel()


def _report_losses(service: Service) -> None:
    """Log the changes that will never reach the store; called once, after everything else."""
    unstored, reason = service.unstored()
    if any(unstored):
        log.error(
            "%s and %s could not be stored; the next start records only where the GPUs are then",
            counted(unstored.changes, "change"),
            counted(unstored.records, "reading record"),
            extra={"reason": reason or "the store timed out", **unstored._asdict()},
        )
