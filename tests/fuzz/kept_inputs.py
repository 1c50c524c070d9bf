"""The kept inputs: those which reach code that no other one reaches, and those that once found a fault.

A file for each target, with one Python literal a line.
"""

import ast
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["CORPUS", "FIELD", "Coverage", "kept", "smallest", "write"]

CORPUS = Path(__file__).parent / "corpus"
FIELD = os.sep + "collector" + os.sep  # in the path of the code that is measured
MAX_LITERAL_LENGTH = 1500

Lines = set[tuple[Any, int]]


def kept(name: str) -> list[Any]:
    """Return the kept inputs of a target."""
    file = CORPUS / f"{name}.txt"
    return [ast.literal_eval(line) for line in file.read_text().splitlines()] if file.exists() else []


def write(name: str, inputs: list[Any]) -> None:
    """Keep these inputs of a target, and no others."""
    CORPUS.mkdir(exist_ok=True)
    lines = sorted({ascii(one) for one in inputs}, key=lambda line: (len(line), line))
    (CORPUS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


class Coverage:
    """The lines of the collector that inputs have reached so far."""

    def __init__(self) -> None:
        self._seen: Lines = set()
        self._new = False
        self._measured: dict[Any, bool] = {}

    def __len__(self) -> int:
        """Return how many lines were reached."""
        return len(self._seen)

    def reaches_more(self, run: Callable[[], None]) -> bool:
        """Run something and return whether it reached a line that nothing reached before."""
        self._new = False
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            run()
        finally:
            sys.settrace(before)
        return self._new

    def _call(self, frame: FrameType, _event: str, _value: Any) -> Any:
        code = frame.f_code
        if (measured := self._measured.get(code)) is None:
            measured = self._measured[code] = FIELD in code.co_filename
        return self._line if measured else None

    def _line(self, frame: FrameType, event: str, _value: Any) -> Any:
        if event == "line" and (at := (frame.f_code, frame.f_lineno)) not in self._seen:
            self._seen.add(at)
            self._new = True
        return self._line


def smallest(inputs: list[Any], run: Callable[[Any], None]) -> Iterator[Any]:
    """Yield those inputs that reach more lines than the shorter ones before them."""
    coverage = Coverage()
    for one in sorted(inputs, key=lambda value: len(repr(value))):
        if len(repr(one)) <= MAX_LITERAL_LENGTH and _is_literal(one) and coverage.reaches_more(partial(run, one)):
            yield one


def _is_literal(value: Any) -> bool:
    """Return whether a value can be written as a literal: infinity and NaN cannot."""
    try:
        ast.literal_eval(ascii(value))
    except ValueError:
        return False
    return True
