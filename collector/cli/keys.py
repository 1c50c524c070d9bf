"""Reads single keys from a terminal without waiting for a whole line."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

__all__ = ["Keys", "keys_in"]

_ESCAPE = b"\x1b"
# Terminal sequences of named keys; arrows have a second form in application mode.
_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
}
_MAX_SEQUENCE_LENGTH = 16  # most bytes of an escape sequence
_MAX_READ_BYTES = 1024


class Keys:
    """The keys pressed within the block; none if standard input is not a terminal."""

    def __init__(self) -> None:
        self._rest = b""
        self._settings: Any = None

    def __enter__(self) -> Self:
        """Have keys delivered immediately and without echo."""
        if sys.stdin is not None and sys.stdin.isatty():
            import termios
            import tty

            descriptor = sys.stdin.fileno()
            self._settings = termios.tcgetattr(descriptor)
            tty.setcbreak(descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""
        if self._settings is not None:
            import termios

            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._settings)

    def pressed(self, seconds: float) -> list[str]:
        """Return the keys that were pressed, waiting for the first one at most this long."""
        if self._settings is None:
            select.select([], [], [], seconds)
            return []
        descriptor = sys.stdin.fileno()
        if not select.select([descriptor], [], [], seconds)[0]:
            self._rest = b""  # an escape key by itself
            return []
        try:
            read = os.read(descriptor, _MAX_READ_BYTES)
        except OSError:  # the terminal is gone
            read = b""
        if not read:
            return ["q"]
        found, self._rest = keys_in(self._rest + read)
        return found


def keys_in(text: bytes) -> tuple[list[str], bytes]:
    """Return the keys in a terminal's input, and the start of an escape sequence that is still incomplete."""
    return list(_keys(text)), _unfinished(text)


def _keys(text: bytes) -> Iterator[str]:
    at = 0
    while at < len(text):
        if text[at : at + 1] != _ESCAPE:
            yield text[at : at + 1].decode(errors="replace")
            at += 1
            continue
        end = _end(text, at)
        if end is None:
            return
        if (name := _SEQUENCES.get(text[at:end])) is not None:
            yield name
        at = end


def _unfinished(text: bytes) -> bytes:
    at = 0
    while at < len(text):
        end = _end(text, at) if text[at : at + 1] == _ESCAPE else at + 1
        if end is None:
            return text[at:]
        at = end
    return b""


def _end(text: bytes, start: int) -> int | None:
    """Return where an escape sequence ends; None if it is incomplete."""
    kind = text[start + 1 : start + 2]
    if not kind:
        return None
    if kind == b"O":
        return start + 3 if len(text) > start + 2 else None
    if kind != b"[":
        return start + 1  # an escape key by itself, before another key
    for at in range(start + 2, min(len(text), start + _MAX_SEQUENCE_LENGTH)):
        if 0x40 <= text[at] <= 0x7E:
            return at + 1
    return None if len(text) < start + _MAX_SEQUENCE_LENGTH else start + 1
