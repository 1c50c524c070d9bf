"""How a GPU's health is judged: a table of nvidia-smi values, reasons for degradation, and remedies."""

import math
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.exposition.gpu_counts import MAX_MODELS, GpuState
from collector.health import (
    COUNTERS,
    GROWTH_WINDOW_SECONDS,
    HEALTH_FIELDS,
    RETIRED_PAGES_LIMIT,
    Condition,
    Degradation,
    Health,
    Level,
    degradations,
    grew,
    growth_follows,
    health_object,
    level,
    of_card,
    shared,
    without,
    worst_level,
)
from collector.model import Gpu, Place, Placement

NOW = 1764000000.0
DAY = 86400.0

# What drivers say of cards with which nothing is wrong.
HEALTHY = {
    "nothing at all": Health(),
    "driver 418, V100": Health(
        retired_pages_single_bit=0,
        retired_pages_double_bit=0,
        page_retirement_pending=False,
        ecc_sram_uncorrectable=0,
        ecc_dram_correctable=0,
        ecc_dram_uncorrectable=0,
    ),
    "driver 580, H100": Health(
        remapped_rows_correctable=0,
        remapped_rows_uncorrectable=0,
        remapped_rows_inactive=0,
        row_remap_pending=False,
        row_remap_failure=False,
        row_remap_banks_low=0,
        row_remap_banks_none=0,
        remapped_banks=0,
        bank_remap_pending=False,
        ecc_sram_correctable=0,
        ecc_sram_uncorrectable=0,
        ecc_dram_correctable=0,
        ecc_dram_uncorrectable=0,
        sram_threshold_exceeded=False,
        channel_repair_pending=False,
        tpc_repair_pending=False,
        unrepairable_memory=False,
        recovery_action="None",
        reset_required=False,
        drain_and_reset_recommended=False,
        fabric_state="Completed",
        fabric_status="Success",
        fabric_health="Healthy",
        inforom="G520.0200.00.05",
    ),
    "worn, and repaired": Health(
        remapped_rows_correctable=12,
        remapped_rows_uncorrectable=7,
        row_remap_pending=False,
        row_remap_failure=False,
        row_remap_banks_low=3,
        row_remap_banks_none=1,
        retired_pages_single_bit=31,
        retired_pages_double_bit=31,
        ecc_sram_correctable=9,
        ecc_sram_uncorrectable=1,
        ecc_dram_correctable=2**63,
        ecc_dram_uncorrectable=40,
    ),
    "in no fabric": Health(fabric_state="Not Supported", fabric_health="Not Supported"),
    "in no fabric, by older drivers": Health(fabric_state="N/A", fabric_status="N/A", fabric_health="N/A"),
    "on its way into the fabric": Health(fabric_state="In Progress", fabric_status="N/A"),
    "in other cases and spaces": Health(
        recovery_action=" NONE ", fabric_state="COMPLETED", fabric_status="success", fabric_health="HEALTHY"
    ),
    "with empty texts": Health(recovery_action="", fabric_state="", fabric_status="", fabric_health=""),
}

DEGRADED = [
    (Health(row_remap_failure=True), Degradation.ROW_REMAP_FAILURE, Level.REPLACE),
    (Health(sram_threshold_exceeded=True), Degradation.SRAM_THRESHOLD, Level.REPLACE),
    (Health(retired_pages_single_bit=RETIRED_PAGES_LIMIT), Degradation.PAGE_RETIREMENT_LIMIT, Level.REPLACE),
    (Health(retired_pages_double_bit=64), Degradation.PAGE_RETIREMENT_LIMIT, Level.REPLACE),
    (
        Health(retired_pages_single_bit=40, retired_pages_double_bit=23),
        Degradation.PAGE_RETIREMENT_LIMIT,
        Level.REPLACE,
    ),
    (Health(unrepairable_memory=True), Degradation.REPAIR_PENDING, Level.REPLACE),
    (Health(unrepairable_memory=True, channel_repair_pending=True), Degradation.REPAIR_PENDING, Level.REPLACE),
    (Health(channel_repair_pending=True), Degradation.REPAIR_PENDING, Level.RESET),
    (Health(tpc_repair_pending=True, unrepairable_memory=False), Degradation.REPAIR_PENDING, Level.RESET),
    (Health(row_remap_pending=True), Degradation.ROW_REMAP_PENDING, Level.RESET),
    (Health(bank_remap_pending=True), Degradation.ROW_REMAP_PENDING, Level.RESET),
    (Health(page_retirement_pending=True), Degradation.PAGE_RETIREMENT_PENDING, Level.RESET),
    (Health(reset_required=True), Degradation.RECOVERY_ACTION, Level.RESET),
    (Health(drain_and_reset_recommended=True, recovery_action="None"), Degradation.RECOVERY_ACTION, Level.RESET),
    *(
        (Health(recovery_action=action), Degradation.RECOVERY_ACTION, Level.RESET)
        for action in (
            "Reset",
            "Reboot",
            "Drain P2P",
            "Drain and Reset",
            "Recover IMEX Domain",
            "Bus Reset",
            "System Reboot",
            "something that a driver says next year",
            "None; DROP TABLE gpus",
            '"}\n# HELP',
            "\x00",
            "\N{SNOWMAN}" * 1000,
        )
    ),
    *(
        (health, Degradation.FABRIC, Level.RESET)
        for health in (
            Health(fabric_state="Completed", fabric_status="Success", fabric_health="Unhealthy"),
            Health(fabric_state="Completed", fabric_status="Success", fabric_health="Limited Capacity"),
            Health(fabric_state="Completed", fabric_status="Success", fabric_health="Unknown(7)"),
            Health(fabric_state="Completed", fabric_status="Unknown Error"),
            Health(fabric_state="Completed", fabric_status="Insufficient Resources", fabric_health="Healthy"),
            Health(fabric_state="Not Started"),
            Health(fabric_state="Failed"),
            Health(fabric_health="Unhealthy"),
        )
    ),
]


@pytest.mark.parametrize("health", HEALTHY.values(), ids=HEALTHY.keys())
def test_a_healthy_gpu_has_no_reason_and_no_level(health: Health) -> None:
    condition = Condition(health, read=NOW)
    assert degradations(condition) == ()
    assert worst_level(condition) is None


def test_an_unknown_gpu_is_not_degraded() -> None:
    assert degradations(Condition(None)) == ()


@pytest.mark.parametrize(("health", "reason", "wanted"), DEGRADED)
def test_each_reason_has_its_level(health: Health, reason: Degradation, wanted: Level) -> None:
    condition = Condition(health, read=NOW)
    assert degradations(condition) == (reason,)
    assert level(reason, condition) == worst_level(condition) == wanted


def test_the_table_has_every_reason() -> None:
    assert {reason for _, reason, _ in DEGRADED} == set(Degradation) - {
        Degradation.LOST,
        Degradation.UNCORRECTABLE_ECC_GROWING,
    }


@pytest.mark.parametrize("health", [None, Health(), Health(row_remap_failure=False)])
def test_a_lost_gpu_needs_a_reset_whatever_it_reported(health: Health | None) -> None:
    condition = Condition(health, lost=True)
    assert degradations(condition) == (Degradation.LOST,)
    assert worst_level(condition) is Level.RESET


@pytest.mark.parametrize(
    ("growth", "growing"),
    [
        (None, False),
        (NOW, True),
        (NOW - GROWTH_WINDOW_SECONDS + 1, True),
        (NOW - GROWTH_WINDOW_SECONDS, False),
        (NOW - 365 * DAY, False),
        (NOW + DAY, True),  # the clock has stepped back by a day
        (NOW + 365 * DAY, False),  # it was a year ahead then, and this must end
        (math.inf, False),
        (-math.inf, False),
        (math.nan, False),
    ],
)
def test_uncorrectable_errors_grow_for_a_week_by_the_time_of_the_last_reading(
    growth: float | None, growing: bool
) -> None:
    for health in (None, Health(ecc_dram_uncorrectable=3)):
        condition = Condition(health, ecc_growth=growth, read=NOW)
        assert degradations(condition) == ((Degradation.UNCORRECTABLE_ECC_GROWING,) if growing else ())
        assert worst_level(condition) == (Level.RESET if growing else None)


def test_what_needs_replacement_comes_before_what_needs_a_reset() -> None:
    health = Health(
        row_remap_failure=True,
        row_remap_pending=True,
        unrepairable_memory=True,
        recovery_action="Reset",
        fabric_health="Unhealthy",
    )
    condition = Condition(health, lost=True, ecc_growth=NOW, read=NOW)
    assert degradations(condition) == (
        Degradation.ROW_REMAP_FAILURE,
        Degradation.REPAIR_PENDING,
        Degradation.LOST,
        Degradation.UNCORRECTABLE_ECC_GROWING,
        Degradation.RECOVERY_ACTION,
        Degradation.ROW_REMAP_PENDING,
        Degradation.FABRIC,
    )
    assert worst_level(condition) is Level.REPLACE


def test_two_reasons_are_in_order_too() -> None:
    condition = Condition(Health(recovery_action="Reset"), lost=True)
    assert degradations(condition) == (Degradation.LOST, Degradation.RECOVERY_ACTION)


def test_a_placement_is_judged_by_its_last_confirmation() -> None:
    gpu = Gpu(uuid="GPU-a", serial="1", model="H100", health=Health(row_remap_failure=True), ecc_growth=NOW)
    placement = Placement(gpu=gpu, place=Place("c", "n"), since=0.0, confirmed=NOW + 8 * DAY, lost=True)
    assert placement.degradations == (Degradation.ROW_REMAP_FAILURE, Degradation.LOST)
    assert placement.level is Level.REPLACE


values = {
    int: st.none() | st.integers(0, 2**64),
    bool: st.none() | st.booleans(),
    str: st.none()
    | st.sampled_from(["None", "Reset", "Completed", "Success", "Healthy", "Unhealthy", "N/A"])
    | st.text(),
}


def of_type(field: str) -> st.SearchStrategy[object]:
    kind = str(Health.__annotations__[field])
    return values[next(one for one in values if one.__name__ in kind)]


healths = st.fixed_dictionaries({field: of_type(field) for field in HEALTH_FIELDS}).map(lambda found: Health(**found))  # type: ignore[arg-type]


@given(st.none() | healths, st.booleans(), st.none() | st.floats(), st.floats())
def test_judging_never_fails_and_names_the_worst_first(
    health: Health | None, lost: bool, growth: float | None, read: float
) -> None:
    condition = Condition(health, lost, growth, read)
    reasons = degradations(condition)
    assert len(set(reasons)) == len(reasons)
    ranks = [(list(Level).index(level(reason, condition)), list(Degradation).index(reason)) for reason in reasons]
    assert ranks == sorted(ranks)
    assert worst_level(condition) == (level(reasons[0], condition) if reasons else None)
    assert (Degradation.LOST in reasons) == lost


@given(healths)
def test_a_driver_that_reports_less_adds_no_reason(health: Health) -> None:
    reasons = set(degradations(Condition(health)))
    for field in HEALTH_FIELDS:
        fewer = Health(**{name: getattr(health, name) for name in HEALTH_FIELDS if name != field})
        assert set(degradations(Condition(fewer))) <= reasons


def test_a_card_takes_its_wear_along_but_not_the_fabric_of_its_place() -> None:
    worn = Health(remapped_rows_uncorrectable=2)
    assert of_card(msgspec.structs.replace(worn, fabric_state="Completed")) == worn
    assert of_card(worn) is worn
    assert of_card(Health(fabric_state="Completed")) is None
    assert of_card(None) is None


def test_health_without_a_field_keeps_the_others() -> None:
    worn = Health(remapped_rows_uncorrectable=2, row_remap_failure=True)
    assert without(worn, ["row_remap_failure"]) == Health(remapped_rows_uncorrectable=2)
    assert without(worn, ["fabric_state", "no field"]) is worn
    assert without(None, ["row_remap_failure"]) is None


def uncorrectable(sram: int | None = None, dram: int | None = None) -> Health:
    return Health(ecc_sram_uncorrectable=sram, ecc_dram_uncorrectable=dram)


@pytest.mark.parametrize(
    ("before", "after", "growing"),
    [
        (uncorrectable(sram=1), uncorrectable(sram=2), True),
        (uncorrectable(dram=0), uncorrectable(dram=1), True),
        (uncorrectable(sram=5, dram=1), uncorrectable(sram=4, dram=2), True),
        (uncorrectable(sram=1, dram=1), uncorrectable(sram=1, dram=1), False),
        (uncorrectable(sram=2), uncorrectable(sram=1), False),
        (uncorrectable(sram=1), uncorrectable(dram=2), False),
        (uncorrectable(sram=1), Health(ecc_sram_correctable=2), False),
        (Health(ecc_sram_correctable=1), Health(ecc_sram_correctable=2), False),
        (uncorrectable(sram=1), None, False),
        (None, uncorrectable(sram=1), False),
        (None, None, False),
    ],
)
def test_uncorrectable_errors_grow_where_both_readings_report_them(
    before: Health | None, after: Health | None, growing: bool
) -> None:
    assert grew(before, after) is growing


@pytest.mark.parametrize(
    ("before", "after", "follows"),
    [
        (uncorrectable(sram=2), uncorrectable(sram=2), True),
        (uncorrectable(sram=2), uncorrectable(sram=3), True),
        (uncorrectable(sram=0, dram=2), uncorrectable(sram=0, dram=2), True),
        (uncorrectable(sram=2), uncorrectable(sram=2, dram=0), True),
        (uncorrectable(sram=2), uncorrectable(sram=1), False),
        (uncorrectable(sram=2, dram=2), uncorrectable(sram=3, dram=1), False),
        (uncorrectable(sram=2, dram=2), uncorrectable(sram=2), False),
        (uncorrectable(sram=2), uncorrectable(dram=2), False),
        (uncorrectable(sram=0, dram=0), uncorrectable(sram=0, dram=0), False),
        (uncorrectable(sram=2), None, False),
        (Health(ecc_sram_correctable=2), uncorrectable(sram=2), False),
        (None, uncorrectable(sram=2), False),
    ],
)
def test_growth_follows_a_card_that_reports_each_count_again(
    before: Health | None, after: Health | None, follows: bool
) -> None:
    assert growth_follows(before, after) is follows


def test_health_as_an_object_has_the_reported_fields() -> None:
    health = Health(ecc_sram_uncorrectable=0, row_remap_pending=False, recovery_action="None")
    assert health_object(health) == {
        "ecc_sram_uncorrectable": 0,
        "row_remap_pending": False,
        "recovery_action": "None",
    }
    assert health_object(Health()) is None
    assert health_object(None) is None


def test_equal_health_is_shared() -> None:
    first, second = Health(remapped_rows_uncorrectable=991), Health(remapped_rows_uncorrectable=991)
    assert shared(first) is first
    assert shared(second) is first
    assert without(Health(remapped_rows_uncorrectable=991, inforom="1"), ["inforom"]) is first


def test_only_retired_pages_of_both_causes_reach_the_limit() -> None:
    assert degradations(Condition(Health(retired_pages_single_bit=62))) == ()
    assert degradations(Condition(Health(retired_pages_double_bit=62))) == ()


def test_counters_are_fields_of_health() -> None:
    assert set(HEALTH_FIELDS) > COUNTERS


def test_the_documentation_has_every_reason_with_its_levels() -> None:
    text = (Path(__file__).parents[1] / "docs/health.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| .+ \| .+ \|$", text, re.MULTILINE)
    wanted = {(reason, wanted) for _, reason, wanted in DEGRADED}
    wanted |= {(reason, Level.RESET) for reason in (Degradation.LOST, Degradation.UNCORRECTABLE_ECC_GROWING)}
    assert sorted(rows) == sorted(wanted)
    assert f"{RETIRED_PAGES_LIMIT} or more pages" in text
    assert GROWTH_WINDOW_SECONDS == 7 * DAY
    assert "within the seven days" in text
    states = text.partition("| state | GPUs |")[2]
    assert re.findall(r"^\| `(\w+)` \|", states, re.MULTILINE) == list(GpuState)
    assert f"{MAX_MODELS} most common models" in text


def test_each_source_of_a_level_is_in_the_code_too() -> None:
    text = (Path(__file__).parents[1] / "docs/health.md").read_text(encoding="utf-8")
    pages = re.findall(r"^\[\w+\]: (https://docs\.nvidia\.com/\S+)$", text, re.MULTILINE)
    assert len(pages) > 5
    for page in pages:
        assert page in (Degradation.__doc__ or "")
