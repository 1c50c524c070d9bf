"""Which admission policies an API server has, and which tokens it may answer with."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from collector.grant.manifests import difference, service_account
from collector.grant.objects import Objects
from collector.kube.errors import NotFoundError, ThrottledError
from collector.kube.wire import MalformedError
from tests.support.tokens import service_account_token


class Server:
    """Stands for the ApiClient of a server, by what it has in each version of the group."""

    configuration = None

    def __init__(self, resources: Mapping[str, list[str]]) -> None:
        self._resources = resources

    async def read(self, _method: Any, group: str, version: str) -> bytes:
        assert group == "admissionregistration.k8s.io"
        if version not in self._resources:
            raise NotFoundError("not found", status=404)
        return msgspec.json.encode({"resources": [{"name": name} for name in self._resources[version]]})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("resources", "version"),
    [
        ({"v1": ["validatingwebhookconfigurations", "validatingadmissionpolicies"]}, "v1"),
        ({"v1": ["validatingwebhookconfigurations"], "v1beta1": ["validatingadmissionpolicies"]}, "v1beta1"),
        ({"v1": ["validatingwebhookconfigurations"]}, None),
        ({}, None),
    ],
)
async def test_the_newest_version_is_used(resources: Mapping[str, list[str]], version: str | None) -> None:
    client: Any = Server(resources)
    assert await Objects(client).policy_version() == version


class Tokens:
    """Stands for the ApiClient of a server that answers a TokenRequest with anything."""

    configuration = None

    def __init__(self, token: object) -> None:
        self._token = token
        self.session = SimpleNamespace(host="https://x", secrets=set())

    async def read(self, *_args: Any) -> bytes:
        return msgspec.json.encode({"status": {"token": self._token, "expirationTimestamp": "2099-01-01T00:00:00Z"}})


@pytest.mark.anyio
@pytest.mark.parametrize(
    "token",
    [
        "",
        5,
        "x" * 3_000_000,
        "a.b.c\nusers: []",
        service_account_token(0, name="gpuid", namespace="kube-system"),
        service_account_token(0, name="gpuid", signature="s" * 20_000),
    ],
)
async def test_an_invalid_token_is_not_returned(token: object) -> None:
    client: Any = Tokens(token)
    with pytest.raises(MalformedError, match="TokenRequest"):
        await Objects(client).token(3600)


@pytest.mark.anyio
async def test_a_token_of_the_account_is_returned_as_a_secret() -> None:
    text = service_account_token(0, name="gpuid")
    client: Any = Tokens(text)
    assert (await Objects(client).token(3600)).text == text
    assert client.session.secrets == {text}


class Initializing:
    """Stands for the ApiClient of a server that asks for time before it answers."""

    configuration = None

    def __init__(self, times: int) -> None:
        self.left = times

    async def read(self, *_args: Any) -> bytes:
        if self.left:
            self.left -= 1
            raise ThrottledError("storage is (re)initializing", status=429)
        return msgspec.json.encode({"metadata": {"name": "kube-system", "uid": "one"}})


@pytest.mark.anyio
async def test_a_server_that_asks_to_wait_is_retried() -> None:
    client: Any = Initializing(2)
    assert await Objects(client).identity() == "one"


@pytest.mark.anyio
async def test_a_server_that_always_asks_to_wait_is_an_error() -> None:
    client: Any = Initializing(1000)
    with pytest.raises(ThrottledError):
        await Objects(client).identity()
    assert client.left > 900


class Nested:
    """Stands for the ApiClient of a server whose every object is nested as deep as this."""

    configuration = None

    def __init__(self, depth: int) -> None:
        self._rules = "[" * depth + "]" * depth
        self.session = SimpleNamespace(host="https://x")

    async def read(self, *_args: Any, **_options: Any) -> bytes:
        one = f'{{"metadata":{{"name":"gpuid"}},"rules":{self._rules}}}'
        return f'{{"items":[{one}],{one[1:]}'.encode()


@pytest.mark.anyio
@pytest.mark.parametrize("depth", [60, 200, 900, 100_000])
async def test_an_object_too_deep_to_be_compared_is_refused(depth: int) -> None:
    client: Any = Nested(depth)
    with pytest.raises(MalformedError, match=r"^https://x: "):
        await Objects(client).get(service_account())
    with pytest.raises(MalformedError, match=r"^https://x: "):
        await Objects(client).ours()


@pytest.mark.anyio
async def test_an_object_of_any_usual_depth_is_compared() -> None:
    client: Any = Nested(40)
    found = await Objects(client).get(service_account())
    assert found is not None
    assert difference(None, {**found, "apiVersion": "v1", "kind": "Role"})
