"""`gpuid run`: the collector, until a signal ends it."""

import logging
import signal
from pathlib import Path

import anyio
import click
from anyio.abc import TaskGroup

from collector.app import Service, load
from collector.cli.logs import configure
from collector.cli.options import config_option, log_options, told
from collector.cli.progress import show_first_inventory

__all__ = ["run"]

log = logging.getLogger(__name__)


@click.command()
@config_option
@log_options
def run(config: Path, log_level: str, log_format: str) -> None:
    r"""Watch the clusters of a configuration and serve what is found.

    The configuration is read again on SIGHUP and when the file changes: clusters come, go and change
    without touching the others. SIGTERM and Ctrl-C end it.

    \b
    Example:
      gpuid run -c gpuid.toml
    """
    configure(log_level, log_format)
    service = Service(load(config))
    with told(lambda error: f"{config}: {error}"):
        anyio.run(_run, service, config, backend_options={"use_uvloop": True})


async def _run(service: Service, path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_obey_signals, service, path, tasks, name="signals")

        def ready(url: str) -> None:
            log.info("serving on %s", url, extra={"config": str(path)})
            tasks.start_soon(show_first_inventory, service, name="progress")

        await service.run(ready=ready, reload_from=path)


async def _obey_signals(service: Service, path: Path, tasks: TaskGroup) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for received in signals:
            if received is signal.SIGHUP:
                tasks.start_soon(service.reload, path, name="reload")  # which may wait; the end must not
            else:
                log.info("stopping on %s", received.name)
                tasks.cancel_scope.cancel()
                return
