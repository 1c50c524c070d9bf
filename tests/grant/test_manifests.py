"""What is granted for which sources, as plain documents."""

from pathlib import Path
from typing import Any

import yaml

from collector.config import ClusterSettings, PodSource, SourceMethod
from collector.grant.documents import dump
from collector.grant.manifests import Manifest, difference, make_manifests, title

RBAC = Path(__file__).parents[2] / "config" / "kubernetes" / "watched-cluster" / "rbac.yaml"


def cluster(*sources: PodSource) -> ClusterSettings:
    return ClusterSettings(context="prod", sources=sources)


def source(namespace: str, method: SourceMethod = SourceMethod.EXEC) -> PodSource:
    return PodSource(namespace=namespace, selector="", container="c", method=method)


def named(manifests: list[Manifest], name: str) -> dict[str, Any]:
    return dict(next(one for one in manifests if title(one) == name))


def test_the_manifest_grants_what_the_default_preset_needs() -> None:
    assert list(yaml.safe_load_all(RBAC.read_text())) == make_manifests(ClusterSettings(context="prod"))


def test_the_manifest_for_labels_has_the_same_policy() -> None:
    by_hand = list(yaml.safe_load_all(RBAC.with_name("labels.yaml").read_text()))
    granted = make_manifests(ClusterSettings(context="prod", labels=True))
    assert by_hand[:2] == [one for one in granted if one["metadata"]["name"] == "gpuid-labels"]
    assert by_hand[2]["rules"][0] == {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}


def test_each_namespace_has_its_role() -> None:
    manifests = make_manifests(cluster(source("a"), source("b", SourceMethod.LOG)))
    assert [title(one) for one in manifests] == [
        "Namespace gpuid",
        "ServiceAccount gpuid in gpuid",
        "ValidatingAdmissionPolicy gpuid-exec",
        "ValidatingAdmissionPolicyBinding gpuid-exec",
        "ValidatingAdmissionPolicy gpuid-token",
        "ValidatingAdmissionPolicyBinding gpuid-token",
        "ClusterRole gpuid",
        "ClusterRoleBinding gpuid",
        "Role gpuid in a",
        "RoleBinding gpuid in a",
        "Role gpuid in b",
        "RoleBinding gpuid in b",
        "Role gpuid-token in gpuid",
        "RoleBinding gpuid-token in gpuid",
    ]
    assert [rule["resources"] for rule in named(manifests, "Role gpuid in a")["rules"]] == [["pods"], ["pods/exec"]]
    assert [rule["resources"] for rule in named(manifests, "Role gpuid in b")["rules"]] == [["pods"], ["pods/log"]]
    policy = named(manifests, "ValidatingAdmissionPolicy gpuid-exec")
    assert 'request.namespace == "b"' not in policy["spec"]["validations"][1]["expression"]


def test_logs_need_no_exec_and_the_policy_denies_it() -> None:
    manifests = make_manifests(cluster(source("a", SourceMethod.LOG)))
    assert "pods/exec" not in dump(one for one in manifests if "Policy" not in one["kind"])
    policy = named(manifests, "ValidatingAdmissionPolicy gpuid-exec")
    assert [one["expression"] for one in policy["spec"]["validations"]] == ["false"]


def test_a_token_has_the_server_audience_and_requested_lifetime() -> None:
    policy = named(
        make_manifests(cluster(source("a")), audiences=["https://api", 'x"'], seconds=3600),
        "ValidatingAdmissionPolicy gpuid-token",
    )
    assert [one["expression"] for one in policy["spec"]["validations"]] == [
        'object.spec.audiences.all(audience, audience in ["https://api", "x\\""])',
        "object.spec.expirationSeconds <= 3600",
    ]


def test_token_renewal_and_the_policy_are_optional() -> None:
    manifests = make_manifests(cluster(source("a")), renewal=False, policy_version=None)
    assert not any("token" in title(one) or "Policy" in title(one) for one in manifests)


def test_a_source_in_our_namespace_has_its_own_role() -> None:
    titles = [title(one) for one in make_manifests(cluster(source("gpuid", SourceMethod.LOG)))]
    assert "Role gpuid in gpuid" in titles
    assert "Role gpuid-token in gpuid" in titles


class TestDifference:
    role = named(make_manifests(ClusterSettings(context="prod")), "Role gpuid in gpu-operator")

    def test_defaults_added_by_the_server_are_not_a_difference(self) -> None:
        metadata = self.role["metadata"] | {"uid": "1", "resourceVersion": "2", "managedFields": []}
        metadata |= {"labels": metadata["labels"] | {"foreign": "x"}}
        live = dict(reversed((self.role | {"metadata": metadata}).items()))
        assert difference(self.role, live) == []

    def test_an_added_right_is_a_difference(self) -> None:
        live = self.role | {
            "rules": [*self.role["rules"], {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
        }
        diff = difference(self.role, live)
        assert diff[:2] == ["--- Role gpuid in gpu-operator", "+++ Role gpuid in gpu-operator"]
        assert "-  - secrets" in diff
        assert not any(line.startswith("+") for line in diff[2:])

    def test_an_added_aggregation_is_a_difference(self) -> None:
        assert difference(self.role, self.role | {"aggregationRule": {}}) != []

    def test_a_removed_label_is_a_difference(self) -> None:
        assert difference(self.role, self.role | {"metadata": self.role["metadata"] | {"labels": None}}) != []

    def test_a_missing_object_differs_entirely(self) -> None:
        assert difference(self.role, None)[0] == "--- absent"
        assert difference(None, self.role)[1] == "+++ absent"

    def test_secrets_of_a_service_account_are_not_a_difference(self) -> None:
        account = named(make_manifests(ClusterSettings(context="prod")), "ServiceAccount gpuid in gpuid")
        assert difference(account, account | {"secrets": [{"name": "x"}], "imagePullSecrets": []}) == []
