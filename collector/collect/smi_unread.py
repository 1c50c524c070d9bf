"""Finds what is not read in a GPU's part of the output of `nvidia-smi -q -x`, so that nobody has to parse it."""

import functools
import re
from collections.abc import Iterator

from collector.collect.smi_elements import BLOCKS_OF_GPU
from collector.collect.smi_values import PLACEHOLDER

__all__ = ["unread_parts"]

# Unread elements that may contain anything. The first comes from the driver; the other two name processes.
_CLOCKS_START = re.compile(rb"<supported_clocks\s*>")
_PROCESSES_START = re.compile(rb"<processes\s*>")
_ACCOUNTED_START = re.compile(rb"<accounted_processes\s*>")
_ANYTHING = (b"<supported_clocks", b"processes")  # in the start tags of all of them
_CLOCKS_END, _PROCESSES_END, _ACCOUNTED_END = b"</supported_clocks>", b"</processes>", b"</accounted_processes>"

# Runs of elements that are not read, from the first of them to what follows the last, as all drivers print them, and
# what is read where the last one is. They are more than half of what a GPU has, so nobody has to parse them where
# nothing in them is read or stands in place of a value, saying that the GPU is lost or requires a reset.
_UNREAD_RUNS = (
    (b"\n\t\t<mig_devices>", b"\n\t\t<serial>", None),
    (b"\n\t\t\t<pci_gpu_link_info>", b"\n\t\t</pci>", b"<pci_bus_id"),
    (b"\n\t\t<fan_speed>", b"\n\t\t<ecc_mode>", None),
    (b"\n\t\t<temperature>", b"\n\t\t<fabric>", None),
)
_NAMES = (*(name.encode() for name in BLOCKS_OF_GPU), b"supported_clocks", b"processes", b"accounted_processes")
# What stands before the elements of a GPU: a tab for each level, or spaces if somebody has formatted the output.
_INDENT = re.compile(rb"<gpu\b[^<>]{0,120}>\r?\n(\t|  |    |        )\1<")


def unread_parts(output: bytes, start: int, end: int, warnings: list[str]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of unread elements within one GPU.

    Names of processes may contain any tag. The first start tag comes before every name, and the last end tag before the
    next GPU is the true one, since what the tool prints after it holds no names.
    """
    for run, after in _unread_runs(output, start, end):
        yield run, after
        start = after
    clocks = _search(_CLOCKS_START, b"<supported_clocks", output, start, end)
    processes = _search(_PROCESSES_START, b"<processes", output, start, end)
    if clocks is not None and (processes is None or clocks.start() < processes.start()):
        limit = end if processes is None else processes.start()
        start = _after(output.find(_CLOCKS_END, clocks.end(), limit), _CLOCKS_END)
        if start < 0:  # some drivers nest its parts incorrectly
            warnings.append("<supported_clocks> without an end")
            start = limit if processes is not None else _end_of_gpu(output, clocks.end(), end)
        yield clocks.start(), start
    if processes is not None:
        start = _after(output.rfind(_PROCESSES_END, processes.end(), end), _PROCESSES_END)
        if start < 0:
            warnings.append("<processes> without an end")
            start = _end_of_gpu(output, processes.end(), end)
        # A name may contain the end tag of the other element that names processes, too.
        other = output.rfind(_ACCOUNTED_END, start, end)
        if other >= 0 and _ACCOUNTED_START.search(output, start, other) is None:
            start = _after(other, _ACCOUNTED_END)
        yield processes.start(), start
    accounted = _search(_ACCOUNTED_START, b"<accounted_processes", output, start, end)
    if accounted is not None:
        start = _after(output.rfind(_ACCOUNTED_END, accounted.end(), end), _ACCOUNTED_END)
        if start < 0:
            warnings.append("<accounted_processes> without an end")
            start = _end_of_gpu(output, accounted.end(), end)
        yield accounted.start(), start


def _unread_runs(output: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of _UNREAD_RUNS of one GPU, up to the first element that may contain anything."""
    indent = _INDENT.match(output, start, end)
    if indent is None:
        return
    runs, read_or_cut = _indented(indent[1])
    for first, following, read in runs:
        run = output.find(first, start, end)
        if run < 0:
            continue
        if any(output.find(word, start, run) >= 0 for word in _ANYTHING):
            return
        after = output.find(following, run, end)
        if after < 0 or read_or_cut.search(output, run, after) or PLACEHOLDER.search(output, run, after):
            continue
        if read is None or output.find(read, run, after) < 0:
            yield run, after
            start = after


@functools.cache
def _indented(unit: bytes) -> tuple[list[tuple[bytes, bytes, bytes | None]], re.Pattern[bytes]]:
    """Return the runs with this indentation for each level, and a pattern for what they may not contain."""
    runs = [
        (first.replace(b"\t", unit), following.replace(b"\t", unit), read) for first, following, read in _UNREAD_RUNS
    ]
    return runs, re.compile(b"\n" + 2 * unit + rb"<(?:" + b"|".join(_NAMES) + rb")\b")  # the names are words


def _search(tag: re.Pattern[bytes], prefix: bytes, output: bytes, start: int, end: int) -> re.Match[bytes] | None:
    """Return the first match of a tag; searching for its prefix first is faster, as there usually is none."""
    at = output.find(prefix, start, end)
    return tag.search(output, at, end) if at >= 0 else None


def _after(at: int, tag: bytes) -> int:
    return at if at < 0 else at + len(tag)


def _end_of_gpu(output: bytes, start: int, end: int) -> int:
    at = output.rfind(b"</gpu>", start, end)
    return at if at >= 0 else end
