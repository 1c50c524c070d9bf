"""What limits the rights of `gpuid grant` beyond RBAC, and what it does with objects of others, on a real server."""

import json
from pathlib import Path
from typing import Any

import pytest

from collector.checks.clusters import check_clusters
from collector.checks.policies import ExecLimit, look_at_exec
from collector.config import ClusterSettings
from collector.grant import work
from collector.kube.client import ApiClient
from collector.kube.session import Session
from tests.control_plane.plane import CONTAINER, NAMESPACE, ControlPlane
from tests.control_plane.rights import POLICIES, RBAC, Grant, as_collector, exec_status, finish_namespace, run
from tests.support.waiting import until

LOGS = (
    f'[[clusters.sources]]\nnamespace = "{NAMESPACE}"\nselector = "app=nvidia-device-plugin-daemonset"\n'
    f'container = "{CONTAINER}"\nmethod = "log"\n'
)
ACCOUNT = "/api/v1/namespaces/gpuid/serviceaccounts/gpuid"
GROUP = "rbac.authorization.k8s.io"
US = {"kind": "ServiceAccount", "name": "gpuid", "namespace": "gpuid"}


def make(plane: ControlPlane, path: str, **document: Any) -> None:
    """Create an object, and its namespace."""
    plane.http.post("/api/v1/namespaces", json={"metadata": {"name": "gpuid"}})
    plane.create(path, {"apiVersion": f"{GROUP}/v1"} | document if GROUP in path else document)


def bind(plane: ControlPlane, name: str, role: str, namespace: str = "", subject: Any = US) -> str:
    """Bind a ClusterRole, and return the path of the binding."""
    place = f"{RBAC}/namespaces/{namespace}/rolebindings" if namespace else f"{RBAC}/clusterrolebindings"
    reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}
    make(plane, place, metadata={"name": name}, roleRef=reference, subjects=[subject])
    return f"{place}/{name}"


def grant_as_before(plane: ControlPlane) -> None:
    """Give rights by the manifest that there was before `gpuid grant`."""
    rules = {"gpuid-nodes": [("nodes", ["list", "watch"])], "gpuid-pods": [("pods/exec", ["get", "create"])]}
    for name, given in rules.items():
        listed = [{"apiGroups": [""], "resources": [resource], "verbs": verbs} for resource, verbs in given]
        make(plane, f"{RBAC}/clusterroles", metadata={"name": name}, rules=listed)
    bind(plane, "gpuid-nodes", "gpuid-nodes")
    bind(plane, "gpuid-pods", "gpuid-pods", NAMESPACE)
    make(plane, ACCOUNT.rpartition("/")[0], metadata={"name": "gpuid"}, automountServiceAccountToken=False)
    metadata = {"name": "gpuid-token", "annotations": {"kubernetes.io/service-account.name": "gpuid"}}
    make(plane, "/api/v1/namespaces/gpuid/secrets", metadata=metadata, type="kubernetes.io/service-account-token")


def is_gone(plane: ControlPlane, *paths: str) -> bool:
    return all(plane.http.get(path).status_code == 404 for path in paths)


FORMER = (
    f"{RBAC}/clusterroles/gpuid-nodes",
    f"{RBAC}/clusterroles/gpuid-pods",
    f"{RBAC}/clusterrolebindings/gpuid-nodes",
    f"{RBAC}/namespaces/{NAMESPACE}/rolebindings/gpuid-pods",
)


def test_rights_granted_by_an_older_gpuid_are_removed(east: ControlPlane, grant: Grant, tmp_path: Path) -> None:
    grant_as_before(east)
    result = grant("--check", toml=LOGS)
    assert result.exit_code == 1
    for title in (
        "ClusterRole gpuid-nodes",
        "ClusterRoleBinding gpuid-nodes",
        f"RoleBinding gpuid-pods in {NAMESPACE}",
    ):
        assert f"--- {title}" in result.output
    assert "# its token never expires" in result.output
    file = tmp_path / "kubeconfig"
    result = grant("--apply", "--kubeconfig", file, toml=LOGS)
    assert result.exit_code == 0, result.output
    assert "east: deleted ClusterRole gpuid-pods: of an older gpuid" in result.output
    assert "east: kept Secret gpuid-token in gpuid: its token never expires" in result.output
    assert is_gone(east, *FORMER)
    # Even if somebody gives it again: for logs, no exec is admitted.
    give = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}
    make(east, f"{RBAC}/clusterroles", metadata={"name": "foreign"}, rules=[give])
    foreign = bind(east, "foreign", "foreign")
    with as_collector(east, file) as thief:
        until(lambda: "denied request" in thief.get(exec_path("gpu-1-a")).text)
        assert exec_status(thief, ["sh"]) == 403
    for action in ("--check", "--apply"):
        result = grant(action, toml=LOGS)
        assert result.exit_code == 1
        assert "it grants ClusterRole foreign to gpuid's service account" in result.output
    result = grant("--revoke", "--yes", toml=LOGS)
    assert "east: did not delete ClusterRoleBinding foreign" in result.output
    assert is_gone(east, ACCOUNT, "/api/v1/namespaces/gpuid/secrets/gpuid-token")
    for path in (foreign, f"{RBAC}/clusterroles/foreign"):
        east.http.delete(path).raise_for_status()


def exec_path(pod: str) -> str:
    return f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/exec?command=sh&container={CONTAINER}&stdout=true"


def test_only_rights_granted_by_an_older_gpuid_are_revoked(east: ControlPlane, grant: Grant) -> None:
    grant_as_before(east)
    assert grant("--revoke", "--yes").exit_code == 0
    assert is_gone(east, *FORMER, ACCOUNT, "/api/v1/namespaces/gpuid/secrets/gpuid-token")


def test_tokens_are_renewed_only_for_the_api_server(east: ControlPlane, grant: Grant, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    result = grant("--apply", "--kubeconfig", file, "--duration", "1h")
    assert result.exit_code == 0, result.output
    assert grant("--check", "--duration", "1h").exit_code == 0
    with as_collector(east, file) as thief:

        def ask(**spec: Any) -> int:
            return thief.post(f"{ACCOUNT}/token", json={"spec": spec}).status_code

        own = ["https://kubernetes.default.svc"]
        until(lambda: ask(audiences=["sts.amazonaws.com"], expirationSeconds=600), 403)
        until(lambda: ask(audiences=own, expirationSeconds=3601), 403)  # by this policy, not one of a test before
        until(lambda: ask(audiences=own, expirationSeconds=3600), 201)
        assert ask(audiences=[*own, "vault"], expirationSeconds=600) == 403
        assert ask(expirationSeconds=4294967296) == 403
    grant("--apply", "--duration", "10m")
    cluster = ClusterSettings(context="east", kubeconfig=str(file))
    until(lambda: "gpuid cannot renew it" in run(check_clusters, [cluster], 60.0)[0].text)
    refused = grant("--apply", "--audience", "other", "--duration", "1h")
    assert "east: changed ValidatingAdmissionPolicy gpuid-token" in refused.output


def user(plane: ControlPlane, name: str, *verbs: str) -> Path:
    """A kubeconfig of somebody who may do this with all objects, but make no tokens."""
    resources = ["namespaces", "secrets", "serviceaccounts", "nodes"]
    rules = [{"apiGroups": [""], "resources": resources, "verbs": verbs}]
    rules += [{"apiGroups": [GROUP, "admissionregistration.k8s.io"], "resources": ["*"], "verbs": verbs}]
    make(plane, f"{RBAC}/clusterroles", metadata={"name": name}, rules=rules)
    plane.create("/api/v1/namespaces/gpu-operator/serviceaccounts", {"metadata": {"name": name}})
    bind(plane, name, name, subject={"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE})
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token"
    return plane.write_kubeconfig(name, token=plane.create(path, {"spec": {}})["status"]["token"])


def test_without_the_right_to_create_tokens_nothing_is_applied(east: ControlPlane, grant: Grant) -> None:
    operator = user(east, "tokenless-operator", "get", "list", "create", "patch", "delete", "bind", "escalate")
    finish_namespace(east)
    result = grant("--apply", kubeconfig=operator)
    assert result.exit_code == 1
    assert "may not create serviceaccounts/token gpuid in gpuid; it reveals the API server's audiences" in result.output
    assert is_gone(east, ACCOUNT)
    assert grant("--apply").exit_code == 0
    metadata = {"name": "gpuid-token-x7b2p", "annotations": {"kubernetes.io/service-account.name": "gpuid"}}
    make(east, "/api/v1/namespaces/gpuid/secrets", metadata=metadata, type="kubernetes.io/service-account-token")
    result = grant(
        "--check", kubeconfig=user(east, "tokenless-auditor", "get", "list")
    )  # with the platform's own Secret
    assert (result.exit_code, result.output) == (0, "east: up to date\n")


def test_objects_owned_by_others_are_unchanged(east: ControlPlane, grant: Grant) -> None:
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    role = f"{RBAC}/clusterroles/gpuid"
    make(east, f"{RBAC}/clusterroles", metadata={"name": "gpuid"}, rules=[rule])
    result = grant("--apply")
    assert result.exit_code == 1
    assert "ClusterRole gpuid exists, is not labelled as gpuid's and differs" in result.output
    labels = "app.kubernetes.io/managed-by=gpuid app.kubernetes.io/part-of=gpuid"
    assert f"kubectl label clusterrole gpuid {labels}" in result.output
    assert is_gone(east, ACCOUNT)
    assert grant("--revoke", "--yes").exit_code == 0
    assert east.http.get(role).json()["rules"] == [rule]
    east.http.delete(role).raise_for_status()


def test_leftovers_are_found_before_anything_is_changed(east: ControlPlane, grant: Grant) -> None:
    labels = {"app.kubernetes.io/managed-by": "gpuid", "app.kubernetes.io/part-of": "gpuid"}
    aggregation = {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}
    metadata = {"name": "gpuid", "labels": labels}
    make(east, f"{RBAC}/clusterroles", metadata=metadata, aggregationRule=aggregation, rules=[])
    result = grant("--apply")
    assert result.exit_code == 1
    assert "ClusterRole gpuid has content that gpuid did not put there" in result.output
    assert is_gone(east, ACCOUNT, f"{POLICIES}/validatingadmissionpolicies/gpuid-exec")


def test_without_the_right_to_find_excess_nothing_changes(east: ControlPlane, grant: Grant) -> None:
    verbs = ["get", "create", "patch", "update", "delete", "escalate", "bind"]
    rule = {"apiGroups": ["*"], "resources": ["*"], "verbs": verbs}
    make(east, f"{RBAC}/clusterroles", metadata={"name": "no-lists"}, rules=[rule])
    them = {"kind": "ServiceAccount", "name": "no-lists", "namespace": NAMESPACE}
    binding = bind(east, "no-lists", "no-lists", subject=them)
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    make(east, accounts, metadata={"name": "no-lists"})
    token = east.create(f"{accounts}/no-lists/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    kubeconfig = east.write_kubeconfig("no-lists", token=token)
    until(lambda: "cannot list resource" in grant("--apply", kubeconfig=kubeconfig).output)
    assert is_gone(east, ACCOUNT, f"{RBAC}/clusterroles/gpuid")
    for path in (binding, f"{RBAC}/clusterroles/no-lists", f"{accounts}/no-lists"):
        east.http.delete(path).raise_for_status()


def test_a_copy_of_the_manifests_belongs_to_others(east: ControlPlane, grant: Grant) -> None:
    labels = {"app.kubernetes.io/managed-by": "gpuid", "app.kubernetes.io/part-of": "gpuid"}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    roles, bindings = (f"{RBAC}/namespaces/default/{kind}" for kind in ("roles", "rolebindings"))
    make(east, roles, metadata={"name": "gpuid", "labels": labels}, rules=rules)
    reference = {"apiGroup": GROUP, "kind": "Role", "name": "gpuid"}
    them = {"kind": "ServiceAccount", "name": "gpuid", "namespace": "team-b"}
    make(east, bindings, metadata={"name": "gpuid", "labels": labels}, roleRef=reference, subjects=[them])
    for args in (["--apply"], ["--revoke", "--yes"]):
        assert "default" not in grant(*args).output
    for kind in (roles, bindings):
        east.http.delete(f"{kind}/gpuid").raise_for_status()


def test_the_account_is_removed_even_without_its_labels(east: ControlPlane, grant: Grant) -> None:
    assert grant("--apply").exit_code == 0
    patch = {"metadata": {"labels": None}, "automountServiceAccountToken": None}
    headers = {"Content-Type": "application/merge-patch+json"}
    east.http.patch(ACCOUNT, content=json.dumps(patch), headers=headers).raise_for_status()
    assert "east: deleted ServiceAccount gpuid in gpuid" in grant("--revoke", "--yes").output
    assert is_gone(east, ACCOUNT)


def exec_limit(kubeconfig: Path) -> ExecLimit:
    async def look() -> ExecLimit:
        async with ApiClient(Session(ClusterSettings(context="east", kubeconfig=str(kubeconfig)))) as client:
            return await look_at_exec(client, NAMESPACE)

    return run(look)


def said_by_check(kubeconfig: Path) -> str:
    cluster = ClusterSettings(context="east", kubeconfig=str(kubeconfig))
    (finding,) = run(check_clusters, [cluster], 60.0)
    return finding.text


def test_it_tests_whether_a_policy_is_enforced(
    east: ControlPlane, grant: Grant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kubeconfig"
    assert grant("--apply", "--without-policy", "--kubeconfig", file).exit_code == 0
    until(lambda: exec_limit(file), ExecLimit.NOT_IN_FORCE)
    assert "no admission policy limits its exec" in said_by_check(file)
    assert grant("--apply").exit_code == 0
    until(lambda: exec_limit(file), ExecLimit.IN_FORCE)
    assert "exec" not in said_by_check(file)

    async def unlimited(*_args: Any, **_options: Any) -> ExecLimit:
        return ExecLimit.NOT_IN_FORCE

    monkeypatch.setattr(work, "look_at_exec", unlimited)
    monkeypatch.setattr(work, "ENFORCEMENT_SECONDS", 0.0)
    for args in (["--check"], ["--apply", "--kubeconfig", tmp_path / "other"]):
        result = grant(*args)
        assert result.exit_code == 1
        assert "the admission policies exist but are not enforced" in result.output
    assert not (tmp_path / "other").exists()


def test_two_contexts_of_one_cluster_have_one_set_of_rights(east: ControlPlane, grant: Grant, tmp_path: Path) -> None:
    other = json.loads(east.kubeconfig.read_text())
    other["contexts"][0]["name"] = "again"
    (tmp_path / "other").write_text(json.dumps(other))
    toml = f'[[clusters]]\ncontext = "again"\nkubeconfig = "{tmp_path / "other"}"\n'
    result = grant("--apply", "--all", toml=toml)
    assert result.exit_code == 2
    assert "east and again are the same cluster" in result.output
    assert is_gone(east, ACCOUNT)
