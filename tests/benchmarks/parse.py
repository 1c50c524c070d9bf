"""The parser's throughput against the usual ways to read XML, on the same outputs of `nvidia-smi -q -x`."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from xml.etree import ElementTree

import xmltodict

from collector.collect import nvidia_smi
from collector.simulator import smi
from collector.simulator.fleet import Fleet
from tests.benchmarks.table import Row, times

__all__ = ["rows"]

_MOST_PROCESSES = 40  # on a GPU: time-sliced, or for inference

_Parse = Callable[[bytes], list[tuple[str, str]]]


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare on nodes with eight GPUs of each kind; every candidate finds the UUIDs and serials."""
    nodes, runs = (2, 1) if small else (40, 10)
    fleet = Fleet(clusters=3, nodes=nodes, gpus=8)
    etree = ("xml.etree", _with_etree, "≥ 2 ×")
    for cluster in ("sim-0", "sim-2"):
        kind = fleet.kind(cluster)
        plain = [
            smi.render(kind, fleet.cards(cluster, f"gpu-{node:04}"), time.time() + 60 * node) for node in range(nodes)
        ]
        peers: tuple[tuple[str, _Parse, str], ...] = (
            etree,
            ("xmltodict", _with_xmltodict, "16 at once: ≥ 100 a second"),
        )
        yield from _compare(f"{kind.upper()} outputs", plain, peers, runs)
        busy = [_with_processes(output, number) for number, output in enumerate(plain)]
        yield from _compare(f"busy {kind.upper()} nodes' outputs", busy, (etree,), runs)


def _compare(
    what: str, outputs: Sequence[bytes], peers: tuple[tuple[str, _Parse, str], ...], runs: int
) -> Iterator[Row]:
    """Compare processor time for all outputs, in turn: other load on the machine can only add."""
    for name, parse, aim in peers:
        if any(parse(output) != _ours(output) for output in outputs):
            raise SystemExit(f"{name} reads other GPUs than gpuid does")
        pairs = [(_seconds(_ours, outputs), _seconds(parse, outputs)) for _ in range(runs)]
        ours, theirs = (min(one) / len(outputs) for one in zip(*pairs, strict=True))
        yield Row(
            f"parsing {what} of {sum(map(len, outputs)) // len(outputs) // 1000} kB / {name}",
            f"{1 / ours:,.0f} a second",
            f"{1 / theirs:,.0f} a second",
            times(theirs / ours),
            aim,
        )


def _seconds(parse: _Parse, outputs: Sequence[bytes]) -> float:
    started = time.process_time()
    for output in outputs:
        parse(output)
    return time.process_time() - started


def _with_processes(output: bytes, number: int) -> bytes:
    """Return an output with the clocks that the GPUs support, and another number of processes on each of them."""
    clocks = "".join(
        f"\n\t\t\t\t<supported_graphics_clock>{clock} MHz</supported_graphics_clock>" for clock in range(345, 1980, 15)
    )
    memory = "".join(
        f"\n\t\t\t<supported_mem_clock>\n\t\t\t\t<value>{clock} MHz</value>{clocks}\n\t\t\t</supported_mem_clock>"
        for clock in (2619, 1593)
    )
    parts = re.split(rb"<processes>\s*</processes>", output)
    text = parts[0]
    for gpu, part in enumerate(parts[1:]):
        count = (11 * number + 7 * gpu) % (_MOST_PROCESSES + 1)
        processes = "".join(map(_process, range(count)))
        lists = f"<supported_clocks>{memory}\n\t\t</supported_clocks>\n\t\t<processes>{processes}\n\t\t</processes>"
        text += lists.encode() + part
    return text


def _process(number: int) -> str:
    return (
        "\n\t\t\t<process_info>\n\t\t\t\t<gpu_instance_id>N/A</gpu_instance_id>"
        f"\n\t\t\t\t<compute_instance_id>N/A</compute_instance_id>\n\t\t\t\t<pid>{4711 + number}</pid>"
        "\n\t\t\t\t<type>C</type>\n\t\t\t\t<process_name>/usr/bin/python3 -m serve</process_name>"
        "\n\t\t\t\t<used_memory>512 MiB</used_memory>\n\t\t\t</process_info>"
    )


def _ours(output: bytes) -> list[tuple[str, str]]:
    return [(gpu.uuid or "", gpu.serial or "") for gpu in nvidia_smi.parse(output).gpus]


def _with_etree(output: bytes) -> list[tuple[str, str]]:
    root = ElementTree.fromstring(output)
    return [(gpu.findtext("uuid", ""), gpu.findtext("serial", "")) for gpu in root.iterfind("gpu")]


def _with_xmltodict(output: bytes) -> list[tuple[str, str]]:
    return [(gpu["uuid"], gpu["serial"]) for gpu in xmltodict.parse(output)["nvidia_smi_log"]["gpu"]]
