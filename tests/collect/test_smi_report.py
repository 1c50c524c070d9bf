"""Reports of outputs that are damaged, name no document's GPUs, or are as large as it gets."""

import pytest

from collector.collect.nvidia_smi import BadOutputError, Report, parse
from collector.health import Health
from collector.model import Gpu, GpuRef, UnidentifiedGpu

BUS = "00000000:18:00.0"
BROKEN = "<name>a &nbsp b</name>"  # so the document is repaired


def document(*gpus: str, attached: object = None, root: str = "") -> bytes:
    """Return a document of GPUs, each with its inside."""
    count = f"<attached_gpus>{len(gpus) if attached is None else attached}</attached_gpus>\n"
    body = "".join(f"<gpu>\n{gpu}\n</gpu>\n" for gpu in gpus)
    return f"<nvidia_smi_log>\n{root}{count}{body}</nvidia_smi_log>\n".encode()


def reported(output: bytes, *, first_only: bool = False) -> tuple[Report, list[str]]:
    warnings: list[str] = []
    return parse(output, warnings, first_only=first_only), warnings


class TestNamedGpus:
    """The number of GPUs that a report names."""

    @pytest.mark.parametrize(
        ("unidentified", "lost", "unread", "named"),
        [
            ((), (), (), 1),
            ((), (), (GpuRef("GPU-2"), GpuRef()), 3),
            ((UnidentifiedGpu(), UnidentifiedGpu(pci_bus_id=BUS)), (), (), 3),
            ((), (GpuRef(None, BUS),), (), 2),
            ((UnidentifiedGpu(pci_bus_id=BUS),), (GpuRef(None, BUS),), (), 2),
            ((), (GpuRef("GPU-1"),), (), 1),
            ((), (GpuRef("GPU-1"), GpuRef(None, BUS)), (), 2),
        ],
    )
    def test_are_listed_lost_or_unread(
        self,
        unidentified: tuple[UnidentifiedGpu, ...],
        lost: tuple[GpuRef, ...],
        unread: tuple[GpuRef, ...],
        named: int,
    ) -> None:
        report = Report(
            driver_version=None,
            cuda_version=None,
            gpus=(Gpu(uuid="GPU-1"),),
            unidentified=unidentified,
            lost=lost,
            unread=unread,
        )
        assert report.named == named

    def test_are_lost_only_if_none_of_several_gpus_is_meant(self) -> None:
        gpus = (Gpu(uuid="GPU-1"), Gpu(uuid="GPU-2"))
        assert Report(driver_version=None, cuda_version=None, gpus=gpus, lost=(GpuRef("GPU-2"),)).named == 2


class TestSizes:
    def test_a_document_has_250_000_elements_at_most(self) -> None:
        tags = document("<uuid>GPU-1</uuid>").count(b"<")
        inside = "<uuid>GPU-1</uuid>" + "<aa/>" * (250_000 - tags)
        assert parse(document(inside)).gpus == (Gpu(uuid="GPU-1"),)
        with pytest.raises(BadOutputError, match=r"^more than 250000 elements or attributes$"):
            parse(document(inside + "<aa/>"))

    def test_the_shortest_elements_count(self) -> None:
        with pytest.raises(BadOutputError, match=r"^more than 250000 elements or attributes$"):
            parse(document("<uuid>GPU-1</uuid>" + "<a/>" * 250_000))

    def test_a_document_has_250_000_attributes_at_most(self) -> None:
        with pytest.raises(BadOutputError, match=r"^more than 250000 elements or attributes$"):
            parse(document("<uuid>GPU-1</uuid><a" + " bb=''" * 250_001 + "/>"))

    def test_a_document_is_repaired_up_to_a_mebibyte(self) -> None:
        content = len(document(f"<uuid>GPU-1</uuid>{BROKEN}<a></a>").rstrip())
        filling = "a" * ((1 << 20) - content)
        report, warnings = reported(document(f"<uuid>GPU-1</uuid>{BROKEN}<a>{filling}</a>"))
        assert report.gpus == (Gpu(uuid="GPU-1"),)
        assert warnings[0].startswith("repaired the XML: ")
        with pytest.raises(BadOutputError, match=r"^not the XML of nvidia-smi, and too large to repair: "):
            parse(document(f"<uuid>GPU-1</uuid>{BROKEN}<a>{filling}a</a>"))


class TestRepairs:
    @pytest.mark.parametrize(
        ("reference", "letter"),
        [
            ("&#65;", "A"),
            ("&#x42;", "B"),
            ("&#xD7FF;", "\ud7ff"),
            ("&#xE000;", "\ue000"),
            ("&#x10FFFF;", "\U0010ffff"),
            ("&#1114111;", "\U0010ffff"),
            ("&#0000000000067;", "C"),
            ("&#xD800;", None),
            ("&#xDFFF;", None),
            ("&#x110000;", None),
            ("&#1114112;", None),
            ("&#11141110;", None),
            ("&#0;", None),
            ("&#31;", None),
            ("&#xFFFE;", None),
        ],
    )
    def test_keep_the_characters_that_xml_may_have(self, reference: str, letter: str | None) -> None:
        report, warnings = reported(document(f"<uuid>GPU-1</uuid><serial>1{reference}</serial>{BROKEN}"))
        assert report.gpus == (Gpu(uuid="GPU-1", serial=None if letter is None else f"1{letter}"),)
        assert ("unreadable characters in the serial of a GPU" in warnings) == (letter is None)

    def test_lose_unreadable_values_of_health_and_of_the_root(self) -> None:
        inside = (
            "<uuid>GPU-1</uuid><gpu_recovery_action>Reset</gpu_recovery_action><fabric><state>Failed\1</state></fabric>"
        )
        root = "<driver_version>1\1</driver_version><cuda_version>13</cuda_version>\n"
        report, warnings = reported(document(inside, root=root))
        assert report == Report(
            driver_version=None,
            cuda_version="13",
            gpus=(Gpu(uuid="GPU-1", health=Health(recovery_action="Reset")),),
        )
        assert len(warnings) == 1

    def test_refuse_a_document_without_a_whole_gpu(self) -> None:
        with pytest.raises(BadOutputError, match=r"^not the XML of nvidia-smi: "):
            parse(document("<uuid>GPU-\1</uuid>"))
        report, _ = reported(document("<uuid>GPU-\1</uuid>", "<uuid>GPU-2</uuid>"))
        assert (report.gpus, report.unread) == ((Gpu(uuid="GPU-2"),), (GpuRef(),))

    def test_of_a_node_without_gpus_are_a_report(self) -> None:
        assert parse(document(root=BROKEN)) == Report(driver_version=None, cuda_version=None, gpus=())

    def test_read_each_gpu_and_the_root_by_itself(self) -> None:
        root = "<driver_version>1</driver_version>\n"
        report, warnings = reported(
            document("<uuid>GPU-1</uuid><serial>1</serial></a>", "<uuid>GPU-2</uuid><serial>2</serial>", root=root)
        )
        assert report == Report(
            driver_version="1", cuda_version=None, gpus=(Gpu(uuid="GPU-1", serial="1"), Gpu(uuid="GPU-2", serial="2"))
        )
        assert len(warnings) == 1

    def test_do_not_read_a_version_that_occurs_twice(self) -> None:
        root = "<driver_version>1</driver_version><driver_version>2</driver_version><cuda_version>3</cuda_version>\n"
        report = parse(document("<uuid>GPU-1</uuid></a>", root=root))
        assert (report.driver_version, report.cuda_version) == (None, "3")

    def test_read_what_is_said_between_gpus(self) -> None:
        text = f"Unable to determine the device handle for GPU0: {BUS}: Unknown Error\n".encode()
        output = document("<uuid>GPU-1</uuid></a>", "<uuid>GPU-2</uuid>", attached=3)
        for place in (b"<gpu>\n<uuid>GPU-2", b"</nvidia_smi_log>"):
            report = parse(output.replace(place, text + place))
            assert [gpu.uuid for gpu in report.gpus] == ["GPU-1", "GPU-2"]
            assert (report.lost, report.partial) == ((GpuRef(None, BUS),), False)

    def test_keep_only_what_is_certain_of_a_damaged_gpu(self) -> None:
        """In one that is not damaged, the first of two values counts."""
        twice = "<serial>1</serial><serial>2</serial><fabric><state>a</state></fabric><fabric><state>b</state></fabric>"
        inside = f"{twice}<gpu_recovery_action>Reset</gpu_recovery_action>"
        report = parse(document(f"<uuid>GPU-1</uuid>{inside}</a>", f"<uuid>GPU-2</uuid>{inside}"))
        assert report.gpus == (
            Gpu(uuid="GPU-1", health=Health(recovery_action="Reset")),
            Gpu(uuid="GPU-2", serial="1", health=Health(recovery_action="Reset", fabric_state="a")),
        )

    @pytest.mark.parametrize(
        ("mode", "read"),
        [
            ("<virtualization_mode>None</virtualization_mode>", True),
            ("<virtualization_mode></virtualization_mode>", True),
            ("", True),
            ("<virtualization_mode>VG<b>PU</virtualization_mode>", False),
            ("<virtualization_mode>VGPU", False),
            ("<virtualization_mode>None</virtualization_mode><virtualization_mode>VGPU</virtualization_mode>", False),
        ],
    )
    def test_need_a_certain_mode_of_virtualization(self, mode: str, read: bool) -> None:
        inside = f"<uuid>GPU-1</uuid></a><gpu_virtualization_mode>{mode}</gpu_virtualization_mode>"
        report = parse(document(inside, "<uuid>GPU-2</uuid>"))
        assert [gpu.uuid for gpu in report.gpus] == (["GPU-1", "GPU-2"] if read else ["GPU-2"])
        assert len(report.unread) == (not read)


class TestGpusThatAreMissing:
    HANDLE = b"Unable to determine the device handle for GPU0: "

    @pytest.mark.parametrize(
        ("attached", "said", "lost", "partial"),
        [
            (1, b"", 0, False),
            (2, b"", 0, True),
            (2, HANDLE + BUS.encode(), 1, False),
            (3, HANDLE + BUS.encode(), 1, True),
            (1, HANDLE + BUS.encode(), 1, False),
            (2, HANDLE + b"Unknown Error", 0, True),
            (1, HANDLE + b"Unknown Error", 0, False),
            ("N/A", b"", 0, False),
            ("N/A", HANDLE + b"Unknown Error", 0, True),
            ("N/A", HANDLE + BUS.encode(), 1, False),
            ("1x", b"", 0, False),
            (2, HANDLE + b"0000:19:00.0", 0, True),  # the one that is listed
        ],
    )
    def test_make_a_report_partial_unless_all_are_named(
        self, attached: object, said: bytes, lost: int, partial: bool
    ) -> None:
        output = document("<uuid>GPU-1</uuid><pci><pci_bus_id>0000:19:00.0</pci_bus_id></pci>", attached=attached)
        report = parse(output, said=said)
        assert (len(report.lost), report.partial) == (lost, partial)

    def test_are_neither_unread_nor_without_a_uuid(self) -> None:
        gpus = ("<uuid>GPU-1</uuid>", "<uuid>GPU-2</uuid>", "<uuid>GPU-\1</uuid>", "<uuid>GPU is lost</uuid>")
        report = parse(document(*gpus))
        assert (len(report.gpus), len(report.unread), len(report.unidentified)) == (2, 1, 1)
        assert not report.partial

    def test_may_be_all_of_them(self) -> None:
        lost = "<uuid>GPU is lost</uuid>"
        report = parse(document(lost, lost).replace(b"<gpu>", f'<gpu id="{BUS}">'.encode(), 1))
        assert report.lost == (GpuRef(None, BUS),)
        assert report.unidentified == (UnidentifiedGpu(pci_bus_id=BUS), UnidentifiedGpu())

    def test_may_require_a_reset(self) -> None:
        inside = "<uuid>GPU-1</uuid><total>GPU requires reset</total>"
        assert parse(document(inside)).gpus == (Gpu(uuid="GPU-1", health=Health(reset_required=True)),)


def test_a_share_of_a_board_has_neither_health_nor_other_gpus():
    inside = "<uuid>GPU-1</uuid><multigpu_board>Yes</multigpu_board><fabric><state>Failed</state></fabric>"
    mode = "<gpu_virtualization_mode><virtualization_mode>VGPU</virtualization_mode></gpu_virtualization_mode>"
    assert parse(document(inside)).gpus == (
        Gpu(uuid="GPU-1", multi_gpu_board=True, health=Health(fabric_state="Failed")),
    )
    assert parse(document(inside + mode)).gpus == (Gpu(uuid="GPU-1", virtual=True),)


def test_a_minor_number_has_nine_digits_at_most():
    for text, number in (("999999999", 999_999_999), ("1000000000", None)):
        assert parse(document(f"<uuid>GPU-1</uuid><minor_number>{text}</minor_number>")).gpus == (
            Gpu(uuid="GPU-1", minor_number=number),
        )


def test_the_first_gpu_of_a_command_that_reads_one_is_read():
    inside = "<uuid>GPU-1</uuid>\n<processes>\n<process_name>x</process_name>\n</processes>"
    for output in (document(inside, "<uuid>GPU-2</uuid>"), document("<uuid>GPU-1</uuid>")):
        report, warnings = reported(output, first_only=True)
        assert [gpu.uuid for gpu in report.gpus] == ["GPU-1"]
        assert not report.contested
        assert warnings == (["1 GPU in the output, which reports 2 as attached"] if report.partial else [])
    report = parse(document("<uuid>GPU-1</uuid>", "<uuid>GPU-2</uuid>"), first_only=True)
    assert len(report.gpus) == 2  # no name of a process could imitate one


def test_the_first_gpu_of_a_contested_output_is_read():
    name = "<processes>\n<process_name>a\nb</process_name>\n</processes>"
    output = document(f"<uuid>GPU-1</uuid>\n{name}", "<uuid>GPU-2</uuid>")
    report, warnings = reported(output)
    assert report == Report(
        driver_version=None, cuda_version=None, gpus=(Gpu(uuid="GPU-1"),), partial=True, contested=True, attached=2
    )
    assert warnings[-1] == (
        "reading only the first GPU of the output: a process name with a line break, which may imitate GPUs"
    )
    unknown = output.replace(b"<attached_gpus>2<", b"<attached_gpus>N/A<")
    report = parse(unknown)
    assert (report.attached, report.contested) == (None, True)
