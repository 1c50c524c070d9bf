"""The values of a report, whatever a node printed."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect.nvidia_smi import Report
from collector.collect.printable import printable_report
from collector.health import HEALTH_FIELDS, Health
from collector.model import Gpu, UnidentifiedGpu
from collector.redaction import Secrets

PLAIN = Report(
    driver_version="570.148.08",
    cuda_version=None,
    gpus=(Gpu(uuid="GPU-1", serial="1", model="NVIDIA  H100", minor_number=3, mig=True),),
    unidentified=(UnidentifiedGpu(serial="2"),),
)
TEXTS = st.text(st.characters(categories=["L", "Cc", "Cf", "Co", "Zl", "Zp"]), max_size=5)


def test_a_printable_report_is_returned_unchanged() -> None:
    assert printable_report(PLAIN) is PLAIN


@pytest.mark.parametrize("letter", ["\x1b", "\x00", "\x7f", "\x9b", "\u2028", "\u202e", "\u200b", "\ud800"])
def test_unprintable_characters_are_removed(letter: str) -> None:
    dirty = Report(
        driver_version=f"570{letter}",
        cuda_version=letter,
        gpus=(Gpu(uuid=f"GPU{letter}-1", serial=letter, model=f"NVIDIA{letter}H100", mig=True),),
        unidentified=(UnidentifiedGpu(serial=f"2{letter}"),),
    )
    clean = printable_report(dirty)
    (gpu,) = clean.gpus
    assert (gpu.uuid, gpu.serial, gpu.mig) == ("GPU-1", None, True) or letter == "\u2028"
    assert gpu.model in ("NVIDIAH100", "NVIDIA H100")
    assert clean.driver_version == "570"
    assert clean.cuda_version is None
    assert clean.unidentified[0].serial == "2"


def test_only_one_of_several_identical_gpus_remains() -> None:
    report = Report(
        driver_version=None,
        cuda_version=None,
        gpus=(Gpu(uuid="GPU-1", serial="1"), Gpu(uuid="GPU-\u200b1", serial="2"), Gpu(uuid="\x7f", serial="3")),
    )
    clean = printable_report(report)
    assert clean.gpus == (Gpu(uuid="GPU-1", serial="1"),)
    assert clean.unidentified == (UnidentifiedGpu(serial="3"),)


@given(
    st.lists(
        st.builds(Gpu, uuid=TEXTS.filter(bool), serial=st.none() | TEXTS, model=st.none() | TEXTS),
        max_size=4,
        unique_by=lambda gpu: gpu.uuid,
    )
)
def test_every_text_of_any_report_is_printable(gpus: list[Gpu]) -> None:
    clean = printable_report(Report(driver_version=None, cuda_version=None, gpus=tuple(gpus)))
    texts = [text for gpu in clean.gpus for text in msgspec.structs.astuple(gpu) if isinstance(text, str)]
    assert all(text.isprintable() for text in texts)
    assert len({gpu.uuid for gpu in clean.gpus}) == len(clean.gpus)


def test_a_value_that_repeats_a_secret_is_dropped() -> None:
    token = "hunter2-Zx9_opaque.token-with.parts"
    gpus = (
        Gpu(uuid="GPU-1", serial=f"x{token}", model="H100"),
        Gpu(uuid=f"GPU-{token}", serial="2", pci_bus_id="00000000:18:00.0"),
    )
    report = Report(driver_version=f"Bearer {token}", cuda_version="12.8", gpus=gpus)
    assert printable_report(report, Secrets(f"Bearer {token}")) == Report(
        driver_version=None,
        cuda_version="12.8",
        gpus=(Gpu(uuid="GPU-1", model="H100"),),
        unidentified=(UnidentifiedGpu(serial="2", pci_bus_id="00000000:18:00.0"),),
    )
    assert printable_report(report, Secrets("another secret of ours")) is report


def test_a_secret_in_a_gpu_s_health_is_left_out() -> None:
    token = "c2VjcmV0LXRva2VuLW9mLWEtY2x1c3Rlcg"
    health = Health(remapped_rows_correctable=1, recovery_action="Reset", fabric_status=token, inforom="G1\x1b")
    report = Report(driver_version=None, cuda_version=None, gpus=(Gpu(uuid="GPU-1", health=health),))
    (gpu,) = printable_report(report, Secrets(token)).gpus
    assert gpu.health == Health(remapped_rows_correctable=1, recovery_action="Reset", inforom="G1")


def test_every_text_of_a_gpu_is_checked() -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(Gpu)}
    texts = [name for name, kind in fields.items() if kind in (str, str | None)]
    assert fields.keys() - texts == {
        *("minor_number", "mig", "virtual", "multi_gpu_board"),
        *("last_known", "health", "ecc_growth"),
    }
    for name in texts:
        values: dict[str, Any] = {"uuid": "GPU-1", name: "a\x1bb"}
        (clean,) = printable_report(Report(driver_version=None, cuda_version=None, gpus=(Gpu(**values),))).gpus
        assert getattr(clean, name) == "ab"


def test_a_clean_gpu_does_not_vouch_for_the_next_one() -> None:
    token = "c2VjcmV0LXRva2VuLW9mLWEtY2x1c3Rlcg"
    gpus = (Gpu(uuid="GPU-1", model="H100"), Gpu(uuid="GPU-2", model="H100", serial=token))
    report = Report(driver_version="570", cuda_version="12.8", gpus=gpus)
    assert printable_report(report, Secrets(token)).gpus == (gpus[0], Gpu(uuid="GPU-2", model="H100"))


def test_every_text_of_health_is_checked() -> None:
    types = {field.name: field.type for field in msgspec.structs.fields(Health)}
    values: dict[str, Any] = {field: "\x1b" for field in HEALTH_FIELDS if types[field] == str | None}
    health = Health(**values)
    report = Report(driver_version=None, cuda_version=None, gpus=(Gpu(uuid="GPU-1", health=health),))
    assert printable_report(report).gpus[0].health == Health()
