"""Runs a command as kubectl runs its credential plugins: it ends when the process exits, not when its output closes.

An agent started by the command may hold its output open for long. asyncio's subprocesses wait for that, and uvloop's
let the command inherit copies of its pipes, so this module manages the pipes itself.
"""

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import anyio
import anyio.to_thread

__all__ = ["Ended", "run_command"]

STDOUT_GRACE_SECONDS = 2.0  # after a command with output exits, for children that hold its output open
MAX_POLL_SECONDS = 0.05  # between two checks whether a command has exited


class Ended(NamedTuple):
    """How a command ended."""

    code: int  # negative: the number of the signal that killed it
    stdout: bytes
    stderr: bytes  # the end of stderr
    overflowed: bool  # killed for too much output
    timed_out: bool  # killed after the timeout


async def run_command(
    command: Sequence[str], environment: Mapping[str, str], *, timeout: float, max_stdout: int, max_stderr: int
) -> Ended:
    """Run a command without input until it exits, for at most `timeout` seconds.

    Raises OSError and ValueError if it cannot be started. In any case, neither it nor its children are left running.
    """
    with _Pipe(max_stdout) as stdout, _Pipe(max_stderr) as stderr:
        start = functools.partial(
            subprocess.Popen,
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout.writer,
            stderr=stderr.writer,
            env=environment,
            start_new_session=True,
        )
        try:
            process = await anyio.to_thread.run_sync(start)
        finally:
            stdout.close_writer()
            stderr.close_writer()
        try:
            with anyio.move_on_after(timeout) as scope:
                async with anyio.create_task_group() as reading:
                    reading.start_soon(stdout.collect, reading.cancel_scope.cancel)
                    reading.start_soon(stderr.collect_end)
                    # A failure is final whatever was printed; after a success, a child may still print the output.
                    if await _end(process.pid):
                        with anyio.move_on_after(STDOUT_GRACE_SECONDS if stdout.content else None):
                            await stdout.ended.wait()
                    reading.cancel_scope.cancel()
            stderr.drain()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await _end(process.pid)
            code = process.wait()
        return Ended(code, bytes(stdout.content), bytes(stderr.content), stdout.overflowed, scope.cancelled_caught)


async def _end(pid: int) -> bool:
    """Wait until a process has exited, and return whether it succeeded, as far as known.

    It stays a zombie, so that its process group ID is not reused.
    """
    pause = 0.005
    with contextlib.suppress(ChildProcessError):  # none stays if we were started with SIGCHLD ignored
        while (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:  # noqa: ASYNC222  it returns at once
            await anyio.sleep(pause)
            pause = min(pause * 1.5, MAX_POLL_SECONDS)
        return ended.si_code == os.CLD_EXITED and ended.si_status == 0
    return True


class _Pipe:
    """The pipe of one output of a command, of which at most `limit` bytes are kept."""

    def __init__(self, limit: int) -> None:
        self.content = bytearray()
        self.ended = anyio.Event()
        self.overflowed = False
        self._limit = limit
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)

    async def collect(self, on_overflow: Callable[[], None]) -> None:
        """Read to the end; call `on_overflow` when the limit is exceeded."""
        while chunk := await self._read():
            self.content += chunk
            if len(self.content) > self._limit:
                self.overflowed = True
                on_overflow()
                return
        self.ended.set()

    async def collect_end(self) -> None:
        """Read to the end, and keep only the last part."""
        while chunk := await self._read():
            self._keep(chunk)

    def drain(self) -> None:
        """Read what is left in the pipe."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(16):  # a child that keeps printing must not block us
                self._keep(os.read(self._reader, 1 << 16))

    def close_writer(self) -> None:
        """Close our copy of the writing end."""
        if self.writer >= 0:
            os.close(self.writer)
        self.writer = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close_writer()
        os.close(self._reader)

    async def _read(self) -> bytes:
        await anyio.wait_readable(self._reader)
        return os.read(self._reader, 1 << 16)

    def _keep(self, chunk: bytes) -> None:
        self.content += chunk
        del self.content[: -self._limit]
