"""The generated API classes over our own session: requests, models, bytes, streams and WebSockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from aiohttp import web
from kubernetes_asyncio.client import (
    AuthorizationV1Api,
    CoreV1Api,
    RbacAuthorizationV1Api,
    V1ClusterRole,
    V1ObjectMeta,
    V1ResourceAttributes,
    V1SelfSubjectAccessReview,
    V1SelfSubjectAccessReviewSpec,
    VersionApi,
)

from collector import __version__
from collector.kube import errors
from collector.kube.client import ApiClient
from collector.kube.wire import MalformedError
from tests.support.kubernetes import ApiServer, Handler, Kubeconfig, status

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(kubeconfig: Kubeconfig, plain_server: ApiServer) -> AsyncIterator[ApiClient]:
    kubeconfig.write({"server": plain_server.url}, {"token": "s3cr3t-token"})
    async with kubeconfig.client() as client:
        yield client


def answers(document: Any, code: int = 200) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(document, status=code)

    return answer


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_generated_method_returns_a_model(client: ApiClient, plain_server: ApiServer) -> None:
    plain_server.paths["/version/"] = answers(
        {
            "gitVersion": "v1.34.1",
            "major": "1",
            "minor": "34",
            "buildDate": "",
            "compiler": "gc",
            "gitCommit": "",
            "gitTreeState": "clean",
            "goVersion": "go1.24",
            "platform": "linux/amd64",
        }
    )
    assert (await VersionApi(client).get_code()).git_version == "v1.34.1"
    (seen,) = plain_server.seen
    assert seen.headers["User-Agent"] == f"gpuid/{__version__}"
    assert seen.headers["Accept"] == "application/json"
    assert seen.authorization == "Bearer s3cr3t-token"


async def test_a_model_is_sent_as_json(client: ApiClient, plain_server: ApiServer) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    plain_server.paths[path] = answers({"spec": {}, "status": {"allowed": True}}, 201)
    asked = V1ResourceAttributes(verb="list", resource="nodes")
    review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
    answer = await AuthorizationV1Api(client).create_self_subject_access_review(review)
    assert answer.status is not None
    assert answer.status.allowed is True
    (seen,) = plain_server.seen
    assert (seen.method, seen.headers["Content-Type"]) == ("POST", "application/json")
    assert json.loads(seen.body) == {"spec": {"resourceAttributes": {"verb": "list", "resource": "nodes"}}}


async def test_every_verb_is_sent(client: ApiClient, plain_server: ApiServer) -> None:
    rbac, role = RbacAuthorizationV1Api(client), V1ClusterRole(metadata=V1ObjectMeta(name="r"))
    await rbac.create_cluster_role(role)
    await rbac.replace_cluster_role("r", role)
    await rbac.patch_cluster_role("r", {"metadata": {"labels": {"a": "b"}}}, field_manager="gpuid")
    await rbac.delete_cluster_role("r")
    root = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    assert [(seen.method, seen.path) for seen in plain_server.seen] == [
        ("POST", root),
        ("PUT", f"{root}/r"),
        ("PATCH", f"{root}/r?fieldManager=gpuid"),
        ("DELETE", f"{root}/r"),
    ]
    assert plain_server.seen[2].headers["Content-Type"] == "application/strategic-merge-patch+json"
    assert json.loads(plain_server.seen[2].body) == {"metadata": {"labels": {"a": "b"}}}


async def test_read_returns_the_body_undecoded(client: ApiClient, plain_server: ApiServer) -> None:
    plain_server.paths["/api/v1/nodes"] = answers({"items": [1]})
    body = await client.read(CoreV1Api(client).list_node, label_selector="a in (b,c)", limit=2)
    assert json.loads(body) == {"items": [1]}


async def test_parameters_are_written_as_kubernetes_reads_them(client: ApiClient, plain_server: ApiServer) -> None:
    queries: list[dict[str, str]] = []

    async def note(request: web.Request) -> web.Response:
        queries.append(dict(request.query))
        return web.json_response({})

    plain_server.paths["/api/v1/nodes"] = note
    selector = "a in (b, c),d=e&f+g%20/ä"
    await client.read(CoreV1Api(client).list_node, watch=True, pretty=False, limit=7, label_selector=selector)
    assert queries == [{"watch": "true", "pretty": "false", "limit": "7", "labelSelector": selector}]


async def test_a_name_cannot_escape_its_path_segment(client: ApiClient, plain_server: ApiServer) -> None:
    await client.read(CoreV1Api(client).read_node, "../secrets?x#y")
    assert plain_server.seen[0].path == "/api/v1/nodes/..%2Fsecrets%3Fx%23y"


async def test_an_error_response_raises_our_error(client: ApiClient, plain_server: ApiServer) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return status(403, "no")

    core = CoreV1Api(client)
    plain_server.paths["/api/v1/nodes"] = refuse
    with pytest.raises(errors.ForbiddenError, match="forbidden: no"):
        await core.list_node()
    with pytest.raises(errors.ForbiddenError, match="forbidden: no"):
        await client.read(core.list_node)
    with pytest.raises(errors.ForbiddenError, match="forbidden: no"):
        async with client.stream(core.list_node):
            pass


async def test_a_timeout_raises_our_error(client: ApiClient, plain_server: ApiServer) -> None:
    plain_server.paths["/api/v1/nodes"] = hang
    core = CoreV1Api(client)
    with pytest.raises(errors.UnreachableError, match="timed out"):
        await core.list_node(_request_timeout=0.05)
    with pytest.raises(errors.UnreachableError, match="timed out"):
        await client.read(core.list_node, timeout=0.05)


async def test_stream_yields_chunks_as_they_come(client: ApiClient, plain_server: ApiServer) -> None:
    asked = anyio.Event()

    async def watch(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"one\n")
        await asked.wait()
        await answer.write(b"two\n")
        return answer

    plain_server.paths["/api/v1/nodes"] = watch
    async with client.stream(CoreV1Api(client).list_node, watch=True) as chunks:
        assert await anext(chunks) == b"one\n"
        asked.set()
        assert [chunk async for chunk in chunks] == [b"two\n"]


async def test_websocket_connects_with_a_list_of_words(client: ApiClient, plain_server: ApiServer) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse(protocols=["v5.channel.k8s.io"])
        await answer.prepare(request)
        async for message in answer:
            await answer.send_bytes(message.data)
        return answer

    plain_server.paths["/api/v1/namespaces/ns/pods/p/exec"] = echo
    method = CoreV1Api(client).connect_get_namespaced_pod_exec
    async with client.websocket(
        method, "p", "ns", command=["sh", "-c"], stdout=True, protocols=["v5.channel.k8s.io"]
    ) as socket:
        assert socket.protocol == "v5.channel.k8s.io"
        await socket.send_bytes(b"\x00hello")
        assert (await socket.receive()).data == b"\x00hello"
    assert plain_server.seen[0].path == "/api/v1/namespaces/ns/pods/p/exec?command=sh&command=-c&stdout=true"


async def test_a_client_opens_no_library_connections(client: ApiClient) -> None:
    assert not hasattr(client, "rest_client")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"x"', b"{}", b'{"gitVersion": "\xff"', b"[" * 100_000, b"<html>", b'{"status": [1]}', b"null"],
)
async def test_a_response_that_fits_no_model_is_malformed_or_empty(
    client: ApiClient, plain_server: ApiServer, body: bytes
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body)

    plain_server.paths["/version/"] = answer
    plain_server.paths["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = answer
    review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec())
    with contextlib.suppress(MalformedError):
        assert await VersionApi(client).get_code() is not None
    with contextlib.suppress(MalformedError):
        await AuthorizationV1Api(client).create_self_subject_access_review(review)
