"""A command on a real terminal: a pseudo-terminal of a given size, and what was written to it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from typing import Self


class Terminal:
    """`python -m collector ARGS` with standard output and error on one terminal; killed at the end of the block."""

    def __init__(self, *args: object, env: Mapping[str, str] = {}, columns: int = 200, keys: bool = False) -> None:
        self.text = ""
        self._read_end, write_end = pty.openpty()
        fcntl.ioctl(write_end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        own = {
            name: value for name, value in os.environ.items() if not name.startswith("GPUID_") and name != "NO_COLOR"
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "collector", *map(str, args)],
            stdin=write_end if keys else subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            env=own | {"TERM": "xterm-256color"} | dict(env),
        )
        os.close(write_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._read_end)

    def press(self, keys: str) -> None:
        """Send keys to a command that reads them."""
        os.write(self._read_end, keys.encode())

    def until(self, text: str, seconds: float = 60) -> str:
        """Read on until this text has been written, and return what came up to here."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < deadline, f"{text!r} was not written: {self.text[-2000:]!r}"
            if not self._read(1.0):
                assert text in self.text, f"the command ended without {text!r}: {self.text[-2000:]!r}"
        return self.text

    def end(self, seconds: float = 60) -> int:
        """Read on until the command ends, and return its exit code."""
        deadline = time.monotonic() + seconds
        while self._read(1.0):
            assert time.monotonic() < deadline, f"the command did not end: {self.text[-2000:]!r}"
        return self.process.wait(timeout=seconds)

    def _read(self, seconds: float) -> bool:
        """Read what there is; False at the end."""
        if not select.select([self._read_end], [], [], seconds)[0]:
            return True
        try:
            written = os.read(self._read_end, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            return False
        self.text += written.decode(errors="replace")
        return bool(written)
