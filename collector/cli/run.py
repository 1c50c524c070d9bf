"""`gpuid run`: the collector, until a signal ends it."""

import logging
from pathlib import Path

import anyio
import click
from anyio.abc import TaskGroup

from collector.app import Service, load
from collector.cli.logs import configure
from collector.cli.options import config_option, log_options, reworded
from collector.cli.progress import show_first_inventory
from collector.cli.signals import stop_signals

__all__ = ["run"]

log = logging.getLogger(__name__)


@click.command()
@config_option
@log_options
def run(config: Path, log_level: str, log_format: str) -> None:
    r"""Collect from all clusters of a configuration and serve metrics, API and page.

    The configuration is reloaded on SIGHUP and when the file changes; clusters that have not changed keep
    running. SIGTERM and Ctrl-C stop the collector.

    \b
    Example:
      gpuid run -c gpuid.toml
    """
    configure(log_level, log_format)
    service = Service(load(config))
    with reworded(lambda error: f"{config}: {error}"):
        anyio.run(_run, service, config, backend_options={"use_uvloop": True})


async def _run(service: Service, path: Path) -> None:
    async with anyio.create_task_group() as tasks:
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
    tasks.cancel_scope.cancel()
