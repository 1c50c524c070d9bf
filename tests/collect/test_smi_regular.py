"""Outputs that are read without an XML parser give the same as with one."""

import re
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect import nvidia_smi
from collector.collect.nvidia_smi import BadOutputError, Report
from collector.collect.smi_regular import read_regular
from collector.simulator import smi
from collector.simulator.fleet import Fleet

FLEET = Fleet(clusters=3, nodes=1, gpus=2)
OUTPUTS = [smi.render(FLEET.kind(name), FLEET.cards(name, "gpu-0000"), 1.8e9) for name in ("sim-0", "sim-1", "sim-2")]
H100 = OUTPUTS[0]
PROCESSES = (
    b"<processes>\n\t\t\t<process_info>\n\t\t\t\t<pid>7</pid>"
    b"\n\t\t\t\t<process_name>/usr/bin/python3 -m train</process_name>\n\t\t\t</process_info>\n\t\t</processes>"
)
LINES = (
    *(b"<", b">", b"&amp;", b"\x01", b"\r", b"\xff", "é".encode(), b'"', b"", b"GPU is lost", b"x" * 200),
    *(b"<!-- x -->", b"<![CDATA[x]]>", b"<?x y?>", b"<a/>", b"<a b='1'></a>", b"<a >1</a>", b"</gpu>", b"<gpu>"),
    *(b'\n\t<gpu id="x">', b"<nvidia_smi_log>", b"</nvidia_smi_log>", b"<!DOCTYPE a>", b"encoding='utf-16'"),
    *(b"<processes>", b"</processes>", b"<process_name>", b"</process_name>", b"<process_name>a\nb</process_name>"),
    *(PROCESSES, b"<supported_clocks>", b"<supported_clocks>N/A</supported_clocks>", b"</supported_clocks>"),
    *(b"<serial>1</serial>", b"<serial> </serial>", b"<serial>1<uuid>2</uuid></serial>", b"<uuid></uuid>"),
    *(b"<pci><pci_bus_id>1</pci_bus_id></pci>", b"<serial>1<processes></processes>2</serial>"),
    *(b"device handle for GPU0: 0000:19:00.0: Unknown Error", b"<fan_speed>1</fan_speed>"),
)


def with_parser(output: bytes) -> bytes:
    """Return an output, the same to an XML parser, in which no run of unread elements is found and cut.

    So these tests do not see one difference: a wanted element in the middle of a line of such a run, where no driver
    prints one, is read without the parser, but cut with it.
    """
    return output.replace(b"\n\t\t<", b"\n  <")


def parsed(output: bytes) -> tuple[Report | str, list[str]]:
    """Return the report of an output or the error, and the warnings, from an XML parser."""
    warnings: list[str] = []
    with mock.patch.object(nvidia_smi, "read_regular", return_value=None):
        try:
            return nvidia_smi.parse(with_parser(output), warnings), warnings
        except BadOutputError as error:
            return str(error), warnings


def read(output: bytes) -> tuple[Report | str, list[str]]:
    warnings: list[str] = []
    try:
        return nvidia_smi.parse(output, warnings), warnings
    except BadOutputError as error:
        return str(error), warnings


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_the_tool_prints_is_regular(output: bytes):
    values = read_regular(output)
    assert values is not None
    assert [gpu.fields["uuid"] for gpu in values.gpus] == [gpu.uuid for gpu in nvidia_smi.parse(output).gpus]
    assert read(output) == parsed(output)


def test_the_tools_messages_before_a_document_count():
    output = b"Unable to determine the device handle for GPU7: 0000:19:00.0: Unknown Error\n" + H100
    assert read_regular(output) is not None
    assert read(output) == parsed(output)
    assert nvidia_smi.parse(output.replace(b"19:00.0", b"9C:00.0", 1)).lost != ()


def test_processes_are_regular():
    output = re.sub(rb"<processes>\s*</processes>", PROCESSES, H100)
    assert output.count(PROCESSES) == 2
    assert read_regular(output) is not None
    assert read(output) == parsed(output) == (nvidia_smi.parse(H100), [])


@pytest.mark.parametrize(
    "text",
    [
        "<!-- <serial>2</serial> -->",
        "<![CDATA[<serial>2</serial>]]>",
        "<a b='>'></a>",
        "<a/>",
        "1 > 0",
        "&amp;",
        "\x01",
        "\r",
        "é",
        "<process_name>a\nb</process_name>",
        "<serial<2</serial>",
        "<gpu></gpu>",
        "<total>GPU is lost</total>",
    ],
)
def test_anything_unusual_is_left_to_the_parser(text: str):
    output = H100.replace(b"<serial>", text.encode() + b"<serial>", 1)
    assert read_regular(output) is None


@pytest.mark.parametrize(
    "output",
    [
        b"",
        H100.partition(b"<gpu")[0] + b"</nvidia_smi_log>",
        H100.rpartition(b"</gpu>")[0],
        H100 + H100,
        H100 + b"more",
        b"<gpu>" + H100,
        H100.replace(b"\n\t<gpu id", b"\n</nvidia_smi_log>\n\t<gpu id", 1),
        H100.replace(b"</fabric>", b"<state>ab</state>" * 300 + b"</fabric>", 1),
        H100.replace(b"</uuid>", b"</uuid>" + b"<a></a>" * 2000, 1),
        H100.replace(b"</fabric>", b"<state>" + b"x" * 5000 + b"</state></fabric>", 1),
        H100.replace(b'version="1.0"', b'version="1.0" encoding="cp864"'),
        H100.replace(b"\n\t<gpu id", b"\n\t<gpu  id"),
        H100.replace(b"\t</gpu>", b"\t</gpu>text"),
    ],
    ids=[
        *("empty", "no GPU", "cut off", "two", "text after", "text before", "an end before the GPUs"),
        *("many values", "many tags", "long values", "encoding", "spaces", "between"),
    ],
)
def test_other_documents_are_left_to_the_parser(output: bytes):
    assert read_regular(output) is None


def test_a_name_that_closes_outside_of_its_tags_is_left_to_the_parser():
    stray = PROCESSES.replace(b"</processes>", b"</processes>\n\t\t</process_name>\n\t\t<processes></processes>")
    assert read_regular(H100.replace(b"<serial>", stray + b"<serial>", 1)) is None


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """Return an output with lines removed, repeated, swapped, added, or changed in the middle."""
    lines = draw(st.sampled_from(OUTPUTS)).split(b"\n")
    for _ in range(draw(st.integers(0, 3))):
        one, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["remove", "repeat", "swap", "add", "change", "indent"])):
            case "remove" if len(lines) > 1:
                del lines[one]
            case "repeat":
                lines.insert(other, lines[one])
            case "swap":
                lines[one], lines[other] = lines[other], lines[one]
            case "add":
                lines.insert(one, b"\t\t" + draw(st.sampled_from(LINES)))
            case "change":
                at = draw(st.integers(0, len(lines[one])))
                lines[one] = lines[one][:at] + draw(st.sampled_from(LINES)) + lines[one][at:]
            case _:
                lines[one] = b"  " + lines[one].lstrip()
    return b"\n".join(lines)


@given(edited())
def test_a_regular_output_gives_what_the_parser_gives(output: bytes):
    if read_regular(output) is not None:
        assert read(output) == parsed(output)


def small(count: int = 1, *, head: str = "", inside: str = "", after: str = "") -> bytes:
    """Print a document of small GPUs, the last with more inside."""
    ids = [f'\n\t<gpu id="00000000:{number:02X}:00.0">\n\t\t<uuid>GPU-{number}</uuid>' for number in range(count)]
    body = "\n\t</gpu>\n".join(ids) + f"{inside}\n\t</gpu>"
    return f"{head}<nvidia_smi_log>\n\t<driver_version>1</driver_version>{body}\n</nvidia_smi_log>{after}".encode()


def blocks(name: str, count: int) -> str:
    return f"<{name}></{name}>" * count


HEAD = small().index(b"\n\t<gpu id=")
GPU = len(small().partition(b'id="')[2].partition(b"</nvidia_smi_log>")[0])  # bytes from the value of its id on


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (small(after="\n" * ((1 << 20) - len(small()))), small(after="\n" * ((1 << 20) + 1 - len(small())))),
        (small(64), small(65)),
        (small(head=" " * (4096 - HEAD)), small(head=" " * (4097 - HEAD))),
        (small(inside=" " * (65536 - GPU)), small(inside=" " * (65537 - GPU))),
        (small(inside=blocks("a", 2047)), small(inside=blocks("a", 2048))),
        (
            small(inside="<fabric>" + "<state>x</state>" * 255 + "</fabric>"),
            small(inside="<fabric>" + "<state>x</state>" * 256 + "</fabric>"),
        ),
        (
            small(inside=f"<fabric><state>{'x' * 4096}</state></fabric>"),
            small(inside=f"<fabric><state>{'x' * 4097}</state></fabric>"),
        ),
    ],
    ids=["bytes", "GPUs", "bytes before the GPUs", "bytes of a GPU", "tags", "values", "bytes of health"],
)
def test_up_to_a_size_it_is_regular(most: bytes, more: bytes):
    assert read_regular(most) is not None
    assert read_regular(more) is None
