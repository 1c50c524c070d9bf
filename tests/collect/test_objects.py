"""Pods and nodes, decoded from the API's JSON."""

import json
from typing import Any, cast

import msgspec
import pytest

from collector.collect.objects import Container, NodeObject, PodObject, decode_pod, node_decoder, without_echoes
from collector.kube.wire import MalformedError
from collector.model import NodeInfo
from collector.redaction import Secrets

ECHO = "hunter2-zx9-opaque.token-with.parts"


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "plugin-x7k2p",
        "namespace": "gpu-operator",
        "uid": "6c6d",
        "resourceVersion": "4711",
        "creationTimestamp": "2026-11-24T10:00:00Z",
        "labels": {"app": "nvidia-device-plugin-daemonset"},
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    },
    "spec": {"nodeName": "node-a", "containers": [{"name": "nvidia-device-plugin"}]},
    "status": {
        "phase": "Running",
        "containerStatuses": [
            {
                "name": "nvidia-device-plugin",
                "ready": True,
                "restartCount": 2,
                "containerID": "containerd://ab",
                "state": {},
            }
        ],
    },
}

NODE = {
    "metadata": {
        "name": "node-a",
        "uid": "77",
        "resourceVersion": "9",
        "labels": {"zone": "a", "pool": "h100", "x": "y"},
    },
    "spec": {"providerID": "aws:///us-east-1a/i-0abc"},
    "status": {
        "nodeInfo": {"bootID": "b-1", "kernelVersion": "6.8"},
        "capacity": {"cpu": "96", "memory": "1Ti", "nvidia.com/gpu": "8"},
        "allocatable": {"cpu": "95", "nvidia.com/gpu": "7"},
    },
}


def advertising(labels: dict[str, str], capacity: str, allocatable: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "n", "labels": labels},
        "status": {"capacity": {"nvidia.com/gpu": capacity}, "allocatable": {"nvidia.com/gpu": allocatable}},
    }


class TestAPod:
    def test_keeps_what_choosing_and_reading_it_needs(self) -> None:
        assert decode_pod(raw(POD)) == PodObject(
            key="gpu-operator/plugin-x7k2p",
            uid="6c6d",
            version="4711",
            node="node-a",
            created="2026-11-24T10:00:00Z",
            running=True,
            terminating=False,
            containers=(Container(name="nvidia-device-plugin", id="containerd://ab", ready=True, restarts=2),),
        )

    def test_has_the_containers_that_it_declares_before_they_are_reported(self) -> None:
        pod = POD | {"status": {"phase": "Pending"}}
        assert decode_pod(raw(pod)).containers == (Container(name="nvidia-device-plugin"),)
        two = POD | {"spec": {"containers": [{"name": "nvidia-device-plugin"}, {"name": "late"}, {}]}}
        assert [container.name for container in decode_pod(raw(two)).containers] == ["nvidia-device-plugin", "late", ""]

    def test_has_namespace_and_name_as_its_key(self) -> None:
        assert decode_pod(raw(POD)).key == "gpu-operator/plugin-x7k2p"

    def test_is_terminating_once_it_has_a_deletion_timestamp(self) -> None:
        pod = POD | {"metadata": {"name": "p", "deletionTimestamp": "2026-11-24T10:00:00Z"}}
        assert decode_pod(raw(pod)).terminating

    @pytest.mark.parametrize(
        "pod",
        [
            {"metadata": {"name": "p", "namespace": "n"}},
            {
                "metadata": {"name": "p", "namespace": "n", "creationTimestamp": None},
                "status": {"containerStatuses": None},
            },
            {"metadata": {"name": "p", "namespace": "n"}, "spec": {}, "status": {"phase": "Pending"}},
        ],
    )
    def test_may_lack_everything_but_its_name(self, pod: Any) -> None:
        assert decode_pod(raw(pod)) == PodObject(key="n/p", uid="", version="")

    def test_has_zero_values_where_there_are_nulls(self) -> None:
        metadata = {"name": "p", "namespace": "n", "uid": None, "resourceVersion": None}
        statuses = [{"name": "c", "containerID": None, "ready": None, "restartCount": None}, None]
        pod = {
            "metadata": metadata,
            "spec": {"nodeName": None},
            "status": {"phase": None, "containerStatuses": statuses},
        }
        expected = PodObject(key="n/p", uid="", version="", containers=(Container(name="c"), Container(name="")))
        assert decode_pod(raw(pod)) == expected
        assert decode_pod(raw({"metadata": metadata, "spec": None, "status": None})) == PodObject(
            key="n/p", uid="", version=""
        )

    def test_has_no_key_without_a_name(self) -> None:
        assert decode_pod(raw({"metadata": None})).key == ""

    @pytest.mark.parametrize("text", [b"", b"{", b'{"metadata": 3}', b"<html>", b'{"metadata": {"name": "\xff"}}'])
    def test_of_another_form_is_malformed(self, text: bytes) -> None:
        with pytest.raises(MalformedError):
            decode_pod(msgspec.Raw(text))


class TestANode:
    def test_keeps_its_facts_and_the_labels_that_are_asked_for(self) -> None:
        assert node_decoder(["pool", "absent", "zone"])(raw(NODE)) == NodeObject(
            version="9",
            facts=NodeInfo(
                name="node-a",
                uid="77",
                provider_id="aws:///us-east-1a/i-0abc",
                boot_id="b-1",
                capacity=8,
                allocatable=7,
                advertised=(8, 7),
                labels=(("pool", "h100"), ("zone", "a")),
                gpu_sign="nvidia.com/gpu",
            ),
        )

    @pytest.mark.parametrize(
        ("created", "expected"),
        [
            ("2026-11-24T10:00:00Z", 1795514400.0),
            (None, 0.0),
            ("", 0.0),
            ("yesterday", 0.0),
            ("2026-11-24T10:00:00.123456789123Z", 1795514400.123456),
        ],
    )
    def test_keeps_when_it_was_created(self, created: str | None, expected: float) -> None:
        assert node_decoder()(raw({"metadata": {"name": "n", "creationTimestamp": created}})).created == expected

    @pytest.mark.parametrize(
        "label",
        [
            "karpenter.k8s.aws/instance-gpu-count",
            "eks.amazonaws.com/instance-gpu-count",
            "karpenter.azure.com/sku-gpu-count",
        ],
    )
    def test_counts_shared_gpus_by_its_machine_type(self, label: str) -> None:
        facts = node_decoder()(raw(advertising({label: "8"}, "32", "28"))).facts
        assert (facts.capacity, facts.allocatable) == (8, 7)

    def test_has_zero_values_where_there_are_nulls(self) -> None:
        node = {
            "metadata": {"name": "n", "labels": {"l": None}},
            "spec": {"providerID": None},
            "status": {"nodeInfo": {"bootID": None}, "capacity": {"nvidia.com/gpu": None}, "allocatable": None},
        }
        facts = node_decoder(["l"])(raw(node)).facts
        assert (facts.name, facts.boot_id, facts.capacity, facts.labels) == ("n", "", None, (("l", ""),))

    def test_keeps_no_labels_by_default(self) -> None:
        assert node_decoder()(raw(NODE)).facts.labels == ()

    def test_keeps_the_labels_that_name_its_gpus_if_asked_to(self) -> None:
        labels = {"gpuid.github.com/gpu-1": "2", "gpuid.github.com/chassis": "1", "gpuid.github.com/owner": "ada"}
        node = raw(advertising(labels, "8", "8"))
        own = (("gpuid.github.com/chassis", "1"), ("gpuid.github.com/gpu-1", "2"))
        assert node_decoder(with_own_labels=True)(node).own_labels == own
        assert node_decoder()(node).own_labels == ()

    @pytest.mark.parametrize(
        ("amount", "expected"),
        [
            ("8", 8),
            (8, 8),
            ("0", 0),
            ("1k", 1000),
            ("2Ki", 2048),
            ("eight", None),
            ("", None),
            ("-1", None),
            ("9" * 5000, None),
            (None, None),
        ],
    )
    def test_counts_gpus_as_quantities_are_written(self, amount: object, expected: int | None) -> None:
        node = NODE | {"status": {"capacity": {"nvidia.com/gpu": amount}}}
        facts = node_decoder()(raw(node)).facts
        assert (facts.capacity, facts.allocatable) == (expected, None)

    @pytest.mark.parametrize(
        ("labels", "gpus", "expected"),
        [
            ({}, ("8", "7"), (8, 7)),
            ({"nvidia.com/gpu.replicas": "1", "nvidia.com/gpu.sharing-strategy": "none"}, ("8", "7"), (8, 7)),
            ({"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing"}, ("32", "28"), (8, 7)),
            ({"nvidia.com/gpu.replicas": "10", "nvidia.com/gpu.sharing-strategy": "mps"}, ("80", "0"), (8, 0)),
            ({"cloud.google.com/gke-max-shared-clients-per-gpu": "3"}, ("24", "21"), (8, 7)),
        ],
    )
    def test_counts_gpus_and_not_their_shares(
        self, labels: dict[str, str], gpus: tuple[str, str], expected: tuple[int, int]
    ) -> None:
        facts = node_decoder()(raw(advertising(labels, *gpus))).facts
        assert (facts.capacity, facts.allocatable, facts.labels) == (*expected, ())

    def test_counts_the_gpus_behind_renamed_shares(self) -> None:
        node = advertising({"nvidia.com/gpu.replicas": "10"}, "0", "0")
        for amounts in ("capacity", "allocatable"):
            node["status"][amounts]["nvidia.com/gpu.shared"] = "80"
        facts = node_decoder()(raw(node)).facts
        assert (facts.capacity, facts.allocatable, facts.advertised) == (8, 8, (80, 80))

    @pytest.mark.parametrize(
        "labels",
        [
            {"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.slices.gi": "1", "nvidia.com/gpu.replicas": "1"},
            {"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.product": "H100-MIG-INVALID"}
            | {"nvidia.com/gpu.replicas": "0"},
            {"nvidia.com/mig.strategy": "mixed", "nvidia.com/mig-1g.10gb.count": "7", "nvidia.com/gpu.replicas": "1"},
            {"cloud.google.com/gke-gpu-partition-size": "1g.5gb"},
            {"cloud.google.com/gke-gpu-partition-size": "1g.5gb"}
            | {"cloud.google.com/gke-max-shared-clients-per-gpu": "2"},
        ],
        ids=["single", "single, and misconfigured", "mixed", "GKE", "GKE, and shared"],
    )
    def test_has_no_count_with_mig_instances(self, labels: dict[str, str]) -> None:
        facts = node_decoder()(raw(advertising(labels, "56", "49"))).facts
        assert (facts.capacity, facts.allocatable, facts.advertised) == (None, None, (56, 49))

    @pytest.mark.parametrize("strategy", ["single", "mixed"])
    def test_counts_gpus_where_mig_is_allowed_and_off(self, strategy: str) -> None:
        labels = {"nvidia.com/mig.strategy": strategy, "nvidia.com/gpu.replicas": "1", "nvidia.com/mig.capable": "true"}
        facts = node_decoder()(raw(advertising(labels, "8", "7"))).facts
        assert (facts.capacity, facts.allocatable, facts.advertised) == (8, 7, (8, 7))

    @pytest.mark.parametrize("replicas", ["", "many", "-4", "5", "٤", "9" * 5000])
    def test_has_no_count_if_labels_contradict_the_amounts(self, replicas: str) -> None:
        facts = node_decoder()(raw(advertising({"nvidia.com/gpu.replicas": replicas}, "32", "32"))).facts
        assert (facts.capacity, facts.allocatable, facts.advertised) == (None, None, (32, 32))

    def test_may_lack_everything_but_its_name(self) -> None:
        node = node_decoder(["a"])(raw({"metadata": {"name": "n", "labels": None}}))
        assert node.facts == NodeInfo(name="n")


HOSTILE = "a\x1b[31m\x9b\u202e\u2028\x00b"


def test_names_contain_only_printable_characters() -> None:
    pod = decode_pod(raw({"metadata": {"name": HOSTILE, "namespace": HOSTILE}, "spec": {"nodeName": HOSTILE}}))
    assert (pod.key, pod.node) == ("a[31m b/a[31m b", "a[31m b")
    node = node_decoder(["pool"])(
        raw({"metadata": {"name": HOSTILE, "labels": {"pool": HOSTILE}}, "spec": {"providerID": f"x/{HOSTILE}"}})
    )
    assert (node.facts.name, node.facts.machine) == ("a[31m b", "a[31m b")
    assert node.facts.labels == (("pool", "a[31m b"),)


@pytest.mark.parametrize("body", [b'{"metadata": {"name": "\xff"}}', b'{"x": ' + b"[" * 100_000, b"9" * 5000, b""])
def test_a_value_other_than_an_object_is_malformed(body: bytes) -> None:
    for decode in (decode_pod, node_decoder()):
        with pytest.raises(MalformedError):
            decode(msgspec.Raw(body))


@pytest.mark.parametrize(
    ("where", "longest"), [(("metadata", "name"), 253), (("metadata", "namespace"), 63), (("spec", "nodeName"), 253)]
)
def test_a_pod_with_a_name_that_is_too_long_is_malformed(where: tuple[str, str], longest: int) -> None:
    part, field = where
    for length, ok in ((longest, True), (longest + 1, False), (5000, False)):
        pod: dict[str, Any] = {**POD, part: {**cast("dict[str, Any]", POD[part]), field: "a" * length}}
        if ok:
            assert "a" * length in (
                decode_pod(raw(pod)).name,
                decode_pod(raw(pod)).namespace,
                decode_pod(raw(pod)).node,
            )
        else:
            with pytest.raises(MalformedError, match=rf"^{part}.{field} is longer than {longest} characters$"):
                decode_pod(raw(pod))


def test_a_node_with_a_name_that_is_too_long_is_malformed() -> None:
    decode = node_decoder()
    assert decode(raw({"metadata": {"name": "a" * 253}})).key == "a" * 253
    with pytest.raises(MalformedError, match=r"^metadata.name is longer than 253 characters$"):
        decode(raw({"metadata": {"name": "a" * 254}}))


def test_a_node_with_an_overlong_kept_label_is_malformed() -> None:
    node = raw({"metadata": {"name": "n", "labels": {"zone": "a" * 63, "pool": "a" * 64}}})
    assert node_decoder(["zone"])(node).facts.labels == (("zone", "a" * 63),)
    with pytest.raises(MalformedError, match=r"^the label pool is longer than 63 characters$"):
        node_decoder(["pool"])(node)


def test_a_long_provider_id_is_cut() -> None:
    (length,) = {
        len(node_decoder()(raw({"metadata": {"name": "n"}, "spec": {"providerID": text}})).facts.provider_id)
        for text in ("a" * 1000, "a" * 1001, "a" * 100_000)
    }
    assert length == 1000


@pytest.mark.parametrize(
    "node",
    [
        {"metadata": {"name": ECHO}},
        {"metadata": {"name": "a"}, "spec": {"providerID": f"aws:///{ECHO}"}},
        {"metadata": {"name": "a", "labels": {"zone": ECHO}}},
    ],
)
def test_a_node_that_repeats_a_secret_is_malformed(node: dict[str, Any]) -> None:
    secrets = Secrets(f"Bearer {ECHO}")
    with pytest.raises(MalformedError, match="it repeats one of gpuid's credentials"):
        without_echoes(node_decoder(["zone"]), secrets)(raw(node))
    assert without_echoes(node_decoder(["zone"]), secrets)(raw({"metadata": {"name": "a"}})).key == "a"


def test_a_pod_that_repeats_a_secret_is_malformed() -> None:
    with pytest.raises(MalformedError, match="it repeats one of gpuid's credentials"):
        without_echoes(decode_pod, Secrets(ECHO))(raw({"metadata": {"namespace": "x", "name": ECHO}}))
