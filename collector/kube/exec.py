"""Runs one command in one container over a WebSocket, and returns its output and exit status.

The library's own client mixes stdout with stderr, so a warning corrupts a document, and drops the exit status, so a
failed command looks like a successful one.
"""

from collections.abc import Sequence

import aiohttp
import anyio
import msgspec
from kubernetes_asyncio.client import CoreV1Api

from collector.config import ClusterSettings
from collector.kube.client import ApiClient
from collector.kube.errors import UNDECODABLE, ClusterError, ForbiddenError, NotFoundError, ServerError
from collector.kube.limits import LoopShare
from collector.kube.secrets import redacts_errors
from collector.model import ReadError, ReadFailure
from collector.redaction import redact

__all__ = ["ExecError", "Output", "run"]

# Newest first. v5 only adds that a client may close its side of a stream, and there is no stdin to close.
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDOUT_CHANNEL, _STDERR_CHANNEL, _STATUS_CHANNEL = 1, 2, 3
CLOSE_TIMEOUT_SECONDS = 1.0  # for the server to close after sending the exit status
MAX_STATUS_BYTES = 64 << 10  # size limit of the exit status, a short JSON object
MESSAGE_SECONDS = 2e-6  # event loop time to deliver a message

# API servers, kubelets and container runtimes report the cause as text only. The first match wins.
_PHRASES: tuple[tuple[ReadFailure, tuple[str, ...]], ...] = (
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
# What runc prints right before the cause. With the prefixes of the runtimes above it, that is 250 characters in.
_PREAMBLES = ("unable to start container process: ", "starting container process caused: ")


class Output(msgspec.Struct, frozen=True):
    """The output of a command."""

    stdout: bytes
    stderr: bytes


class ExecError(ReadError):
    """A command could not be run, or its output could not be read.

    `output` is the output of a command with a non-zero `exit_status`.
    """

    def __init__(
        self, reason: ReadFailure, text: str, *, exit_status: int | None = None, output: Output | None = None
    ) -> None:
        super().__init__(reason, text)
        self.exit_status = exit_status
        self.output = output


@redacts_errors
async def run(
    client: ApiClient,
    namespace: str,
    pod: str,
    container: str,
    command: Sequence[str],
    *,
    timeout: float,
    limit: int,
) -> Output:
    """Run a command and wait for it to exit, for at most `timeout` seconds; the handshake may take as long again.

    `limit` applies to everything the server sends, in bytes; the cluster's settings may set a lower one, and also limit
    the number of frames. Raises ExecError, also for a non-zero exit status.
    """
    cluster, share = client.session.cluster, client.session.share
    channels = _Channels(limit, cluster)
    with anyio.CancelScope() as scope:
        try:
            async with client.websocket(
                CoreV1Api(client).connect_get_namespaced_pod_exec,
                pod,
                namespace,
                container=container,
                command=list(command),
                stdout=True,
                stderr=True,
                protocols=_PROTOCOLS,
                timeout=timeout,
                max_message_size=channels.max_size + 2,  # the channel number, and the first byte over the limit
            ) as socket:
                scope.deadline = anyio.current_time() + timeout  # waiting for our own limiters does not count
                await _receive(socket, channels, share)
                socket.abort()  # the server expects nothing more, and unread output must not delay the end
        except ClusterError as error:
            raise _refused(error) from error
    if channels.excess:
        raise ExecError(ReadFailure.BAD_OUTPUT, channels.excess)
    if channels.status is not None:
        output = Output(b"".join(channels.stdout), b"".join(channels.stderr))
        if (code := _exit_code(channels.status)) != 0:
            raise _unsuccessful(code, output)
        return output
    if scope.cancelled_caught:
        raise ExecError(ReadFailure.TIMEOUT, f"the command timed out after {timeout:g} s")
    raise ExecError(ReadFailure.CONNECTION, "the connection closed before the command exited")


class _Channels:
    """Sorts the messages of one exec by channel, their first byte, and counts them."""

    def __init__(self, limit: int, cluster: ClusterSettings) -> None:
        self.max_size = min(limit, cluster.max_exec_size)
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] = []
        self.excess = ""  # which limit was exceeded
        self._status: list[bytes] = []
        self._status_size = 0
        self._cluster = cluster
        self._size = self._messages = 0

    @property
    def status(self) -> bytes | None:
        """The exit status as sent; None before it begins."""
        return b"".join(self._status) if self._status else None

    @property
    def ending(self) -> bool:
        """Whether the exit status has begun."""
        return bool(self._status)

    def count(self) -> None:
        """Count a message of any kind, including pings and empty ones."""
        self._messages += 1
        if self._messages > self._cluster.max_exec_frames:
            self.excess = f"the server sent more than {self._cluster.max_exec_frames:,} frames (max_exec_frames)"

    def take(self, message: bytes) -> None:
        """Keep the data of a message on a known channel; data on other channels still counts."""
        if len(message) < 2:  # servers open every channel with an empty message
            return
        channel, data = message[0], message[1:]
        if channel == _STATUS_CHANNEL:
            self._status_size += len(data)
            if self._status_size > MAX_STATUS_BYTES:
                self.excess = f"the server sent an exit status of more than {MAX_STATUS_BYTES} bytes"
            self._status.append(data)
            return
        self._size += len(data)
        if self._size > self.max_size:
            self.note_too_large()
        elif channel in (_STDOUT_CHANNEL, _STDERR_CHANNEL):
            (self.stdout if channel == _STDOUT_CHANNEL else self.stderr).append(data)

    def note_too_large(self) -> None:
        """Record that the limit of bytes was exceeded."""
        configured = self._cluster.max_exec_size
        limit = f"{configured} (max_exec_size)" if self.max_size == configured else f"{self.max_size} bytes"
        self.excess = f"the command printed more than {limit}"


async def _receive(socket: aiohttp.ClientWebSocketResponse, channels: _Channels, share: LoopShare) -> None:
    """Receive messages until the server closes, which it should do soon after the status."""
    while not channels.excess:
        try:
            message = await socket.receive(timeout=CLOSE_TIMEOUT_SECONDS if channels.ending else None)
        except TimeoutError:
            return
        started = share.clock() - MESSAGE_SECONDS
        channels.count()
        if message.type is aiohttp.WSMsgType.BINARY:
            channels.take(message.data)
        elif message.type is aiohttp.WSMsgType.PING:
            try:
                await socket.pong(message.data)
            except (aiohttp.ClientError, OSError):  # the connection has just ended
                return
        elif message.type is aiohttp.WSMsgType.ERROR:
            if getattr(message.data, "code", None) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                channels.note_too_large()
            return
        elif message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PONG):  # meaningless here
            return
        await share.pause(started)


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


_ENDED_DECODER = msgspec.json.Decoder(_Ended)


def _number(text: str) -> int:
    """Return a decimal number of a few ASCII digits; raises ValueError."""
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 12):
        raise ValueError(text)
    return int(text)


def _exit_code(status: bytes) -> int:
    """Return the exit status; raises ExecError if the command never ran or its status is unknown."""
    try:
        ended = _ENDED_DECODER.decode(status)
        if ended.status == "Success":
            return 0
        causes = (ended.details.causes if ended.details else None) or ()
        code = next((_number(cause.message) for cause in causes if cause.reason == "ExitCode"), None)
    except UNDECODABLE as error:
        raise ExecError(ReadFailure.CONNECTION, "cannot read the exit status") from error
    if code is None:
        message = _cause(ended.message or ended.reason or "no reason given")
        text = f"the command did not run: {redact(message, 300)}"
        raise ExecError(_reason_in(message) or ReadFailure.CONNECTION, text)
    return code


def _cause(message: str) -> str:
    """Return a message without the preamble of the container runtimes, if it has one."""
    for preamble in _PREAMBLES:
        message = message.rpartition(preamble)[2] or message
    return message


def _unsuccessful(code: int, output: Output) -> ExecError:
    """Return the error for a non-zero exit status; shells use 126 and 127 for a program that they cannot run."""
    reason = ReadFailure.NO_BINARY if code in (126, 127) else ReadFailure.EXIT_STATUS
    printed = redact((output.stderr.strip() or output.stdout)[:2000].decode(errors="replace"), 300)
    text = f"the command exited with status {code}" + (f": {printed}" if printed else "")
    return ExecError(reason, text, exit_status=code, output=output)


def _refused(error: ClusterError) -> ExecError:
    """Return the error for an exec that did not start."""
    text = str(error)
    if isinstance(error, ForbiddenError):
        if not error.by_admission:
            text += " (pods/exec needs the verbs get and create)"
        return ExecError(ReadFailure.FORBIDDEN, text)
    if isinstance(error, NotFoundError):
        return ExecError(_reason_in(text) or ReadFailure.NOT_FOUND, text)
    if isinstance(error, ServerError):
        return ExecError(_reason_in(text) or ReadFailure.CONNECTION, text)
    return ExecError(ReadFailure.CONNECTION, text)


def _reason_in(text: str) -> ReadFailure | None:
    text = text.lower()
    return next((reason for reason, phrases in _PHRASES if any(phrase in text for phrase in phrases)), None)
