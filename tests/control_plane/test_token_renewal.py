"""Service-account tokens that a real API server made renew themselves there."""

import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import AuthenticationV1Api, V1SelfSubjectReview

from collector.config import ClusterSettings
from collector.kube.bound_token import BoundToken, bound_token
from collector.kube.client import ApiClient
from collector.kube.session import Session
from collector.kube.token_renewal import TokenRenewal
from tests.control_plane.conftest import Planes
from tests.control_plane.plane import ControlPlane
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.anyio

NAMESPACE = "token-renewal"
NAMESPACED = f"/api/v1/namespaces/{NAMESPACE}"
RBAC = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
USER = f"system:serviceaccount:{NAMESPACE}:collector"
LIFETIME = 600  # seconds, the least that the API server makes
RULE = {
    "apiGroups": [""],
    "resources": ["serviceaccounts/token"],
    "resourceNames": ["collector"],
    "verbs": ["create"],
}
BINDING = {
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "collector"},
    "subjects": [{"kind": "ServiceAccount", "name": "collector", "namespace": NAMESPACE}],
}


class Account:
    """A service account whose one right is to make tokens of itself, and a kubeconfig with a token of it in a file."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.file = plane, folder / "collector.token"
        self.settings = ClusterSettings(context=plane.name, kubeconfig=str(folder / "kubeconfig"))
        document = plane.write_kubeconfig("collector", token="").read_text()
        (folder / "kubeconfig").write_text(document.replace('"token": ""', '"tokenFile": "collector.token"'))

    def make_token(self, **spec: Any) -> None:
        path = f"{NAMESPACED}/serviceaccounts/collector/token"
        answer = self.plane.create(path, {"spec": {"expirationSeconds": LIFETIME} | spec})
        self.file.write_text(answer["status"]["token"])
        self.file.chmod(0o600)

    @property
    def token(self) -> BoundToken:
        token = bound_token(self.file.read_text())
        assert token is not None
        return token

    def client(self) -> ApiClient:
        return ApiClient(Session(self.settings))


@pytest.fixture
def account(planes: Planes, tmp_path: Path) -> Iterator[Account]:
    plane = planes["east"]
    named = {"metadata": {"name": "collector"}}
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, NAMESPACED)
    plane.create(f"{NAMESPACED}/serviceaccounts", named)
    plane.create(f"{RBAC}/roles", named | {"rules": [RULE]})
    plane.create(f"{RBAC}/rolebindings", named | BINDING)
    made = Account(plane, tmp_path)
    made.make_token()
    yield made
    for path in (f"{RBAC}/rolebindings", f"{RBAC}/roles", f"{NAMESPACED}/serviceaccounts"):
        plane.http.delete(f"{path}/collector")  # which a test may have deleted itself


async def who(client: ApiClient) -> str:
    review = await AuthenticationV1Api(client).create_self_subject_review(V1SelfSubjectReview())
    return str(review.status.user_info.username)


async def pass_a_second(token: BoundToken) -> None:
    """Wait until a new token ends later than this one: the ends are whole seconds."""
    await eventually(lambda: time.time() >= token.validity.begins + 1)


async def test_the_renewed_token_works_and_is_written_to_the_file(account: Account) -> None:
    first = account.token
    assert (first.user, first.lifetime) == (USER, LIFETIME)
    async with account.client() as client:
        await TokenRenewal(client).step()
        assert account.token.text == first.text, "it is not due"
        tokens = client.session.tokens
        assert tokens is not None
        assert (tokens.may_renew, tokens.obstacle) == (True, "")
        await pass_a_second(first)
        await TokenRenewal(client, share=0.0).step()
        second = account.token
        assert second.text != first.text
        assert second.validity.ends > first.validity.ends
        assert (second.lifetime, second.audiences) == (LIFETIME, first.audiences)
        assert stat.S_IMODE(account.file.stat().st_mode) == 0o600
        assert await who(client) == USER
    async with account.client() as client:  # as after a restart
        assert await who(client) == USER


async def test_a_token_stays_bound_to_its_secret(account: Account) -> None:
    secret = account.plane.create(f"{NAMESPACED}/secrets", {"metadata": {"name": "bound"}})
    reference = {"apiVersion": "v1", "kind": "Secret", "name": "bound", "uid": secret["metadata"]["uid"]}
    account.make_token(boundObjectRef=reference)
    first = account.token
    async with account.client() as client:
        await pass_a_second(first)
        await TokenRenewal(client, share=0.0).step()
    assert account.token.text != first.text
    assert account.token.bound_to == first.bound_to == ("Secret", "bound", secret["metadata"]["uid"])
    account.plane.http.delete(f"{NAMESPACED}/secrets/bound").raise_for_status()


async def test_without_the_right_the_token_is_used_as_before(account: Account) -> None:
    account.plane.http.delete(f"{RBAC}/rolebindings/collector").raise_for_status()
    first = account.token
    async with account.client() as client:
        await pass_a_second(first)
        renewal = TokenRenewal(client, share=0.0)
        await renewal.step()
        tokens = client.session.tokens
        assert tokens is not None
        assert tokens.may_renew is False
        # As if the server had not said so beforehand.
        tokens.may_renew = None
        renewal._ask_at = time.time() + 3600
        await renewal.step()
        assert tokens.may_renew is False
        assert await who(client) == USER
    assert account.token.text == first.text


async def test_a_refused_request_keeps_the_old_token(account: Account) -> None:
    first = account.token
    path = "/apis/admissionregistration.k8s.io/v1"
    policy = {
        "metadata": {"name": "no-tokens"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["serviceaccounts/token"],
                    }
                ]
            },
            "validations": [{"expression": "false", "message": "no tokens today"}],
        },
    }
    binding = {"metadata": {"name": "no-tokens"}, "spec": {"policyName": "no-tokens", "validationActions": ["Deny"]}}
    account.plane.create(f"{path}/validatingadmissionpolicies", policy)
    account.plane.create(f"{path}/validatingadmissionpolicybindings", binding)
    try:
        tokens = f"{NAMESPACED}/serviceaccounts/collector/token"
        until(lambda: account.plane.http.post(tokens, json={"spec": {}}).is_success, False)
        async with account.client() as client:
            await pass_a_second(first)
            await TokenRenewal(client, share=0.0).step()
            assert await who(client) == USER
        assert account.token.text == first.text
    finally:
        for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            account.plane.http.delete(f"{path}/{plural}/no-tokens").raise_for_status()
        until(lambda: account.plane.http.post(tokens, json={"spec": {}}).is_success)  # for other tests
