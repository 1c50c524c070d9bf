"""`gpuid run`: the collector, until a signal ends it."""

import functools
import logging
from pathlib import Path

import anyio
import click
from anyio.abc import TaskGroup

from collector.app import Service, load
from collector.cli.logs import configure
from collector.cli.options import config_option, log_options, reworded
from collector.cli.progress import show_first_inventory
from collector.cli.shards import check_sharded, shard_options
from collector.cli.signals import run_until_stopped, stop_signals
from collector.config import Config, ConfigError
from collector.files import in_time
from collector.sharding import Shard
from collector.stop import process_stop
from collector.text import counted

__all__ = ["run"]

log = logging.getLogger(__name__)


@click.command()
@config_option
@shard_options
@log_options
def run(config: Path, shard: Shard, log_level: str, log_format: str) -> None:
    r"""Collect from all clusters of a configuration and serve metrics, API and page.

    The configuration is reloaded on SIGHUP and when the file changes; clusters that have not changed keep
    running. SIGTERM and Ctrl-C stop the collector within 8 seconds; a second one stops it at once.

    \b
    Examples:
      gpuid run -c gpuid.toml
      gpuid run -c gpuid.toml --shard 0 --total-shards 3     one of three that share a PostgreSQL store
    """
    configure(log_level, log_format)
    service = Service(_load(config, shard), shard=shard)
    process_stop.report = functools.partial(_report_losses, service)
    with reworded(lambda error: f"{config}: {error}"):
        run_until_stopped(_run, service, config)


def _load(path: Path, shard: Shard) -> Config:
    # In a thread, for a signal does not reach Python while the main one hangs in a file system.
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


async def _handle_signals(service: Service, path: Path, tasks: TaskGroup) -> None:
    def reload() -> None:
        tasks.start_soon(service.reload, path, name="reload")  # a task of its own: reloading may take a while

    with stop_signals(on_hangup=reload) as stopped:
        received = await stopped()
    log.info("stopping on %s", received.name)
    service.end.begin(process_stop.since)
    tasks.cancel_scope.cancel()


def _report_losses(service: Service) -> None:
    """Log what has happened to GPUs and is not in the store, and never will be; called once, when all else is done."""
    unstored, reason = service.unstored()
    if any(unstored):
        log.error(
            "%s and %s could not be stored; the next start records only where the GPUs are by then",
            counted(unstored.changes, "change"),
            counted(unstored.records, "reading record"),
            extra={"reason": reason or "the store did not answer in time", **unstored._asdict()},
        )
