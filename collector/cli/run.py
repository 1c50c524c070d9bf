"""`gpuid run`: runs the collector until a signal ends it."""

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
from collector.cli.signals import run_until_stopped, stop_signals
from collector.config import Config, ConfigError
from collector.files import in_time
from collector.stop import process_stop
from collector.text import counted

__all__ = ["run"]

log = logging.getLogger(__name__)


@click.command()
@config_option
@log_options
def run(config: Path, log_level: str, log_format: str) -> None:
    r"""Collect from all clusters of a configuration and serve metrics, API and page.

    The configuration is reloaded on SIGHUP and when the file changes; clusters that have not changed keep
    running. SIGTERM and Ctrl-C stop the collector within 8 seconds; a second one stops it at once.

    \b
    Example:
      gpuid run -c gpuid.toml
    """
    configure(log_level, log_format)
    service = Service(_load(config))
    process_stop.report = functools.partial(_report_losses, service)
    with reworded(lambda error: f"{config}: {error}"):
        run_until_stopped(_run, service, config)


def _load(config: Path) -> Config:
    # In a thread, because Python gets no signal while the main thread hangs in a file system.
    try:
        return in_time(config, functools.partial(load, config))
    except OSError as error:
        raise ConfigError(f"{config}: {error.strerror}") from None


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
