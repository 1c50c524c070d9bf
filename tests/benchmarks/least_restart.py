"""The least that a restart takes: `python -m tests.benchmarks.least_restart STORE` for an SQLite file.

Each node is read, decoded and kept, its GPUs can be found by UUID and serial, and its lines are written and compressed,
as in the benchmark's fleet: GPUs of one model, without chassis, labels, health or anything to check.
"""

import contextlib
import gc
import sqlite3
import sys
import zlib
from typing import Any

import msgspec

import collector.app  # noqa: F401  which a start imports, too
from collector.store.snapshots import inflated

_NODES = 32  # whose lines are compressed together
_ROWS = "SELECT cluster, node, read_at, snapshot FROM gpuid_nodes"


def restore(path: str) -> tuple[dict[tuple[str, str], Any], dict[str, tuple[str, str]], list[bytes]]:
    """Return the nodes, the places by UUID and serial, and the compressed lines of all families."""
    decode = msgspec.msgpack.Decoder().decode
    nodes: dict[tuple[str, str], Any] = {}
    places: dict[str, tuple[str, str]] = {}
    lines: list[str] = []
    compressed: list[bytes] = []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for cluster, name, read_at, snapshot in connection.execute(_ROWS):
            place = cluster, name
            nodes[place] = stored = decode(inflated(snapshot))
            node, gpus = stored["node"], stored["gpus"]
            own = f'{{cluster="{cluster}",node="{name}"'
            rest = f'",model="{gpus["model"]}",chassis=""}} 1\n'
            for uuid, serial in zip(gpus["uuid"], gpus["serial"], strict=True):
                places[uuid] = places[serial] = place
                lines.append(f'gpuid_gpu_info{own},serial="{serial}",uuid="{uuid}{rest}')
            lines.append(
                f'gpuid_node_info{own},machine="i-{name}",provider_id="{node["provider_id"]}",chassis="",'
                f'driver_version="{stored["driver_version"]}",cuda_version="{stored["cuda_version"]}"}} 1\n'
                f'gpuid_node_gpus{own},state="found"}} {len(gpus["uuid"])}\n'
                f'gpuid_node_gpus{own},state="capacity"}} {node["capacity"]}\n'
                f"gpuid_node_read_timestamp_seconds{own}}} {read_at:.3f}\n"
            )
            if len(nodes) % _NODES == 0:
                compressed.append(_compressed("".join(lines).encode()))
                lines.clear()
    compressed.append(_compressed("".join(lines).encode()))
    return nodes, places, compressed


def _compressed(text: bytes) -> bytes:
    packer = zlib.compressobj(4, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
    return packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)


if __name__ == "__main__":
    gc.disable()
    found, index, texts = restore(sys.argv[1])
    print(len(found), len(index), sum(map(len, texts)))
