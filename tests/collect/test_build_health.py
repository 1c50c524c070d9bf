"""A GPU's health from the texts of its elements."""

import pytest

from collector.collect.smi_health import build_health, keep_certain
from collector.health import Health

ACTION = "gpu_recovery_action"
PENDING = "retired_pages/pending_retirement", "retired_pages/pending_blacklist"
AGGREGATE = "ecc_errors/aggregate"


def test_without_elements_nothing_is_known():
    assert build_health({}) is None
    assert build_health({"elsewhere": "1"}) is None
    assert build_health({}, reset=True) == Health(reset_required=True)


def test_a_text_has_40_characters_at_most():
    assert build_health({ACTION: "a" * 40}) == Health(recovery_action="a" * 40)
    assert build_health({ACTION: "a" * 41}) is None


def test_a_status_has_40_characters_at_most():
    said = {"fabric/state": "Completed", "fabric/status": "x" * 40}
    assert build_health(said) == Health(fabric_state="Completed", fabric_status="x" * 40)
    assert build_health({**said, "fabric/status": "x" * 41}) == Health(fabric_state="Completed")


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("1 bank(s)", 1), ("2 group(s)", 2), ("9" * 15, 10**15 - 1), ("9" * 16, None)]
)
def test_a_number_has_15_digits_at_most(text: str, number: int | None):
    health = build_health({f"{AGGREGATE}/sram_correctable": text})
    assert health == (None if number is None else Health(ecc_sram_correctable=number))


@pytest.mark.parametrize(
    ("first", "second", "flag"),
    [
        ("Yes", "No", True),
        ("No", "Yes", True),
        ("No", "No", False),
        ("No", "N/A", False),
        ("N/A", "No", False),
        ("N/A", "Yes", True),
    ],
)
def test_one_of_two_elements_may_say_yes(first: str, second: str, flag: bool):
    said = dict(zip(PENDING, (first, second), strict=True))
    assert build_health(said) == Health(page_retirement_pending=flag)


def test_on_the_chip_is_what_is_not_in_the_device_memory():
    table = f"{AGGREGATE}/single_bit"
    assert build_health({f"{table}/device_memory": "2", f"{table}/total": "5"}) == Health(
        ecc_dram_correctable=2, ecc_sram_correctable=3
    )
    assert build_health({f"{table}/device_memory": "5", f"{table}/total": "5"}) == Health(
        ecc_dram_correctable=5, ecc_sram_correctable=0
    )
    assert build_health({f"{table}/total": "5"}) is None


@pytest.mark.parametrize(
    ("said", "health"),
    [
        ({}, None),
        ({"bandwidth": "Full"}, "Healthy"),
        ({"bandwidth": "Degraded"}, "Limited Capacity"),
        ({"bandwidth": "Odd"}, None),
        ({"route_unhealthy": "False"}, "Healthy"),
        ({"route_unhealthy": "N/A"}, None),
        ({"route_unhealthy": "True"}, "Unhealthy"),
        ({"route_recovery_in_progress": "True", "bandwidth": "Full"}, "Unhealthy"),
        ({"access_timeout_recovery": "True", "bandwidth": "Degraded"}, "Unhealthy"),
        ({"incorrect_configuration": "None", "bandwidth": "Degraded"}, "Limited Capacity"),
        ({"incorrect_configuration": "Insufficient NVLinks", "bandwidth": "Full"}, "Unhealthy"),
        ({"incorrect_configuration": "Incorrect SysGUID"}, "Unhealthy"),
        ({"summary": "Healthy", "bandwidth": "Degraded"}, "Healthy"),
    ],
)
def test_the_health_of_a_fabric_without_a_summary_is_made_from_the_rest(said: dict[str, str], health: str | None):
    found = build_health({f"fabric/health/{element}": text for element, text in said.items()})
    assert found == (None if health is None else Health(fabric_health=health))


@pytest.mark.parametrize(
    ("said", "health"),
    [
        ({ACTION: "None", PENDING[0]: "No", f"{AGGREGATE}/sram_correctable": "5"}, None),
        ({ACTION: "NONE"}, None),
        ({"fabric/state": "Completed"}, None),
        ({ACTION: "Reset", "fabric/state": "Completed"}, Health(recovery_action="Reset")),
        ({ACTION: "None", PENDING[0]: "Yes"}, Health(page_retirement_pending=True)),
    ],
)
def test_only_faults_of_a_lost_gpu_count(said: dict[str, str], health: Health | None):
    assert build_health(said, lost=True) == health


def test_the_health_of_a_lost_gpu_that_requires_a_reset_says_so():
    assert build_health({PENDING[0]: "No"}, lost=True, reset=True) == Health(reset_required=True)


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("<a><b>1</b></a>", True),
        ("<a>\n<b> 1 </b>\n</a>", True),
        ("<b>2</b><a><b>1</b></a><b>3</b>", True),
        ("<a><b>1</b></a><a><b>1</b></a>", False),
        ("<a><b>1</b><b>1</b></a>", False),
        ("<a><b>2</b></a>", False),
        ("<a><b>1</b>", False),
        ("<b>1</b></a>", False),
        ("<a></a><b>1</b>", False),
        ("<a><b>1</b></a></a>", False),
        ("<b>1</b>", False),
    ],
)
def test_in_a_damaged_text_a_value_is_certain_once_in_one_block(text: str, certain: bool):
    said = {"a/b": " 1 "}
    keep_certain(said, text.encode())
    assert said == ({"a/b": " 1 "} if certain else {})


def test_in_a_damaged_text_each_block_is_looked_for_in_its_own():
    said = {"c/a/b": "1", "a/b": "1", "d/a/b": "1", "b": "1"}
    keep_certain(said, b"<c><a><b>1</b></a></c><d><a><b>1</b></a></d>")
    assert said == {"c/a/b": "1", "d/a/b": "1"}
