"""A client of a running collector, and the options for its address and authentication."""

import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self, TypeVar

import click
import httpx
import msgspec

from collector import config as configuration
from collector.cli.endpoint import Endpoint, client_tls, connection_problem, server_endpoint, url_endpoint
from collector.cli.errors import CommandError
from collector.cli.options import TIMEOUT, found_config, optional_config_option, url_option
from collector.cli.suggestions import unknown_name
from collector.config import ConfigError, Duration, ServerSettings
from collector.files import UnreadableFileError, read_secret
from collector.redaction import Secrets
from collector.text import describe_redirect

__all__ = [
    "MAX_PAGE_SIZE",
    "Client",
    "NoAnswerError",
    "NotFoundError",
    "RefusedError",
    "check_clusters",
    "connection_options",
]

MAX_PAGE_SIZE = 10_000  # most rows that the API returns

_UNKNOWN_PARAMETER = "unknown_parameter"
_OLDER = "the collector may be older than this command"
_NOT_FOUND = "not_found"  # the code for something that does not exist
_UNKNOWN_PATH = "unknown_path"
_CLUSTER_KEYS = frozenset({"cluster", "up", "nodes", "nodes_read", "gpus"})
_NODE_KEYS = frozenset({"cluster", "node"})
_PROBLEM_KEYS = frozenset({"severity", "title"})
_GPU_KEYS = frozenset({"cluster", "node", "uuid", "serial", "confirmed_at"})

_T = TypeVar("_T")
_FILE = click.Path(path_type=Path)


def connection_options(function: Any) -> Any:
    """Add the options from which `Client` is built."""
    options = (
        url_option,
        optional_config_option,
        click.option("--token-file", type=_FILE, metavar="FILE", help="File with a bearer token."),
        click.option("--user", metavar="NAME", help="User name for basic auth; the password is in $GPUID_PASSWORD."),
        click.option("--ca", type=_FILE, metavar="FILE", help="CA bundle (PEM). Default: the system's CAs."),
        click.option("--cert", type=_FILE, metavar="FILE", help="Client certificate (PEM)."),
        click.option("--key", type=_FILE, metavar="FILE", help="Private key (PEM), if separate."),
        click.option("--timeout", type=TIMEOUT, default="30s", show_default=True, help="Timeout per request."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def check_clusters(client: "Client", names: Sequence[str]) -> None:
    """Raise ConfigError for a cluster that the collector does not have, suggesting the name probably meant."""
    if not names:
        return
    known = [str(row["cluster"]) for row in client.clusters()]
    if unknown := next((name for name in names if name not in known), None):
        raise ConfigError(unknown_name("cluster", unknown, known))


class NoAnswerError(CommandError):
    """The collector could not be reached or did not respond: nothing is known about what exists."""

    exit_code = 2


class RefusedError(CommandError):
    """The collector rejected the request."""

    exit_code = 2


class NotFoundError(RefusedError):
    """The collector answered that there is no such object."""

    exit_code = 1


_ERRORS: Mapping[int, type[CommandError]] = MappingProxyType({400: RefusedError, 404: RefusedError, 409: RefusedError})


class Client:
    """Queries one collector; every failure is a one-line NoAnswerError, RefusedError or ConfigError."""

    def __init__(
        self,
        *,
        url: str | None,
        config: Path | None = None,
        token_file: Path | None = None,
        user: str | None = None,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        timeout: Duration,
        page_size: int = MAX_PAGE_SIZE,
    ) -> None:
        endpoint = _endpoint(url, config, client_tls(ca=ca, cert=cert, key=key))
        headers = _bearer(token_file, None if user else endpoint.token_file)
        self._page_size = page_size
        self._secrets = Secrets(os.environ.get("GPUID_PASSWORD") if user else None, headers.get("Authorization"))
        self._secrets.add_url(endpoint.url)
        try:
            self._where = str(httpx.URL(endpoint.url).copy_with(userinfo=b""))  # it may contain a password
        except httpx.InvalidURL as error:
            raise ConfigError(f"--url: {error}") from None
        try:
            self._http = httpx.Client(
                base_url=endpoint.url,
                verify=endpoint.tls or True,
                auth=_basic(user),
                headers=headers,
                timeout=timeout,
                follow_redirects=False,
                event_hooks={"response": [self._refuse_redirect]},
                trust_env=url is not None,  # a proxy cannot reach this machine's loopback
            )
        except (ValueError, httpx.InvalidURL):
            raise ConfigError("invalid proxy in HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY") from None

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, params: Mapping[str, str | Sequence[str]], kind: type[_T]) -> _T:
        """Return the decoded answer to one request; raises NoAnswerError."""
        return self._ask("GET", path, kind, params=params)

    def send(self, method: str, path: str, body: object, kind: type[_T]) -> _T:
        """Send a request, with a JSON body unless it is None, and return the decoded answer."""
        return self._ask(method, path, kind, **({} if body is None else {"json": body}))

    def ask_text(self, path: str, text: str, kind: type[_T]) -> _T:
        """Return the decoded answer to a query that is a text, too long for a URL."""
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        return self._ask("POST", path, kind, content=text.encode(), headers=headers)

    def _ask(self, method: str, path: str, kind: type[_T], **request: Any) -> _T:
        where = self._where
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TimeoutException as error:
            raise NoAnswerError(f"{where}: timed out") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = self._secrets.redact(connection_problem(error))
            raise NoAnswerError(f"{where}: {problem}; is a collector running there?") from error
        if answer.status_code == 403 and method != "GET":
            raise NoAnswerError(f"{where}: {self._secrets.redact(_refusal(answer).text)}")
        if answer.status_code in {401, 403}:
            raise NoAnswerError(
                f"{where}: responds with {answer.status_code}; use --token-file, or --user with $GPUID_PASSWORD"
            )
        if answer.status_code != 200:
            code, text = _refusal(answer)
            refusal = self._secrets.redact(text)
            if code == _UNKNOWN_PATH:
                raise NoAnswerError(f"{where}: has no {path}; {_OLDER}")
            if code == _UNKNOWN_PARAMETER:
                refusal += f"; {_OLDER}"
            kind_of_error = NotFoundError if code == _NOT_FOUND else _ERRORS.get(answer.status_code, NoAnswerError)
            raise kind_of_error(f"{where}: {refusal}")
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (ValueError, RecursionError) as error:
            raise NoAnswerError(f"{where}: the response is not from a gpuid collector") from error

    def clusters(self) -> list[dict[str, Any]]:
        """Return all clusters as the API describes them; raises NoAnswerError."""
        pages = self._pages("/api/v1/clusters", {})
        return [cluster for page in pages for cluster in self._complete(page.clusters, _CLUSTER_KEYS)]

    def gpus(self, filters: Mapping[str, Sequence[str]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the GPUs that match the filters, page by page; raises NoAnswerError."""
        return (self._complete(page.gpus, _GPU_KEYS) for page in self._pages("/api/v1/gpus", filters))

    def nodes(self, filters: Mapping[str, Sequence[str]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the nodes that match the filters, page by page; raises NoAnswerError."""
        return (self._complete(page.nodes, _NODE_KEYS) for page in self._pages("/api/v1/nodes", filters))

    def problems(self, clusters: Sequence[str]) -> list[dict[str, Any]]:
        """Return the problems, of all or some clusters, worst first; raises NoAnswerError."""
        pages = self._pages("/api/v1/problems", {"cluster": clusters} if clusters else {})
        return [problem for page in pages for problem in self._complete(page.problems, _PROBLEM_KEYS)]

    def _refuse_redirect(self, answer: httpx.Response) -> None:
        """Raise NoAnswerError for a redirect, before httpx looks at its target."""
        if answer.is_redirect:
            redirect = describe_redirect(answer.status_code, answer.headers.get("Location"), "--url")
            raise NoAnswerError(f"{self._where}: {redirect}")

    def _complete(self, rows: list[dict[str, Any]], keys: frozenset[str]) -> list[dict[str, Any]]:
        """Return the rows, checked for the keys that the commands need; raises NoAnswerError."""
        if all(keys <= row.keys() for row in rows):
            return rows
        raise NoAnswerError(f"{self._where}: the response is not from a gpuid collector")

    def _pages(self, path: str, filters: Mapping[str, Sequence[str]]) -> Iterator["_Page"]:
        params: dict[str, str | Sequence[str]] = {**filters, "limit": str(self._page_size)}
        while True:
            page = self.get(path, params, _Page)
            yield page
            # The server may be anything: pages without rows, or one that names itself as the next, would never end.
            if page.next in (None, params.get("after")) or not (
                page.clusters or page.nodes or page.gpus or page.problems
            ):
                return
            params["after"] = str(page.next)


class _Page(msgspec.Struct):
    next: str | None
    clusters: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    gpus: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []


class _Problem(msgspec.Struct):
    """An API error as in RFC 9457."""

    detail: str = ""
    code: str = ""


class _Refusal(NamedTuple):
    code: str  # one of the API's codes; empty if something other than the API answered
    text: str


def _refusal(answer: httpx.Response) -> _Refusal:
    """Return the API's own reason, or else the status line."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except (ValueError, RecursionError):
        problem = _Problem()
    text = problem.detail or f"responds with {answer.status_code} {answer.reason_phrase}".rstrip()
    return _Refusal(problem.code, text)


def _endpoint(url: str | None, config: Path | None, tls: ssl.SSLContext | None) -> Endpoint:
    if url is not None:
        return url_endpoint(url, tls)
    path = config or found_config()
    endpoint = server_endpoint(ServerSettings() if path is None else configuration.load(path).server)
    return endpoint._replace(tls=tls or endpoint.tls)


def _basic(user: str | None) -> httpx.BasicAuth | None:
    if user is None:
        return None
    password = os.environ.get("GPUID_PASSWORD")
    if password is None:
        raise click.UsageError("--user: set the password in $GPUID_PASSWORD")
    return httpx.BasicAuth(user, password)


def _bearer(given: Path | None, configured: Path | None) -> dict[str, str]:
    path = given or configured
    if path is None:
        return {}
    option = "--token-file" if given else "server.bearer_token_file"
    try:
        token = read_secret(path)
    except UnreadableFileError as error:
        raise ConfigError(f"{option}: {path}: {error}") from error
    if not token:
        raise ConfigError(f"{option}: {path}: the file is empty")
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(f"{option}: {path}: invalid characters in token")
    return {"Authorization": f"Bearer {token}"}
