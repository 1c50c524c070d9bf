"""`gpuid grant` on a real API server with RBAC: its rights are enough, each is needed, and they are all there is."""

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import yaml
from anyio.from_thread import start_blocking_portal

from collector.checks.clusters import check_clusters
from collector.checks.rights import needed_rights
from collector.config import ClusterSettings
from collector.grant.manifests import make_manifests
from collector.simulator import Placed
from tests.control_plane.conftest import Collect
from tests.control_plane.plane import CONTAINER, MODEL, NAMESPACE, ControlPlane
from tests.control_plane.rights import (
    POLICIES,
    RBAC,
    SMI,
    UPGRADE,
    Grant,
    as_collector,
    exec_status,
    finish_namespace,
)
from tests.support.waiting import until

PLACED = Placed(
    "east", "gpu-1", "GPU-00000000-0000-0000-0000-000000000001", serial="1650122000001", chassis="", model=MODEL
)


def missing(kubeconfig: Path) -> list[str]:
    """What `gpuid check` finds missing."""
    cluster = ClusterSettings(context="east", kubeconfig=str(kubeconfig))
    with start_blocking_portal("asyncio") as portal:
        (finding,) = portal.call(check_clusters, [cluster], 60.0)
        portal.call(anyio.sleep, 0)
    return [problem.text for problem in finding.problems]


def is_missing(kubeconfig: Path, named: str) -> bool:
    return named in missing(kubeconfig)


def test_everything_works_with_exactly_these_rights(east: ControlPlane, kubeconfig: Path, collect: Collect) -> None:
    until(lambda: missing(kubeconfig), [])
    collector = collect({"east": kubeconfig})
    until(collector.gpus, {PLACED})
    assert collector.total("gpuid_cluster_up", cluster="east") == 1
    with as_collector(east, kubeconfig) as thief:
        until(lambda: exec_status(thief, ["sh"]), 403)  # the policy is in force a moment after it was made
        check_commands(thief)
        check_nothing_else(thief)
        # Nobody else is concerned.
        assert exec_status(east.http, ["sh"], stdin="true", tty="true") == UPGRADE


def check_commands(thief: httpx.Client) -> None:
    """Only the source's command is admitted, and the same for one GPU."""
    for method in ("GET", "POST"):
        assert exec_status(thief, SMI, method=method) == UPGRADE
    for one in ("0", "15", "00000000:1B:00.0", "GPU-00000000-0000-0000-0000-000000000001"):
        assert exec_status(thief, [*SMI, "-i", one]) == UPGRADE, one
    for other in (
        ["sh"],
        ["sh", "-c", "nvidia-smi -q -x"],
        ["nvidia-smi", "-q"],
        ["/tmp/nvidia-smi", "-q", "-x"],
        [*SMI, "-f", "/etc/passwd"],
        [*SMI, "-i"],
        [*SMI, "-i", "0", "--gpu-reset"],
        [*SMI, "-i", "0,1"],
        [*SMI, "-i", "0\n"],
        [*SMI, "-i", "0;id"],
        ["nvidia-smi", "-i", "0", "-q", "-x"],
    ):
        assert exec_status(thief, other) == 403, other
        assert exec_status(thief, other, method="POST") == 403, other
    assert exec_status(thief, SMI, stdin="true") == 403
    assert exec_status(thief, SMI, tty="true") == 403
    assert exec_status(thief, SMI, container="other") == 403
    assert exec_status(thief, SMI, container="") == 403
    assert exec_status(thief, SMI, namespace="gpuid") == 403
    assert exec_status(thief, SMI, namespace="kube-system") == 403


def check_nothing_else(thief: httpx.Client) -> None:
    pod = f"/api/v1/namespaces/{NAMESPACE}/pods/gpu-1-a"
    account = "/api/v1/namespaces/gpuid/serviceaccounts"
    container = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    for method, path in (
        ("GET", "/api/v1/secrets"),
        ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets"),
        ("GET", "/api/v1/namespaces/gpuid/secrets"),
        ("GET", "/api/v1/namespaces/gpuid/configmaps"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/namespaces/kube-system/pods"),
        ("GET", "/api/v1/namespaces"),
        ("GET", pod),
        ("GET", f"{pod}/log"),
        ("GET", f"{pod}/attach"),
        ("POST", f"{pod}/attach"),
        ("GET", f"{pod}/portforward"),
        ("POST", f"{pod}/portforward"),
        ("GET", f"{pod}/proxy/"),
        ("PATCH", f"{pod}/ephemeralcontainers"),
        ("PATCH", pod),
        ("DELETE", pod),
        ("POST", f"/api/v1/namespaces/{NAMESPACE}/pods"),
        ("POST", "/api/v1/namespaces/gpuid/pods"),
        ("GET", "/api/v1/nodes/gpu-1"),
        ("GET", "/api/v1/nodes/gpu-1/proxy/pods"),
        ("PATCH", "/api/v1/nodes/gpu-1"),
        ("DELETE", "/api/v1/nodes/gpu-1"),
        ("POST", account),
        ("GET", f"{account}/gpuid"),
        ("POST", f"{account}/default/token"),
        ("POST", "/api/v1/namespaces/kube-system/serviceaccounts/gpuid/token"),
        ("POST", f"{RBAC}/clusterrolebindings"),
        ("PATCH", f"{RBAC}/clusterroles/gpuid"),
        ("PATCH", f"{RBAC}/namespaces/{NAMESPACE}/roles/gpuid"),
        ("DELETE", f"{POLICIES}/validatingadmissionpolicies/gpuid-exec"),
        ("PATCH", f"{POLICIES}/validatingadmissionpolicybindings/gpuid-exec"),
    ):
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        body = json.dumps(container) if method in ("POST", "PATCH") else None
        assert thief.request(method, path, headers=headers, content=body).status_code == 403, (method, path)
    request = {"spec": {"expirationSeconds": 600}}
    assert thief.post(f"{account}/gpuid/token", json=request).status_code == 201  # to renew its own


def test_each_missing_right_is_named(east: ControlPlane, kubeconfig: Path) -> None:
    until(lambda: missing(kubeconfig), [])
    cluster = ClusterSettings(context="east")
    roles = [one for one in make_manifests(cluster) if one["kind"] in ("Role", "ClusterRole")]
    for right in (one for one in needed_rights(cluster) if not one.optional):
        (role,) = [
            one
            for one in roles
            if one["metadata"].get("namespace", "") == right.namespace and one["metadata"]["name"] == "gpuid"
        ]
        place = f"namespaces/{right.namespace}/roles" if right.namespace else "clusterroles"
        path = f"{RBAC}/{place}/gpuid"
        rules = [
            rule | {"verbs": [verb for verb in rule["verbs"] if verb != right.verb]}
            if rule["resources"] == [right.resource]
            else rule
            for rule in role["rules"]
        ]
        east.apply(dict(role) | {"rules": rules}, path)
        where = f" in namespace {right.namespace}" if right.namespace else ""
        named = f"may not {right.verb} {right.resource}{where}"
        until(functools.partial(is_missing, kubeconfig, named))
        east.apply(role, path)
    until(lambda: missing(kubeconfig), [])


def test_check_shows_differences_and_apply_corrects_them(east: ControlPlane, grant: Grant) -> None:
    result = grant("--check")
    assert result.exit_code == 1
    assert "east: 12 differences" in result.output
    assert "+++ ValidatingAdmissionPolicy gpuid-exec" in result.output
    result = grant("--apply")
    assert (result.exit_code, result.output.count("created")) == (0, 12), result.output
    result = grant("--check")
    assert (result.exit_code, result.output) == (0, "east: up to date\n")
    assert grant("--apply").output == "east: unchanged 12 objects\n"

    role = f"{RBAC}/namespaces/{NAMESPACE}/roles/gpuid"
    rules = east.http.get(role).json()["rules"]
    rules.append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})
    east.http.patch(
        role, content=json.dumps({"rules": rules}), headers={"Content-Type": "application/merge-patch+json"}
    ).raise_for_status()
    east.http.delete(f"{RBAC}/clusterrolebindings/gpuid").raise_for_status()
    result = grant("--check")
    assert result.exit_code == 1
    assert "east: 2 differences" in result.output
    assert "-  - secrets" in result.output
    result = grant("--apply")
    assert "east: changed Role gpuid in gpu-operator" in result.output
    assert "east: created ClusterRoleBinding gpuid" in result.output
    assert grant("--check").exit_code == 0

    # A condition that somebody added would let everything pass; it is not ours to remove, so it is named.
    policy = f"{POLICIES}/validatingadmissionpolicies/gpuid-exec"
    conditions = [*east.http.get(policy).json()["spec"]["matchConditions"], {"name": "never", "expression": "false"}]
    patch = {"spec": {"matchConditions": conditions}}
    east.http.patch(
        policy, content=json.dumps(patch), headers={"Content-Type": "application/merge-patch+json"}
    ).raise_for_status()
    result = grant("--check")
    assert result.exit_code == 1
    assert "never" in result.output
    result = grant("--apply")
    assert result.exit_code == 1
    assert "has content that gpuid did not put there" in result.output


def test_with_logs_there_is_no_right_to_exec(east: ControlPlane, grant: Grant, tmp_path: Path) -> None:
    assert grant("--apply").exit_code == 0
    logs = (
        f'[[clusters.sources]]\nnamespace = "{NAMESPACE}"\nselector = "app=nvidia-device-plugin-daemonset"\n'
        f'container = "{CONTAINER}"\nmethod = "log"\n'
    )
    file = tmp_path / "kubeconfig"
    result = grant("--apply", "--kubeconfig", file, toml=logs)
    assert result.exit_code == 0, result.output
    assert "east: changed Role gpuid in gpu-operator" in result.output
    assert "east: changed ValidatingAdmissionPolicy gpuid-exec" in result.output
    with as_collector(east, file) as thief:
        until(lambda: exec_status(thief, SMI), 403)
        until(lambda: thief.get(f"/api/v1/namespaces/{NAMESPACE}/pods/gpu-1-a/log").status_code != 403)
        assert exec_status(thief, SMI, method="POST") == 403


def test_revoking_removes_everything(east: ControlPlane, grant: Grant, kubeconfig: Path) -> None:
    with as_collector(east, kubeconfig) as thief:
        until(lambda: thief.get("/api/v1/nodes").status_code, 200)
        secret = {"metadata": {"name": "foreign"}}
        east.create("/api/v1/namespaces/gpuid/secrets", secret)
        assert grant("--revoke").exit_code == 2  # there is nobody to ask
        result = grant("--revoke", "--yes")
        assert result.exit_code == 0, result.output
        assert "east: kept Namespace gpuid: it still contains secrets foreign" in result.output
        until(lambda: thief.get("/api/v1/nodes").status_code in (401, 403))  # 401 once the server's cache has ended
        assert east.http.get("/api/v1/namespaces/gpuid/serviceaccounts/gpuid").status_code == 404
    east.http.delete("/api/v1/namespaces/gpuid/secrets/foreign").raise_for_status()
    result = grant("--revoke", "--yes")
    assert result.output == "east: deleted Namespace gpuid\n"
    finish_namespace(east)
    assert grant("--revoke", "--yes").output == "east: nothing to revoke\n"
    result = grant("--kubeconfig", kubeconfig)
    assert result.exit_code == 1
    assert "not found; grant the rights first with --apply" in result.output


def test_a_namespace_owned_by_others_is_kept(east: ControlPlane, grant: Grant) -> None:
    east.create("/api/v1/namespaces", {"metadata": {"name": "gpuid"}})
    assert grant("--apply").exit_code == 0
    assert "labels" not in east.http.get("/api/v1/namespaces/gpuid").json()["metadata"] or (
        "app.kubernetes.io/managed-by" not in east.http.get("/api/v1/namespaces/gpuid").json()["metadata"]["labels"]
    )
    assert grant("--check").exit_code == 0
    assert "Namespace" not in grant("--revoke", "--yes").output
    assert east.http.get("/api/v1/namespaces/gpuid").json()["status"]["phase"] == "Active"


def test_an_administrator_without_a_right_learns_which(east: ControlPlane, grant: Grant, kubeconfig: Path) -> None:
    result = grant("--apply", kubeconfig=kubeconfig)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert 'cannot get resource "serviceaccounts"' in result.output


def test_nothing_is_applied_if_a_right_is_missing(east: ControlPlane, grant: Grant) -> None:
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]
    east.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "auditor"},
            "rules": rules,
        },
        f"{RBAC}/clusterroles/auditor",
    )
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "auditor", "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/auditor"
    east.apply(account, path)
    east.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "auditor"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "auditor"},
            "subjects": [{"kind": "ServiceAccount", "name": "auditor", "namespace": NAMESPACE}],
        },
        f"{RBAC}/clusterrolebindings/auditor",
    )
    token = east.create(f"{path}/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    auditor = east.write_kubeconfig("auditor", token=token)
    until(lambda: 'cannot patch resource "namespaces"' in grant("--apply", kubeconfig=auditor).output)
    result = grant("--apply", kubeconfig=auditor)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "may not apply Namespace gpuid" in result.output
    assert grant("--check", kubeconfig=auditor).output.startswith("east: 12 differences\n")


def test_an_unreachable_cluster_does_not_stop_the_others(east: ControlPlane, grant: Grant, tmp_path: Path) -> None:
    nowhere = f'[[clusters]]\ncontext = "nowhere"\nkubeconfig = "{east.kubeconfig}"\n'
    file = tmp_path / "kubeconfig"
    result = grant("--all", "--apply", "--kubeconfig", file, toml=nowhere)
    assert result.exit_code == 1
    assert 'gpuid: nowhere: no context "nowhere"' in result.output
    assert "Wrote 1 context" in result.output
    until(lambda: missing(file), [])


def test_a_namespace_that_does_not_exist_is_named(east: ControlPlane, grant: Grant) -> None:
    source = '[[clusters.sources]]\nnamespace = "elsewhere"\nselector = ""\ncontainer = "x"\n'
    result = grant("--apply", toml=source)
    assert result.exit_code == 1
    assert 'namespace "elsewhere" does not exist; set `preset` or `sources`' in result.output
    assert east.http.get("/api/v1/namespaces/gpuid").status_code == 404


def test_objects_managed_by_another_tool_are_unchanged(east: ControlPlane, grant: Grant) -> None:
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    path = f"{RBAC}/clusterroles/gpuid"
    east.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "gpuid", "labels": labels},
            "rules": [],
        },
        path,
    )
    result = grant("--apply")
    east.http.delete(path).raise_for_status()
    assert result.exit_code == 1
    assert "east: ClusterRole gpuid is managed by Helm" in result.output


def test_the_secret_has_a_kubeconfig_that_works(east: ControlPlane, grant: Grant, tmp_path: Path) -> None:
    result = grant("--apply", "--secret", "--duration", "1h")
    assert result.exit_code == 0, result.output
    assert "run this again before they expire" in result.stderr
    secret = yaml.safe_load(result.stdout)
    east.apply(secret, "/api/v1/namespaces/gpuid/secrets/gpuid-kubeconfig")
    file = tmp_path / "config"
    file.write_text(secret["stringData"]["config"])
    until(lambda: missing(file), [])
    east.http.delete("/api/v1/namespaces/gpuid/secrets/gpuid-kubeconfig").raise_for_status()


def test_only_our_labels_of_a_node_can_be_changed(east: ControlPlane, grant: Grant, tmp_path: Path) -> None:
    file, toml = tmp_path / "kubeconfig", "labels = true\n"
    result = grant("--apply", "--kubeconfig", file, toml=toml)
    assert result.exit_code == 0, result.output
    assert grant("--check", toml=toml).exit_code == 0
    node = "/api/v1/nodes/gpu-1"
    with as_collector(east, file) as thief:

        def status(client: httpx.Client, patch: object) -> int:
            headers = {"Content-Type": "application/strategic-merge-patch+json"}
            return client.patch(node, content=json.dumps(patch), headers=headers).status_code

        def labelled(**labels: str | None) -> dict[str, Any]:
            return {"metadata": {"labels": {name.replace("_", "/"): value for name, value in labels.items()}}}

        own = labelled(**{"gpuid.github.com_gpu-0": "1650122000001"})
        until(lambda: status(thief, own), 200)
        values = itertools.count()
        until(lambda: status(thief, {"metadata": {"annotations": {"x": f"{next(values)}"}}}), 403)
        for patch in (
            {"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}},
            {"spec": {"unschedulable": True}},
            {"metadata": {"finalizers": ["example.com/x"]}},
            labelled(**{"nvidia.com_gpu.present": "false"}),
            labelled(**{"nvidia.com_gpu.present": None}),
            labelled(**{"gpuid.github.com.evil_x": "y"}),
            labelled(**{"gpuid.github.com_gpu-1": "x", "other": "y"}),
            labelled(**{"gpuid.github.com_other": "x"}),
            labelled(**{f"gpuid.github.com_gpu-{number}": "x" for number in range(600)}),
        ):
            assert status(thief, patch) == 403, patch
        assert status(thief, labelled(**{"gpuid.github.com_gpu-0": None})) == 200
        assert status(thief, own) == 200
        assert status(east.http, {"metadata": {"annotations": {"x": "y"}}}) == 200


def test_unusual_commands_are_admitted_unchanged(east: ControlPlane, grant: Grant, tmp_path: Path) -> None:
    # TOML has the escapes of JSON, but for characters above U+FFFF.
    odd = ["sh", "-c", "printf '%s' \"$0\" `x` \\n\n\t€ 😀 \u2028 \x7f", "1e3", ""]
    toml = (
        f'[[clusters.sources]]\nnamespace = "{NAMESPACE}"\nselector = ""\ncontainer = "{CONTAINER}"\n'
        f"command = {json.dumps(odd, ensure_ascii=False)}\n"
    ).replace("\x7f", "\\u007f")
    file = tmp_path / "kubeconfig"
    result = grant("--apply", "--kubeconfig", file, toml=toml)
    assert result.exit_code == 0, result.output
    assert grant("--check", toml=toml).exit_code == 0
    with as_collector(east, file) as thief:
        until(lambda: exec_status(thief, odd), UPGRADE)
        until(lambda: exec_status(thief, odd[:-1]), 403)
        assert exec_status(thief, odd) == UPGRADE
        assert exec_status(thief, SMI) == 403


def test_the_printed_manifests_are_the_ones_applied(east: ControlPlane, grant: Grant) -> None:
    assert grant("--apply").exit_code == 0
    for manifest in yaml.safe_load_all(grant("--audience", "https://kubernetes.default.svc").output):
        kind, metadata = manifest["kind"], manifest["metadata"]
        plural = {"ValidatingAdmissionPolicy": "validatingadmissionpolicies"}.get(kind, f"{kind.lower()}s")
        group = "/api/v1" if manifest["apiVersion"] == "v1" else f"/apis/{manifest['apiVersion']}"
        place = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
        path = f"{group}{place}/{plural}/{metadata['name']}"
        before = east.http.get(path).json()["metadata"]["resourceVersion"]
        applied = east.apply(manifest, path, fieldManager="gpuid")
        assert applied["metadata"]["resourceVersion"] == before, path
