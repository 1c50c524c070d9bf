"""The expressions of the admission policy, as text; tests/control_plane/test_grant.py has a real server judge them."""

import pytest

from collector.config import PodSource
from collector.grant.policy import exec_policy, label_policy


def source(*command: str, namespace: str = "ns", container: str = "c") -> PodSource:
    return PodSource(namespace=namespace, selector="", container=container, command=command)


def rule(*sources: PodSource) -> dict[str, str]:
    validations: list[dict[str, str]] = exec_policy("system:serviceaccount:gpuid:gpuid", sources)["validations"]
    return validations[1]


def test_only_the_service_account_is_affected() -> None:
    spec = exec_policy("system:serviceaccount:gpuid:gpuid", [source("x")])
    assert spec["matchConditions"] == [
        {"name": "user", "expression": 'request.userInfo.username == "system:serviceaccount:gpuid:gpuid"'}
    ]
    assert spec["failurePolicy"] == "Fail"
    (rules,) = spec["matchConstraints"]["resourceRules"]
    assert (rules["operations"], rules["resources"]) == (["CONNECT"], ["pods/exec"])


def test_only_nvidia_smi_has_a_form_for_one_gpu() -> None:
    assert rule(source("cat", "/tmp/x"))["expression"] == (
        "has(object.container) && has(object.command) && (\n"
        '  (request.namespace == "ns" && object.container == "c"\n'
        '    && object.command == ["cat", "/tmp/x"])\n'
        ")"
    )


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (("nvidia-smi", "-q", "-x"), 5),
        (("/usr/local/nvidia/bin/nvidia-smi", "-q", "-x"), 5),
        (("chroot", "/driver-root", "nvidia-smi", "-q", "-x"), 7),
    ],
)
def test_nvidia_smi_can_also_read_one_gpu(command: tuple[str, ...], size: int) -> None:
    words = ", ".join(f'"{word}"' for word in command)
    expression = rule(source(*command))["expression"]
    assert f"object.command == [{words}]\n    ||" in expression
    assert f'object.command.size() == {size} && object.command == [{words}, "-i", string(' in expression


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("it's", '"it\'s"'),
        ('"', r'"\""'),
        ("\\n", r'"\\n"'),
        ("\n\t\0\x1b", r'"\n\t\u0000\u001b"'),
        ("\x7f\x85\u2028\ufeff", r'"\u007f\u0085\u2028\ufeff"'),
        ("é€😀", '"é€😀"'),  # no halves of surrogate pairs, which CEL refuses
        ('"] || true || object.command == ["', r'"\"] || true || object.command == [\""'),
    ],
)
def test_a_word_becomes_a_cel_literal(text: str, literal: str) -> None:
    assert f"object.command == [{literal}]" in rule(source(text))["expression"]


def test_the_message_is_one_line() -> None:
    message = rule(source("sh", "-c", "a\nb"), source("x", namespace="other"))["message"]
    assert "\n" not in message
    assert message == (
        r"gpuid may only run sh -c $'a\x0ab' in container c of namespace ns; x in container c of namespace other"
    )


def test_sources_that_run_the_same_are_one_rule() -> None:
    assert rule(source("x"), source("x")) == rule(source("x"))
    assert "\n  || (request.namespace" in rule(source("x"), source("y"))["expression"]


def test_only_our_labels_of_a_node_may_change() -> None:
    spec = label_policy("system:serviceaccount:gpuid:gpuid")
    (rules,) = spec["matchConstraints"]["resourceRules"]
    assert (rules["operations"], rules["resources"]) == (["UPDATE"], ["nodes"])
    expressions = [one["expression"] for one in spec["validations"]]
    assert "(has(object.spec) ? object.spec : {}) == (has(oldObject.spec) ? oldObject.spec : {})" in expressions[0]
    assert 'key.matches("^gpuid\\\\.github\\\\.com/(gpu-[0-9]{1,5}|chassis' in expressions[1]
    assert ".size() <= 513" in expressions[2]
