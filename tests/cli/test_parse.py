"""`gpuid parse`."""

import json
from pathlib import Path

from click.testing import CliRunner

from collector.cli import gpuid

XML = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <driver_version>570.148.08</driver_version>
  <cuda_version>12.8</cuda_version>
  <attached_gpus>1</attached_gpus>
  <gpu id="00000000:29:00.0">
    <product_name>NVIDIA H100 80GB HBM3</product_name>
    <product_architecture>Hopper</product_architecture>
    <mig_mode><current_mig>Enabled</current_mig></mig_mode>
    <serial>1652923034028</serial>
    <uuid>GPU-ab6ab95d-8259-5551-5962-e4a7a710fbae</uuid>
    <minor_number>0</minor_number>
    <platformInfo><chassis_serial_number>N/A</chassis_serial_number></platformInfo>
    <pci><pci_bus_id>00000000:29:00.0</pci_bus_id></pci>
  </gpu>
</nvidia_smi_log>
"""

EXPECTED = {
    "driver_version": "570.148.08",
    "cuda_version": "12.8",
    "gpus": [
        {
            "uuid": "GPU-ab6ab95d-8259-5551-5962-e4a7a710fbae",
            "serial": "1652923034028",
            "model": "NVIDIA H100 80GB HBM3",
            "architecture": "Hopper",
            "chassis": None,
            "slot": None,
            "tray": None,
            "host": None,
            "module": None,
            "pci_bus_id": "00000000:29:00.0",
            "board_part_number": None,
            "gpu_part_number": None,
            "minor_number": 0,
            "vbios": None,
            "mig": True,
            "virtual": False,
            "multi_gpu_board": False,
            "health": None,
        }
    ],
}


def test_unknown_values_are_null():
    result = CliRunner().invoke(gpuid, ["parse"], input=XML)
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (0, EXPECTED, "")
    assert result.stdout.startswith('{\n  "driver_version": "570.148.08",\n')


def test_a_dash_is_standard_input_and_compact_is_one_line():
    result = CliRunner().invoke(gpuid, ["parse", "--compact", "-"], input=XML)
    assert json.loads(result.stdout) == EXPECTED
    assert result.stdout.count("\n") == 1


def test_a_file_is_read(tmp_path: Path):
    file = tmp_path / "smi.xml"
    file.write_text(XML)
    assert json.loads(CliRunner().invoke(gpuid, ["parse", str(file)]).stdout) == EXPECTED


def test_output_without_gpus_is_not_an_error():
    text = "<nvidia_smi_log><attached_gpus>0</attached_gpus></nvidia_smi_log>"
    result = CliRunner().invoke(gpuid, ["parse", "--compact"], input=text)
    assert result.stdout == '{"driver_version":null,"cuda_version":null,"gpus":[]}\n'


def test_other_input_is_one_line_and_exit_1():
    for text in (
        "",
        "Failed to initialize NVML",
        "<html/>",
        XML[: len(XML) // 2],
        '<!DOCTYPE a [<!ENTITY b "c">]><a/>',
    ):
        result = CliRunner().invoke(gpuid, ["parse"], input=text)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("gpuid: standard input: ")
        assert result.stderr.count("\n") == 1


def test_endless_input_is_not_read_to_its_end():
    result = CliRunner().invoke(gpuid, ["parse", "/dev/zero"])
    assert (result.exit_code, result.stderr) == (
        1,
        "gpuid: /dev/zero: more than 8 MiB, which nvidia-smi never prints\n",
    )


def test_an_unreadable_file_is_one_line_and_exit_2(tmp_path: Path):
    absent = tmp_path / "absent.xml"
    result = CliRunner().invoke(gpuid, ["parse", str(absent)])
    assert (result.exit_code, result.stderr) == (2, f"gpuid: {absent}: no such file or directory\n")
    result = CliRunner().invoke(gpuid, ["parse", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (2, f"gpuid: {tmp_path}: is a directory\n")


def test_health_contains_only_reported_values():
    block = """<remapped_rows><remapped_row_corr>3</remapped_row_corr><remapped_row_unc>N/A</remapped_row_unc>
      <remapped_row_pending>Yes</remapped_row_pending></remapped_rows><gpu_recovery_action>None</gpu_recovery_action>"""
    result = CliRunner().invoke(gpuid, ["parse"], input=XML.replace("</gpu>", f"{block}</gpu>"))
    assert json.loads(result.stdout)["gpus"][0]["health"] == {
        "remapped_rows_correctable": 3,
        "row_remap_pending": True,
        "recovery_action": "None",
    }
