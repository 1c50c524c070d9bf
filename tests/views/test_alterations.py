"""What was altered of GPUs, in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.health import HEALTH_FIELDS
from collector.model import FieldChange, Gpu, changes_object
from collector.views.alterations import (
    FACT_LABELS,
    HEALTH_LABELS,
    as_field_changes,
    describe_changes,
    describe_common_changes,
)

LOST = FieldChange("serial", "1653922001234", None)
MIG = FieldChange("mig", False, True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (LOST, "serial 1653922001234 → not reported"),
        (FieldChange("serial", None, "7"), "serial not reported → 7"),
        (MIG, "MIG off → on"),
        (FieldChange("mig", None, False), "MIG not reported → off"),
        (FieldChange("vbios", "96.00", "96.01"), "VBIOS 96.00 → 96.01"),
        (FieldChange("pci_bus_id", "18", "3B"), "PCI bus 18 → 3B"),
        (FieldChange("minor_number", 0, 1), "minor number 0 → 1"),
        (FieldChange("multi_gpu_board", False, True), "several GPUs on the board no → yes"),
        (FieldChange("of_a_later_version", 1, 2), "of_a_later_version 1 → 2"),
    ],
)
def test_one_altered_field_is_described(change: FieldChange, text: str) -> None:
    assert describe_changes([change]) == text


def test_several_altered_fields_of_one_gpu_are_described() -> None:
    assert describe_changes([LOST, MIG]) == "serial 1653922001234 → not reported, MIG off → on"


def test_the_same_fields_of_several_gpus_are_grouped() -> None:
    other = FieldChange("serial", "8", None)
    assert describe_common_changes([(LOST, MIG), (other, MIG)]) == "serial … → not reported, MIG off → on"
    assert describe_common_changes([]) == ""
    assert describe_common_changes([(), ()]) == ""


def test_every_field_that_can_be_altered_has_a_name() -> None:
    assert FACT_LABELS.keys() == {*Gpu.__struct_fields__} - {"last_known", "health", "ecc_growth"}
    assert HEALTH_LABELS.keys() == {*HEALTH_FIELDS, "lost"}


values = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(
    st.lists(
        st.builds(FieldChange, st.sampled_from([*FACT_LABELS]), values, values), unique_by=lambda one: one.field
    ).map(tuple)
)
def test_rows_match_the_changes(changes: tuple[FieldChange, ...]) -> None:
    assert as_field_changes(changes_object(changes)) == changes
