"""What `nvidia-smi -q -x` prints becomes GPUs, and anything else is refused in one line."""

import contextlib
import string
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.collect.nvidia_smi import BadOutputError, Report, parse
from collector.collect.smi_output import lost_gpus, own_text
from collector.model import Gpu, GpuRef, UnidentifiedGpu

PROLOG = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'


def document(*gpus: str, attached: object = None, root: str = "", prolog: str = PROLOG) -> bytes:
    """Print as the tool does, but for the bus in <gpu id="…">; each GPU is the inside of its <gpu> element."""
    count = len(gpus) if attached is None else attached
    body = "".join(f"\t<gpu>{gpu}</gpu>\n" for gpu in gpus)
    return f"{prolog}<nvidia_smi_log>{root}<attached_gpus>{count}</attached_gpus>{body}</nvidia_smi_log>\n".encode()


def one(inside: str) -> Gpu:
    """Parse a document of one GPU, which has the UUID "GPU-1" unless it says another one."""
    (gpu,) = parse(document(inside if "<uuid>" in inside else f"{inside}<uuid>GPU-1</uuid>")).gpus
    return gpu


def one_unidentified(inside: str) -> UnidentifiedGpu:
    """Parse a document of one GPU that has no UUID."""
    report = parse(document(inside))
    assert report.gpus == ()
    (gpu,) = report.unidentified
    return gpu


H100 = """
    <product_name>NVIDIA H100 80GB HBM3</product_name>
    <product_architecture>Hopper</product_architecture>
    <mig_mode><current_mig>Disabled</current_mig><pending_mig>Enabled</pending_mig></mig_mode>
    <mig_devices>
        None
    </mig_devices>
    <serial>1650000000011</serial>
    <uuid>GPU-11111111-aaaa-bbbb-cccc-000000000011</uuid>
    <minor_number>0</minor_number>
    <vbios_version>96.00.A5.00.01</vbios_version>
    <board_part_number>692-2G520-0200-000</board_part_number>
    <gpu_part_number>2330-885-A1</gpu_part_number>
    <platformInfo>
        <chassis_serial_number>N/A</chassis_serial_number>
        <slot_number>N/A</slot_number>
        <tray_index>N/A</tray_index>
        <host_id>N/A</host_id>
        <module_id>4</module_id>
    </platformInfo>
    <pci><pci_bus>04</pci_bus><pci_bus_id>00000000:04:00.0</pci_bus_id></pci>
    <processes></processes>
"""

GB200 = """
    <product_name>NVIDIA GB200</product_name>
    <product_architecture>Blackwell</product_architecture>
    <serial>1760000000021</serial>
    <uuid>GPU-22222222-aaaa-bbbb-cccc-00000000002{index}</uuid>
    <minor_number>{index}</minor_number>
    <platformInfo>
        <chassis_serial_number>1820000000099</chassis_serial_number>
        <slot_number>15</slot_number>
        <tray_index>0</tray_index>
        <host_id>1</host_id>
        <peer_type>Switch Connected</peer_type>
        <module_id>{index}</module_id>
        <gpu_fabric_guid>0x0000000000000001</gpu_fabric_guid>
    </platformInfo>
"""


class TestCards:
    """Each kind of card, as its driver describes it."""

    def test_an_h100_has_a_module_and_no_chassis(self) -> None:
        assert one(H100) == Gpu(
            uuid="GPU-11111111-aaaa-bbbb-cccc-000000000011",
            serial="1650000000011",
            model="NVIDIA H100 80GB HBM3",
            architecture="Hopper",
            module="4",
            pci_bus_id="00000000:04:00.0",
            board_part_number="692-2G520-0200-000",
            gpu_part_number="2330-885-A1",
            minor_number=0,
            vbios="96.00.A5.00.01",
            mig=False,
        )

    def test_two_gpus_of_a_gb200_share_serial_and_chassis(self) -> None:
        report = parse(document(GB200.format(index=0), GB200.format(index=1)))
        assert [(gpu.uuid, gpu.serial, gpu.chassis) for gpu in report.gpus] == [
            ("GPU-22222222-aaaa-bbbb-cccc-000000000020", "1760000000021", "1820000000099"),
            ("GPU-22222222-aaaa-bbbb-cccc-000000000021", "1760000000021", "1820000000099"),
        ]
        assert [(gpu.slot, gpu.tray, gpu.host, gpu.module) for gpu in report.gpus] == [
            ("15", "0", "1", "0"),
            ("15", "0", "1", "1"),
        ]

    def test_a_consumer_card_has_a_uuid_and_no_serial(self) -> None:
        gpu = one("<serial>N/A</serial><uuid>GPU-3</uuid><product_name>Graphics Device</product_name>")
        assert gpu == Gpu(uuid="GPU-3", model="Graphics Device")

    def test_mig_instances_are_not_gpus(self) -> None:
        instance = "<index>0</index><uuid>MIG-1</uuid><serial>1</serial><product_name>slice</product_name>"
        gpu = one(
            "<mig_mode><current_mig>Enabled</current_mig><pending_mig>Disabled</pending_mig></mig_mode>"
            f"<mig_devices><mig_device>{instance}</mig_device><uuid>MIG-2</uuid></mig_devices>"
            "<serial>1650000000011</serial><uuid>GPU-4</uuid>"
        )
        assert gpu == Gpu(uuid="GPU-4", serial="1650000000011", mig=True)

    @pytest.mark.parametrize(
        ("mode", "expected"), [("Enabled", True), ("Disabled", False), ("N/A", None), ("Maybe", None)]
    )
    def test_mig_is_on_or_off_or_unknown(self, mode: str, expected: bool | None) -> None:
        assert one(f"<uuid>GPU-1</uuid><mig_mode><current_mig>{mode}</current_mig></mig_mode>").mig is expected

    @pytest.mark.parametrize("block", ["platformInfo", "platform_info"])
    def test_the_platform_block_has_two_names(self, block: str) -> None:
        gpu = one(f"<uuid>GPU-1</uuid><{block}><slot_number>7</slot_number></{block}>")
        assert gpu == Gpu(uuid="GPU-1", slot="7")

    def test_the_platform_block_of_early_drivers_has_other_fields(self) -> None:
        gpu = one(
            "<uuid>GPU-1</uuid><platformInfo><chassis_physical_slot_number>7</chassis_physical_slot_number>"
            "<compute_slot_index>5</compute_slot_index><node_index>0</node_index></platformInfo>"
        )
        assert gpu == Gpu(uuid="GPU-1", slot="7", tray="5", host="0")

    def test_an_old_driver_has_no_platform_block(self) -> None:
        assert one("<uuid>GPU-1</uuid><serial>42</serial>") == Gpu(uuid="GPU-1", serial="42")


class TestVirtualGpus:
    """A share of a board of the host's is not a board."""

    @staticmethod
    def inside(mode: str) -> str:
        return (
            H100
            + f"<gpu_virtualization_mode><virtualization_mode>{mode}</virtualization_mode></gpu_virtualization_mode>"
        )

    @pytest.mark.parametrize("mode", ["VGPU", "vGPU", " VGPU "])
    def test_a_vgpu_has_no_serial_and_no_place(self, mode: str) -> None:
        platform = "<chassis_serial_number>182</chassis_serial_number><slot_number>1</slot_number>"
        gpu = one(self.inside(mode).replace("<chassis_serial_number>N/A</chassis_serial_number>", platform))
        assert gpu.virtual
        assert (gpu.serial, gpu.chassis, gpu.slot, gpu.module, gpu.board_part_number) == (None,) * 5
        assert gpu.uuid == "GPU-11111111-aaaa-bbbb-cccc-000000000011"

    @pytest.mark.parametrize("mode", ["None", "Pass-Through", "Host VGPU", "Host VSGA", "N/A", ""])
    def test_every_other_mode_is_that_of_a_board(self, mode: str) -> None:
        assert one(self.inside(mode)) == one(H100)


class TestBoards:
    """What the tool reports about boards with several GPUs."""

    @pytest.mark.parametrize(("text", "several"), [("Yes", True), ("No", False), ("N/A", False)])
    def test_boards_with_several_gpus_are_recognised(self, text: str, several: bool) -> None:
        assert one(f"<uuid>GPU-1</uuid><multigpu_board>{text}</multigpu_board>").multi_gpu_board is several


class TestLostGpus:
    """GPUs that do not respond are named, as far as the tool names them."""

    LOST = "<product_name>GPU is lost</product_name><serial>GPU is lost</serial><uuid>GPU is lost</uuid>"

    def test_a_lost_gpu_is_found_by_its_document_position(self) -> None:
        output = document(H100, self.LOST).replace(
            b"\t<gpu><product_name>GPU", b'\t<gpu id="0000:19:00.0"><product_name>GPU'
        )
        assert parse(output).lost == (GpuRef(None, "00000000:19:00.0"),)

    def test_a_gpu_that_lost_other_values_is_found_by_uuid(self) -> None:
        inside = H100.replace("<processes>", "<fb_memory_usage><total>GPU is lost</total></fb_memory_usage><processes>")
        report = parse(document(inside, GB200.format(index=0)))
        assert report.lost == (GpuRef("GPU-11111111-aaaa-bbbb-cccc-000000000011", "00000000:04:00.0"),)
        assert len(report.gpus) == 2

    @pytest.mark.parametrize(
        "message",
        [
            "Unable to determine the device handle for GPU0: 0000:18:00.0: Unknown Error",
            "Unable to determine the device handle for GPU 0000:18:00.0: Unknown Error",
            "Unable to determine the device handle for GPU0000:18:00.0: Unknown Error",
            "Unable to determine the device handle for gpu 0000:18:00.0: Not Found",
            "Unable to determine the device handle for GPU 00000000:18:00.0: GPU is lost.  Reboot the system",
            "10:18:15 Unable to detect the device handle for GPU3: 0000:18:00.0: GPU requires reset",
        ],
    )
    def test_a_lost_gpu_is_found_by_any_form_of_message(self, message: str) -> None:
        whole, text = document(H100, attached=2), f"{message}\n".encode()
        for output in (text + whole, whole + text, whole.replace(b"\t<gpu>", text + b"\t<gpu>")):
            report = parse(output)
            assert (report.lost, report.partial) == ((GpuRef(None, "00000000:18:00.0"),), False)
        assert parse(whole, said=text).lost == (GpuRef(None, "00000000:18:00.0"),)

    @pytest.mark.parametrize(
        "message",
        [
            "Unable to determine the device handle for GPU2: Unknown Error",
            "GPU is lost.  Reboot the system to recover this GPU",
        ],
    )
    def test_a_message_without_an_address_makes_the_reading_partial(self, message: str) -> None:
        report = parse(message.encode() + b"\n" + document(H100, attached=2))
        assert (report.lost, report.partial) == ((), True)

    def test_a_gpu_that_is_still_listed_is_not_lost(self) -> None:
        text = b"Unable to determine the device handle for GPU0: 0000:04:00.0: Unknown Error\n"
        assert parse(text + document(H100)) == parse(document(H100))

    def test_a_corrupted_inforom_is_not_a_lost_gpu(self) -> None:
        assert parse(b"WARNING: infoROM is corrupted at gpu 0000:B3:00.0\n" + document(H100)).lost == ()

    def test_process_names_are_ignored(self) -> None:
        name = "\nUnable to determine the device handle for GPU0: 0000:18:00.0: Unknown Error\nGPU is lost\n"
        inside = H100.replace("<processes>", f"<processes><process_name>GPU is lost</process_name>{name}")
        assert parse(document(inside)) == parse(document(H100))


class TestBrokenDocuments:
    """Damage in one place does not affect other values, and every value that is read is certain."""

    def test_supported_clocks_may_be_nested_wrongly(self) -> None:
        clocks = "<supported_clocks><supported_mem_clock><value>1</value></supported_clocks></supported_mem_clock>"
        for broken in (clocks, "<supported_clocks><a><b>", "<supported_clocks></a></supported_clocks>"):
            report = parse(document(H100.replace("<processes>", f"{broken}<processes>"), GB200.format(index=0)))
            assert report == parse(document(H100, GB200.format(index=0)))

    @pytest.mark.parametrize(
        "broken", ["<fan_speed>1", "</fan_speed>", "<fan_speed>1 < 2</fan_speed>", "<5>", "<a b=>"]
    )
    def test_markup_broken_elsewhere_does_not_lose_a_value(self, broken: str) -> None:
        warnings: list[str] = []
        report = parse(document(H100.replace("<processes>", f"{broken}<processes>"), GB200.format(index=0)), warnings)
        assert report == parse(document(H100, GB200.format(index=0)))
        assert warnings[-1].startswith("repaired the XML: ")

    @pytest.mark.parametrize("value", ["16500<00000011", "16500<", "16500 < 1", "<1650000000011"])
    def test_a_value_that_is_broken_itself_is_absent(self, value: str) -> None:
        report = parse(document(H100.replace("1650000000011", value), GB200.format(index=0)))
        whole = parse(document(H100, GB200.format(index=0)))
        assert report.gpus == (msgspec.structs.replace(whole.gpus[0], serial=None), whole.gpus[1])

    @pytest.mark.parametrize("value", ["1650<b>000000011", "1650</x>000000011", "1650</serial>1</serial>"])
    def test_broken_nesting_loses_at_most_its_gpu(self, value: str) -> None:
        report = parse(document(H100.replace("1650000000011", value), GB200.format(index=0)))
        whole = parse(document(H100, GB200.format(index=0)))
        assert report.gpus in (whole.gpus[1:], (msgspec.structs.replace(whole.gpus[0], serial=None), whole.gpus[1]))
        assert len(report.gpus) + len(report.unread) == 2

    def test_a_gpu_without_an_end_tag_is_unread(self) -> None:
        output = document(H100, GB200.format(index=0)).replace(b"</gpu>", b"", 1)
        report = parse(output)
        assert report.gpus == parse(document(GB200.format(index=0))).gpus
        assert report.unread == (GpuRef("GPU-11111111-aaaa-bbbb-cccc-000000000011", "00000000:04:00.0"),)

    @pytest.mark.parametrize("end", ["", "</serial>"])
    def test_the_dtd_that_a_document_names_is_not_read(
        self, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "nvsmi_device_v12.dtd").write_text("<!-- Comment not terminated: an error where it is read")
        monkeypatch.chdir(tmp_path)
        warnings: list[str] = []
        found = parse(document(f"{H100}{end}", H100.replace("000011", "000012")), warnings)
        assert [gpu.serial for gpu in found.gpus] == ["1650000000011", "1650000000012"]
        assert "Comment" not in str(warnings)

    def test_a_document_without_a_complete_gpu_is_refused(self) -> None:
        with pytest.raises(BadOutputError, match=r"^not the XML of nvidia-smi: "):
            parse(document(H100).replace(b"</gpu>", b""))

    def test_the_uuid_of_an_instance_never_counts(self) -> None:
        mig = "<mig_devices><mig_device><uuid>MIG-1</uuid></mig_devices>"
        report = parse(document(H100.replace("<serial>", f"{mig}<serial>"), GB200.format(index=0)))
        assert [gpu.uuid for gpu in report.gpus] == ["GPU-22222222-aaaa-bbbb-cccc-000000000020"]
        assert len(report.unread) == 1


class TestVersions:
    """The driver and CUDA versions, from the root."""

    def test_the_versions_are_read(self) -> None:
        report = parse(
            document(attached=0, root="<driver_version>570.1</driver_version><cuda_version>12.8</cuda_version>")
        )
        assert report == Report(driver_version="570.1", cuda_version="12.8", gpus=())

    def test_the_versions_are_read_by_their_new_names(self) -> None:
        report = parse(
            document(
                attached=0, root="<kmd_version>615.23</kmd_version><cuda_umd_version>13.4</cuda_umd_version><!-- -->"
            )
        )
        assert report == Report(driver_version="615.23", cuda_version="13.4", gpus=())

    def test_unknown_versions_are_absent(self) -> None:
        report = parse(document(attached=0, root="<driver_version>N/A</driver_version><cuda_version></cuda_version>"))
        assert report == Report(driver_version=None, cuda_version=None, gpus=())


class TestAbsentValues:
    """What the tool prints in place of a value is absent."""

    ABSENT = (
        *("", "   ", "\n\t", "-", "?", "****", "XXXX", "xxx-xxx", "None", "null", "N/A", "[N/A]", " N/A ", "n/a"),
        *("Unknown", "Uninitialized", "Timeout", "No Access", "No Data", "Deprecated"),
        *("Error", "ERR!", "[ERR!]", "Unknown Error", "[Unknown Error]", "Unknown Error (999)"),
        *("Not Available", "Driver not available", "[Not Supported]", "Not Found", "Function Not Found", "Not Ready"),
        *("Driver Not Loaded", "Corrupted infoROM", "GPU is lost", "[GPU is lost]", "GPU requires reset"),
        *("Reset Required", "GPU access blocked", "GPU access blocked by the operating system"),
        *("Insufficient Permissions", "[Insufficient Permissions]", "Insufficient Power"),
        *("Requested functionality has been deprecated", "Unable to determine the device handle", "[Unable to read]"),
        *("REDACTED", "[REDACTED]", "<redacted>", "Serial redacted"),
    )
    PRESENT = (
        *("Errors", "Not", "Nothing", "Corrupted", "Driver Loaded", "Reset", "Unable", "Insufficient", "Access"),
        *("Insufficient A B", "Timeout 5", "null0", "GPU lost", "NVIDIA H100", "96.00.A5.00.01", "x1", "[1]"),
    )

    @pytest.mark.parametrize("text", ABSENT)
    @pytest.mark.parametrize("element", ["serial", "product_name", "vbios_version", "minor_number"])
    def test_error_texts_and_blanks_are_absent(self, element: str, text: str) -> None:
        gpu = one(f"<{element}>{escape(text)}</{element}>")
        assert msgspec.structs.replace(gpu, health=None) == Gpu(uuid="GPU-1")
        assert one_unidentified(f"<uuid>{escape(text)}</uuid>") == UnidentifiedGpu()

    @pytest.mark.parametrize("text", PRESENT)
    def test_a_value_that_resembles_an_error_text_is_kept(self, text: str) -> None:
        assert one(f"<serial>{text}</serial>") == Gpu(uuid="GPU-1", serial=text)

    @pytest.mark.parametrize("text", ["0", "0000000000000", "0x0", "000-00000-0000-000"])
    @pytest.mark.parametrize("element", ["serial", "board_part_number", "gpu_part_number"])
    def test_an_identifier_of_zeros_is_absent(self, element: str, text: str) -> None:
        assert one(f"<{element}>{text}</{element}>") == Gpu(uuid="GPU-1")
        assert one_unidentified(f"<uuid>{text}</uuid>") == UnidentifiedGpu()

    def test_a_uuid_or_chassis_of_zeros_is_absent(self) -> None:
        gpu = one_unidentified(
            "<uuid>GPU-00000000-0000-0000-0000-000000000000</uuid>"
            "<platformInfo><chassis_serial_number>0000000000000</chassis_serial_number></platformInfo>"
        )
        assert gpu == UnidentifiedGpu()

    def test_a_position_of_zero_is_real(self) -> None:
        gpu = one(
            "<minor_number>0</minor_number><platformInfo><slot_number>0</slot_number><tray_index>0</tray_index>"
            "<host_id>0</host_id><module_id>0</module_id></platformInfo>"
        )
        assert gpu == Gpu(uuid="GPU-1", minor_number=0, slot="0", tray="0", host="0", module="0")

    @pytest.mark.parametrize("text", ["-1", "1.5", "٣", "0x1", "1e3", "9" * 40, "1_000"])
    def test_a_minor_number_that_is_not_a_number_is_absent(self, text: str) -> None:
        assert one(f"<uuid>GPU-1</uuid><minor_number>{text}</minor_number>") == Gpu(uuid="GPU-1")

    def test_a_value_longer_than_any_real_one_is_absent(self) -> None:
        assert one(f"<uuid>GPU-1</uuid><serial>{'9' * 129}</serial>") == Gpu(uuid="GPU-1")
        assert one(f"<uuid>GPU-1</uuid><serial>{'9' * 128}</serial>") == Gpu(uuid="GPU-1", serial="9" * 128)

    def test_a_value_with_elements_inside_is_absent(self) -> None:
        assert one("<uuid>GPU-1</uuid><serial>12<b>34</b>56</serial>") == Gpu(uuid="GPU-1")


class TestBrokenGpus:
    """One broken GPU does not affect the others."""

    def test_a_lost_gpu_is_unidentified_and_the_others_are_complete(self) -> None:
        lost = "<product_name>GPU is lost</product_name><serial>GPU is lost</serial><uuid>GPU is lost</uuid>"
        report = parse(document(H100, lost, GB200.format(index=0)))
        assert [gpu.uuid for gpu in report.gpus] == [
            "GPU-11111111-aaaa-bbbb-cccc-000000000011",
            "GPU-22222222-aaaa-bbbb-cccc-000000000020",
        ]
        assert report.unidentified == (UnidentifiedGpu(),)

    @pytest.mark.parametrize(
        ("id", "inside", "bus"),
        [
            ("00000000:19:00.0", "<uuid>GPU is lost</uuid>", "00000000:19:00.0"),
            ("00000000:19:00.0", "<pci><pci_bus_id>GPU is lost</pci_bus_id></pci>", "00000000:19:00.0"),
            ("00000000:19:00.0", "<pci><pci_bus_id>00000000:1A:00.0</pci_bus_id></pci>", "00000000:1A:00.0"),
            ("N/A", "", None),
            ("x" * 1000, "", None),
        ],
    )
    def test_the_id_attribute_replaces_a_missing_bus_address(self, id: str, inside: str, bus: str | None) -> None:  # noqa: A002
        (gpu,) = parse(document(inside).replace(b"<gpu>", f'<gpu id="{id}">'.encode())).unidentified
        assert gpu.pci_bus_id == bus

    @pytest.mark.parametrize(
        ("words", "buses"),
        [
            ("Unable to determine the device handle for GPU0: 0000:18:00.0: Unknown Error", ["00000000:18:00.0"]),
            ("Unable to determine the device handle for GPU0: 18:00.0: Unknown Error", ["00000000:18:00.0"]),
            ("GPU 0000:18:00.0: GPU is lost.  Reboot the system to recover this GPU", ["00000000:18:00.0"]),
            ("GPU at 0000:18:00.0 has fallen off the bus.", ["00000000:18:00.0"]),
            (
                "Unable to determine the device handle for GPU0: 0000:18:00.0: Not Found"
                " Unable to determine the device handle for GPU1: 0000:3B:00.0: Not Found",
                ["00000000:18:00.0", "00000000:3B:00.0"],
            ),
            ("Unable to determine the device handle for GPU 3: Unknown Error", [None]),
        ],
    )
    def test_error_messages_name_the_gpus_that_do_not_answer(self, words: str, buses: list[str | None]) -> None:
        assert [ref.pci_bus_id for ref in lost_gpus(words.encode())] == buses

    @pytest.mark.parametrize("mode", ["VG\xffPU", "VGPU<x<", "\x00"])
    def test_a_gpu_with_an_unreadable_mode_is_not_a_board(self, mode: str) -> None:
        virtual = (
            f"<gpu_virtualization_mode><virtualization_mode>{mode}</virtualization_mode></gpu_virtualization_mode>"
        )
        output = document(f"<uuid>GPU-1</uuid><serial>1234567</serial>{virtual}", "<uuid>GPU-2</uuid>")
        report = parse(output.decode().encode("latin-1"))
        assert [gpu.uuid for gpu in report.gpus] == ["GPU-2"]
        assert report.unread == (GpuRef("GPU-1"),)

    def test_two_lost_gpus_are_two(self) -> None:
        lost = parse(document("<uuid>N/A</uuid>", "<uuid>N/A</uuid>"))
        assert (lost.gpus, lost.unidentified) == ((), (UnidentifiedGpu(), UnidentifiedGpu()))

    def test_fewer_gpus_than_attached_make_the_reading_partial(self) -> None:
        warnings: list[str] = []
        report = parse(document(H100, attached=8), warnings)
        assert (len(report.gpus), report.partial) == (1, True)
        assert warnings == ["1 GPU in the output, which reports 8 as attached"]

    def test_more_gpus_than_attached_are_refused(self) -> None:
        with pytest.raises(BadOutputError, match="2 GPUs in the output, which reports 1 as attached"):
            parse(document(H100, GB200.format(index=0), attached=1))

    def test_the_first_of_two_gpus_with_one_uuid_is_used(self) -> None:
        report = parse(document("<uuid>GPU-1</uuid><serial>1</serial>", "<uuid>gpu-1</uuid><serial>2</serial>"))
        assert report.gpus == (Gpu(uuid="GPU-1", serial="1"),)

    def test_a_uuid_is_written_canonically(self) -> None:
        assert one("<uuid> gpu-ABCDEF </uuid>") == Gpu(uuid="GPU-abcdef")

    def test_the_first_value_of_a_repeated_element_is_used(self) -> None:
        assert one("<uuid>N/A</uuid><uuid>GPU-1</uuid><uuid>GPU-2</uuid>") == Gpu(uuid="GPU-1")


class TestEmptyOutput:
    """A node has no GPUs only if the tool says so."""

    def test_a_node_that_has_no_gpu_says_so(self) -> None:
        assert parse(document(attached=0)).gpus == ()

    @pytest.mark.parametrize("attached", [8, "", "N/A", "banana", "00"])
    def test_no_gpu_without_attached_gpus_0_is_refused(self, attached: object) -> None:
        with pytest.raises(
            BadOutputError, match="no GPU in the output, though it does not report that none is attached"
        ):
            parse(document(attached=attached))

    @pytest.mark.parametrize(
        "output", [b"", b"  \n", b"No devices were found\n", b"\0\0\0", b"==NVSMI LOG==", b"<nvidia_smi_log>"]
    )
    def test_output_that_is_not_xml_is_refused(self, output: bytes) -> None:
        with pytest.raises(BadOutputError, match=r"^not the XML of nvidia-smi: "):
            parse(output)

    def test_a_document_without_its_beginning_is_refused(self) -> None:
        whole = document(H100, GB200.format(index=0))
        root, end = whole.index(b"<nvidia_smi_log>"), whole.index(b"</nvidia_smi_log>")
        no_beginning = "^not the XML of nvidia-smi: the document has no beginning$"
        for at in range(root + 1, end, 7):
            with pytest.raises(BadOutputError, match=no_beginning):
                parse(whole[at:])
            assert own_text(whole[at:]) == b""
        for piece in (whole[root + 20 : whole.index(b"</gpu>") + 6], whole[whole.index(b"<gpu") : end - 20]):
            with pytest.raises(BadOutputError, match=no_beginning):
                parse(piece)

    def test_another_document_is_refused_by_its_root(self) -> None:
        with pytest.raises(BadOutputError) as error:
            parse(b"<html><gpu><uuid>GPU-1</uuid></gpu></html>")
        assert str(error.value) == "not the XML of nvidia-smi: the root element is html, expected nvidia_smi_log"

    @pytest.mark.parametrize(
        "text",
        [
            "WARNING: infoROM is corrupted at gpu 0000:B3:00.0\n",
            "WARNING: infoROM is corrupted at gpu 0000:B3:00.0\r\n\n1 & 2 < 3 > [N/A] \u2026 100%\n",
            "\0\x1b[31mred\x1b[0m\n",
        ],
    )
    def test_lines_of_text_around_the_document_are_skipped(self, text: str) -> None:
        alone = parse(document(H100))
        for output in (
            text.encode() + document(H100),
            document(H100) + text.encode(),
            text.encode() + document(H100).rstrip() + text.encode(),
        ):
            assert parse(output) == alone

    @pytest.mark.parametrize(
        "markup", ["<html>", "<", "</gpu>", "\ufeff<html>", "<info> 10:00", "text\n  <!DOCTYPE a>", "<?xml"]
    )
    def test_markup_around_the_document_is_skipped(self, markup: str) -> None:
        whole, text = document(H100), markup.encode()
        for output in (text + b"\n" + whole, text + whole, whole + text, whole + text + b"\n", whole.rstrip() + text):
            assert parse(output) == parse(whole)

    def test_the_first_of_two_documents_is_used(self) -> None:
        first, second = document(H100), document(GB200.format(index=0))
        for output in (
            first + second,
            first + b"warning\n" + second,
            first + b"<nvidia_smi_log/>",
            first + second[:300],
        ):
            warnings: list[str] = []
            assert parse(output, warnings) == parse(first)
            assert warnings == ["more than one document; reading only the first"]

    def test_a_first_document_without_an_end_is_refused(self) -> None:
        for begun in (document(H100)[:-30], b"<nvidia_smi_log/>", b"<nvidia_smi_log>"):
            with pytest.raises(BadOutputError, match="the document is cut off before its end"):
                parse(begun + b"\n" + document(H100))

    @pytest.mark.parametrize(
        "place", ["<!DOCTYPE", "<nvidia_smi_log>", "<attached_gpus>", "\t<gpu>", "</nvidia_smi_log>"]
    )
    def test_a_warning_between_any_parts_is_skipped(self, place: str) -> None:
        whole = document(H100).decode()
        warning = "WARNING: infoROM is corrupted at gpu 0000:B3:00.0\n"
        assert parse(whole.replace(place, warning + place).encode()) == parse(whole.encode())

    @pytest.mark.parametrize("end", ["", "\n"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    @pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
    def test_utf_16_is_read_in_both_orders(self, codec: str, mark: str, end: str) -> None:
        model = "<product_name>NVIDIA H100 \u4e2d\u6587</product_name>"
        text = document(f"<uuid>GPU-1</uuid>{model}", prolog="").decode().rstrip() + end
        (gpu,) = parse((mark + text).encode(codec)).gpus
        assert gpu.model == "NVIDIA H100 \u4e2d\u6587"

    def test_a_utf_16_document_may_follow_other_text(self) -> None:
        whole = document(H100).decode()
        for encoding in ("utf-16-le", "utf-16-be", "utf-16"):
            assert parse(b"WARNING: infoROM\n" + whole.encode(encoding)) == parse(whole.encode())

    def test_text_after_the_document_may_have_any_encoding(self) -> None:
        assert parse(document(H100) + b"\xff\xfe W\xe4rnung\n") == parse(document(H100))

    def test_white_space_around_the_document_is_skipped(self) -> None:
        assert parse(b"\r\n \t" + document(H100) + b"\r\n\n") == parse(document(H100))


class TestEncodings:
    """A document may be in any encoding that it declares."""

    TEXT = "<nvidia_smi_log><gpu><uuid>GPU-1</uuid><product_name>Grün £</product_name></gpu></nvidia_smi_log>"

    @pytest.mark.parametrize(
        "output",
        [
            TEXT.encode(),
            TEXT.encode("utf-8-sig"),
            b"\n" + TEXT.encode("utf-8-sig"),
            TEXT.encode("utf-16"),
            ('<?xml version="1.0" encoding="UTF-16"?>' + TEXT).encode("utf-16"),
            ('<?xml version="1.0" encoding="ISO-8859-1"?>' + TEXT).encode("latin-1"),
            ('<?xml version="1.0" encoding="windows-1252"?>' + TEXT).encode("cp1252"),
        ],
    )
    def test_the_text_is_the_same_in_every_encoding(self, output: bytes) -> None:
        assert parse(output).gpus == (Gpu(uuid="GPU-1", model="Grün £"),)

    @pytest.mark.parametrize("name", ["klingon", "shift_jis", "utf-7", "hex", "undefined", "x" * 1000, "gbk", ""])
    def test_other_encodings_are_read(self, name: str) -> None:
        output = document(H100, prolog=f'<?xml version="1.0" encoding="{name}"?>\n')
        assert parse(output) == parse(document(H100))

    @pytest.mark.parametrize(
        "unreadable",
        [b"\xff\xfe", "显卡".encode("gbk"), b"a\x00b", b"\x1b[31m", b"\x0b", b"\xef\xbf\xbf", b"\xed\xa0\x80"],
    )
    def test_only_a_value_with_unreadable_characters_is_absent(self, unreadable: bytes) -> None:
        whole = document(H100, GB200.format(index=0))
        warnings: list[str] = []
        report = parse(whole.replace(b"Hopper", unreadable), warnings)
        expected = parse(whole)
        assert report.gpus == (msgspec.structs.replace(expected.gpus[0], architecture=None), expected.gpus[1])
        assert "unreadable characters in the architecture of a GPU" in warnings
        assert all(warning.isprintable() for warning in warnings)

    def test_a_gpu_with_an_unreadable_uuid_is_not_lost(self) -> None:
        whole = document(H100, GB200.format(index=0))
        report = parse(whole.replace(b"GPU-11111111", b"GPU-\xff"))
        assert report.gpus == parse(whole).gpus[1:]
        assert (report.unread, report.lost) == ((GpuRef(None, "00000000:04:00.0"),), ())

    def test_a_bare_ampersand_is_text(self) -> None:
        assert one("<product_name>A & B</product_name><serial>1&2</serial>") == Gpu(
            uuid="GPU-1", model="A & B", serial="1&2"
        )


# Lines of which none begins as markup does.
lines = st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "<" not in text)).map(
    lambda texts: "".join(f"{text}\n" for text in texts)
)


class TestHostileInput:
    """Whatever a node prints, nothing is expanded or loaded, and nothing crashes."""

    @pytest.mark.parametrize(
        "subset",
        [
            '<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;"><!ENTITY lol3 "&lol2;&lol2;&lol2;">',
            '<!ENTITY lol3 SYSTEM "file:///etc/passwd">',
            '<!ENTITY lol3 PUBLIC "x" "http://127.0.0.1:1/">',
            '<!ENTITY % lol3 SYSTEM "http://127.0.0.1:1/x.dtd"> %lol3;',
            '<!ENTITY lol3 SYSTEM "x.gif" NDATA gif>',
        ],
    )
    def test_an_entity_declaration_is_refused(self, subset: str) -> None:
        prolog = f"<!DOCTYPE nvidia_smi_log [{subset}]>"
        with pytest.raises(BadOutputError, match="the XML has an entity, which nvidia-smi never prints"):
            parse(document("<uuid>GPU-&lol3;</uuid>", prolog=prolog))

    @pytest.mark.parametrize("prolog", [PROLOG, ""])
    def test_an_undeclared_entity_is_refused(self, prolog: str) -> None:
        with pytest.raises(BadOutputError):
            parse(document("<uuid>GPU-1&more;</uuid>", prolog=prolog))

    def test_the_dtd_is_never_loaded(self, tmp_path: Path) -> None:
        dtd = tmp_path / "evil.dtd"
        dtd.write_text('<!ENTITY x "2"><!ATTLIST gpu id CDATA "3">')
        prolog = f'<!DOCTYPE nvidia_smi_log SYSTEM "{dtd.as_uri()}">'
        assert parse(document("<uuid>GPU-1</uuid>", prolog=prolog)).gpus == (Gpu(uuid="GPU-1"),)
        with pytest.raises(BadOutputError):
            parse(document("<uuid>GPU-&x;</uuid>", prolog=prolog))

    def test_predefined_entities_and_character_references_are_text(self) -> None:
        assert one("<uuid>GPU-1</uuid><serial>&lt;&gt;&amp;&apos;&quot;&#65;&#x42;</serial>").serial == "<>&'\"AB"

    @pytest.mark.parametrize(
        "reference", ["&#xD800;", "&#xdfff;", "&#55296;", "&#x1;", "&#0;", "&#x110000;", "&#9999999999;"]
    )
    @pytest.mark.parametrize("element", ["serial", "ecc_mode"])
    def test_an_invalid_character_reference_loses_only_its_value(self, element: str, reference: str) -> None:
        blocks = (f"<uuid>GPU-1</uuid><{element}>1{reference}</{element}>", "<uuid>GPU-2</uuid><serial>2</serial>")
        broken, other = parse(document(*blocks)).gpus
        assert broken == Gpu(uuid="GPU-1")
        assert other.serial == "2"

    def test_elements_nested_too_deep_are_refused(self) -> None:
        with pytest.raises(BadOutputError, match=r"^elements nested deeper than 256$"):
            parse(document("<a>" * 100_000 + "</a>" * 100_000))

    def test_more_gpus_than_any_node_has_are_refused(self) -> None:
        with pytest.raises(BadOutputError, match=r"^more than 256 GPUs on one node$"):
            parse(document(*["<uuid>N/A</uuid>"] * 257))

    def test_the_name_of_a_wrong_root_is_cut(self) -> None:
        with pytest.raises(BadOutputError) as error:
            parse(b"<" + b"a" * 10_000 + b"/>")
        assert len(str(error.value)) < 200

    @given(st.data())
    def test_a_document_cut_anywhere_is_refused(self, data: st.DataObject) -> None:
        whole = document(H100, GB200.format(index=0)).rstrip()
        cut = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(BadOutputError):
            parse(whole[:cut])

    @given(lines, lines, st.data())
    def test_a_document_cut_among_lines_of_text_is_refused(self, before: str, after: str, data: st.DataObject) -> None:
        whole = document(H100).rstrip()
        cut = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(BadOutputError):
            parse(before.encode() + whole[:cut] + after.encode())

    @given(lines, lines)
    def test_an_entity_among_lines_of_text_is_refused(self, before: str, after: str) -> None:
        bomb = document("<uuid>GPU-&a;</uuid>", prolog='<!DOCTYPE nvidia_smi_log [<!ENTITY a "b">]>')
        with pytest.raises(BadOutputError, match="the XML has an entity"):
            parse(before.encode() + bomb + after.encode())

    @given(st.binary() | st.text().map(str.encode) | st.binary().map(lambda tail: PROLOG.encode() + tail))
    def test_noise_is_refused_in_one_short_line(self, output: bytes) -> None:
        with pytest.raises(BadOutputError) as error:
            parse(output)
        assert len(str(error.value)) < 200
        assert len(str(error.value).splitlines()) == 1

    @given(st.data())
    def test_a_damaged_document_is_read_or_refused(self, data: st.DataObject) -> None:
        output = bytearray(document(H100, GB200.format(index=0)))
        for _ in range(data.draw(st.integers(1, 8))):
            output[data.draw(st.integers(0, len(output) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(BadOutputError):
            assert len(parse(bytes(output)).gpus) <= 2


# What a tenant of a node can make of the name of a process: anything without a line feed.
names = st.one_of(
    st.binary(max_size=60).map(lambda name: name.replace(b"\n", b"")),
    st.lists(
        st.sampled_from(
            [
                *(b"<processes>", b"</processes>", b"<accounted_processes>", b"</accounted_processes>"),
                *(b"<process_name>", b"</process_name>", b"</process_info>", b"<supported_clocks>", b"</gpu>"),
                *(b'<gpu id="00000000:99:00.0">', b"<gpu>", b"<uuid>GPU-99</uuid>", b"<serial>99</serial>", b"&evil;"),
                *(b"</nvidia_smi_log>", b"<nvidia_smi_log>", b"<!ENTITY a 'b'>", b"<![CDATA[", b"<!--", b"\xff", b"\0"),
                b"GPU is lost",
                b"Unable to determine the device handle for GPU0: 0000:04:00.0: Unknown Error",
            ]
        ),
        max_size=6,
    ).map(b"".join),
)


@given(names, names)
@example(b"</processes></gpu><gpu><uuid>GPU-99</uuid><processes>", b"</process_info></processes>")
@example(b"</processes><accounted_processes>", b"</accounted_processes></gpu></nvidia_smi_log>")
def test_process_names_change_nothing(first: bytes, second: bytes) -> None:
    def running(*processes: bytes) -> bytes:
        listed = b"".join(
            b"<process_info><process_name>%b</process_name></process_info>\n" % name for name in processes
        )
        inside = b"<processes>%b</processes>\n<accounted_processes>\n</accounted_processes>" % listed
        return document(H100, GB200.format(index=0) + "<processes></processes>").replace(
            b"<processes></processes>", inside
        )

    for output in (running(first), running(first, second)):
        assert parse(output) == parse(document(H100, GB200.format(index=0)))


@given(st.binary(max_size=300))
@example(b"process_name>")
def test_supported_clocks_change_nothing(inside: bytes) -> None:
    if b"processes" not in inside and b"<gpu" not in inside:
        clocks = (
            b"<supported_clocks>" + inside.replace(b"</supported_clocks>", b"") + b"</supported_clocks>\n<processes>"
        )
        assert parse(document(H100).replace(b"<processes>", clocks)) == parse(document(H100))


def running(name: str, gpu: str = H100) -> str:
    """Return a GPU with one process."""
    named = f"<processes>\n<process_info>\n<process_name>{name}</process_name>\n</process_info>\n</processes>"
    return gpu.replace("<processes></processes>", named)


IMITATED_GPU = f"""</process_name>
</process_info>
</processes>
\t</gpu>
\t<gpu>{GB200.format(index=1)}<processes>
<process_info>
<process_name>"""


def test_a_process_imitating_a_gpu_does_not_create_one() -> None:
    warnings: list[str] = []
    report = parse(document(running(IMITATED_GPU), attached=1), warnings)
    assert [gpu.uuid for gpu in report.gpus] == ["GPU-11111111-aaaa-bbbb-cccc-000000000011"]
    assert not report.partial
    assert any("2 GPUs in the output, which reports 1 as attached" in text for text in warnings)


@pytest.mark.parametrize(
    "name",
    [
        "\n<nvidia_smi_log>",
        "x\n</nvidia_smi_log>\n<nvidia_smi_log>\n",
        "</process_name>\n<nvidia_smi_log>\n<process_name>",
        "\n\t<gpu " * 1100,
        '\n\t<gpu id="00000000:99:00.0">',
        "x\n\t<gpu>\n<uuid>GPU-deadbeef</uuid><serial>1652923034028</serial>\n<processes>",
        "</process_name>\n\t</gpu>\n\t<gpu>\n<uuid>GPU-deadbeef</uuid>\n<processes>\n",
        IMITATED_GPU * 300,
        f"{IMITATED_GPU}\n</nvidia_smi_log>",
    ],
)
@pytest.mark.parametrize("listed", [1, 2, 4])
def test_a_name_with_line_breaks_leaves_the_first_gpu(name: str, listed: int) -> None:
    others = [H100.replace("GPU-1111", f"GPU-{number}") for number in range(3333, 3333 + listed - 1)]
    output = document(running(name), *others, attached=4 if listed > 1 else 1)
    report = parse(output)
    assert [gpu.uuid for gpu in report.gpus] == ["GPU-11111111-aaaa-bbbb-cccc-000000000011"]
    assert report.contested
    assert report.attached == (4 if listed > 1 else 1)
    assert report.partial == (listed > 1)  # and so takes no GPU from its node
    assert parse(output, first_only=True).gpus == report.gpus


def test_a_process_imitating_a_document_does_not_create_one() -> None:
    fake = document(GB200.format(index=1), prolog="").decode().removesuffix("</gpu>\n</nvidia_smi_log>\n")
    imitation = f"</processes>\n</gpu>\n</nvidia_smi_log>\n{fake}"
    processes = f"<processes><process_name>{imitation}<processes><process_name></process_name></processes>"
    first = H100.replace("<processes></processes>", processes)
    report = parse(document(first, H100.replace("GPU-1111", "GPU-3333"), attached=2))
    assert [gpu.uuid for gpu in report.gpus] == ["GPU-11111111-aaaa-bbbb-cccc-000000000011"]
    assert report.partial  # and so takes no GPU from its node


@pytest.mark.parametrize(
    "filling", [b"<a/>", b'<a b="c">', b"<a>", b"x", b"&amp;", b"<gpu>", b"<processes>", b"\n\t<gpu "]
)
def test_any_output_is_parsed_with_little_memory_and_time(filling: bytes) -> None:
    inside = filling * ((4 << 20) // len(filling))
    tracemalloc.start()
    try:
        with contextlib.suppress(BadOutputError):
            parse(document(H100).replace(b"<processes>", inside + b"<processes>"))
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def render(report: Report) -> bytes:
    """Print what the tool would print for these GPUs."""
    platform = {"chassis_serial_number": "chassis", "slot_number": "slot", "tray_index": "tray", "host_id": "host"}
    plain = {"uuid": "uuid", "serial": "serial", "product_name": "model", "product_architecture": "architecture"}
    plain |= {"board_part_number": "board_part_number", "gpu_part_number": "gpu_part_number", "vbios_version": "vbios"}
    plain |= {"minor_number": "minor_number"}

    mig = {True: "Enabled", False: "Disabled", None: None}

    def element(name: str, value: object) -> str:
        return f"<{name}>{'N/A' if value is None else escape(str(value))}</{name}>\n"

    def gpu(gpu: Gpu) -> str:
        block = "".join(element(name, getattr(gpu, field)) for name, field in platform.items())
        return (
            "".join(element(name, getattr(gpu, field)) for name, field in plain.items())
            + f"<platformInfo>{block}{element('module_id', gpu.module)}</platformInfo>"
            + f"<mig_mode>{element('current_mig', mig[gpu.mig])}</mig_mode>"
            + f"<pci>{element('pci_bus_id', gpu.pci_bus_id)}</pci>"
        )

    root = element("driver_version", report.driver_version) + element("cuda_version", report.cuda_version)
    return document(*map(gpu, report.gpus), root=root)


# Any text that XML can carry; a letter in front keeps it from being one of the words for "absent".
texts = st.none() | st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=100
).filter(lambda text: "redacted" not in text.lower()).map(lambda text: f"a{text}b".strip())
gpus = st.builds(
    Gpu,
    uuid=st.uuids(version=4).map(lambda uuid: f"GPU-{uuid}"),
    serial=texts | st.text(string.digits, min_size=1, max_size=13).map("1".__add__),
    model=texts,
    architecture=texts,
    chassis=texts,
    slot=st.none() | st.integers(0, 40).map(str),
    tray=st.none() | st.integers(0, 40).map(str),
    host=st.none() | st.integers(0, 4).map(str),
    module=st.none() | st.integers(0, 8).map(str),
    pci_bus_id=texts,
    board_part_number=texts,
    gpu_part_number=texts,
    minor_number=st.none() | st.integers(0, 255),
    vbios=texts,
    mig=st.none() | st.booleans(),
)


@given(
    st.builds(
        Report,
        driver_version=texts,
        cuda_version=texts,
        gpus=st.lists(gpus, max_size=8, unique_by=lambda gpu: gpu.uuid).map(tuple),
    )
)
def test_printed_reports_are_parsed_back_equal(report: Report) -> None:
    assert parse(render(report)) == report


@given(lines, lines)
def test_any_lines_of_text_around_the_document_change_nothing(before: str, after: str) -> None:
    assert parse(before.encode() + document(H100) + after.encode()) == parse(document(H100))


def test_repeated_values_are_kept_in_memory_once() -> None:
    def read() -> Report:
        return parse(document(H100, root="<driver_version>570.148.08</driver_version>"))

    one_report, other = read(), read()
    assert one_report.driver_version is other.driver_version
    for field in ("model", "architecture", "pci_bus_id", "board_part_number", "gpu_part_number", "vbios", "module"):
        assert getattr(one_report.gpus[0], field) is getattr(other.gpus[0], field)
