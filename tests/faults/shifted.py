"""Runs gpuid with a clock that can be set: `python shifted.py FILE run …`; FILE has how many seconds it is ahead.

Once a second, FILE.tasks gets how many tasks of each name there are in the main thread's event loop.
"""

import asyncio
import json
import mmap
import os
import runpy
import struct
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["set_ahead", "tasks"]

_SECONDS = struct.Struct("<d")
_MOST_BYTES = 1 << 15  # of the names of tasks


def set_ahead(path: Path, seconds: float) -> None:
    """Set the clock of the process that follows this file."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(_SECONDS.pack(seconds))


def tasks(path: Path) -> dict[str, int]:
    """Return how many tasks of each name the process that follows this file had when they were counted last."""
    found: dict[str, int] = json.loads(_of_tasks(path).read_bytes())
    return found


def _of_tasks(path: Path) -> Path:
    return path.with_name(f"{path.name}.tasks")


def main() -> None:
    """Replace the clock before anything else is imported, and run the command."""
    with open(sys.argv[1], "r+b") as file:  # noqa: PTH123  pathlib is part of what follows
        ahead = mmap.mmap(file.fileno(), _SECONDS.size)
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + _SECONDS.unpack_from(ahead)[0]
    time.time_ns = lambda: true_ns() + int(_SECONDS.unpack_from(ahead)[0] * 1e9)
    _count_tasks(os.open(_of_tasks(Path(sys.argv[1])), os.O_WRONLY | os.O_CREAT, 0o600))
    del sys.argv[1], sys.path[0]  # where modules of the faults would hide others
    runpy.run_module("collector", run_name="__main__", alter_sys=True)


def _count_tasks(file: int) -> None:
    """Count the tasks of the first event loop that runs, which is the main thread's, from now on."""
    run = asyncio.Runner.run

    def running(runner: asyncio.Runner, *args: Any, **options: Any) -> Any:
        asyncio.Runner.run = run  # type: ignore[method-assign]
        threading.Thread(target=count, args=(runner.get_loop(),), daemon=True).start()
        return run(runner, *args, **options)

    def count(loop: asyncio.AbstractEventLoop) -> None:
        while not loop.is_closed():
            names = Counter(one.get_name().partition("-")[0] for one in asyncio.all_tasks(loop))
            os.pwrite(file, json.dumps(names).encode().ljust(_MOST_BYTES), 0)  # one write: no reader sees half of it
            time.sleep(1.0)

    asyncio.Runner.run = running  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
