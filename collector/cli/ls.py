"""`gpuid ls`: the GPUs of a running collector."""

import csv
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec

from collector import config as configuration
from collector.cli import endpoint as endpoints
from collector.cli.endpoint import Endpoint
from collector.cli.options import DURATION, Failure, found_config, optional_config_option
from collector.cli.text import one_line
from collector.config import ConfigError, Duration, Server
from collector.model import Gpu

__all__ = ["ls"]

_FILTERS = ("cluster", "node", "serial", "uuid", "model", "chassis", "machine")
_TERMS = ("serial", "uuid", "chassis", "node")  # what the positional TERM may be
_PAGE = 10_000  # what the API gives at most

_TABLE = ("cluster", "node", "serial", "uuid", "model", "chassis")
_WIDE = (*_TABLE, "slot", "tray", "host", "module", "machine", "pci_bus_id", "since", "confirmed")
_ALL = ("cluster", "node", "machine", *Gpu.__struct_fields__, "since", "confirmed")


def _filter_options(function: Any) -> Any:
    for name in reversed(_FILTERS):
        function = click.option(f"--{name}", metavar="VALUE", multiple=True, help=f"Only GPUs of this {name}.")(
            function
        )
    return function


@click.command()
@click.argument("term", required=False)
@_filter_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "wide", "json", "csv")),
    default="table",
    show_default=True,
    help="The form: table and wide (more columns) for people, json and csv (everything) for programs.",
)
@click.option("--url", metavar="URL", help="The collector. Default: what the configuration's [server] says.")
@optional_config_option
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="Send this file's bearer token.")
@click.option("--user", metavar="NAME", help="Send this user name, with the password from $GPUID_PASSWORD.")
@click.option("--ca", type=click.Path(path_type=Path), metavar="FILE", help="Trust these authorities for HTTPS (PEM).")
@click.option("--cert", type=click.Path(path_type=Path), metavar="FILE", help="Show this client certificate (PEM).")
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="Its key, if it is in a file of its own.")
@click.option("--timeout", type=DURATION, default="30s", show_default=True, help="How long to wait for each answer.")
def ls(
    term: str | None,
    output: str,
    url: str | None,
    config: Path | None,
    token_file: Path | None,
    user: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    timeout: Duration,
    **filters: tuple[str, ...],
) -> None:
    r"""List the GPUs of a running collector; TERM finds a serial, UUID, chassis or node.

    A filter that is given several times admits any of its values; different filters must all hold.
    Without --url and without a configuration, the collector is looked for on http://127.0.0.1:8080.

    \b
    Examples:
      gpuid ls                                     every GPU
      gpuid ls 1652922001234                       one serial, UUID, chassis or node
      gpuid ls --cluster prod --model "NVIDIA H100 80GB HBM3" -o wide
      gpuid ls -o json | jq -r '.[].uuid'
      gpuid ls --url https://gpuid.example.com --token-file ~/.gpuid-token -o csv > gpus.csv
    """
    place = _endpoint(url, config, ca, cert, key)
    with httpx.Client(
        base_url=place.url,
        verify=place.tls or True,
        auth=_basic(user),
        headers=_bearer(token_file, None if user else place.token_file),
        timeout=timeout,
        trust_env=url is not None,  # a proxy does not lead to this machine
    ) as client:
        gpus = _gpus(client, term, {name: values for name, values in filters.items() if values})
        first = list(itertools.islice(gpus, 1))  # nothing is printed for a collector that does not answer
        found = _PRINTERS[output](itertools.chain(first, gpus))
    if not found:
        click.echo("No GPUs found.", err=True)


def _endpoint(url: str | None, config: Path | None, ca: Path | None, cert: Path | None, key: Path | None) -> Endpoint:
    own = endpoints.tls(ca=ca, cert=cert, key=key)
    if url is not None:
        return endpoints.of_url(url, own)
    path = config or found_config()
    place = endpoints.of_server(Server() if path is None else configuration.load(path).server)
    return place._replace(tls=own or place.tls)


def _basic(user: str | None) -> httpx.BasicAuth | None:
    if user is None:
        return None
    password = os.environ.get("GPUID_PASSWORD")
    if password is None:
        raise click.UsageError("--user: expected its password in $GPUID_PASSWORD")
    return httpx.BasicAuth(user, password)


def _bearer(given: Path | None, configured: Path | None) -> dict[str, str]:
    path = given or configured
    if path is None:
        return {}
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        option = "--token-file" if given else "server.bearer_token_file"
        raise ConfigError(f"{option}: {path}: {getattr(error, 'strerror', None) or 'expected a token'}") from error
    return {"Authorization": f"Bearer {token}"}


_Filters = Mapping[str, Sequence[str]]


class _Page(msgspec.Struct):
    gpus: list[dict[str, Any]]
    total: int


def _gpus(client: httpx.Client, term: str | None, filters: _Filters) -> Iterator[dict[str, Any]]:
    """Go through the pages of every question, each GPU once."""
    if term is None:
        yield from _pages(client, filters)
        return
    seen: set[tuple[Any, ...]] = set()
    for name in _TERMS:
        if term not in filters.get(name, (term,)):
            continue
        for gpu in _pages(client, {**filters, name: (term,)}):
            key = tuple(map(gpu.get, ("cluster", "node", "uuid", "serial")))
            if key not in seen:
                seen.add(key)
                yield gpu


def _pages(client: httpx.Client, filters: _Filters) -> Iterator[dict[str, Any]]:
    for offset in itertools.count(step=_PAGE):
        page = _get(client, {**filters, "limit": (str(_PAGE),), "offset": (str(offset),)})
        yield from page.gpus
        if offset + _PAGE >= page.total or not page.gpus:
            return


def _get(client: httpx.Client, params: _Filters) -> _Page:
    where = str(client.base_url).rstrip("/")
    try:
        answer = client.get("/api/v1/gpus", params=params)
    except httpx.TimeoutException as error:
        raise Failure(f"{where}: no answer in time") from error
    except httpx.HTTPError as error:
        raise Failure(f"{where}: {endpoints.reason(error)}; is a collector running there?") from error
    if answer.status_code in {401, 403}:
        raise Failure(f"{where}: answers {answer.status_code}; expected --token-file, or --user with $GPUID_PASSWORD")
    if answer.status_code != 200:
        raise Failure(f"{where}: answers {answer.status_code} {answer.reason_phrase}".rstrip())
    try:
        return msgspec.json.decode(answer.content, type=_Page)
    except msgspec.DecodeError as error:
        raise Failure(f"{where}: the answer is not a gpuid collector's") from error


def _print_table(gpus: Iterator[dict[str, Any]], columns: Sequence[str] = _TABLE) -> int:
    """Print page by page, so that a large fleet's first lines come at once; columns only ever widen."""
    heading = [column.removesuffix("_version").upper() for column in columns]
    widths = [len(text) for text in heading]
    found = 0
    while True:
        page = [[one_line(gpu.get(column)) or "-" for column in columns] for gpu in itertools.islice(gpus, _PAGE)]
        for row in page:
            widths = [max(width, len(text)) for width, text in zip(widths, row, strict=True)]
        if found == 0:
            line = _line(heading, widths)
            click.echo(click.style(line, bold=True) if "NO_COLOR" not in os.environ else line)
        if not page:
            return found
        click.echo("\n".join(_line(row, widths) for row in page))
        found += len(page)


def _print_wide(gpus: Iterator[dict[str, Any]]) -> int:
    return _print_table(gpus, _WIDE)


def _print_csv(gpus: Iterator[dict[str, Any]]) -> int:
    table = csv.DictWriter(sys.stdout, _ALL, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    found = 0
    for found, gpu in enumerate(gpus, 1):  # noqa: B007
        table.writerow({name: str(value).lower() if isinstance(value, bool) else value for name, value in gpu.items()})
    return found


def _print_json(gpus: Iterator[dict[str, Any]]) -> int:
    """Print one array with one GPU a line: both jq and grep can read it, and it need not fit into memory."""
    found = 0
    for found, gpu in enumerate(gpus, 1):
        click.echo(("[\n" if found == 1 else ",\n") + msgspec.json.encode(gpu).decode(), nl=False)
    click.echo("\n]" if found else "[]")
    return found


_PRINTERS = {"table": _print_table, "wide": _print_wide, "csv": _print_csv, "json": _print_json}


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
