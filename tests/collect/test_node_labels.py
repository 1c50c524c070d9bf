"""Which labels name the GPUs of a node: those that the Go program of the same name writes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect.node_labels import LABEL_PREFIX, gpu_labels, is_gpu_label, label_changes, label_value, own_labels
from collector.collect.nvidia_smi import parse
from collector.model import Gpu

LEGAL_VALUE = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")


def document(*gpus: tuple[str, str]) -> bytes:
    """What nvidia-smi prints of GPUs, given as (chassis, serial)."""
    cards = "".join(
        f'<gpu id="00000000:{0x10 + number:02X}:00.0"><serial>{serial}</serial>'
        f"<uuid>GPU-00000000-0000-0000-0000-{number + 1:012}</uuid>"
        f"<platformInfo><chassis_serial_number>{chassis}</chassis_serial_number></platformInfo></gpu>\n"
        for number, (chassis, serial) in enumerate(gpus)
    )
    return f"<nvidia_smi_log>\n<attached_gpus>{len(gpus)}</attached_gpus>\n{cards}</nvidia_smi_log>\n".encode()


def labels(*gpus: tuple[str, str]) -> dict[str, str]:
    found = gpu_labels(parse(document(*gpus)).gpus)
    return {key.removeprefix(LABEL_PREFIX): value for key, value in found.items()}


# What the Go program answers to each of these documents.
@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        pytest.param(
            [("N/A", "1650122000002"), ("N/A", "1650122000001"), ("N/A", "1650122000010")],
            {"gpu-0": "1650122000001", "gpu-1": "1650122000002", "gpu-2": "1650122000010"},
            id="no chassis: by serial",
        ),
        pytest.param(
            [("1820000000001", "17600002"), ("1820000000001", "17600002"), ("1820000000001", "17600001")],
            {"chassis": "1820000000001", "chassis-count": "1", "gpu-0": "17600001", "gpu-1": "17600002"},
            id="one chassis, two GPUs of one board",
        ),
        pytest.param(
            [("c2", "g3"), ("c1", "g2"), ("c1", "g1")],
            {
                "chassis-0": "c1",
                "chassis-0-gpu-0": "g1",
                "chassis-0-gpu-1": "g2",
                "chassis-1": "c2",
                "chassis-1-gpu-0": "g3",
                "chassis-count": "2",
            },
            id="two chassis, by their serials",
        ),
        pytest.param(
            [("N/A", "g2"), ("18", "g1")],
            {"chassis-0": "18", "chassis-0-gpu-0": "g1", "gpu-0": "g2", "chassis-count": "1"},
            id="one of two without a chassis",
        ),
        pytest.param([("N/A", "N/A"), ("N/A", "N/A")], {"gpu-0": "na"}, id="no serial"),
        pytest.param([("N/A", "12"), ("N/A", "N/A")], {"gpu-0": "12", "gpu-1": "na"}, id="one serial"),
        pytest.param([("N/A", "9"), ("N/A", "10")], {"gpu-0": "10", "gpu-1": "9"}, id="serials are sorted as text"),
    ],
)
def test_the_labels_are_those_of_the_go_program(gpus: list[tuple[str, str]], expected: dict[str, str]) -> None:
    assert labels(*gpus) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1650122000001", "1650122000001"),
        ("a_b-c.d", "a_b-c.d"),
        ("N/A", "na"),
        ("", "na"),
        ("N/A-165", "N-A-165"),
        ("@#12/34 5$%", "12-34-5"),
        ("..--__", "na"),
        ("ä1ä2ä", "1-2"),
        ("x" * 70, "x" * 63),
        ("x" * 62 + ".y", "x" * 62),
    ],
)
def test_values_are_made_legal(text: str, expected: str) -> None:
    assert label_value(text) == expected


@given(st.lists(st.tuples(st.text(max_size=80) | st.none(), st.text(max_size=80) | st.none()), max_size=40))
def test_whatever_the_serials_are_the_labels_are_legal_and_ours(serials: list[tuple[str | None, str | None]]) -> None:
    gpus = [Gpu(uuid=f"GPU-{number}", chassis=one[0], serial=one[1]) for number, one in enumerate(serials)]
    found = gpu_labels(gpus)
    assert found == gpu_labels(reversed(gpus))
    assert bool(found) == bool(gpus)
    assert own_labels(found) == tuple(sorted(found.items()))
    for key, value in found.items():
        assert len(key.removeprefix(LABEL_PREFIX)) <= 63
        assert LEGAL_VALUE.fullmatch(value)
        assert len(value) <= 63


@pytest.mark.parametrize("chassis", ["c", None])
def test_the_number_of_labels_is_bounded(chassis: str | None) -> None:
    gpus = [Gpu(uuid=f"GPU-{number}", chassis=chassis, serial=str(number)) for number in range(1000)]
    many = [Gpu(uuid=f"GPU-{number}", chassis=str(number), serial=str(number)) for number in range(1000)]
    assert len(gpu_labels(gpus)) == 256 + 2 * (chassis is not None)
    assert len(gpu_labels(many)) == 2 * 256 + 1 == len(own_labels(gpu_labels(many)))


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("gpuid.github.com/gpu-0", True),
        ("gpuid.github.com/chassis", True),
        ("gpuid.github.com/chassis-count", True),
        ("gpuid.github.com/chassis-12", True),
        ("gpuid.github.com/chassis-12-gpu-3", True),
        ("gpuid.github.com/owner", False),
        ("gpuid.github.com/gpu-", False),
        ("gpuid.github.com/gpu-0\n", False),
        ("gpuid.github.com.example/gpu-0", False),
        ("other/gpu-0", False),
    ],
)
def test_only_keys_of_the_scheme_are_ours(key: str, *, ours: bool) -> None:
    assert is_gpu_label(key) is ours


def test_only_differences_are_changed() -> None:
    present = {"a/gpu-0": "1", "a/gpu-1": "2", "a/gpu-2": "3"}
    assert label_changes(present, present) == {}
    assert label_changes(present, {"a/gpu-0": "1", "a/gpu-1": "9", "a/gpu-3": "4"}) == {
        "a/gpu-1": "9",
        "a/gpu-3": "4",
        "a/gpu-2": None,
    }
    assert label_changes(present, {}) == dict.fromkeys(present)
