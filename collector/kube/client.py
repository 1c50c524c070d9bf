"""The way to Kubernetes: kubernetes-asyncio's generated API classes over our own session.

Paths, verbs, parameters and models are the library's; connections, credentials, rate limit, retry and errors are those
of `collector.kube.session`::

    async with ApiClient(Session(cluster)) as client:
        core = CoreV1Api(client)
        version = (await VersionApi(client).get_code()).git_version  # decoded into the library's models
        body = await client.read(core.list_node, limit=100)  # bytes, for msgspec to decode the fields we use
        async with client.stream(core.list_node, watch=True) as chunks: ...
        async with client.websocket(core.connect_get_namespaced_pod_exec, pod, namespace, ...) as socket: ...

The models are for what is asked rarely: decoding every field is far too slow for lists and watches.

Three other parts of the library are deliberately not used:

- its kubeconfig loader keeps secrets in temporary files and never renews credentials on 401;
- `Watch` answers 410 by retrying once from the same version, and never lists again;
- `WsApiClient` mixes stdout with stderr and drops the exit status.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import msgspec
from kubernetes_asyncio.client import ApiClient as GeneratedApiClient
from kubernetes_asyncio.client import Configuration

from collector.kube.credentials import Credential
from collector.kube.session import MAX_MESSAGE_BYTES, REQUEST_TIMEOUT_SECONDS, Answer, Request, Session
from collector.kube.transport import WebSocket
from collector.kube.wire import MalformedError

__all__ = ["FIELD_MANAGER", "ApiClient", "ApiMethod"]

FIELD_MANAGER = "gpuid"  # who owns the fields that we write

ApiMethod = Callable[..., Awaitable[Any]]
"""A method of a generated API class, such as `CoreV1Api(client).list_node`, or a functools.partial of one."""


class ApiClient(GeneratedApiClient):
    """What the generated API classes are made with; an async context manager.

    Every call raises a ClusterError, whatever goes wrong with the server, the way to it, or the credentials, and a
    direct one MalformedError for an answer that is not of the Kubernetes API. A `timeout` (`_request_timeout` in a
    direct call) is in seconds and the server's alone: waiting for our own limiter or credentials does not count.
    """

    def __init__(self, session: Session) -> None:
        # The library's own __init__ is not called: it opens a pool of connections with a TLS context, which nothing
        # would use. These are the attributes that the rest of it reads.
        self.session = session
        self.configuration = Configuration(host="")  # the session knows where the server is
        self.client_side_validation = self.configuration.client_side_validation
        self.default_headers = {}
        self.cookie = ""

    async def __aenter__(self) -> Self:
        """Read the kubeconfig; nothing is sent yet. Raises BadContextError."""
        await self.session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self.session.close()

    async def read(
        self,
        method: ApiMethod,
        *args: Any,
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        credential: Credential | None = None,
        **kwargs: Any,
    ) -> bytes:
        """Return the body of the answer to `method(*args, **kwargs)`; `credential` is presented instead of our own."""
        request = await _prepare(method, args, kwargs)
        return (await self.session.fetch(request, timeout=timeout, credential=credential)).body

    @asynccontextmanager
    async def stream(
        self, method: ApiMethod, *args: Any, timeout: float = REQUEST_TIMEOUT_SECONDS, **kwargs: Any
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the body of the answer in chunks as they come; `timeout` is for the answer to begin."""
        request = await _prepare(method, args, kwargs)
        async with self.session.stream(request, timeout=timeout) as chunks:
            yield chunks

    @asynccontextmanager
    async def websocket(
        self,
        method: ApiMethod,
        *args: Any,
        protocols: Sequence[str] = (),
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        max_message_size: int = MAX_MESSAGE_BYTES,
        **kwargs: Any,
    ) -> AsyncIterator[WebSocket]:
        """Yield the WebSocket of a `connect_…` method; `timeout` is for the handshake.

        Left by an error or cancelled, it closes immediately.
        """
        request = await _prepare(method, args, kwargs)
        async with self.session.websocket(
            request, protocols, timeout=timeout, max_message_size=max_message_size
        ) as socket:
            yield socket

    def deserialize(self, response: Any, response_type: Any) -> Any:
        """Return the library's model of an answer; raises MalformedError for one that it cannot be made of."""
        try:
            made = super().deserialize(response, response_type)
        except Exception:  # the generated code raises whatever a wrong type leads to
            made = None
        if made is None:  # which it makes of null
            raise MalformedError(f"not a {response_type} of the Kubernetes API")
        return made

    async def request(
        self,
        method: str,
        url: str,
        query_params: Any = None,
        headers: Any = None,
        post_params: Any = None,  # noqa: ARG002  no method of Kubernetes sends a form
        body: Any = None,
        _preload_content: bool = True,
        _request_timeout: Any = None,
    ) -> "Request | _Response":
        """Send what a generated method asks for; with `_preload_content=False` send nothing and return the Request.

        That is what `read`, `stream` and `websocket` are made of.
        """
        default = {} if body is None else {"Content-Type": "application/json"}  # some methods name no type
        request = Request(
            method=method,
            path=url,
            query=_query(query_params or ()),
            headers=tuple((default | (headers or {})).items()),
            body=body if body is None or isinstance(body, bytes) else msgspec.json.encode(body),
        )
        if not _preload_content:
            return request
        return _Response(await self.session.fetch(request, timeout=_request_timeout or REQUEST_TIMEOUT_SECONDS))


class _Response:
    """A success, in the form in which the generated code reads it."""

    reason = "OK"

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        # The generated code replaces it by its text, and would raise UnicodeDecodeError for what is none.
        self.data: bytes | str = answer.body.decode(errors="replace").encode()

    def getheaders(self) -> dict[str, str]:
        """Return no headers: the session has dealt with those that matter."""
        return {}

    def getheader(self, _name: str, default: str | None = None) -> str | None:
        """Return the default, by which the body is UTF-8."""
        return default


async def _prepare(method: ApiMethod, args: Iterable[Any], kwargs: dict[str, Any]) -> Request:
    """Let a generated method make its request without sending it."""
    request: Request = await method(*args, **kwargs, _preload_content=False)
    return request


def _query(params: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Return query parameters as Kubernetes reads them: an entry for each item of a list, booleans in lower case."""
    return [
        (key, str(one).lower() if isinstance(one, bool) else str(one))
        for key, value in params
        for one in (value if isinstance(value, (list, tuple)) else (value,))
    ]
