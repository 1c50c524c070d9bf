"""Runs gpuid with a clock that can be set: `python shifted.py FILE run …`; FILE has how many seconds it is ahead.

Once a second, FILE.tasks gets how many tasks of each name there are in the main thread's event loop. When it is asked,
FILE.memory gets what memory is in use after a full collection of garbage.
"""

import asyncio
import ctypes
import gc
import json
import mmap
import os
import runpy
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["memory", "set_ahead", "tasks"]

_SECONDS = struct.Struct("<d")
_NUMBER = struct.Struct("<I")  # of the request to measure memory, after the seconds
_MOST_BYTES = 1 << 15  # of the names of tasks


def set_ahead(path: Path, seconds: float) -> None:
    """Set the clock of the process that follows this file."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(_SECONDS.pack(seconds))
        file.truncate(_SECONDS.size + _NUMBER.size)


def memory(path: Path, number: int) -> Callable[[], dict[str, int] | None]:
    """Have the process that follows this file measure its memory; returns how to ask for what it has found."""
    with path.open("r+b") as file:
        file.seek(_SECONDS.size)
        file.write(_NUMBER.pack(number))

    def answer() -> dict[str, int] | None:
        text = _of_memory(path).read_bytes() if _of_memory(path).exists() else b""
        found: dict[str, int] = json.loads(text) if text else {}
        return found if found.pop("number", None) == number else None

    return answer


def tasks(path: Path) -> dict[str, int]:
    """Return how many tasks of each name the process that follows this file had when they were counted last."""
    found: dict[str, int] = json.loads(_of_tasks(path).read_bytes())
    return found


def _of_tasks(path: Path) -> Path:
    return path.with_name(f"{path.name}.tasks")


def _of_memory(path: Path) -> Path:
    return path.with_name(f"{path.name}.memory")


def main() -> None:
    """Replace the clock before anything else is imported, and run the command."""
    with open(sys.argv[1], "r+b") as file:  # noqa: PTH123  pathlib is part of what follows
        ahead = mmap.mmap(file.fileno(), _SECONDS.size + _NUMBER.size)
    true, true_ns = time.time, time.time_ns
    time.time = lambda: true() + _SECONDS.unpack_from(ahead)[0]
    time.time_ns = lambda: true_ns() + int(_SECONDS.unpack_from(ahead)[0] * 1e9)
    followed = Path(sys.argv[1])
    tasks_file, memory_file = (
        os.open(path, os.O_WRONLY | os.O_CREAT, 0o600) for path in (_of_tasks(followed), _of_memory(followed))
    )
    _observe(tasks_file, memory_file, lambda: int(_NUMBER.unpack_from(ahead, _SECONDS.size)[0]))
    del sys.argv[1], sys.path[0]  # where modules of the faults would hide others
    runpy.run_module("collector", run_name="__main__", alter_sys=True)


def _observe(tasks_file: int, memory_file: int, asked: Callable[[], int]) -> None:
    """Observe the first event loop that runs, which is the main thread's, from now on."""
    run = asyncio.Runner.run
    statm = os.open("/proc/self/statm", os.O_RDONLY)  # now: later there may be no descriptor left
    library = ctypes.CDLL(None)

    def running(runner: asyncio.Runner, *args: Any, **options: Any) -> Any:
        asyncio.Runner.run = run  # type: ignore[method-assign]
        threading.Thread(target=observe, args=(runner.get_loop(),), daemon=True).start()
        return run(runner, *args, **options)

    def observe(loop: asyncio.AbstractEventLoop) -> None:
        answered = asked()
        while not loop.is_closed():
            names = Counter(one.get_name().partition("-")[0] for one in asyncio.all_tasks(loop))
            write(tasks_file, names)
            if (number := asked()) != answered:
                write(memory_file, {"number": number, **measured()})
                answered = number
            time.sleep(1.0)

    def measured() -> dict[str, int]:
        gc.unfreeze()
        gc.collect()
        library.malloc_trim(0)
        pages = int(os.pread(statm, 100, 0).split()[1])
        return {"bytes of memory": pages * mmap.PAGESIZE, "blocks of memory": sys.getallocatedblocks()}

    def write(file: int, value: Mapping[str, int]) -> None:
        os.pwrite(file, json.dumps(value).encode().ljust(_MOST_BYTES), 0)  # one write: no reader sees half of it

    asyncio.Runner.run = running  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
