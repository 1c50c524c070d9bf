"""The parser's throughput against the usual ways to read XML, on the same outputs of `nvidia-smi -q -x`."""

import functools
import time
from collections.abc import Callable, Iterator
from xml.etree import ElementTree

import xmltodict

from collector.collect import nvidia_smi
from collector.simulator import smi
from collector.simulator.fleet import Fleet
from tests.benchmarks.clocks import best
from tests.benchmarks.table import Row, times

__all__ = ["rows"]


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare on eight GPUs of each kind; every candidate finds the UUIDs and serials."""
    fleet = Fleet(clusters=3, nodes=1, gpus=8)
    peers: tuple[tuple[str, Callable[[bytes], list[tuple[str, str]]], str], ...] = (
        ("xml.etree", _with_etree, "≥ 2 ×"),
        ("xmltodict", _with_xmltodict, "16 at once: ≥ 100 a second"),
    )
    for cluster in ("sim-0", "sim-2"):
        output = smi.render(fleet.kind(cluster), fleet.cards(cluster, "gpu-0000"), time.time())
        ours = best(functools.partial(_ours, output), runs=3 if small else 100)
        for name, parse, aim in peers:
            if parse(output) != _ours(output):
                raise SystemExit(f"{name} reads other GPUs than gpuid does")
            theirs = best(functools.partial(parse, output), runs=3 if small else 100)
            yield Row(
                f"parsing {fleet.kind(cluster).upper()} outputs of {len(output) // 1000} kB / {name}",
                f"{1 / ours:,.0f} a second",
                f"{1 / theirs:,.0f} a second",
                times(theirs / ours),
                aim,
            )


def _ours(output: bytes) -> list[tuple[str, str]]:
    return [(gpu.uuid or "", gpu.serial or "") for gpu in nvidia_smi.parse(output).gpus]


def _with_etree(output: bytes) -> list[tuple[str, str]]:
    root = ElementTree.fromstring(output)
    return [(gpu.findtext("uuid", ""), gpu.findtext("serial", "")) for gpu in root.iterfind("gpu")]


def _with_xmltodict(output: bytes) -> list[tuple[str, str]]:
    return [(gpu["uuid"], gpu["serial"]) for gpu in xmltodict.parse(output)["nvidia_smi_log"]["gpu"]]
