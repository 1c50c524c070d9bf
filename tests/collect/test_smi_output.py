"""Finding the document in an output, cutting what is not read from it, and the tool's own words around it."""

import pytest

from collector.collect.smi_output import (
    BadOutputError,
    ContestedOutputError,
    Document,
    find_certain_part,
    find_document,
    lost_gpus,
    own_text,
    own_words,
    split_gpus,
)

CUT_OFF = "^not the XML of nvidia-smi: the document is cut off before its end$"


def log(*lines: str, before: str = "", after: str = "") -> bytes:
    """Return an output with a document of these lines."""
    return "\n".join((f"{before}<nvidia_smi_log>", *lines, f"</nvidia_smi_log>{after}")).encode()


def cut(*lines: str) -> tuple[str, list[str]]:
    """Return what is left of the lines of a document, and the warnings."""
    content, around, warnings = find_document(log(*lines))
    assert around == b"\n"
    text = content.decode()
    assert text.startswith("<nvidia_smi_log>\n")
    assert text.endswith("</nvidia_smi_log>")
    return text.removeprefix("<nvidia_smi_log>\n").removesuffix("</nvidia_smi_log>"), warnings


class TestTheDocument:
    def test_is_what_the_root_element_encloses(self) -> None:
        found = find_document(log("<a/>", before="before\n", after="\nafter"))
        assert found == Document(b"<nvidia_smi_log>\n<a/>\n</nvidia_smi_log>", b"before\n\n\nafter", [])

    def test_is_the_first_of_several(self) -> None:
        found = find_document(log("<a/>") + b"\n" + log("<b/>"))
        assert found == Document(log("<a/>"), b"\n\n" + log("<b/>"), ["more than one document; reading only the first"])

    def test_ends_with_the_first_end_tag(self) -> None:
        found = find_document(log("<a/>", after="\n</nvidia_smi_log>"))
        assert found == Document(log("<a/>"), b"\n\n</nvidia_smi_log>", [])

    @pytest.mark.parametrize("output", [b"<nvidia_smi_log>", log()[:-1], b"</nvidia_smi_log><nvidia_smi_log>"])
    def test_without_an_end_is_refused(self, output: bytes) -> None:
        with pytest.raises(BadOutputError, match=CUT_OFF):
            find_document(output)
        with pytest.raises(BadOutputError, match=CUT_OFF):
            find_certain_part(output)

    def test_that_another_one_interrupts_is_contested(self) -> None:
        with pytest.raises(ContestedOutputError, match=CUT_OFF):
            find_document(b"<nvidia_smi_log>\n" + log())

    def test_with_an_entity_declared_before_it_is_refused(self) -> None:
        with pytest.raises(BadOutputError, match="has an entity"):
            find_document(log(before="<!ENTITY a 'b'>"))
        assert find_document(log(after="<!ENTITY a 'b'>")).content == log()

    @pytest.mark.parametrize(
        ("output", "reason"),
        [
            (b"", "the output is empty"),
            (b" \n\t", "the output is empty"),
            (b"...", "no text in the output"),
            (b"No devices were found\n", "No devices were found"),
            (b"<html>", "the root element is html, expected nvidia_smi_log"),
            (b"<html>\nFailed\n", "Failed"),
            (b"<ns:root/>", "the root element is root, expected nvidia_smi_log"),
            (b"<" + b"a" * 41 + b"/>", f"the root element is {'a' * 39}…, expected nvidia_smi_log"),
            (b"<gpu>", "the document has no beginning"),
            (b"</nvidia_smi_log>", "the document has no beginning"),
            (b"<a></a></uuid>", "the root element is a, expected nvidia_smi_log"),
            (b"<a></uuid>", "the document has no beginning"),
            (b"<gpus></gpu>", "the document has no beginning"),
            (b"<a></a></gpu >", "the document has no beginning"),
            (b"<nvidia_smi_logs></nvidia_smi_logs>", "the root element is nvidia_smi_logs, expected nvidia_smi_log"),
        ],
    )
    def test_that_is_missing_has_a_reason(self, output: bytes, reason: str) -> None:
        with pytest.raises(BadOutputError) as error:
            find_document(output)
        assert str(error.value) == f"not the XML of nvidia-smi: {reason}"


class TestEncodings:
    @pytest.mark.parametrize(
        ("name", "warnings"),
        [
            ("utf-8", []),
            ("UTF8", []),
            ("ascii", []),
            ("utf-8-sig", []),
            ("utf-16", []),
            ("cp1252", []),
            ("klingon", ["encoding klingon declared, UTF-8 assumed"]),
            ("utf-7", ["encoding utf-7 declared, UTF-8 assumed"]),
            ("x" * 40, [f"encoding {'x' * 40} declared, UTF-8 assumed"]),
        ],
    )
    def test_that_are_declared_and_unknown_are_reported(self, name: str, warnings: list[str]) -> None:
        assert find_document(log(before=f'<?xml encoding="{name}"?>')).warnings == warnings

    def test_that_leave_no_document_are_refused(self) -> None:
        with pytest.raises(BadOutputError, match=r"^not the XML of nvidia-smi: "):
            find_document(log("<a/>", before='<?xml encoding="cp037"?>'))

    def test_apply_to_the_whole_document(self) -> None:
        output = log("<a>ü</a>", before='<?xml encoding="latin-1"?>').decode().encode("latin-1")
        assert find_document(output).content == log("<a>ü</a>")

    def test_are_declared_before_the_document(self) -> None:
        assert find_document(log("<a>ü</a>", after='<?xml encoding="latin-1"?>')).content == log("<a>ü</a>")

    def test_other_than_declared_are_reported(self) -> None:
        assert find_document(log("ü")).warnings == []
        assert find_document(log("ü").decode().encode("latin-1")).warnings == [
            "the output has bytes that are not UTF-8"
        ]

    @pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize(
        ("text", "before"),
        [
            (b"", ""),
            (b"", "a"),
            (b"", "\1"),
            (b"", "\u4e00"),
            (b"", "\u4e80"),
            (b"", "\ufeff"),
            (b"", "\ufeffa"),
            (b"", "\ufeff\u4e2d"),
            (b"", "\ufeffé"),
            (b"x", "\ufeff"),
            (b"text\n", "\ufeff\u4e2d"),
            (b"\0", "\ufeff"),
            (b"\xfe\xff", "\ufeff"),
            (b"\xff\xfex", "\ufeff"),
        ],
    )
    def test_of_16_bits_are_told_by_the_mark_or_the_nulls(self, codec: str, text: bytes, before: str) -> None:
        output = text + log("<a>中</a>", before=before).decode().encode(codec)
        assert find_document(output).content == log("<a>中</a>")

    def test_of_16_bits_are_told_by_the_letters_next_to_the_document(self) -> None:
        output = log("<a>中</a>", before="\u00e9\u4e2d").decode().encode("utf-16-le")
        assert find_document(output).content == log("<a>中</a>")

    def test_of_16_bits_are_no_document_by_themselves(self) -> None:
        output = "<nvidia_smi_logs/>".encode("utf-16")
        with pytest.raises(BadOutputError, match="the root element is nvidia_smi_logs, expected nvidia_smi_log"):
            find_document(output)


class TestCertainParts:
    """The part before the first process names, which no name can change."""

    def test_end_before_the_processes_of_the_first_gpu(self) -> None:
        first, second = ("<gpu>\n<a/>\n<processes>\n<process_name>x</process_name>\n</processes>\n</gpu>",) * 2
        found = find_certain_part(log(first, second, before="before\n", after="\nafter"))
        assert found == Document(b"<nvidia_smi_log>\n<gpu>\n<a/>\n</gpu>\n</nvidia_smi_log>", b"before\n", [])

    def test_end_before_accounted_processes_too(self) -> None:
        names = "<accounted_processes>\n<process_name>x</process_name>\n</accounted_processes>\n</gpu>"
        assert find_certain_part(log("<gpu>", names)).content == log("<gpu>", "</gpu>")

    @pytest.mark.parametrize(
        "lines",
        [
            ("<gpu>", "<processes>", "</processes>", "</gpu>"),
            ("<gpu>", "<process_name>x</process_name>", "<processes>", "</processes>", "</gpu>"),
            ("<processes>", "<process_name>x</process_name>", "</processes>", "<gpu>", "</gpu>"),
            ("<processes>", "<process_name>x</process_name>", "</processes>"),
        ],
    )
    def test_are_not_there_if_no_gpu_has_a_named_process(self, lines: tuple[str, ...]) -> None:
        with pytest.raises(BadOutputError, match=r"^not the XML of nvidia-smi: no process is named$"):
            find_certain_part(log(*lines))


class TestNamesOfProcesses:
    """The tool prints each on a line of its own."""

    @pytest.mark.parametrize(
        "lines",
        [
            ("<gpu>", "<processes>", "<process_name>x</process_name>", "</processes>", "</gpu>"),
            ("<gpu>", "<processes>", "\t<process_name>a<process_name>b</process_name>", "</processes>", "</gpu>"),
            ("<gpu>", "<processes><process_name>x</process_name></processes></gpu>"),
            ("process_name>", "<gpu>", "</gpu>"),
            ("process_name>", "<gpu>", "<processes>", "<process_name>x</process_name>", "</processes>", "</gpu>"),
            ("<gpu>", "<process_name>", "<processes>", "</processes>", "</gpu>"),
        ],
    )
    def test_on_one_line_are_names(self, lines: tuple[str, ...]) -> None:
        assert find_document(log(*lines)).content

    def test_may_be_on_the_last_line(self) -> None:
        lines = ("<gpu>", "<processes><process_name>x</process_name></processes></gpu>")
        output = log(*lines).replace(b"\n</nvidia_smi_log>", b"</nvidia_smi_log>")
        assert find_document(output).content == b"<nvidia_smi_log>\n<gpu>\n</gpu></nvidia_smi_log>"

    def test_may_contain_tags_in_a_document_of_one_line(self) -> None:
        name = b"<processes><process_name>a<process_name>b</process_name></processes>"
        output = b"<nvidia_smi_log><gpu>" + name + b"</gpu></nvidia_smi_log>"
        assert find_document(output).content == b"<nvidia_smi_log><gpu></gpu></nvidia_smi_log>"

    @pytest.mark.parametrize(
        "name",
        [
            "x",
            "x\n</process_name>",
            "x</process_name>\n<process_name>y",
            "x</process_name><process_name>y\n</process_name>",
        ],
    )
    def test_not_complete_on_one_line_are_contested_whatever_follows(self, name: str) -> None:
        output = log("<gpu>", "<processes>", f"<process_name>{name}</processes></gpu>")
        output = output.replace(b"\n</nvidia_smi_log>", b"</nvidia_smi_log>")
        for after in (b"", b"</"):
            with pytest.raises(ContestedOutputError, match="a process name with a line break"):
                find_document(output + after)

    @pytest.mark.parametrize(
        "name",
        [
            "<process_name>x\n</process_name>",
            "<process_name>x\ny</process_name>",
            "<process_name>x</process_name>\n</process_name>",
            "</process_name><process_name>",
            "<process_name>x</process_name>\n<process_name>x",
            "<process_name>x\n<process_name>y</process_name>",
            "<process_name>x</process_name>\nprocess_name>y</process_name>",
            "<process_name>x</process_name>\n<process_name>y process_name>",
        ],
    )
    def test_with_a_line_break_are_contested(self, name: str) -> None:
        with pytest.raises(ContestedOutputError, match=r"^a process name with a line break, which may imitate GPUs$"):
            find_document(log("<gpu>", "<accounted_processes>", name, "</accounted_processes>", "</gpu>"))


class TestGpus:
    def test_begin_lines(self) -> None:
        head, one, two = b"<nvidia_smi_log>\n \t\r", b"<gpu>text <gpu>\n", b'<gpu id="1"></gpu></nvidia_smi_log>'
        assert split_gpus(head + one + two) == (head, [one, two])

    def test_in_the_middle_of_a_line_count_if_none_begins_a_line(self) -> None:
        assert split_gpus(b"<a> <gpu>1</gpu><gpu>2</gpu></a>") == (b"<a> ", [b"<gpu>1</gpu>", b"<gpu>2</gpu></a>"])

    def test_the_first_may_be_in_the_middle_of_a_line(self) -> None:
        assert split_gpus(b"<a><gpu>1</gpu><gpu>x\n<gpu>2</gpu>") == (
            b"<a>",
            [b"<gpu>1</gpu><gpu>x\n", b"<gpu>2</gpu>"],
        )

    def test_at_the_beginning_of_a_text_begin_a_line(self) -> None:
        assert split_gpus(b"<gpu>1</gpu><gpu>2\n") == (b"", [b"<gpu>1</gpu><gpu>2\n"])

    def test_are_elements_of_that_name_after_an_element(self) -> None:
        for text in (b"", b"<a>", b"<gpus>", b"a <gpu>", b"<gpu_name>"):
            assert split_gpus(text) == (text, [])

    def test_are_1024_at_most(self) -> None:
        assert len(split_gpus(b"\n<gpu>" * 1024)[1]) == 1024
        assert len(split_gpus(b"<a>" + b"<gpu>" * 1024)[1]) == 1024
        for text in (b"\n<gpu>" * 1025, b"<a>" + b"<gpu>" * 1025, b"\n<gpu><gpu>" * 513):
            with pytest.raises(ContestedOutputError, match=r"^more than 1024 GPUs in the output$"):
                split_gpus(text)


CLOCKS = "<supported_clocks>\n<a>1</a>\n</supported_clocks>"
PROCESSES = "<processes>\n<process_name>x</process_name>\n</processes>"
ACCOUNTED = "<accounted_processes>\n<process_name>x</process_name>\n</accounted_processes>"


class TestElementsThatAreNotRead:
    @pytest.mark.parametrize("inside", [(CLOCKS, "-", PROCESSES, "-", ACCOUNTED), (PROCESSES, "-", ACCOUNTED, "-", "")])
    def test_are_cut(self, inside: tuple[str, ...]) -> None:
        left = ["-" if line == "-" else "" for line in inside]
        assert cut("<gpu>", *inside, "</gpu>", "<gpu>", *inside, "</gpu>") == cut(
            "<gpu>", *left, "</gpu>", "<gpu>", *left, "</gpu>"
        )

    def test_are_cut_from_the_first_start_to_the_last_end_of_names(self) -> None:
        name = "<processes>\n<process_name></processes><processes></process_name>\n</processes>"
        assert cut("<gpu>", name, "</gpu>") == ("<gpu>\n\n</gpu>\n", [])
        name = name.replace("processes", "accounted_processes")
        assert cut("<gpu>", name, "</gpu>") == ("<gpu>\n\n</gpu>\n", [])

    def test_include_names_with_the_end_of_the_other_element_of_names(self) -> None:
        name = "<processes>\n<process_name></processes></accounted_processes></process_name>\n</processes>"
        assert cut("<gpu>", name, "-", "</gpu>") == ("<gpu>\n\n-\n</gpu>\n", [])
        assert cut("<gpu>", f"{PROCESSES}</accounted_processes>", "-", "</gpu>") == ("<gpu>\n\n-\n</gpu>\n", [])
        assert cut("<gpu>", PROCESSES, "-", "</accounted_processes>", "-", "</gpu>")[0] == "<gpu>\n\n-\n</gpu>\n"

    @pytest.mark.parametrize(
        ("lines", "left", "name"),
        [
            (("<gpu>", "<supported_clocks>", "-", "</gpu>"), "<gpu>\n</gpu>\n", "supported_clocks"),
            (
                ("<gpu>", "<supported_clocks>", "-", PROCESSES, "-", "</gpu>"),
                "<gpu>\n\n-\n</gpu>\n",
                "supported_clocks",
            ),
            (("<gpu>", "<processes>", "-", "</gpu>"), "<gpu>\n</gpu>\n", "processes"),
            (("<gpu>", "<accounted_processes>", "-", "</gpu>"), "<gpu>\n</gpu>\n", "accounted_processes"),
        ],
    )
    def test_without_an_end_are_cut_to_what_is_certain(self, lines: tuple[str, ...], left: str, name: str) -> None:
        assert cut(*lines) == (left, [f"<{name}> without an end"])

    @pytest.mark.parametrize("name", ["supported_clocks", "processes", "accounted_processes"])
    def test_without_an_end_do_not_reach_the_next_gpu(self, name: str) -> None:
        found = cut("<gpu>", f"<{name}>", "-", "<gpu>", f"<{name}>", f"</{name}>", "</gpu>")
        assert found == ("<gpu>\n<gpu>\n\n</gpu>\n", [f"<{name}> without an end"])

    @pytest.mark.parametrize("before", [(), ("<gpu>", "</gpu>")])
    def test_do_not_end_in_another_document(self, before: tuple[str, ...]) -> None:
        other = log("<gpu>", PROCESSES, "</gpu>")
        for following in (other, other.replace(b"\n", b"")):
            found = find_document(log(*before, "<gpu>", "<processes>", "-", "</gpu>") + b"\n" + following)
            assert found.content == log(*before, "<gpu>", "</gpu>")
            assert found.warnings[0] == "<processes> without an end"

    def test_that_name_a_document_are_not_one(self) -> None:
        lines = ("<gpu>", "<processes>\n<process_name><nvidia_smi_log></process_name>\n</processes>", "</gpu>")
        assert cut(*lines) == ("<gpu>\n\n</gpu>\n", [])

    def test_clocks_before_what_ends_other_elements_are_cut_alone(self) -> None:
        lines = ("<gpu>", "\t\t<temperature>", f"\t\t{CLOCKS}", "\t\t<fabric>", PROCESSES, "</gpu>")
        assert cut(*lines) == ("<gpu>\n\t\t<temperature>\n\t\t\n\t\t<fabric>\n\n</gpu>\n", [])

    def test_clocks_in_the_name_of_a_process_are_a_name(self) -> None:
        name = "<processes>\n<process_name><supported_clocks></process_name>\n</processes>"
        assert cut("<gpu>", name, "-", "</gpu>") == ("<gpu>\n\n-\n</gpu>\n", [])

    def test_of_other_names_are_kept(self) -> None:
        lines = ("<gpu>", "<supported_clocks_x/>", "<processes_x/>", "<accounted_processes_x/>", "</gpu>")
        assert cut(*lines) == ("\n".join((*lines, "")), [])


HANDLE = b"Unable to determine the device handle for GPU"


class TestLostGpus:
    @pytest.mark.parametrize(
        ("text", "buses"),
        [
            (b"", []),
            (b"0000:18:00.0: fine", []),
            (HANDLE + b"0000:18:00.0", ["00000000:18:00.0"]),
            (b"0000:18:00.0 " + HANDLE, [None]),
            (HANDLE + b"\n0000:18:00.0", [None]),
            (HANDLE + b"<a>0000:18:00.0", [None]),
            (HANDLE + b" 0000:18:00.0 0000:19:00.0", ["00000000:18:00.0"]),
            (HANDLE + b" " * 184 + b"0000:18:00.0", ["00000000:18:00.0"]),
            (HANDLE + b" " * 186 + b"0000:18:00.0", [None]),
            (b"0000:18:00.0" + b" " * 188 + b"GPU is lost", ["00000000:18:00.0"]),
            (b"18:00.0" + b" " * 194 + b"GPU is lost", [None]),
            (b"0000:18:00.0\nGPU is lost", [None]),
            (b"0000:18:00.0<a>GPU is lost", [None]),
            (b"GPU 1:\n0000:18:00.0 has fallen off the bus\n", ["00000000:18:00.0"]),
            (HANDLE + b"0000:18:00.0\n" + HANDLE + b"0000:18:00.0", ["00000000:18:00.0"]),
            (HANDLE + b"\n" + HANDLE + b"0000:19:00.0", ["00000000:19:00.0"]),
            (HANDLE + b" " * 200 + b"0000:18:00.0" + b" " * 200 + HANDLE, [None]),
            (b"GPU 0000:18:00.0: no device handle for it. GPU is lost, unlike 0000:19:00.0", ["00000000:18:00.0"]),
        ],
    )
    def test_are_named_by_the_address_on_the_line(self, text: bytes, buses: list[str | None]) -> None:
        assert [one.pci_bus_id for one in lost_gpus(text)] == buses

    def test_are_256_at_most(self) -> None:
        text = b"".join(HANDLE + b"%04X:18:00.0\n" % number for number in range(300))
        assert [one.pci_bus_id for one in lost_gpus(text)] == [f"{number:08X}:18:00.0" for number in range(256)]


class TestTheToolsWords:
    @pytest.mark.parametrize(
        ("outputs", "words"),
        [
            ((b"",), ""),
            ((b" \n<a>\n---\n",), ""),
            ((b" one\ttwo \n",), "one two"),
            ((b"one\n<a>\n---\ntwo",), "one; two"),
            ((b"one\ntwo\nthree",), "one \u2026 three"),
            ((b"one", b"two", b"three", b"four"), "one \u2026 four"),
            (("cut\u2026\nshort".encode(),), "cut\u2026 short"),
            ((b"x" * 120,), "x" * 120),
            ((b"x" * 121,), "x" * 119 + "\u2026"),
            ((b"\xff",), ""),
            ((b"\xffx",), "\N{REPLACEMENT CHARACTER}x"),
        ],
    )
    def test_are_the_first_and_last_lines_that_are_not_markup(self, outputs: tuple[bytes, ...], words: str) -> None:
        assert own_words(*outputs) == words

    def test_are_looked_for_at_both_ends(self) -> None:
        near, far = b"<a>\n" * 4000, b"<a>\n" * 5000
        assert own_words(near + b"one\n" + near) == "one"
        assert own_words(far + b"one\n" + far) == ""
        assert own_words(b"one\n" + far + b"two\n" + far + b"last") == "one; last"

    @pytest.mark.parametrize(
        ("output", "text"),
        [
            (b"words\n", b"words\n"),
            (b"words\n" + log("<a/>"), b"words\n"),
            (b"words\n" + log("<a/>", after="\nmore\n"), b"words\nmore\n"),
            (b"words\n<nvidia_smi_log>\n<a/>\nFailed\n", b"words\nFailed\n"),
            (b"<a/>\n</nvidia_smi_log>\nwords", b""),
            (b"<html>\nwords", b"<html>\nwords"),
        ],
    )
    def test_are_before_a_document_and_after_it(self, output: bytes, text: bytes) -> None:
        assert own_text(output) == text
