"""`gpuid health`: reports as its exit code whether a collector responds."""

import http.client
import urllib.request
from pathlib import Path

import click

from collector import config as configuration
from collector.cli.endpoint import Endpoint, connection_problem, server_endpoint, url_endpoint
from collector.cli.errors import CommandError
from collector.cli.options import TIMEOUT, found_config, optional_config_option, url_option
from collector.config import Duration, ServerSettings
from collector.text import describe_redirect

__all__ = ["health"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@click.command()
@optional_config_option
@url_option
@click.option("--timeout", type=TIMEOUT, default="5s", show_default=True, help="Timeout of the request.")
def health(config: Path | None, url: str | None, timeout: Duration) -> None:
    r"""Exit with 0 if the collector on this machine responds to /healthz, else with 1.

    Made for container health checks: it needs only the collector's own configuration, including for TLS.

    \b
    Examples:
      gpuid health
      gpuid health --url http://127.0.0.1:8080
    """
    if url is not None:
        endpoint = url_endpoint(url)
    else:
        path = config or found_config()
        endpoint = server_endpoint(
            ServerSettings() if path is None else configuration.load(path).server, identify=False
        )
    click.echo(f"{endpoint.url}: {_ask(endpoint, timeout)}")


def _ask(endpoint: Endpoint, timeout: float) -> str:
    # Without proxies and redirects: the collector is on this machine.
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(context=endpoint.tls)):
        opener.add_handler(handler)
    try:
        with opener.open(f"{endpoint.url}/healthz", timeout=timeout) as answer:
            status, location = answer.status, answer.headers.get("Location")
    except TimeoutError as error:
        raise CommandError(f"{endpoint.url}: no answer within {timeout:g} s") from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # TLS and URL errors are OSErrors
        raise CommandError(f"{endpoint.url}: {connection_problem(error)}") from error
    if status in _REDIRECTS:
        raise CommandError(f"{endpoint.url}: {describe_redirect(status, location, '--url')}")
    if status != 200:
        raise CommandError(f"{endpoint.url}: /healthz responds with {status}")
    return "ok"
