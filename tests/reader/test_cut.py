"""What cut.awk leaves of an output of nvidia-smi says of the GPUs what the whole says, however processes are called."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.collect.nvidia_smi import parse
from collector.collect.smi_output import BadOutputError

SCRIPT = Path(__file__).parents[2] / "config" / "helm" / "gpuid-reader" / "files" / "cut.awk"
AWKS = [
    command
    for command in (("mawk",), ("gawk",), ("original-awk",), ("busybox", "awk"))
    if shutil.which(command[0]) is not None
]

SUPPORTED_CLOCKS = b"""\t\t<supported_clocks>
\t\t\t<supported_mem_clock>
\t\t\t\t<value>2619 MHz</value>
\t\t\t\t<supported_graphics_clock>1980 MHz</supported_graphics_clock>
\t\t\t</supported_mem_clock>
\t\t</supported_clocks>
"""


def process(name: bytes) -> bytes:
    return b"\t\t\t<process_info>\n\t\t\t\t<process_name>%b</process_name>\n\t\t\t</process_info>\n" % name


def gpu(number: int, names: Sequence[bytes] = (), clocks: bytes = SUPPORTED_CLOCKS) -> bytes:
    return (
        b'\t<gpu id="00000000:%02d:00.0">\n\t\t<serial>165012200000%d</serial>\n\t\t<uuid>GPU-%d</uuid>\n%b'
        b"\t\t<processes>\n%b\t\t</processes>\n\t\t<accounted_processes>\n\t\t</accounted_processes>\n"
        b"\t\t<capabilities>\n\t\t\t<egm>disabled</egm>\n\t\t</capabilities>\n\t</gpu>\n\n"
    ) % (number, number, number, clocks, b"".join(map(process, names)))


def document(*gpus: bytes, attached: int | None = None, end: bytes = b"\n") -> bytes:
    head = b'<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>\n'
    count = len(gpus) if attached is None else attached
    return b"%b\t<attached_gpus>%d</attached_gpus>\n%b</nvidia_smi_log>%b" % (head, count, b"".join(gpus), end)


def cut(output: bytes, awk: Sequence[str] = AWKS[0]) -> bytes:
    command = [*awk, "-f", str(SCRIPT)]
    done = subprocess.run(command, input=output, capture_output=True, check=True, env={"LC_ALL": "C"})
    assert done.stderr == b""
    return done.stdout


def outcome(output: bytes) -> object:
    try:
        return parse(output)
    except BadOutputError as error:
        return str(error)


@pytest.mark.parametrize("awk", AWKS, ids=lambda awk: awk[0])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_processes_and_supported_clocks_are_cut(awk: Sequence[str], newline: bytes) -> None:
    output = document(gpu(1, [b"train.py --token=secret", b"\xff</processes>"]), gpu(2), end=b"").replace(
        b"\n", newline
    )
    expected = document(
        *(
            gpu(number, clocks=b"").replace(
                b"\t\t<processes>\n\t\t</processes>\n\t\t<accounted_processes>\n\t\t</accounted_processes>\n", b""
            )
            for number in (1, 2)
        )
    ).replace(b"\n", newline)
    assert cut(output, awk).rstrip() == expected.rstrip()
    assert cut(output, awk).endswith(b"\n")


@pytest.mark.parametrize("awk", AWKS, ids=lambda awk: awk[0])
@pytest.mark.parametrize(
    "output",
    [
        document(gpu(1, [b"a\nb"]), gpu(2)),
        document(gpu(1, [b"</process_name>\n</gpu>\n\t<gpu id='x'>\n<process_name>"])),
        document(gpu(1, [b"</nvidia_smi_log>"])),
        document(gpu(1)).replace(b"</processes>", b"").replace(b"</accounted_processes>", b""),
        b"NVIDIA-SMI has failed\n",
        b"",
    ],
)
def test_nothing_is_cut_if_a_name_may_imitate_elements(awk: Sequence[str], output: bytes) -> None:
    assert cut(output, awk) == output


def test_clocks_without_an_end_tag_are_kept() -> None:
    output = document(gpu(1, [b"secret"], SUPPORTED_CLOCKS.replace(b"</supported_clocks>", b"")))
    assert b"<supported_mem_clock>" in cut(output)
    assert b"secret" not in cut(output)
    assert outcome(cut(output)) == outcome(output)


PIECES = (
    *(b"\n", b"\n", b"\r", b"a", b"\xff", b"&", b"<processes>", b"</processes>", b"</accounted_processes>"),
    *(b"</process_name>\n", b"\n<process_name>", b"</process_info>", b"<supported_clocks>", b"</gpu>"),
    *(b'\n\t<gpu id="00000000:99:00.0">\n', b"<gpu>", b"<uuid>GPU-99</uuid>", b"<serial>99</serial>"),
    *(b"</nvidia_smi_log>", b"<nvidia_smi_log>", b"<attached_gpus>9</attached_gpus>", b"GPU is lost"),
)
NAMES = st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join), max_size=2)
IMITATION = (
    b'</process_name>\n</process_info>\n</processes>\n\t</gpu>\n\t<gpu id="00000000:99:00.0">\n<uuid>GPU-99</uuid>'
)


@given(NAMES, NAMES, st.integers(1, 3))
@example([IMITATION + b"\n<processes>\n<process_name>"], [], 2)
@example([b"</process_name>\n</processes>\n<serial>99</serial>\n<process_name>"], [], 2)
@example([IMITATION + b"\n<processes>\n<process_name>"], [], 3)
def test_the_remainder_describes_the_same_gpus(first: list[bytes], second: list[bytes], attached: int) -> None:
    output = document(gpu(1, first), gpu(2, second), attached=attached)
    assert outcome(cut(output)) == outcome(output)
