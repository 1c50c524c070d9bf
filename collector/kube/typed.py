"""kubernetes-asyncio's typed API over a Session: its models and methods, our connections, credentials and errors."""

from typing import Any

from kubernetes_asyncio.client import ApiClient as GeneratedClient
from kubernetes_asyncio.client import Configuration

from collector.kube.client import ApiClient

__all__ = ["TypedClient"]


class TypedClient(GeneratedClient):
    """What the generated classes (`VersionApi`, `AuthorizationV1Api`, …) are made with.

    Every call may raise a ClusterError. For what is asked rarely: making objects of every field is too slow for lists
    and watches.
    """

    def __init__(self, session: ApiClient) -> None:
        configuration = Configuration()
        configuration.host = ""  # the session knows where the server is
        super().__init__(configuration)
        self._session = session

    async def request(
        self,
        method: str,
        url: str,
        query_params: Any = None,
        headers: Any = None,  # noqa: ARG002  the session's own are sent
        post_params: Any = None,  # noqa: ARG002  only forms have some
        body: Any = None,
        _preload_content: bool = True,
        _request_timeout: Any = None,
    ) -> "_Answer":
        """Send what the generated classes ask for, GET or POST."""
        if method == "GET":
            return _Answer(await self._session.get(url, query_params or ()))
        if method == "POST":
            return _Answer(await self._session.post(url, body))
        raise NotImplementedError(method)


class _Answer:
    """A success, in the form in which the generated code reads it."""

    status = 200
    reason = "OK"

    def __init__(self, data: bytes) -> None:
        self.data: Any = data

    def getheaders(self) -> dict[str, str]:
        """Give no headers: the session has dealt with those that matter; without a charset the body is UTF-8."""
        return {}

    def getheader(self, _name: str, default: str | None = None) -> str | None:
        """Give no header."""
        return default
