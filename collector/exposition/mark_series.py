"""Keeps the series of marked GPUs ready as compressed text, which is rendered when a mark or its GPU changes."""

import time
from collections.abc import Callable, Iterable

import anyio
import anyio.to_thread

from collector.exposition.families import render_marks
from collector.exposition.shards import DeflatedText, compressed
from collector.marks import NO_MARKS, MarkedGpu, Marks

__all__ = ["MarkSeries"]

_LOOK_SLICE_SECONDS = 0.005  # between two turns of the event loop
_LOOKS_BETWEEN_CLOCKS = 100

MarkedGpus = Callable[[float], Iterable[MarkedGpu]]  # at a time (Unix seconds)


class MarkSeries:
    """The series of marked GPUs; a mark that lacks a serial or UUID takes it from the inventory."""

    def __init__(self) -> None:
        self._marks: Marks = NO_MARKS
        self._marked: MarkedGpus = lambda _now: ()
        self._clock: Callable[[], float] = time.time
        self._inventory = 0  # the number of its changes
        self._rendered_for: tuple[int, int, int] | None = None
        self._gpus: list[MarkedGpu] = []
        self._text = compressed(b"")
        self._lock = anyio.Lock()

    def register(self, marks: Marks, marked: MarkedGpus, clock: Callable[[], float] = time.time) -> None:
        """Publish these marks; `marked` returns their GPUs, with what the inventory knows about them."""
        self._marks, self._marked, self._clock = marks, marked, clock

    def inventory_changed(self) -> None:
        """Note that the inventory may know more or less about a marked GPU."""
        self._inventory += 1

    async def text(self) -> DeflatedText:
        """Return the family with its header; empty without marks. Lets other tasks run."""
        async with self._lock:
            now = self._clock()
            current = self._marks.version, self._marks.expired(now), self._inventory if self._marks.incomplete else 0
            if current != self._rendered_for:
                gpus = await self._look(now)
                if gpus != self._gpus:
                    self._text = await anyio.to_thread.run_sync(lambda: compressed(render_marks(gpus)))
                    self._gpus = gpus
                self._rendered_for = current
            return self._text

    async def _look(self, now: float) -> list[MarkedGpu]:
        found: list[MarkedGpu] = []
        deadline = time.perf_counter() + _LOOK_SLICE_SECONDS
        for gpu in self._marked(now):
            found.append(gpu)
            if not len(found) % _LOOKS_BETWEEN_CLOCKS and time.perf_counter() > deadline:
                await anyio.lowlevel.checkpoint()
                deadline = time.perf_counter() + _LOOK_SLICE_SECONDS
        return found
