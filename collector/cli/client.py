"""A client of a running collector, and the options that say where it is and how to be let in."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import click
import httpx
import msgspec

from collector import config as configuration
from collector.cli import endpoint as endpoints
from collector.cli.endpoint import Endpoint
from collector.cli.options import TIMEOUT, CommandError, found_config, optional_config_option
from collector.config import ConfigError, Duration, ServerSettings
from collector.text import one_line

__all__ = ["Client", "connection_options"]

_T = TypeVar("_T")
_PAGE = 10_000  # what the API gives at most


def connection_options(function: Any) -> Any:
    """Add the options that `Client` is made of."""
    function = click.option(
        "--timeout", type=TIMEOUT, default="30s", show_default=True, help="How long to wait for each answer."
    )(function)
    function = click.option(
        "--key", type=click.Path(path_type=Path), metavar="FILE", help="Its key, if it is in a file of its own."
    )(function)
    function = click.option(
        "--cert", type=click.Path(path_type=Path), metavar="FILE", help="Show this client certificate (PEM)."
    )(function)
    function = click.option(
        "--ca", type=click.Path(path_type=Path), metavar="FILE", help="Trust these authorities for HTTPS (PEM)."
    )(function)
    function = click.option(
        "--user", metavar="NAME", help="Send this user name, with the password from $GPUID_PASSWORD."
    )(function)
    function = click.option(
        "--token-file", type=click.Path(path_type=Path), metavar="FILE", help="Send this file's bearer token."
    )(function)
    function = optional_config_option(function)
    return click.option("--url", metavar="URL", help="The collector. Default: what the configuration's [server] says.")(
        function
    )


class Client:
    """Asks one collector; every failure is a Failure or ConfigError of one line."""

    def __init__(
        self,
        *,
        url: str | None,
        config: Path | None,
        token_file: Path | None,
        user: str | None,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        timeout: Duration,
    ) -> None:
        place = _endpoint(url, config, ca, cert, key)
        self._http = httpx.Client(
            base_url=place.url,
            verify=place.tls or True,
            auth=_basic(user),
            headers=_bearer(token_file, None if user else place.token_file),
            timeout=timeout,
            trust_env=url is not None,  # a proxy does not lead to this machine
        )

    def __enter__(self) -> Self:
        """Go on with it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, params: Mapping[str, str | Sequence[str]], kind: type[_T]) -> _T:
        """Ask one question; raises Failure."""
        where = str(self._http.base_url).rstrip("/")
        try:
            answer = self._http.get(path, params=params)
        except httpx.TimeoutException as error:
            raise CommandError(f"{where}: no answer in time") from error
        except httpx.HTTPError as error:
            raise CommandError(f"{where}: {endpoints.reason(error)}; is a collector running there?") from error
        if answer.status_code in {401, 403}:
            raise CommandError(
                f"{where}: answers {answer.status_code}; expected --token-file, or --user with $GPUID_PASSWORD"
            )
        if answer.status_code != 200:
            raise CommandError(f"{where}: {_refusal(answer)}")
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            raise CommandError(f"{where}: the answer is not a gpuid collector's") from error

    def gpus(self, filters: Mapping[str, Sequence[str]]) -> Iterator[list[dict[str, Any]]]:
        """Go through the pages of the GPUs that the filters admit; raises Failure."""
        for offset in itertools.count(step=_PAGE):
            page = self.get("/api/v1/gpus", {**filters, "limit": str(_PAGE), "offset": str(offset)}, _Page)
            yield page.gpus
            if offset + _PAGE >= page.total or not page.gpus:
                return


class _Page(msgspec.Struct):
    gpus: list[dict[str, Any]]
    total: int


class _Refusal(msgspec.Struct):
    error: str


def _refusal(answer: httpx.Response) -> str:
    """Give the API's own reason, or what any server's status line says."""
    try:
        return one_line(msgspec.json.decode(answer.content, type=_Refusal).error)
    except msgspec.DecodeError:
        return f"answers {answer.status_code} {answer.reason_phrase}".rstrip()


def _endpoint(url: str | None, config: Path | None, ca: Path | None, cert: Path | None, key: Path | None) -> Endpoint:
    own = endpoints.tls(ca=ca, cert=cert, key=key)
    if url is not None:
        return endpoints.of_url(url, own)
    path = config or found_config()
    place = endpoints.of_server(ServerSettings() if path is None else configuration.load(path).server)
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
