"""What nodes print: nvidia-smi, logs and their lines."""

import html
from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from collector.collect import nvidia_smi, objects, smi_health, smi_log
from collector.collect.log_times import moment_of
from collector.collect.printable import printable_report
from collector.collect.printed import find_last, last_line
from collector.collect.smi_output import lost_gpus, own_words
from collector.model import GpuRef
from tests.fuzz.documents import any_text, damaged, texts
from tests.fuzz.target import Targets, bytes_target, text_target

__all__ = ["TARGETS"]

T = TypeVar("T")

SMI = (
    b'<?xml version="1.0" ?><!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd"><nvidia_smi_log>'
    b"<driver_version>570.1</driver_version><attached_gpus>1</attached_gpus><gpu id='00000000:01:00.0'>"
    b"<product_name>NVIDIA H100</product_name><serial>123</serial><uuid>GPU-1</uuid><minor_number>0</minor_number>"
    b"<mig_mode><current_mig>Enabled</current_mig></mig_mode></gpu></nvidia_smi_log>"
)


def _smi(output: bytes) -> None:
    report = printable_report(nvidia_smi.parse(output))
    assert all(gpu.uuid.isprintable() for gpu in report.gpus)
    for gpu in report.gpus:
        for value in msgspec.structs.asdict(gpu.health).values() if gpu.health is not None else ():
            if isinstance(value, str):
                assert value.isprintable()
                assert len(value) <= 40
            assert not isinstance(value, int) or 0 <= value < 1 << 53


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
    "nvidia-smi": bytes_target(_smi, damaged(SMI) | st.binary(), nvidia_smi.BadOutputError),
    "health": bytes_target(_smi, healths.flatmap(damaged), nvidia_smi.BadOutputError),
    "log": bytes_target(
        _log, st.lists(damaged(PRINTED), max_size=3).map(b"".join) | st.binary(), nvidia_smi.BadOutputError
    ),
}
