"""The protobuf form of what clients send: recorded from the real encoding, field by field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.simulator.errors import ApiError
from collector.simulator.protobuf import decode


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return bytes((number << 3, value))
    data = value.encode() if isinstance(value, str) else value
    assert len(data) < 128
    return bytes((number << 3 | 2, len(data))) + data


def envelope(kind: str, version: str, raw: bytes) -> bytes:
    return b"k8s\x00" + field(1, field(1, version) + field(2, kind)) + field(2, raw) + field(3, "") + field(4, "")


def test_an_access_review_is_read() -> None:
    attributes = field(2, "create") + field(5, "pods") + field(6, "exec")
    body = envelope(
        "SelfSubjectAccessReview", "authorization.k8s.io/v1", field(1, b"") + field(2, field(1, attributes))
    )
    assert decode(body) == {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "metadata": {},
        "spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "subresource": "exec"}},
    }


def test_a_lease_is_read_with_its_times_and_labels() -> None:
    metadata = field(1, "leader") + field(3, "gpuid") + field(6, "1007") + field(11, field(1, "a") + field(2, "b"))
    spec = field(1, "me") + field(2, 15) + field(4, bytes((1 << 3, 60)) + bytes((2 << 3, 0xE8, 0x07)))
    assert decode(envelope("Lease", "coordination.k8s.io/v1", field(1, metadata) + field(2, spec))) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "leader", "namespace": "gpuid", "resourceVersion": "1007", "labels": {"a": "b"}},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "1970-01-01T00:01:00.000001Z"},
    }


def test_other_kinds_are_refused_by_name() -> None:
    with pytest.raises(ApiError, match="kind 'Pod' is not supported as protobuf"):
        decode(envelope("Pod", "v1", b""))


@given(st.binary(max_size=60))
def test_garbage_is_refused_and_never_crashes(garbage: bytes) -> None:
    for body in (garbage, b"k8s\x00" + garbage):
        with pytest.raises(ApiError):
            decode(body)


@pytest.mark.parametrize(
    "lease",
    [
        field(1, field(1, 7)),
        field(2, field(4, b"\x08" + b"\xff" * 8 + b"\x7f")),
        field(2, b"\x10" + b"\xff" * 9 + b"\x7f"),
        field(2, field(2, "7")),
        field(1, field(11, 7)),
    ],
    ids=[
        "a number as a text",
        "a time out of range",
        "a number of more than 64 bits",
        "a text as a number",
        "a number as a map",
    ],
)
def test_a_lease_with_other_values_is_refused(lease: bytes) -> None:
    with pytest.raises(ApiError, match="not a complete protobuf message"):
        decode(envelope("Lease", "coordination.k8s.io/v1", lease))
