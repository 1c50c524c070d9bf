"""Outputs that are read without an XML parser give the same as with one."""

import re
from collections.abc import Callable, Iterator, Mapping
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect import nvidia_smi, smi_regular
from collector.collect.nvidia_smi import BadOutputError, Report
from collector.collect.smi_output import find_document
from collector.collect.smi_regular import read_regular
from collector.collect.smi_tree import Values
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


def process(number: int, name: str = "process_info") -> str:
    return (
        f"\n\t\t\t<{name}>\n\t\t\t\t<pid>{number}</pid>"
        f"\n\t\t\t\t<process_name>python3 {number}4321</process_name>\n\t\t\t</{name}>"
    )


# Lists in a GPU: what each stands in place of, and how one of a given length is printed.
LISTS: dict[str, tuple[str, Callable[[int], str]]] = {
    "processes": (
        r"<processes>\s*</processes>",
        lambda length: f"<processes>{''.join(map(process, range(length)))}\n\t\t</processes>",
    ),
    "accounted processes": (
        r"<accounted_processes>\s*</accounted_processes>",
        lambda length: (
            "<accounted_processes>"
            + "".join(process(number, "accounted_process_info") for number in range(length))
            + "\n\t\t</accounted_processes>"
        ),
    ),
    "clocks": (
        r"<processes>",
        lambda length: (
            "<supported_clocks>\n\t\t\t<supported_mem_clock>\n\t\t\t\t<value>2619 MHz</value>"
            + "".join(
                f"\n\t\t\t\t<supported_graphics_clock>{number}4321</supported_graphics_clock>"
                for number in range(length)
            )
            + "\n\t\t\t</supported_mem_clock>\n\t\t</supported_clocks>\n\t\t<processes>"
        ),
    ),
    "MIG devices": (
        r"<mig_devices>\s*None\s*</mig_devices>",
        lambda length: (
            "<mig_devices>"
            + "".join(
                f"\n\t\t\t<mig_device>\n\t\t\t\t<index>{number}4321</index>\n\t\t\t</mig_device>"
                for number in range(length)
            )
            + "\n\t\t</mig_devices>"
        ),
    ),
    "retired pages": (
        r"<retired_pagelist>N/A</retired_pagelist>",
        lambda length: (
            "<retired_pagelist>"
            + "".join(f"\n\t\t\t\t\t<retired_page_addr>0x{number}4321</retired_page_addr>" for number in range(length))
            + "\n\t\t\t\t</retired_pagelist>"
        ),
    ),
}


def listing(output: bytes, lengths: Mapping[str, int]) -> bytes:
    """Return an output whose GPUs have lists of these lengths."""
    text = output.decode()
    for name, length in lengths.items():
        empty, items = LISTS[name]
        text, count = re.subn(empty, items(length), text)
        assert count
    return text.encode()


# How outputs look where somebody has formatted them.
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "other line ends": lambda output: output.replace(b"\n", b"\r\n"),
    "two spaces": lambda output: output.replace(b"\t", b"  "),
    "four spaces": lambda output: output.replace(b"\t", b"    "),
    "eight spaces and other line ends": lambda output: output.replace(b"\t", b" " * 8).replace(b"\n", b"\r\n"),
}


@pytest.fixture(autouse=True)
def made() -> Iterator[mock.Mock]:
    """Forget what other tests read, so that none depends on them, and count the shapes that are made."""
    with (
        mock.patch.object(smi_regular, "_shapes", {}),
        mock.patch.object(smi_regular, "_make_shape", wraps=smi_regular._make_shape) as counted,
    ):
        yield counted


def regular(output: bytes) -> Values | None:
    """Return the values of an output if they are read without an XML parser."""
    try:
        return read_regular(find_document(output))
    except BadOutputError:
        return None


def parsed(output: bytes) -> tuple[Report | str, list[str]]:
    """Return the report of an output or the error, and the warnings, from an XML parser."""
    with mock.patch.object(nvidia_smi, "read_regular", return_value=None):
        return read(output)


def read(output: bytes) -> tuple[Report | str, list[str]]:
    warnings: list[str] = []
    try:
        return nvidia_smi.parse(output, warnings), warnings
    except BadOutputError as error:
        return str(error), warnings


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_the_tool_prints_is_regular(output: bytes):
    values = regular(output)
    assert values is not None
    assert [gpu.fields["uuid"] for gpu in values.gpus] == [gpu.uuid for gpu in nvidia_smi.parse(output).gpus]
    assert read(output) == parsed(output)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_formatted_outputs_are_regular(output: bytes, form: str):
    formatted = FORMS[form](output)
    assert formatted != output
    assert regular(formatted) is not None
    assert read(formatted) == parsed(formatted) == read(output)


def test_a_line_end_in_a_value_is_left_to_the_parser():
    output = H100.replace(b"<serial>", b"<serial>16\r\n", 1)
    assert regular(output) is None
    assert regular(output.replace(b"<serial>16\r\n", b"\r\n<serial>16")) is not None
    assert read(output)[0] == read(output.replace(b"\r", b""))[0]


def test_the_tools_messages_before_a_document_count():
    output = b"Unable to determine the device handle for GPU7: 0000:19:00.0: Unknown Error\n" + H100
    assert regular(output) is not None
    assert read(output) == parsed(output)
    assert nvidia_smi.parse(output.replace(b"19:00.0", b"9C:00.0", 1)).lost != ()


def test_processes_are_regular():
    output = re.sub(rb"<processes>\s*</processes>", PROCESSES, H100)
    assert output.count(PROCESSES) == 2
    assert regular(output) is not None
    assert read(output) == parsed(output) == (nvidia_smi.parse(H100), [])


@pytest.mark.parametrize("name", LISTS)
def test_the_length_of_a_list_is_no_part_of_a_shape(name: str, made: mock.Mock):
    for length in range(30):
        output = listing(H100, {name: length})
        assert regular(output) is not None
        assert read(output) == parsed(output) == read(H100)
    assert made.call_count <= 2  # one for an empty list


@pytest.mark.parametrize("name", LISTS)
def test_damage_in_a_list_does_what_it_does_with_the_parser(name: str):
    for bad in (
        b"\x01",
        b"&amp;",
        b"&",
        b"<a>",
        b"</a>",
        b"<a/>",
        b"\xff",
        b"<serial>1</serial>",
        b"\n\t\t<serial>1</serial>",
    ):
        output = listing(H100, {name: 2}).replace(b"4321", b"4321" + bad)
        assert output.count(bad + b"<") > 0
        assert read(output) == parsed(output)


def test_one_node_does_not_displace_the_shapes_of_others(made: mock.Mock):
    usual = small()
    regular(usual)
    for number in range(300):
        gpus = [
            f'\n\t<gpu id="1">\n\t\t<uuid>GPU-1</uuid>{blocks("a", 1 + gpu)}<b{number}></b{number}>\n\t</gpu>\n'
            for gpu in range(5)
        ]
        assert regular(f"<nvidia_smi_log>{''.join(gpus)}</nvidia_smi_log>".encode()) is None
        assert regular(usual) is not None
    assert made.call_count == 1 + 300  # one for each other document


def test_only_the_256_shapes_that_were_read_last_are_remembered(made: mock.Mock):
    outputs = [small(inside=f"<b{number}></b{number}>") for number in range(257)]
    for output in (*outputs[:256], *outputs[:1], *outputs[256:], *outputs[:1]):
        assert regular(output) is not None
    assert made.call_count == 257
    regular(outputs[1])
    assert made.call_count == 258


def test_a_node_with_two_models_is_regular_from_its_second_reading_on(made: mock.Mock):
    head, one, other = small(2, inside="<a></a>").partition(b'<gpu id="00000000:01')
    both = head + one + other
    assert regular(both) is None
    assert regular(both) is not None
    assert regular(both) is not None
    assert made.call_count == 2


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
        "é",
        "<serial<2</serial>",
        "<total>GPU is lost</total>",
    ],
)
def test_anything_unusual_is_left_to_the_parser(text: str):
    output = H100.replace(b"<serial>", text.encode() + b"<serial>")
    assert regular(output) is None


@pytest.mark.parametrize(
    "output",
    [
        b"",
        H100.partition(b"<gpu")[0] + b"</nvidia_smi_log>",
        H100.rpartition(b"</gpu>")[0],
        H100.replace(b"\n\t<gpu id", b"\n</nvidia_smi_log>\n\t<gpu id", 1),
        H100.replace(b"</fabric>", b"<state>ab</state>" * 300 + b"</fabric>"),
        H100.replace(b"</uuid>", b"</uuid>" + b"<a></a>" * 4000),
        H100.replace(b"</fabric>", b"<state>" + b"x" * 5000 + b"</state></fabric>"),
        H100.replace(b"\n\t<gpu id", b"\n\t<gpu  id"),
        H100.replace(b"\t</gpu>", b"\t</gpu>text"),
    ],
    ids=[
        *("empty", "no GPU", "cut off", "an end before the GPUs"),
        *("many values", "many tags", "long values", "spaces", "between"),
    ],
)
def test_other_documents_are_left_to_the_parser(output: bytes):
    assert regular(output) is None
    assert read(output) == parsed(output)


@pytest.mark.parametrize(
    "output",
    [
        H100 + H100,
        H100 + b"more",
        b"<gpu>" + H100,
        H100.replace(b'version="1.0"', b'version="1.0" encoding="cp864"'),
        H100.replace(b"<serial>", b"\r<serial>"),
        H100.replace(b"<serial>", b"<gpu></gpu><serial>"),
        H100.replace(b"</processes>", "<process_name>é</process_name></processes>".encode()),
    ],
    ids=["two documents", "text after", "text before", "encoding", "carriage return", "a GPU inside", "not ASCII"],
)
def test_what_is_not_read_may_be_anything(output: bytes):
    assert regular(output) is not None
    assert read(output) == parsed(output)
    assert read(output)[0] == read(H100)[0]


def test_a_gpu_without_an_id_after_another_is_left_to_the_parser():
    output = small(2).replace(b'<gpu id="00000000:01:00.0">', b"<gpu>")
    assert regular(output) is None
    assert read(output) == parsed(output)


def test_a_name_that_closes_outside_of_its_tags_is_left_to_the_parser():
    stray = PROCESSES.replace(b"</processes>", b"</processes>\n\t\t</process_name>\n\t\t<processes></processes>")
    assert regular(H100.replace(b"<serial>", stray + b"<serial>")) is None


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


@given(
    st.sampled_from(OUTPUTS),
    st.dictionaries(st.sampled_from(list(LISTS)), st.integers(0, 5)),
    st.sampled_from([*FORMS.values(), bytes]),
)
def test_documents_as_nodes_have_them_give_what_the_parser_gives(
    output: bytes, lengths: dict[str, int], form: Callable[[bytes], bytes]
):
    lengths = {name: length for name, length in lengths.items() if re.search(LISTS[name][0].encode(), output)}
    given = form(listing(output, lengths))
    assert regular(given) is not None
    assert read(given) == parsed(given) == read(output)


@given(edited())
def test_a_regular_output_gives_what_the_parser_gives(output: bytes):
    if regular(output) is not None:
        assert read(output) == parsed(output)


def small(count: int = 1, *, head: str = "", inside: str = "") -> bytes:
    """Print a document of small GPUs, the last with more inside."""
    ids = [f'\n\t<gpu id="00000000:{number:02X}:00.0">\n\t\t<uuid>GPU-{number}</uuid>' for number in range(count)]
    body = "\n\t</gpu>\n".join(ids) + f"{inside}\n\t</gpu>"
    return f"<nvidia_smi_log>{head}\n\t<driver_version>1</driver_version>{body}\n</nvidia_smi_log>".encode()


def blocks(name: str, count: int) -> str:
    return f"<{name}></{name}>" * count


HEAD = small().index(b"<gpu id=")
GPU = len(small().partition(b'id="')[2].partition(b"</nvidia_smi_log>")[0])  # bytes from the value of its id on


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (small(64), small(65)),
        (small(head=" " * (4096 - HEAD)), small(head=" " * (4097 - HEAD))),
        (small(inside=" " * (65536 - GPU)), small(inside=" " * (65537 - GPU))),
        (small(inside=blocks("a", 3272) + blocks("aaa", 1)), small(inside=blocks("a", 3272) + blocks("aaaa", 1))),
        (
            small(inside="<fabric>" + "<state>x</state>" * 255 + "</fabric>"),
            small(inside="<fabric>" + "<state>x</state>" * 256 + "</fabric>"),
        ),
        (
            small(inside=f"<fabric><state>{'x' * 4096}</state></fabric>"),
            small(inside=f"<fabric><state>{'x' * 4097}</state></fabric>"),
        ),
    ],
    ids=["GPUs", "bytes before the GPUs", "bytes of a GPU", "tags", "values", "bytes of health"],
)
def test_up_to_a_size_it_is_regular(most: bytes, more: bytes):
    assert regular(most) is not None
    assert regular(more) is None
    assert read(more) == parsed(more)
