"""Runs gpuid with a clock that can be set: `python shifted.py FILE run …`; FILE has how many seconds it is ahead.

Behind that it has the number of tasks in the event loop, which is counted once a second.
"""

import asyncio
import mmap
import runpy
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["set_ahead", "tasks"]

_SECONDS, _TASKS = struct.Struct("<d"), struct.Struct("<q")


def set_ahead(path: Path, seconds: float) -> None:
    """Set the clock of the process that follows this file."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(_SECONDS.pack(seconds))
        if file.tell() == file.seek(0, 2):
            file.write(_TASKS.pack(0))


def tasks(path: Path) -> int:
    """Return how many tasks the process that follows this file had when they were counted last."""
    count: int = _TASKS.unpack_from(path.read_bytes(), _SECONDS.size)[0]
    return count


def main() -> None:
    """Replace the clock before anything else is imported, and run the command."""
    with open(sys.argv[1], "r+b") as file:  # noqa: PTH123  pathlib is part of what follows
        ahead = mmap.mmap(file.fileno(), _SECONDS.size + _TASKS.size)
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + _SECONDS.unpack_from(ahead)[0]
    time.time_ns = lambda: true_ns() + int(_SECONDS.unpack_from(ahead)[0] * 1e9)
    _count_tasks(ahead)
    del sys.argv[1], sys.path[0]  # where modules of the faults would hide others
    runpy.run_module("collector", run_name="__main__", alter_sys=True)


def _count_tasks(shared: mmap.mmap) -> None:
    """Count the tasks of the event loop that runs, from now on."""
    run = asyncio.Runner.run

    def running(runner: asyncio.Runner, *args: Any, **options: Any) -> Any:
        threading.Thread(target=count, args=(runner.get_loop(),), daemon=True).start()
        return run(runner, *args, **options)

    def count(loop: asyncio.AbstractEventLoop) -> None:
        while not loop.is_closed():
            _TASKS.pack_into(shared, _SECONDS.size, len(asyncio.all_tasks(loop)))
            time.sleep(1.0)

    asyncio.Runner.run = running  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
