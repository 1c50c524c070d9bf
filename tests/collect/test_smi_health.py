"""What is read of a GPU's health, in the forms of the drivers, damaged, hostile and absent."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect import nvidia_smi
from collector.collect.nvidia_smi import BadOutputError, Report, parse
from collector.collect.smi_health import PATHS
from collector.health import COUNTERS, HEALTH_FIELDS, Condition, Degradation, Health, degradations

UUID = "GPU-11111111-2222-3333-4444-555555555555"

ECC_580 = """
<ecc_errors>
  <volatile>
    <sram_correctable>90</sram_correctable>
    <sram_uncorrectable_parity>91</sram_uncorrectable_parity>
    <sram_uncorrectable_secded>92</sram_uncorrectable_secded>
    <dram_correctable>93</dram_correctable>
    <dram_uncorrectable>94</dram_uncorrectable>
  </volatile>
  <aggregate>
    <sram_correctable>1</sram_correctable>
    <sram_uncorrectable_parity>2</sram_uncorrectable_parity>
    <sram_uncorrectable_secded>3</sram_uncorrectable_secded>
    <dram_correctable>4</dram_correctable>
    <dram_uncorrectable>5</dram_uncorrectable>
    <sram_threshold_exceeded>Yes</sram_threshold_exceeded>
  </aggregate>
  <aggregate_uncorrectable_sram_sources>
    <sram_l2>5</sram_l2><sram_sm>0</sram_sm><sram_microcontroller>0</sram_microcontroller>
    <sram_pcie>0</sram_pcie><sram_other>0</sram_other>
  </aggregate_uncorrectable_sram_sources>
  <channel_repair_pending>Yes</channel_repair_pending>
  <tpc_repair_pending>No</tpc_repair_pending>
  <unrepairable_memory>No</unrepairable_memory>
</ecc_errors>"""
ECC_580_READ: dict[str, Any] = {
    "ecc_sram_correctable": 1,
    "ecc_sram_uncorrectable": 5,
    "ecc_dram_correctable": 4,
    "ecc_dram_uncorrectable": 5,
    "sram_threshold_exceeded": True,
    "channel_repair_pending": True,
    "tpc_repair_pending": False,
    "unrepairable_memory": False,
}

TURING = """
<ecc_errors>
  <volatile>
    <sram_correctable>90</sram_correctable><sram_uncorrectable>91</sram_uncorrectable>
    <dram_correctable>92</dram_correctable><dram_uncorrectable>93</dram_uncorrectable>
  </volatile>
  <aggregate>
    <sram_correctable>1</sram_correctable><sram_uncorrectable>2</sram_uncorrectable>
    <dram_correctable>3</dram_correctable><dram_uncorrectable>4</dram_uncorrectable>
  </aggregate>
</ecc_errors>
<retired_pages>
  <multiple_single_bit_retirement><retired_count>5</retired_count>
    <retired_pagelist><retired_page_address>0x1</retired_page_address></retired_pagelist>
  </multiple_single_bit_retirement>
  <double_bit_retirement><retired_count>6</retired_count><retired_pagelist>
  </retired_pagelist></double_bit_retirement>
  <pending_blacklist>No</pending_blacklist>
  <pending_retirement>Yes</pending_retirement>
</retired_pages>
<remapped_rows>N/A</remapped_rows>"""
TURING_READ: dict[str, Any] = {
    "ecc_sram_correctable": 1,
    "ecc_sram_uncorrectable": 2,
    "ecc_dram_correctable": 3,
    "ecc_dram_uncorrectable": 4,
    "retired_pages_single_bit": 5,
    "retired_pages_double_bit": 6,
    "page_retirement_pending": True,
}


def _table(*counts: str) -> str:
    names = ("device_memory", "register_file", "l1_cache", "l2_cache", "texture_memory", "texture_shm", "cbu", "total")
    return "".join(f"<{name}>{count}</{name}>" for name, count in zip(names, counts, strict=True))


PASCAL = f"""
<ecc_errors>
  <volatile>
    <single_bit>{_table(*"99999999")}</single_bit>
    <double_bit>{_table(*"99999999")}</double_bit>
  </volatile>
  <aggregate>
    <single_bit>{_table("4", "1", "N/A", "2", "0", "0", "N/A", "7")}</single_bit>
    <double_bit>{_table("1", "0", "N/A", "1", "0", "0", "N/A", "2")}</double_bit>
  </aggregate>
</ecc_errors>
<retired_pages>
  <multiple_single_bit_retirement><retired_count>0</retired_count>
    <retired_page_addresses></retired_page_addresses></multiple_single_bit_retirement>
  <double_bit_retirement><retired_count>1</retired_count></double_bit_retirement>
  <pending_retirement>No</pending_retirement>
</retired_pages>"""
PASCAL_READ: dict[str, Any] = {
    "ecc_sram_correctable": 3,
    "ecc_sram_uncorrectable": 1,
    "ecc_dram_correctable": 4,
    "ecc_dram_uncorrectable": 1,
    "retired_pages_single_bit": 0,
    "retired_pages_double_bit": 1,
    "page_retirement_pending": False,
}

ROWS_450 = """
<remapped_rows>
  <remapped_row_corr>1</remapped_row_corr><remapped_row_unc>2</remapped_row_unc>
  <remapped_row_pending>Yes</remapped_row_pending><remapped_row_failure>No</remapped_row_failure>
</remapped_rows>"""
ROWS_450_READ: dict[str, Any] = {
    "remapped_rows_correctable": 1,
    "remapped_rows_uncorrectable": 2,
    "row_remap_pending": True,
    "row_remap_failure": False,
}

ROWS_580_173 = """
<remapped_rows>
  <remapped_row_corr>1</remapped_row_corr>
  <remapped_row_corr_inactive>3</remapped_row_corr_inactive>
  <remapped_row_unc>2</remapped_row_unc>
  <remapped_row_unc_inactive>4</remapped_row_unc_inactive>
  <remapped_row_pending>No</remapped_row_pending>
  <remapped_row_failure>Yes</remapped_row_failure>
  <row_remapper_histogram>
    <row_remapper_histogram_max>2555 bank(s)</row_remapper_histogram_max>
    <row_remapper_histogram_high>0 bank(s)</row_remapper_histogram_high>
    <row_remapper_histogram_partial>1 bank(s)</row_remapper_histogram_partial>
    <row_remapper_histogram_low>3 bank(s)</row_remapper_histogram_low>
    <row_remapper_histogram_none>1 bank(s)</row_remapper_histogram_none>
  </row_remapper_histogram>
</remapped_rows>"""
ROWS_580_173_READ: dict[str, Any] = {
    "remapped_rows_correctable": 1,
    "remapped_rows_uncorrectable": 2,
    "remapped_rows_inactive": 7,
    "row_remap_pending": False,
    "row_remap_failure": True,
    "row_remap_banks_low": 3,
    "row_remap_banks_none": 1,
}

BANKS_615 = """
<remapped_banks>
  <bank_remapper_active_remappings>1</bank_remapper_active_remappings>
  <bank_remapper_inactive_remappings>1</bank_remapper_inactive_remappings>
  <bank_remapper_pending>Yes</bank_remapper_pending>
  <bank_remapper_histogram><bank_remapper_histogram_max>251 group(s)</bank_remapper_histogram_max>
    <bank_remapper_histogram_none>1 group(s)</bank_remapper_histogram_none></bank_remapper_histogram>
</remapped_banks>"""


def _fabric(**health: str) -> str:
    flags = "".join(f"<{name}>{text}</{name}>" for name, text in health.items())
    return (
        "<fabric><state>Completed</state><status>Success</status><cliqueId>1</cliqueId>"
        f"<clusterUuid>00000000-0000-0000-0000-000000000001</clusterUuid><health>{flags}</health></fabric>"
    )


FABRIC_READ: dict[str, Any] = {"fabric_state": "Completed", "fabric_status": "Success"}
FINE = {
    "bandwidth": "Full",
    "route_recovery_in_progress": "False",
    "route_unhealthy": "False",
    "access_timeout_recovery": "False",
}
UNKNOWN = dict.fromkeys(FINE, "N/A")

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "ECC errors with two kinds of SRAM": (ECC_580, ECC_580_READ),
    "ECC errors and retired pages of Turing": (TURING, TURING_READ),
    "ECC errors in tables by place": (PASCAL, PASCAL_READ),
    "remapped rows without a histogram": (ROWS_450, ROWS_450_READ),
    "remapped rows with inactive ones": (ROWS_580_173, ROWS_580_173_READ),
    "remapped rows, without any": ("<remapped_rows>N/A</remapped_rows>", {}),
    "a histogram of which nothing is known": (
        ROWS_450.replace("</remapped_rows>", "<row_remapper_histogram>N/A</row_remapper_histogram></remapped_rows>"),
        ROWS_450_READ,
    ),
    "remapped banks": (BANKS_615, {"remapped_banks": 2, "bank_remap_pending": True}),
    "retired pages of Ampere": (
        "<retired_pages><multiple_single_bit_retirement><retired_count>N/A</retired_count></multiple_single_bit_retirement>"
        "<double_bit_retirement><retired_count>N/A</retired_count></double_bit_retirement>"
        "<pending_blacklist>N/A</pending_blacklist><pending_retirement>N/A</pending_retirement></retired_pages>",
        {},
    ),
    "only a pending blacklist": (
        "<retired_pages><pending_blacklist>Yes</pending_blacklist></retired_pages>",
        {"page_retirement_pending": True},
    ),
    "a reset status": (
        "<gpu_reset_status><reset_required>Yes</reset_required>"
        "<drain_and_reset_recommended>No</drain_and_reset_recommended></gpu_reset_status>",
        {"reset_required": True, "drain_and_reset_recommended": False},
    ),
    "a reset status that is deprecated": (
        "<gpu_reset_status><reset_required>Requested functionality has been deprecated</reset_required>"
        "<drain_and_reset_recommended>Requested functionality has been deprecated</drain_and_reset_recommended>"
        "</gpu_reset_status><gpu_recovery_action>None</gpu_recovery_action>",
        {"recovery_action": "None"},
    ),
    **{
        f"the recovery action {action}": (
            f"<gpu_recovery_action>{action}</gpu_recovery_action>",
            {"recovery_action": action},
        )
        for action in ("Reset", "Reboot", "Drain P2P", "Drain and Reset", "Bus Reset", "Reset Required")
    },
    "a recovery action that is not known": ("<gpu_recovery_action>N/A</gpu_recovery_action>", {}),
    "a fabric with a summary": (
        _fabric(summary="Limited Capacity", **FINE | {"bandwidth": "Degraded", "incorrect_configuration": "None"}),
        FABRIC_READ | {"fabric_health": "Limited Capacity"},
    ),
    "a summary goes before what it is made of": (
        _fabric(summary="Healthy", **FINE | {"route_unhealthy": "True"}),
        FABRIC_READ | {"fabric_health": "Healthy"},
    ),
    "a fabric without a summary": (_fabric(**FINE), FABRIC_READ | {"fabric_health": "Healthy"}),
    "a summary that is not known": (_fabric(summary="N/A", **UNKNOWN, incorrect_configuration="N/A"), FABRIC_READ),
    "a fabric without a route": (
        _fabric(**FINE | {"route_unhealthy": "True"}),
        FABRIC_READ | {"fabric_health": "Unhealthy"},
    ),
    "a fabric in recovery": (
        _fabric(**UNKNOWN | {"access_timeout_recovery": "True"}),
        FABRIC_READ | {"fabric_health": "Unhealthy"},
    ),
    "a fabric with less bandwidth": (
        _fabric(**FINE | {"bandwidth": "Degraded"}),
        FABRIC_READ | {"fabric_health": "Limited Capacity"},
    ),
    "a fabric that is configured wrongly": (
        _fabric(**FINE, incorrect_configuration="Incorrect Chassis Serial Number"),
        FABRIC_READ | {"fabric_health": "Unhealthy"},
    ),
    "a fabric before it had health": (
        "<fabric><state>In Progress</state><status>N/A</status></fabric>",
        {"fabric_state": "In Progress"},
    ),
    "a fabric that failed": (
        "<fabric><state>Completed</state><status>Insufficient Resources</status></fabric>",
        {"fabric_state": "Completed", "fabric_status": "Insufficient Resources"},
    ),
    "no fabric": ("<fabric><state>N/A</state><status>N/A</status></fabric>", {}),
    "an InfoROM": (
        "<inforom_version><img_version>G520.0200.00.05</img_version><oem_object>2.1</oem_object>"
        "<ecc_object>7.16</ecc_object><pwr_object>N/A</pwr_object></inforom_version>",
        {"inforom": "G520.0200.00.05"},
    ),
    "nothing": ("", {}),
}


def document(block: str, *, uuid: str = UUID, mode: str = "None") -> bytes:
    """Return what the tool prints of one GPU with some of its elements."""
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>\n'
        "<driver_version>580.105.08</driver_version>\n<attached_gpus>1</attached_gpus>\n"
        f'<gpu id="00000000:01:00.0">\n<product_name>NVIDIA H100 80GB HBM3</product_name>\n<uuid>{uuid}</uuid>\n'
        f"<gpu_virtualization_mode><virtualization_mode>{mode}</virtualization_mode></gpu_virtualization_mode>\n"
        f"{block}\n</gpu>\n</nvidia_smi_log>\n"
    ).encode()


def health_of(output: bytes) -> Health | None:
    report: Report = parse(output)
    (gpu,) = report.gpus
    return gpu.health


@pytest.mark.parametrize(("block", "expected"), FORMS.values(), ids=FORMS)
def test_the_forms_of_all_drivers_are_read(block: str, expected: dict[str, Any]):
    assert health_of(document(block)) == (Health(**expected) if expected else None)


@pytest.mark.parametrize("value", ["GPU requires reset", " GPU requires reset\n"])
@pytest.mark.parametrize("element", ["remapped_row_failure", "remapped_row_corr", "remapped_row_corr_inactive"])
def test_a_reset_may_be_required_in_place_of_a_value(element: str, value: str):
    health = health_of(document(f"<remapped_rows><{element}>{value}</{element}></remapped_rows>"))
    assert health == Health(reset_required=True)


@pytest.mark.parametrize(
    "block",
    [
        "\n\t\t<temperature>\n\t\t\t<gpu_temp>GPU requires reset</gpu_temp>\n\t\t</temperature>",
        "<fb_memory_usage><used>GPU requires reset</used></fb_memory_usage>",
        "<serial>GPU requires reset</serial>",
        "<utilization>GPU requires reset</utilization>",
    ],
)
def test_a_reset_may_be_required_in_place_of_a_value_that_is_not_read(block: str):
    assert health_of(document(block)) == Health(reset_required=True)
    assert health_of(document(f"{block}{ROWS_450}")) == Health(**ROWS_450_READ, reset_required=True)


STATUSES = ["Unknown Error", "Not Supported", "Not Found", "No Permission", "Insufficient Size", "Timeout", "No data"]


@pytest.mark.parametrize("status", STATUSES)
def test_any_fabric_registration_error_counts(status: str):
    health = health_of(document(f"<fabric><state>Completed</state><status>{status}</status></fabric>"))
    assert health == Health(fabric_state="Completed", fabric_status=status)
    assert degradations(Condition(health)) == (Degradation.FABRIC,)


@pytest.mark.parametrize("status", ["N/A", "[N/A]", "", "None", "GPU is lost?", "a" * 41])
def test_unrelated_fabric_values_do_not_count(status: str):
    health = health_of(document(f"<fabric><state>Completed</state><status>{status}</status></fabric>"))
    assert health == Health(fabric_state="Completed")


@pytest.mark.parametrize("state", ["In Progress", "Not Supported", "N/A"])
def test_only_a_completed_registration_has_a_status(state: str):
    health = health_of(document(f"<fabric><state>{state}</state><status>Unknown Error</status></fabric>"))
    assert (health or Health()).fabric_status is None


def test_every_fault_of_the_fabrics_configuration_counts():
    block = "<fabric><health><incorrect_configuration>Insufficient NVLinks</incorrect_configuration></health></fabric>"
    assert health_of(document(block)) == Health(fabric_health="Unhealthy")


def test_no_path_appears_twice():
    assert len(PATHS) == len(set(PATHS))


def test_overlong_values_are_dropped(monkeypatch: pytest.MonkeyPatch):
    kept: list[str] = []
    monkeypatch.setattr(nvidia_smi, "build_health", lambda said, **_: kept.extend(said.values()))
    health_of(document(f"<remapped_rows><remapped_row_corr>{'x' * 100}</remapped_row_corr></remapped_rows>"))
    monkeypatch.undo()
    assert [len(text) for text in kept] == [41]
    padded = f"<remapped_rows><remapped_row_corr>{' ' * 100}7\n</remapped_row_corr></remapped_rows>"
    assert health_of(document(padded)) == Health(remapped_rows_correctable=7)


def test_only_faults_of_a_lost_gpu_are_kept():
    lost = "<temperature><gpu_temp>GPU is lost</gpu_temp></temperature>"
    assert health_of(document(lost)) is None
    assert health_of(document(f"{lost}{ROWS_450}{TURING}{_fabric(**FINE)}")) == Health(
        row_remap_pending=True, page_retirement_pending=True
    )
    assert health_of(document(f"{lost}<gpu_recovery_action>None</gpu_recovery_action>")) is None
    assert health_of(document(f"{lost}<gpu_recovery_action>Reboot</gpu_recovery_action>")) == Health(
        recovery_action="Reboot"
    )
    assert health_of(document("<remapped_rows>GPU is lost</remapped_rows>")) is None


def test_the_health_of_a_virtual_gpu_is_not_that_of_its_board():
    assert health_of(document(ROWS_450, mode="VGPU")) is None
    assert health_of(document(ROWS_450, mode="Pass-Through")) == Health(**ROWS_450_READ)
    assert health_of(document(ROWS_450, mode="Host VGPU")) == Health(**ROWS_450_READ)


def test_the_health_of_mig_devices_is_not_that_of_the_gpu():
    device = (
        "<mig_devices><mig_device><ecc_error_count><volatile_count><sram_uncorrectable>7</sram_uncorrectable>"
        "</volatile_count></ecc_error_count></mig_device></mig_devices><remapped_rows>N/A</remapped_rows>"
    )
    assert health_of(document(device)) is None


# What a node may print


NUMBERS = {
    "0": 0,
    " 7\n": 7,
    "007": 7,
    "12 bank(s)": 12,
    "3 group(s)": 3,
    "999999999999999": 999_999_999_999_999,
    "1000000000000000": None,
    "18446744073709551615": None,  # -1 as NVML has it
    "9" * 5000: None,
    "1" + "0" * 30: None,
    "-1": None,
    "+1": None,
    "1.0": None,
    "1e9": None,
    "0x10": None,
    "1_000": None,
    "1,000": None,
    "1 000": None,
    "٣": None,
    "²": None,
    "1 banks": None,
    "Yes": None,
    "N/A": None,
    "[N/A]": None,
    "Unknown Error": None,
    "GPU is lost": None,
    "[Insufficient Permissions]": None,
    "Requested functionality has been deprecated": None,
    "<x/>1": None,
    "1<x/>": None,
    "": None,
}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items(), ids=[text[:24] for text in NUMBERS])
@pytest.mark.parametrize(
    ("path", "field"),
    {
        "remapped_rows/remapped_row_unc": "remapped_rows_uncorrectable",
        "ecc_errors/aggregate/dram_correctable": "ecc_dram_correctable",
    }.items(),
)
def test_only_numbers_of_some_digits_are_numbers(path: str, field: str, text: str, number: int | None):
    values: dict[str, Any] = {field: number}
    expected = Health(**values) if number is not None else None
    assert health_of(document(_nested(path, text))) == expected


@pytest.mark.parametrize(
    ("text", "flag"),
    {"Yes": True, " No ": False, "yes": None, "1": None, "0": None, "Pending": None, "N/A": None, "": None}.items(),
)
def test_only_yes_and_no_are_flags(text: str, flag: bool | None):
    expected = Health(row_remap_pending=flag) if flag is not None else None
    assert health_of(document(_nested("remapped_rows/remapped_row_pending", text))) == expected


@pytest.mark.parametrize(
    "text",
    ["a" * 41, "Reset\u202e", "Réinitialiser", "Reset\x7f", "a\nb", "a\tb", "=1+1", "-", "[Reset]", "<b>Reset</b>"],
)
def test_only_short_printable_texts_are_texts(text: str):
    assert health_of(document(_nested("gpu_recovery_action", text))) is None


@pytest.mark.parametrize(
    ("parity", "secded", "total"), [("1", "2", 3), ("1", "N/A", None), ("N/A", "2", None), ("-1", "2", None)]
)
def test_a_sum_with_an_unknown_part_is_unknown(parity: str, secded: str, total: int | None):
    block = (
        f"<ecc_errors><aggregate><sram_uncorrectable_parity>{parity}</sram_uncorrectable_parity>"
        f"<sram_uncorrectable_secded>{secded}</sram_uncorrectable_secded></aggregate></ecc_errors>"
    )
    assert health_of(document(block)) == (Health(ecc_sram_uncorrectable=total) if total is not None else None)


@pytest.mark.parametrize(("memory", "total"), [("N/A", "3"), ("1", "N/A"), ("5", "3")])
def test_an_old_table_that_does_not_add_up_has_no_sram_errors(memory: str, total: str):
    table = f"<single_bit><device_memory>{memory}</device_memory><total>{total}</total></single_bit>"
    health = health_of(document(f"<ecc_errors><aggregate>{table}</aggregate></ecc_errors>"))
    assert health is None or (health.ecc_sram_correctable is None and health.ecc_dram_correctable == int(memory))


def test_equal_health_is_one_object():
    first, second = (parse(document(ROWS_450, uuid=f"GPU-{index}")).gpus[0].health for index in (1, 2))
    assert first is second
    turing = TURING.replace("<pending_blacklist>No</pending_blacklist>", "")
    assert health_of(document(TURING)) is health_of(document(turing))


def _nested(path: str, text: str) -> str:
    for name in reversed(path.split("/")):
        text = f"<{name}>{text}</{name}>"
    return text


def _block(values: dict[str, str]) -> str:
    return "".join(_nested(path, text) for path, text in values.items())


TYPES = {field.name: field.type for field in msgspec.structs.fields(Health)}
NAMES = st.text(st.characters(categories=["Lu", "Ll"], max_codepoint=127), min_size=3, max_size=40)


def _printed(health: Health) -> str:
    """Return what a recent driver prints of a GPU with some health."""

    def text(field: str) -> str:
        value = getattr(health, field)
        return "N/A" if value is None else {True: "Yes", False: "No"}[value] if isinstance(value, bool) else str(value)

    return f"""
<inforom_version><img_version>{text("inforom")}</img_version></inforom_version>
<gpu_reset_status><reset_required>{text("reset_required")}</reset_required>
<drain_and_reset_recommended>{text("drain_and_reset_recommended")}</drain_and_reset_recommended></gpu_reset_status>
<gpu_recovery_action>{text("recovery_action")}</gpu_recovery_action>
<ecc_errors><volatile><sram_correctable>77</sram_correctable><dram_uncorrectable>78</dram_uncorrectable></volatile>
<aggregate><sram_correctable>{text("ecc_sram_correctable")}</sram_correctable>
<sram_uncorrectable_parity>{text("ecc_sram_uncorrectable")}</sram_uncorrectable_parity>
<sram_uncorrectable_secded>0</sram_uncorrectable_secded>
<dram_correctable>{text("ecc_dram_correctable")}</dram_correctable>
<dram_uncorrectable>{text("ecc_dram_uncorrectable")}</dram_uncorrectable>
<sram_threshold_exceeded>{text("sram_threshold_exceeded")}</sram_threshold_exceeded></aggregate>
<channel_repair_pending>{text("channel_repair_pending")}</channel_repair_pending>
<tpc_repair_pending>{text("tpc_repair_pending")}</tpc_repair_pending>
<unrepairable_memory>{text("unrepairable_memory")}</unrepairable_memory></ecc_errors>
<retired_pages><multiple_single_bit_retirement><retired_count>{text("retired_pages_single_bit")}</retired_count>
</multiple_single_bit_retirement><double_bit_retirement><retired_count>{text("retired_pages_double_bit")}</retired_count>
</double_bit_retirement><pending_blacklist>{text("page_retirement_pending")}</pending_blacklist>
<pending_retirement>{text("page_retirement_pending")}</pending_retirement></retired_pages>
<remapped_rows><remapped_row_corr>{text("remapped_rows_correctable")}</remapped_row_corr>
<remapped_row_corr_inactive>{text("remapped_rows_inactive")}</remapped_row_corr_inactive>
<remapped_row_unc>{text("remapped_rows_uncorrectable")}</remapped_row_unc>
<remapped_row_unc_inactive>0</remapped_row_unc_inactive>
<remapped_row_pending>{text("row_remap_pending")}</remapped_row_pending>
<remapped_row_failure>{text("row_remap_failure")}</remapped_row_failure>
<row_remapper_histogram>
<row_remapper_histogram_low>{text("row_remap_banks_low")} bank(s)</row_remapper_histogram_low>
<row_remapper_histogram_none>{text("row_remap_banks_none")} bank(s)</row_remapper_histogram_none>
</row_remapper_histogram></remapped_rows>
<remapped_banks><bank_remapper_active_remappings>{text("remapped_banks")}</bank_remapper_active_remappings>
<bank_remapper_inactive_remappings>0</bank_remapper_inactive_remappings>
<bank_remapper_pending>{text("bank_remap_pending")}</bank_remapper_pending></remapped_banks>
<fabric><state>{text("fabric_state")}</state><status>{text("fabric_status")}</status>
<health><summary>{text("fabric_health")}</summary></health></fabric>"""


def _values(field: str) -> st.SearchStrategy[Any]:
    if field in COUNTERS:
        return st.none() | st.integers(0, 10**15 - 1)
    return st.none() | (st.booleans() if TYPES[field] == bool | None else NAMES.map(lambda text: f"{text}x"[:40]))


HEALTHS = st.builds(Health, **{field: _values(field) for field in HEALTH_FIELDS})


@given(HEALTHS)
def test_driver_output_round_trips(health: Health):
    if (health.fabric_state or "").casefold() != "completed":
        health = msgspec.structs.replace(health, fabric_status=None)
    assert (health_of(document(_printed(health))) or Health()) == health


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50) | st.sampled_from(
    [
        *(text for text in NUMBERS if "<" not in text),
        "Yes",
        "No",
        "True",
        "None",
        "Reset",
        "Degraded",
        "GPU requires reset",
    ]
)


@given(st.dictionaries(st.sampled_from(PATHS), TEXTS))
def test_any_element_content_is_bounded_or_unknown(values: dict[str, str]):
    escaped = {path: text.replace("&", "&amp;").replace("<", "&lt;") for path, text in values.items()}
    for gpu in parse(document(_block(escaped))).gpus:
        for field in HEALTH_FIELDS if gpu.health is not None else ():
            value = getattr(gpu.health, field)
            if field in COUNTERS:
                assert value is None or 0 <= value < 2 * 10**15
            elif TYPES[field] == bool | None:
                assert value in (None, True, False)
            else:
                assert value is None or (value.isprintable() and value.isascii() and 0 < len(value) <= 40)


# What is damaged


@given(st.data())
def test_a_damaged_value_becomes_unknown_rather_than_wrong(data: st.DataObject):
    whole = document(ECC_580 + ROWS_580_173.replace("2555", "5") + BANKS_615).decode()
    known = health_of(whole.encode())
    assert known is not None
    start = whole.index("<ecc_errors>")
    markup = [at for at in range(start, len(whole)) if whole[at] in "</>_" or whole[at].islower()]
    at = data.draw(st.sampled_from(markup))
    damaged = whole[:at] + data.draw(st.sampled_from(["", "<", ">", "/", "&", "x", "</volatile>"])) + whole[at + 1 :]
    try:
        report = parse(damaged.encode())
    except BadOutputError:
        return
    for gpu in report.gpus:
        for field in HEALTH_FIELDS if gpu.health is not None else ():
            assert getattr(gpu.health, field) in (None, getattr(known, field)), field


@pytest.mark.parametrize(
    "damage",
    {
        "a second block": ("</aggregate>", "</aggregate><aggregate><dram_correctable>9</dram_correctable></aggregate>"),
        "a second element": ("<dram_correctable>4", "<dram_correctable>9</dram_correctable><dram_correctable>4"),
        "a block without its end": ("</aggregate>", ""),
        "an element without its end": ("4</dram_correctable>", "4"),
    }.values(),
)
def test_in_a_damaged_gpu_a_doubtful_value_is_unknown(damage: tuple[str, str]):
    broken = document(ECC_580 + ROWS_450 + "<temperature><gpu_temp>30</temperature>").decode()
    before, after = broken.split("<aggregate>")
    health = health_of((before + "<aggregate>" + after.replace(*damage)).encode())
    assert (health or Health()).ecc_dram_correctable is None
    assert (health or Health()).remapped_rows_uncorrectable in (None, 2)


def test_in_a_damaged_gpu_volatile_counts_are_not_aggregate_ones():
    broken = ECC_580.replace("<aggregate>", "<aggregat>")
    health = health_of(document(broken + ROWS_450))
    assert health is not None
    assert health.ecc_dram_correctable is None
    assert health.row_remap_pending is True


def test_unreadable_characters_make_a_value_unknown():
    health = health_of(document(ROWS_450.replace("corr>1<", "corr>1\x00<")))
    assert health is not None
    assert (health.remapped_rows_correctable, health.remapped_rows_uncorrectable) == (None, 2)
