"""The stdout sink: one JSON object per line."""

import os
import select
import stat
from collections.abc import Sequence

import anyio
import anyio.from_thread
import anyio.to_thread

from collector.model import SinkRecord
from collector.redaction import Secrets
from collector.sinks.errors import Reason, UnavailableError
from collector.sinks.formats import json_lines
from collector.text import describe_os_error

__all__ = ["StdoutSink"]

_POLL_MILLISECONDS = 100  # between two checks whether the write was cancelled
_LINE_FEED = 10


class StdoutSink:
    """Writes to a file descriptor in a thread, so that a full pipe blocks only this sink."""

    def __init__(self, name: str, descriptor: int = 1) -> None:
        self.secrets = Secrets()  # it has none
        self._name = name
        self._descriptor = descriptor
        self._lock = anyio.Lock()
        self._rest_of_line = b""  # the rest of a line left unfinished by a cancelled or failed write

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:  # noqa: ARG002  a stream has no keys
        """Write the lines; a repeated batch is written again."""
        async with self._lock:
            await anyio.to_thread.run_sync(self._write, json_lines(records))

    async def check(self) -> str:
        """Return what kind of file the descriptor is, without writing to it."""
        try:
            mode = os.fstat(self._descriptor).st_mode
        except OSError as error:
            raise self._map_error(error) from None
        kinds = {"a pipe": stat.S_ISFIFO, "a file": stat.S_ISREG, "a socket": stat.S_ISSOCK, "a device": stat.S_ISCHR}
        return "writes to " + next((kind for kind, holds in kinds.items() if holds(mode)), "standard output")

    async def aclose(self) -> None:
        """Do nothing: the descriptor belongs to the process."""

    def _write(self, lines: bytes) -> None:
        # A write of PIPE_BUF bytes after POLLOUT never blocks, so cancellation is noticed between two of them. Up to
        # that size it is atomic: neither a log line on the same pipe nor the end of the process splits a line.
        data, written = memoryview(self._rest_of_line + lines), 0
        poll = select.poll()
        try:
            poll.register(self._descriptor, select.POLLOUT)
            while written < len(data):
                anyio.from_thread.check_cancelled()
                if poll.poll(_POLL_MILLISECONDS):
                    written += os.write(self._descriptor, _next_write(data[written:]))
        except OSError as error:
            raise self._map_error(error) from None
        finally:
            if written:
                whole = data[written - 1] == _LINE_FEED
                self._rest_of_line = b"" if whole else bytes(data[written:]).partition(b"\n")[0] + b"\n"

    def _map_error(self, error: OSError) -> UnavailableError:
        text = describe_os_error(error, "write failed")
        return UnavailableError(f"sinks.{self._name}: standard output: {text}", Reason.CONNECTION)


def _next_write(data: memoryview) -> memoryview:
    """Return the first lines that fit into one atomic write, or the start of a line that does not."""
    start = bytes(data[: select.PIPE_BUF])
    return data[: start.rfind(b"\n") + 1 or select.PIPE_BUF]
