"""What nodes print: nvidia-smi, logs and their lines."""

import html
import itertools
import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TypeVar
from unittest import mock

import msgspec
from hypothesis import strategies as st

from collector.collect import nvidia_smi, objects, smi_health, smi_log, smi_unread
from collector.collect.log_times import moment_of
from collector.collect.printable import printable_report
from collector.collect.printed import find_last, last_line
from collector.collect.smi_elements import FIELDS, GPU_FIELDS
from collector.collect.smi_output import lost_gpus, own_words
from collector.model import GpuRef
from collector.simulator import smi
from collector.simulator.fleet import Fleet
from tests.fuzz.documents import any_text, damaged, texts
from tests.fuzz.mutator import MAX_LENGTH
from tests.fuzz.target import Target, Targets, bytes_target, text_target

__all__ = ["RENDERED", "SMI", "TARGETS"]

T = TypeVar("T")

SMI = (
    b'<?xml version="1.0" ?><!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd"><nvidia_smi_log>'
    b'<driver_version>570.1</driver_version><attached_gpus>1</attached_gpus><gpu id="00000000:01:00.0">'
    b"<product_name>NVIDIA H100</product_name><serial>123</serial><uuid>GPU-1</uuid><minor_number>0</minor_number>"
    b"<mig_mode><current_mig>Enabled</current_mig></mig_mode></gpu></nvidia_smi_log>"
)


READ = {path.rpartition("/")[2].encode() for path in (*FIELDS, *GPU_FIELDS, *smi_health.PATHS)} | {b"process_name"}


def _rendered() -> Iterator[bytes]:
    """Yield outputs of a GPU or two, with only a few of the elements that are not read."""
    fleet = Fleet(clusters=3, nodes=1, gpus=2)
    for name, form, count in itertools.product(("sim-0", "sim-1", "sim-2"), ("450", "570", "580"), (1, 2)):
        cards = [card._replace(process=b"train" * card.minor) for card in fleet.cards(name, "gpu-0000")[:count]]
        output = smi.render(fleet.kind(name), cards, 1.8e9, form=form)
        output = re.sub(rb"\n\t\t+<(\w{9,})>.*</\1>", lambda line: line[0] if line[1] in READ else b"", output)
        yield output
        yield output.replace(b"\n", b"\r\n")


RENDERED = [output for output in _rendered() if len(output) <= MAX_LENGTH]


def _answer(output: bytes) -> tuple[nvidia_smi.Report | nvidia_smi.BadOutputError, list[str]]:
    warnings: list[str] = []
    try:
        return nvidia_smi.parse(output, warnings), warnings
    except nvidia_smi.BadOutputError as error:
        return error, warnings


def _smi(output: bytes, *, in_form: bool = False) -> None:
    """Read an output, which gives the same with the XML parser alone: of all of it, if it is in the tool's form."""
    found, warnings = _answer(output)
    with (
        mock.patch.object(nvidia_smi, "read_regular", return_value=None),
        mock.patch.object(smi_unread, "_unread_runs", return_value=()) if in_form else nullcontext(),
    ):
        parsed, others = _answer(output)
    if isinstance(found, nvidia_smi.BadOutputError):
        assert str(found) == str(parsed)
        raise found
    assert (found, warnings) == (parsed, others)
    report = printable_report(found)
    assert all(gpu.uuid.isprintable() for gpu in report.gpus)
    for gpu in report.gpus:
        for value in msgspec.structs.asdict(gpu.health).values() if gpu.health is not None else ():
            if isinstance(value, str):
                assert value.isprintable()
                assert len(value) <= 40
            assert not isinstance(value, int) or 0 <= value < 1 << 53


VALUE, INSERT, REPLACE = range(3)  # the value in a line changes, or a line is inserted or replaced
Edits = list[tuple[int, int, bytes]]  # for each, one of these, at which line, and the new value or line

VALUES = [
    *(b"GPU is lost", b"GPU requires reset", b"[GPU requires reset]", b"[GPU is lost]", b"[Unknown Error]"),
    *(b"N/A", b"No", b"Yes", b"", b"0", b"1", b"-1", b"4294967295", b"Unknown Error", b"ERR!", b"Reset"),
    *(b"3 bank(s)", b"1 ", b"a" * 300),
]

LINES = [
    *sorted({line for output in RENDERED for line in output.split(b"\n")}),
    *(b"", b" ", b"\t\t<processes>", b"\t\t</processes>", b"\t\t<fan_speed>", b"<temperature></temperature>"),
    *(b"\t\t<serial>1</serial>", b"<serial> </serial>", b"<serial>1<a></a></serial>", b"\t</gpu>", b"GPU is lost"),
    *(b"\t\t\t<process_name>a</process_name>", b"<process_name>", b"\t<gpu>", b"<a/>", b"<!-- a -->", b"&amp;", b"\r"),
]


def _edited(change: tuple[int, Edits]) -> None:
    """Read a rendered output of which some lines or values are different."""
    number, edits = change
    lines = RENDERED[number % len(RENDERED)].split(b"\n")
    in_form = True
    for kind, at, text in edits[:4]:
        place = at % len(lines)
        if kind == VALUE:
            lines[place] = re.sub(rb"(?<=>)[^<>]*(?=</)", lambda _: text, lines[place])  # noqa: B023  used at once
            in_form = in_form and text in VALUES
        else:
            lines[place : place + (kind == REPLACE)] = [text]
            in_form = False
    _smi(b"\n".join(lines), in_form=in_form)


places = st.integers(0, 400)
edited = st.tuples(
    st.integers(0, len(RENDERED) - 1),
    st.lists(
        st.tuples(st.just(VALUE), places, st.sampled_from(VALUES))
        | st.tuples(st.sampled_from([INSERT, REPLACE]), places, st.sampled_from(LINES)),
        max_size=2,
    ),
)

HEALTH_TEXTS = (
    *("Yes", "No", "N/A", "0", "1", "3 bank(s)", "None", "Reset", "GPU is lost", "GPU requires reset"),
    "x" * 99,
)


def _with_health(values: dict[str, str]) -> bytes:
    blocks = ""
    for path, text in values.items():
        names = path.split("/")
        start, end = "".join(f"<{name}>" for name in names), "".join(f"</{name}>" for name in reversed(names))
        blocks += f"{start}{html.escape(text)}{end}\n\t\t"
    return SMI.replace(b"</gpu>", blocks.encode(errors="replace") + b"</gpu>")


healths = st.dictionaries(st.sampled_from(smi_health.PATHS), st.sampled_from(HEALTH_TEXTS) | texts, max_size=12).map(
    _with_health
)

PRINTED = (
    b"".join(b"2026-10-06T00:17:09.669794202Z " + line for line in SMI.replace(b"><", b">\n<").splitlines(True)) + b"\n"
)


def _log(log: bytes) -> None:
    for complete in (True, False):
        found = find_last(log, complete=complete)
        if found.last is not None:
            assert b"</nvidia_smi_log>" in found.last.output
            _smi(found.last.output)
    assert log.endswith(last_line(log))


def _words(output: bytes) -> None:
    """Read what a command or a pod prints instead of a document."""
    text = own_words(output, output[::-1])
    assert text.isprintable()
    assert len(text) <= 400
    for ref in lost_gpus(output):
        assert all(one is None or (one.isprintable() and len(one) <= 100) for one in ref)
    smi_log._reason(output)
    smi_log._exit_status(output)


printed = st.lists(
    st.sampled_from(
        [
            b"gpuid-reader: nvidia-smi ended with exit status 127\n",
            b"gpuid-reader: nvidia-smi has not ended after 60 s\r\n",
            b"Unable to determine the device handle for GPU0000:01:00.0: Unknown Error\n",
            b"Unable to determine the device handle for GPU 00000000:3B:00.0: GPU is lost.  Reboot the system\n",
            b"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
            b"No devices were found\n",
            b"<?xml version='1.0'?>\n<nvidia_smi_log>\n",
        ]
    )
    | st.binary(max_size=40),
    max_size=5,
).map(b"".join)


def _quantity(text: str) -> None:
    """Read an amount, a time of an object and one of a log."""
    count = objects._quantity(text)
    assert count is None or count >= 0
    for moment in (objects._unix_seconds(text), moment_of(text)):
        assert moment == moment
    GpuRef(uuid=text, pci_bus_id=text)


amounts = st.sampled_from(
    ["8", "1Ki", "8k", "1e3", "-1", "0.5", "2026-10-06T00:17:09.669794202Z", "9999-12-31T23:59:59-23:59"]
)

TARGETS: Targets = {
    "words": bytes_target(_words, printed.flatmap(damaged)),
    "amount": text_target(_quantity, amounts | texts | any_text),
    "nvidia-smi": bytes_target(
        _smi, st.sampled_from([SMI, *RENDERED]).flatmap(damaged) | st.binary(), nvidia_smi.BadOutputError
    ),
    "edited-nvidia-smi": Target(_edited, edited, (nvidia_smi.BadOutputError,)),
    "health": bytes_target(_smi, healths.flatmap(damaged), nvidia_smi.BadOutputError),
    "log": bytes_target(
        _log, st.lists(damaged(PRINTED), max_size=3).map(b"".join) | st.binary(), nvidia_smi.BadOutputError
    ),
}
