"""No request of a session is sent a second time to where an answer points."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from collector.kube.errors import ClusterError, CredentialPluginFailedError, ServerError
from collector.kube.oidc import Oidc
from collector.kube.session import Request, Session
from tests.support.kubernetes import ApiServer, serving

pytestmark = pytest.mark.anyio

Failure = Callable[[Awaitable[object]], Awaitable[ClusterError]]
PATH = "/api/v1/namespaces/ns/pods/pod-a/exec"


@pytest.fixture
async def canary() -> AsyncIterator[ApiServer]:
    """Yield a server that nobody should ever ask."""
    api = ApiServer()
    async with serving(api.handle, None) as api.url:
        yield api
    assert api.seen == []


@pytest.fixture
async def session(server: ApiServer, kubeconfig: Any, authority: Any) -> AsyncIterator[Session]:
    kubeconfig.write({"server": server.url, "certificate-authority-data": authority.data}, {"token": "s3cr3t-token"})
    async with kubeconfig.session() as session:
        yield session


def redirects(status: int, location: str) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location}, text="internal secret page: 42")

    return answer


async def fetch(session: Session, method: str) -> None:
    await session.fetch(Request(method=method, path=PATH, body=None if method == "GET" else b"{}"))


async def stream(session: Session) -> None:
    async with session.stream(Request(path=PATH)):
        pass


async def websocket(session: Session) -> None:
    async with session.websocket(Request(path=PATH)):
        pass


WAYS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "GET": lambda session: fetch(session, "GET"),
    "POST": lambda session: fetch(session, "POST"),
    "PATCH": lambda session: fetch(session, "PATCH"),
    "stream": stream,
    "websocket": websocket,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_named_and_not_followed(
    session: Session, server: ApiServer, canary: ApiServer, failure: Failure, way: str, status: int
) -> None:
    server.paths[PATH] = redirects(status, f"{canary.url.replace('//', '//u:s3cr3t@')}/page?token=s3cr3t")
    error = await failure(WAYS[way](session))
    assert isinstance(error, ServerError)
    assert error.status == status
    host = canary.url.removeprefix("http://")
    assert str(error) == (
        f"{server.url}: redirects ({status}) to {host}; set server in the kubeconfig to the final address"
    )
    assert len(server.seen) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("location", ["/elsewhere", "", "http://[", "ftp://x/", "//\u2028", "javascript:alert(1)"])
async def test_a_redirect_to_anywhere_ends_the_request(
    session: Session, server: ApiServer, failure: Failure, way: str, location: str
) -> None:
    server.paths[PATH] = redirects(307, location)
    error = await failure(WAYS[way](session))
    assert isinstance(error, ServerError)
    assert str(error).isprintable()
    assert len(server.seen) == 1


async def test_a_websocket_redirect_without_location_is_not_a_redirect(
    session: Session, server: ApiServer, failure: Failure
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302)

    server.paths[PATH] = answer
    error = await failure(websocket(session))
    assert str(error) == f"{server.url}: redirects (302); set server in the kubeconfig to the final address"
    assert len(server.seen) == 1


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token"])
async def test_an_issuer_that_redirects_gets_no_second_request(
    make_oidc: Callable[..., Oidc], issuer: Any, canary: ApiServer, failure: Failure, path: str
) -> None:
    issuer.redirects[path] = f"{canary.url}/login"
    error = await failure(make_oidc().run())
    assert type(error) is CredentialPluginFailedError
    host = canary.url.removeprefix("http://")
    assert str(error) == (
        f"x: oidc: issuer {issuer.url}: redirects (307) to {host}; set idp-issuer-url to the final address"
    )
