"""`gpuid health`: is the collector alive, as an exit code."""

import http.client
import urllib.request
from pathlib import Path

import click

from collector import config as configuration
from collector.cli.endpoint import Endpoint, of_server, of_url, reason
from collector.cli.options import TIMEOUT, CommandError, found_config, optional_config_option
from collector.config import Duration, ServerSettings

__all__ = ["health"]


@click.command()
@optional_config_option
@click.option("--url", metavar="URL", help="The collector. Default: what the configuration's [server] says.")
@click.option("--timeout", type=TIMEOUT, default="5s", show_default=True, help="How long to wait for the answer.")
def health(config: Path | None, url: str | None, timeout: Duration) -> None:
    r"""Exit 0 when the collector on this machine answers /healthz, 1 when it does not.

    Made for the health check of a container image: it needs nothing but the configuration that the
    collector runs with, TLS included.

    \b
    Examples:
      gpuid health
      gpuid health --url http://127.0.0.1:8080
    """
    if url is not None:
        endpoint = of_url(url)
    else:
        path = config or found_config()
        endpoint = of_server(ServerSettings() if path is None else configuration.load(path).server)
    click.echo(f"{endpoint.url}: {_ask(endpoint, timeout)}")


def _ask(endpoint: Endpoint, timeout: float) -> str:
    # Never by a proxy, and /healthz moves nowhere.
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(context=endpoint.tls)):
        opener.add_handler(handler)
    try:
        with opener.open(f"{endpoint.url}/healthz", timeout=timeout) as answer:
            status = answer.status
    except TimeoutError as error:
        raise CommandError(f"{endpoint.url}: no answer within {timeout:g} s") from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # TLS and URL errors are OSErrors
        raise CommandError(f"{endpoint.url}: {reason(error)}") from error
    if status != 200:
        raise CommandError(f"{endpoint.url}: /healthz answers {status}")
    return "ok"
