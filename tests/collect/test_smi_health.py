"""What is read of a GPU's health, in the forms of the drivers, damaged, hostile and absent."""

from typing import Any

import pytest

from collector.collect.nvidia_smi import Report, parse
from collector.health import Health

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
def test_a_reset_may_be_required_in_place_of_any_value(value: str):
    health = health_of(document(f"<temperature><gpu_temp>{value}</gpu_temp></temperature>{ROWS_450}"))
    assert health == Health(reset_required=True, **ROWS_450_READ)


def test_of_a_lost_gpu_only_bad_news_counts():
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
