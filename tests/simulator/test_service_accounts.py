"""Tokens of service accounts: who they are, when they end, and how they renew themselves."""

from typing import Any

from collector.kube.bound_token import bound_token
from collector.simulator import Simulator

PATH = "/api/v1/namespaces/gpuid/serviceaccounts/gpuid/token"


async def ask(api: Any, token: str, method: str, path: str, **spec: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    return await api.ask(method, path, headers=headers, **({"json": {"spec": spec}} if method == "POST" else {}))


async def test_the_kubeconfig_gets_a_token_that_renews_itself(api: Any, simulator: Simulator) -> None:
    before = api.cluster.token
    api.cluster.bind_token(3600)
    first = api.cluster.token
    assert first in simulator.kubeconfig.read_text()
    assert (await ask(api, before, "GET", "/api/v1/pods"))[0] == 401
    status, body = await ask(api, first, "POST", PATH, expirationSeconds=7200, audiences=["a", "b"])
    assert status == 201
    token = bound_token(body["status"]["token"])
    assert token is not None
    assert (token.user, token.lifetime) == ("system:serviceaccount:gpuid:gpuid", 7200)
    assert token.audiences == ("a", "b")
    for good in (first, token.text):
        assert (await ask(api, good, "GET", "/api/v1/pods"))[0] == 200
    _, review = await ask(api, token.text, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews")
    assert review["status"]["userInfo"]["username"] == token.user


async def test_a_token_expires(api: Any) -> None:
    api.cluster.bind_token(3600, age=3601)
    assert (await ask(api, api.cluster.token, "POST", PATH, expirationSeconds=3600))[0] == 401


async def test_requests_a_real_server_refuses_are_refused(api: Any) -> None:
    api.cluster.bind_token()
    token = api.cluster.token
    assert (await ask(api, token, "POST", PATH, expirationSeconds=599))[0] == 422
    assert (await ask(api, token, "POST", PATH.replace("gpuid/token", "x/token"), expirationSeconds=600))[0] == 404
    assert (await ask(api, token, "GET", PATH))[0] == 405
    api.cluster.deny("create", "serviceaccounts/token")
    status, body = await ask(api, token, "POST", PATH, expirationSeconds=600)
    assert (status, body["reason"]) == (403, "Forbidden")
    assert 'User "system:serviceaccount:gpuid:gpuid" cannot create resource "serviceaccounts/token"' in body["message"]


async def test_rotating_the_token_invalidates_all(api: Any) -> None:
    api.cluster.bind_token()
    before = api.cluster.token
    api.cluster.rotate_token()
    assert (await ask(api, before, "GET", "/api/v1/pods"))[0] == 401
    assert (await ask(api, api.cluster.token, "GET", "/api/v1/pods"))[0] == 200
