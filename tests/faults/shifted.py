"""Runs gpuid with a clock that can be set: `python shifted.py FILE run …`; FILE has how many seconds it is ahead."""

import mmap
import runpy
import struct
import sys
import time
from pathlib import Path

__all__ = ["set_ahead"]

_SECONDS = struct.Struct("<d")


def set_ahead(path: Path, seconds: float) -> None:
    """Set the clock of the process that follows this file."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(_SECONDS.pack(seconds))


def main() -> None:
    """Replace the clock before anything else is imported, and run the command."""
    with open(sys.argv[1], "rb") as file:  # noqa: PTH123  pathlib is part of what follows
        ahead = mmap.mmap(file.fileno(), _SECONDS.size, prot=mmap.PROT_READ)
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + _SECONDS.unpack_from(ahead)[0]
    time.time_ns = lambda: true_ns() + int(_SECONDS.unpack_from(ahead)[0] * 1e9)
    del sys.argv[1], sys.path[0]  # where modules of the faults would hide others
    runpy.run_module("collector", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
