"""Programs that tests start: free ports for them, waiting for what they answer, and their sure end."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["Process", "free_ports", "until"]


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 in a row that nobody listens on, none handed out twice.

    They are below those that the system gives to whoever asks for any port, or to outgoing connections: one of these
    could be somebody else's by the time it is used.
    """
    while True:
        first = random.randrange(16_000, 32_000)
        ports = range(first, first + count)
        if _handed_out.isdisjoint(ports) and all(map(_free, ports)):
            _handed_out.update(ports)
            return list(ports)


def _free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_handed_out: set[int] = set()


def until(answer: Callable[[], object], expected: object, *, seconds: float = 60) -> None:
    """Ask again and again until the answer is the expected one; fails with the last one."""
    deadline = time.monotonic() + seconds
    while (last := answer()) != expected:
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s the answer is still {last!r}, not {expected!r}")
        time.sleep(0.1)


class Process:
    """A program of the test: its output is in a file, and it ends with the test run, however that ends."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] = {}) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self.env = {**os.environ, **env}
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, once more if it was stopped."""
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if (setpriv := shutil.which("setpriv")) else []
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*guard, *self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._popen is not None
        self._popen.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 10) -> int | None:
        """End it, at the latest by force, and return its exit status; None if it never ran."""
        if self._popen is None:
            return None
        self._popen.send_signal(number)
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    @property
    def running(self) -> bool:
        """False once it has ended."""
        return self._popen is not None and self._popen.poll() is None

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
