"""The three kinds of patch."""

from typing import Any

import pytest

from collector.simulator.errors import ApiError
from collector.simulator.patches import apply

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"

NODE: dict[str, Any] = {
    "metadata": {"name": "n", "labels": {"a": "1", "b": "2"}},
    "spec": {"taints": [{"key": "x"}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "False"}]},
}


@pytest.mark.parametrize("kind", [STRATEGIC, MERGE])
def test_a_merge_adds_changes_and_removes_keys(kind: str) -> None:
    patched = apply(kind, NODE, {"metadata": {"labels": {"a": None, "b": "3", "c": "4"}}})
    assert patched["metadata"] == {"name": "n", "labels": {"b": "3", "c": "4"}}
    assert NODE["metadata"]["labels"] == {"a": "1", "b": "2"}


def test_a_strategic_merge_joins_conditions_by_type() -> None:
    patched = apply(STRATEGIC, NODE, {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    assert patched["status"]["conditions"] == [
        {"type": "Ready", "status": "False"},
        {"type": "Disk", "status": "False"},
    ]


def test_a_strategic_merge_can_delete_from_a_joined_list() -> None:
    patched = apply(STRATEGIC, NODE, {"status": {"conditions": [{"type": "Disk", "$patch": "delete"}]}})
    assert patched["status"]["conditions"] == [{"type": "Ready", "status": "True"}]


def test_a_strategic_merge_can_replace_a_map() -> None:
    patched = apply(STRATEGIC, NODE, {"metadata": {"labels": {"$patch": "replace", "z": "9"}}})
    assert patched["metadata"]["labels"] == {"z": "9"}


@pytest.mark.parametrize("kind", [STRATEGIC, MERGE])
def test_other_lists_are_replaced(kind: str) -> None:
    assert apply(kind, NODE, {"spec": {"taints": [{"key": "y"}]}})["spec"]["taints"] == [{"key": "y"}]


@pytest.mark.parametrize(
    ("operation", "labels"),
    [
        ({"op": "add", "path": "/metadata/labels/x~1y", "value": "3"}, {"a": "1", "b": "2", "x/y": "3"}),
        ({"op": "replace", "path": "/metadata/labels/a", "value": "9"}, {"a": "9", "b": "2"}),
        ({"op": "remove", "path": "/metadata/labels/a"}, {"b": "2"}),
        ({"op": "move", "from": "/metadata/labels/a", "path": "/metadata/labels/c"}, {"b": "2", "c": "1"}),
        ({"op": "copy", "from": "/metadata/labels/a", "path": "/metadata/labels/c"}, {"a": "1", "b": "2", "c": "1"}),
        ({"op": "test", "path": "/metadata/labels/a", "value": "1"}, {"a": "1", "b": "2"}),
    ],
)
def test_a_json_patch_does_its_operations(operation: dict[str, Any], labels: dict[str, str]) -> None:
    assert apply(JSON, NODE, [operation])["metadata"]["labels"] == labels


def test_a_json_patch_reaches_into_lists() -> None:
    patched = apply(JSON, NODE, [{"op": "add", "path": "/spec/taints/-", "value": {"key": "y"}}])
    assert patched["spec"]["taints"] == [{"key": "x"}, {"key": "y"}]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/metadata/labels/none", "value": "1"},
        {"op": "remove", "path": "/none/deep"},
        {"op": "test", "path": "/metadata/name", "value": "other"},
        {"op": "add", "path": "metadata", "value": 1},
        {"path": "/metadata"},
    ],
)
def test_a_json_patch_that_does_not_apply_is_refused(operation: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as refused:
        apply(JSON, NODE, [operation])
    assert refused.value.code == 422


def test_other_kinds_of_patch_are_refused() -> None:
    with pytest.raises(ApiError, match="accepted media types include: application/json-patch") as refused:
        apply("application/apply-patch+yaml", NODE, {})
    assert refused.value.code == 415
