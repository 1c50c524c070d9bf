"""Cutting unread parts from the output of nvidia-smi does not change what is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect.nvidia_smi import parse
from collector.collect.smi_output import find_document
from collector.health import Health
from collector.model import Gpu, GpuRef

UUIDS = ("GPU-11111111-0000-0000-0000-000000000000", "GPU-22222222-0000-0000-0000-000000000000")


def gpu(index: int, *, blocks: tuple[str, ...] = ()) -> str:
    """Return one GPU as the tool prints it, with more elements between the fan's speed and the mode of ECC."""
    return "\n\t\t".join(
        (
            f'\n\t<gpu id="00000000:0{index + 1}:00.0">',
            f"<uuid>{UUIDS[index]}</uuid>",
            "<fan_speed>N/A</fan_speed>",
            "<utilization>\n\t\t\t<gpu_util>0 %</gpu_util>\n\t\t</utilization>",
            *blocks,
            "<ecc_mode>\n\t\t\t<current_ecc>Enabled</current_ecc>\n\t\t</ecc_mode>",
            f"<remapped_rows>\n\t\t\t<remapped_row_corr>{index}</remapped_row_corr>\n\t\t</remapped_rows>",
            "<temperature>\n\t\t\t<gpu_temp>30 C</gpu_temp>\n\t\t</temperature>",
            "<clocks>\n\t\t\t<sm_clock>1980 MHz</sm_clock>\n\t\t</clocks>",
            "<fabric>\n\t\t\t<state>Completed</state>\n\t\t</fabric>",
            "<processes>\n\t\t</processes>\n\t</gpu>",
        )
    )


def document(*gpus: str) -> bytes:
    """Return a document of these GPUs."""
    head = f"<nvidia_smi_log>\n\t<attached_gpus>{len(gpus)}</attached_gpus>"
    return f"{head}{''.join(gpus)}\n</nvidia_smi_log>\n".encode()


def expected(index: int, serial: str | None = None) -> Gpu:
    health = Health(remapped_rows_correctable=index, fabric_state="Completed")
    return Gpu(uuid=UUIDS[index], pci_bus_id=f"00000000:0{index + 1}:00.0", health=health, serial=serial)


def test_elements_that_are_not_read_are_cut():
    content = find_document(document(gpu(0), gpu(1))).content
    assert content.count(b"utilization") == content.count(b"clock") == content.count(b"temp") == 0
    assert parse(document(gpu(0), gpu(1))).gpus == (expected(0), expected(1))


def test_elements_that_are_read_are_never_cut():
    output = document(gpu(0, blocks=("<serial>1650000000001</serial>",)), gpu(1))
    assert parse(output).gpus == (expected(0, serial="1650000000001"), expected(1))


def test_a_loss_reported_in_a_cut_element_counts():
    lost = "<fb_memory_usage>\n\t\t\t<total>GPU is lost</total>\n\t\t</fb_memory_usage>"
    report = parse(document(gpu(0, blocks=(lost,)), gpu(1)))
    assert report.lost == (GpuRef(UUIDS[0], "00000000:01:00.0"),)
    assert [one.health for one in report.gpus] == [None, expected(1).health]


@pytest.mark.parametrize("element", ["processes", "accounted_processes"])
@pytest.mark.parametrize("at", ["<fan_speed>", "<utilization>", "<remapped_rows>", "<temperature>", "<clocks>"])
def test_nothing_is_cut_after_process_names(at: str, element: str):
    name = "<process_name><temperature></process_name>"
    names = f"<{element}>\n\t\t\t<process_info>\n\t\t\t\t{name}\n\t\t\t</process_info>\n\t\t</{element}>\n\t\t"
    first = gpu(0).replace(at, names + at).replace("<processes>\n\t\t</processes>\n\t</gpu>", "</gpu>")
    content = find_document(document(first, gpu(1))).content
    assert content.count(b"<gpu_temp>") == 1
    assert content.count(b"<gpu_util>") == (at in ("<fan_speed>", "<utilization>"))
    assert parse(document(first, gpu(1))).gpus == (expected(0), expected(1))


def test_what_is_read_within_a_block_is_never_cut():
    pci = "<pci>\n\t\t\t<pci_gpu_link_info>x</pci_gpu_link_info>\n\t\t\t<pci_bus_id>00000000:09:00.0</pci_bus_id>"
    others = gpu(1).replace("<fan_speed>", f"{pci}\n\t\t</pci>\n\t\t<fan_speed>")
    assert parse(document(gpu(0), others)).gpus[1].pci_bus_id == "00000000:09:00.0"
    usual = others.replace(pci, pci.replace("<pci>", "<pci>\n\t\t\t<pci_bus_id>00000000:0A:00.0</pci_bus_id>", 1))
    usual = usual.replace("<pci_bus_id>00000000:09:00.0</pci_bus_id>", "<replay_counter>0</replay_counter>")
    assert parse(document(gpu(0), usual)).gpus[1].pci_bus_id == "00000000:0A:00.0"
    assert b"replay_counter" not in find_document(document(gpu(0), usual)).content


def test_a_run_that_spans_two_gpus_does_not_cut_one():
    first = gpu(0).replace("<ecc_mode>", "<ecc>").replace("</ecc_mode>", "</ecc>")
    assert parse(document(first, gpu(1))).gpus == (expected(0), expected(1))
    torn = gpu(0).partition("<ecc_mode>")[0] + gpu(1)
    assert [one.uuid for one in parse(document(torn, gpu(1))).gpus] == [UUIDS[1]]


BLOCKS = st.lists(
    st.sampled_from(
        [
            "<serial>1650000000001</serial>",
            "<temperature>\n\t\t\t<gpu_temp>31 C</gpu_temp>\n\t\t</temperature>",
            "<fabric>\n\t\t\t<status>Success</status>\n\t\t</fabric>",
            "<fan_speed>30 %</fan_speed>",
            "<ecc_mode>\n\t\t\t<current_ecc>Disabled</current_ecc>\n\t\t</ecc_mode>",
            "<remapped_rows>N/A</remapped_rows>",
            "<gpu_recovery_action>Reset</gpu_recovery_action>",
            "<pci>\n\t\t\t<pci_bus_id>00000000:09:00.0</pci_bus_id>\n\t\t</pci>",
            "<total>GPU is lost</total>",
            "<supported_clocks>N/A</supported_clocks>",
            "<accounted_processes>\n\t\t</accounted_processes>",
        ]
    ),
    max_size=3,
)


@given(BLOCKS, BLOCKS)
def test_cutting_never_changes_the_result(first: list[str], second: list[str]):
    output = document(gpu(0, blocks=tuple(first)), gpu(1, blocks=tuple(second)))
    assert parse(output) == parse(output.replace(b"\n\t\t<", b"\n  <"))  # where no run is found
