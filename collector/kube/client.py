"""The Kubernetes client: kubernetes-asyncio's generated API classes over our own session.

The library provides paths, verbs, parameters and models; `collector.kube.session` provides connections, credentials,
rate limit, retry and errors::

    async with ApiClient(Session(cluster)) as client:
        core = CoreV1Api(client)
        version = (await VersionApi(client).get_code()).git_version  # decoded into the library's models
        body = await client.read(core.list_node, limit=100)  # bytes, for msgspec to decode the fields we use
        async with client.stream(core.list_node, watch=True) as chunks: ...
        async with client.websocket(core.connect_get_namespaced_pod_exec, pod, namespace, ...) as socket: ...

Use the models for rare requests only: decoding every field is far too slow for lists and watches.

Three other parts of the library are deliberately not used:

- its kubeconfig loader keeps secrets in temporary files and never renews credentials on 401;
- `Watch` responds to 410 by retrying once from the same version, and never lists again;
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

FIELD_MANAGER = "gpuid"  # field manager of our writes

ApiMethod = Callable[..., Awaitable[Any]]
"""A method of a generated API class, such as `CoreV1Api(client).list_node`, or a functools.partial of one."""


class ApiClient(GeneratedApiClient):
    """The client that the generated API classes take; an async context manager.

    Every call raises ClusterError for any problem with the server, the network or the credentials; direct calls raise
    MalformedError for a response that is not from the Kubernetes API. A `timeout` (`_request_timeout` in a direct call)
    is in seconds and covers the server only: waiting for our own limiter or credentials does not count.
    """

    def __init__(self, session: Session) -> None:
        # The library's own __init__ is not called: it opens a connection pool with a TLS context that nothing would
        # use. These are the attributes that the rest of the library reads.
        self.session = session
        self.configuration = Configuration(host="")  # the session knows the server's address
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
        """Return the response body of `method(*args, **kwargs)`; `credential`, if given, replaces our own."""
        request = await _prepare(method, args, kwargs)
        return (await self.session.fetch(request, timeout=timeout, credential=credential)).body

    @asynccontextmanager
    async def stream(
        self, method: ApiMethod, *args: Any, timeout: float = REQUEST_TIMEOUT_SECONDS, **kwargs: Any
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the response body in chunks as they arrive; `timeout` covers the time until the response begins."""
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
        """Yield the WebSocket of a `connect_…` method; `timeout` covers the handshake.

        On an error or cancellation, it closes immediately.
        """
        request = await _prepare(method, args, kwargs)
        async with self.session.websocket(
            request, protocols, timeout=timeout, max_message_size=max_message_size
        ) as socket:
            yield socket

    def deserialize(self, response: Any, response_type: Any) -> Any:
        """Return a response as the library's model; raises MalformedError if it does not fit."""
        try:
            made = super().deserialize(response, response_type)
        except Exception:  # the generated code raises anything for a wrong type
            made = None
        if made is None:  # its result for null
            raise MalformedError(f"not a {response_type} of the Kubernetes API")
        return made

    async def request(
        self,
        method: str,
        url: str,
        query_params: Any = None,
        headers: Any = None,
        post_params: Any = None,  # noqa: ARG002  no Kubernetes method sends a form
        body: Any = None,
        _preload_content: bool = True,
        _request_timeout: Any = None,
    ) -> "Request | _Response":
        """Send the request of a generated method; with `_preload_content=False`, return the Request without sending it.

        `read`, `stream` and `websocket` build on that.
        """
        default = {} if body is None else {"Content-Type": "application/json"}  # some methods have no response type
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
    """A successful response, in the form that the generated code expects."""

    reason = "OK"

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        # The generated code replaces it by its text, and would raise UnicodeDecodeError for invalid UTF-8.
        self.data: bytes | str = answer.body.decode(errors="replace").encode()

    def getheaders(self) -> dict[str, str]:
        """Return no headers: the session has already handled the relevant ones."""
        return {}

    def getheader(self, _name: str, default: str | None = None) -> str | None:
        """Return the default, which means UTF-8 for the body."""
        return default


async def _prepare(method: ApiMethod, args: Iterable[Any], kwargs: dict[str, Any]) -> Request:
    """Have a generated method build its request without sending it."""
    request: Request = await method(*args, **kwargs, _preload_content=False)
    return request


def _query(params: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Return query parameters as Kubernetes expects them: one entry per list item, booleans in lower case."""
    return [
        (key, str(one).lower() if isinstance(one, bool) else str(one))
        for key, value in params
        for one in (value if isinstance(value, (list, tuple)) else (value,))
    ]
