"""Runs one command in one container over a WebSocket, and tells its output from how it ended."""

from collections.abc import Sequence

import aiohttp
import anyio
import msgspec

from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError, ServerError
from collector.model import GpuidError, ReadFailure
from collector.text import one_line

__all__ = ["ExecError", "Output", "run"]


class Output(msgspec.Struct, frozen=True):
    """All that a command printed that ended well."""

    stdout: bytes
    stderr: bytes


class ExecError(GpuidError):
    """A command could not be run, or its output not be had; `reason` is the label for it."""

    def __init__(self, reason: ReadFailure, text: str) -> None:
        super().__init__(text)
        self.reason = reason


async def run(
    session: ApiClient,
    namespace: str,
    pod: str,
    container: str,
    command: Sequence[str],
    *,
    timeout: float,
    limit: int,
) -> Output:
    """Run a command and wait for its end, `timeout` seconds at most; for its beginning the server has as many.

    `limit` is for stdout and stderr together, in bytes. Raises ExecFailure, also when the exit status is not 0.
    """
    params = [
        ("container", container),
        *(("command", word) for word in command),
        ("stdout", "true"),
        ("stderr", "true"),
    ]
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    channels = _Channels(limit)
    # What is left unread must not delay the end: a cancelled scope makes the WebSocket drop its connection.
    with anyio.CancelScope() as scope:
        try:
            async with session.websocket(path, params, _PROTOCOLS, timeout=timeout) as socket:
                scope.deadline = anyio.current_time() + timeout  # what came before may have been waiting of ours
                await _receive(socket, channels)
                if not socket.closed:
                    scope.cancel()
        except ClusterError as error:
            raise _refused(error) from error
    if channels.overflown:
        raise ExecError(ReadFailure.BAD_OUTPUT, f"the command printed more than {limit} bytes")
    if channels.status is not None:
        output = Output(b"".join(channels.stdout), b"".join(channels.stderr))
        if (code := _exit_code(channels.status)) != 0:
            raise _unsuccessful(code, output)
        return output
    if scope.cancelled_caught:
        raise ExecError(ReadFailure.TIMEOUT, f"the command did not end within {timeout:g} s")
    raise ExecError(ReadFailure.CONNECTION, "the connection closed before the command ended")


# The newest first. v5 adds only that a client may close its side of a stream, and there is no stdin to close.
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_STDOUT, _STDERR, _STATUS = 1, 2, 3

_LINGER = 1.0  # seconds that a server may take to close once it has told the exit status


class _Channels:
    """Sorts the messages of one exec; the first byte of each tells the channel."""

    def __init__(self, limit: int) -> None:
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] = []
        self.status: bytes | None = None
        self.overflown = False
        self._left = limit

    def take(self, message: bytes) -> None:
        if len(message) < 2:  # a server opens every channel with an empty message
            return
        channel, data = message[0], message[1:]
        if channel == _STATUS:
            self.status = data if self.status is None else self.status + data
            return
        if channel not in (_STDOUT, _STDERR):
            return
        self._left -= len(data)
        self.overflown = self._left < 0
        (self.stdout if channel == _STDOUT else self.stderr).append(data)


async def _receive(socket: aiohttp.ClientWebSocketResponse, channels: _Channels) -> None:
    """Sort messages until the server closes, which it does soon after the status."""
    while not channels.overflown:
        try:
            message = await socket.receive(timeout=None if channels.status is None else _LINGER)
        except TimeoutError:
            return
        if message.type is aiohttp.WSMsgType.BINARY:
            channels.take(message.data)
        elif message.type is aiohttp.WSMsgType.ERROR:
            channels.overflown = getattr(message.data, "code", None) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            return
        elif message.type is not aiohttp.WSMsgType.TEXT:  # a text is of no protocol that was offered
            return


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class _Ended(msgspec.Struct):
    """The Status that the error channel carries."""

    status: str = ""
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_DECODER = msgspec.json.Decoder(_Ended)


def _exit_code(status: bytes) -> int:
    """Read the exit status; raises ExecFailure where the command never ran, or nobody knows how it ended."""
    try:
        ended = _DECODER.decode(status)
        if ended.status == "Success":
            return 0
        causes = (ended.details.causes if ended.details else None) or ()
        code = next((int(cause.message) for cause in causes if cause.reason == "ExitCode"), None)
    except ValueError as error:
        raise ExecError(ReadFailure.CONNECTION, "the exit status is not understood") from error
    if code is None:
        message = one_line(ended.message or ended.reason or "no reason given", 300)
        raise ExecError(_meaning(message) or ReadFailure.CONNECTION, f"the command did not run: {message}")
    return code


def _unsuccessful(code: int, output: Output) -> ExecError:
    """Tell of an exit status that is not 0; 126 and 127 are a shell's words for a program that it cannot run."""
    reason = ReadFailure.NO_BINARY if code in (126, 127) else ReadFailure.EXIT_STATUS
    said = one_line((output.stderr.strip() or output.stdout)[:2000].decode(errors="replace"), 300)
    return ExecError(reason, f"the command ended with exit status {code}" + (f": {said}" if said else ""))


def _refused(error: ClusterError) -> ExecError:
    """Tell why an exec was not begun."""
    text = str(error)
    if isinstance(error, ForbiddenError):
        return ExecError(ReadFailure.FORBIDDEN, f"{text} (pods/exec needs the verbs get and create)")
    if isinstance(error, NotFoundError):
        return ExecError(_meaning(text) or ReadFailure.NOT_FOUND, text)
    if isinstance(error, ServerError):
        return ExecError(_meaning(text) or ReadFailure.CONNECTION, text)
    return ExecError(ReadFailure.CONNECTION, text)


# API servers, kubelets and container runtimes put what went wrong into prose only. First match wins.
_PROSE: tuple[tuple[ReadFailure, tuple[str, ...]], ...] = (
    (ReadFailure.NO_BINARY, ("executable file not found", "no such file or directory", ": permission denied")),
    (
        ReadFailure.NO_CONTAINER,
        (
            "container not found",
            "is not valid for pod",
            "no such container",
            "container not running",
            "is not running",
            "stopped container",
            "could not find container",
            "container is in container_exited state",
        ),
    ),
    (ReadFailure.NOT_FOUND, ("pod not found", "pod does not exist")),
)


def _meaning(text: str) -> ReadFailure | None:
    text = text.lower()
    return next((reason for reason, phrases in _PROSE if any(phrase in text for phrase in phrases)), None)
