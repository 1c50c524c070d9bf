"""What API servers send."""

from collections.abc import Coroutine
from typing import Any, TypeVar, cast
from unittest import mock

import msgspec
from aiohttp import WSMessage, WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.http import WebSocketReader
from aiohttp.streams import EofStream
from hypothesis import strategies as st

from collector.backoff import parse_retry_after
from collector.collect.objects import decode_pod, node_decoder
from collector.collect.slice_watch import find_slice_api
from collector.collect.slices import SliceBook, decode_slice
from collector.config import ClusterSettings
from collector.kube import exec as pod_exec
from collector.kube import wire
from collector.kube.access import Right, is_granted
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError, from_answer
from collector.kube.exec import ExecError, Output
from collector.kube.lister import Resource, list_all
from collector.kube.token_request import create_token
from collector.kube.wire import MalformedError
from collector.redaction import Secrets
from tests.fuzz.documents import any_text, damaged, http_dates, json_documents, texts
from tests.fuzz.target import Target, Targets, bytes_target, refusing, text_target

__all__ = ["TARGETS", "Served", "finished"]

T = TypeVar("T")

META = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels", "continue")
POD = ("metadata", "spec", "status", "nodeName", "phase", "containerStatuses", "containerID", "ready", "restartCount")
NODE = ("providerID", "nodeInfo", "bootID", "capacity", "allocatable", "nvidia.com/gpu", "nvidia.com/gpu.replicas")
STATUS = ("kind", "status", "message", "reason", "details", "causes", "retryAfterSeconds", "code")

decode_node = node_decoder(["name", "nvidia.com/gpu.replicas"], with_own_labels=True)
bodies = json_documents(*STATUS, values=["Expired", "Gone", "ExitCode", "Success", "Failure", "1", "9" * 5000])
objects = json_documents(*META, *POD, *NODE, values=["8", "1Ki", "Running"])
raw_objects = objects.map(msgspec.Raw)


def _answer(given: tuple[int, bytes, str | None, str | None]) -> object:
    status, body, retry_after, location = given
    secrets = Secrets("hunter2-hunter2-hunter2")
    error = from_answer("https://host", status, body, retry_after, location=location, redact=secrets.redact)
    assert isinstance(error, ClusterError)
    assert str(error).isprintable()
    return error


answers = st.tuples(
    st.integers(300, 599) | st.sampled_from([302, 401, 403, 404, 410, 429, 503]),
    bodies,
    st.none() | texts | http_dates,
    st.none() | any_text | st.sampled_from(["http://[", "//x:y", "http://a@b@c", "http://[::1]]", "//\u2100"]),
)


def _lines(data: bytes) -> None:
    splitter = wire.LineSplitter(limit=64)
    for at in range(0, len(data), 7):
        for line in splitter.feed(data[at : at + 7]):
            wire.decode_event(line)


def _ended(body: bytes) -> None:
    code = pod_exec._exit_code(body)
    assert str(pod_exec._unsuccessful(code, Output(body, body[::-1]))).isprintable()


def _models(body: bytes) -> None:
    client = ApiClient.__new__(ApiClient)
    GeneratedConfiguration = type("Configuration", (), {"client_side_validation": True})  # noqa: N806
    client.configuration = GeneratedConfiguration()
    client.client_side_validation = True
    response = type("Response", (), {"data": body.decode(errors="replace")})()
    for kind in ("VersionInfo", "V1SelfSubjectReview", "V1SelfSubjectAccessReview"):
        with refusing(MalformedError):
            client.deserialize(response, kind)


SLICE = ("spec", "pool", "generation", "resourceSliceCount", "nodeName", "devices", "basic", "string")
ATTRIBUTES = ("attributes", "uuid", "type", "taints", "key", "effect", "resource.kubernetes.io/pciBusID")
slice_lists = st.lists(
    json_documents(*META, *SLICE, *ATTRIBUTES, values=["gpu", "NoSchedule", "gpu.nvidia.com/gpu-lost", "GPU-1"]),
    max_size=3,
)


def _slices(bodies: list[bytes]) -> None:
    reported: list[object] = []
    book = SliceBook(lambda *said: reported.append(said))
    kept = []
    for body in bodies:
        with refusing(MalformedError):
            kept.append(decode_slice(msgspec.Raw(body)))
            book.apply(None, kept[-1])
    for one in kept:
        book.apply(one, None)


class Served:
    """A client whose requests are all answered with the same bytes; nothing that it does waits."""

    def __init__(self, body: bytes = b"") -> None:
        self._body = body
        self.session = mock.Mock(host="https://host", cluster=ClusterSettings(name="x", context="x"))
        self.session.share.over.return_value = False
        self.session.share.clock.return_value = 0.0
        self.session.share.pause = _no_pause

    async def read(self, *_args: object, **_options: object) -> bytes:
        return self._body


async def _no_pause(_started: float) -> float:
    return 0.0


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    raise AssertionError("it waits")


def _asked(body: bytes) -> None:
    """Decode the answers to questions: what is served, what is allowed, which namespaces and objects there are."""
    client = cast("ApiClient", Served(body))
    method = mock.Mock()
    for ask in (
        lambda: find_slice_api(client),
        lambda: create_token(client, "gpuid", "gpuid", mock.Mock()),
        lambda: list_all(client, Resource(name="pods", method=method, decode=decode_pod)),
        lambda: list_all(client, Resource(name="nodes", method=method, decode=decode_node)),
    ):
        with refusing(ClusterError, MalformedError):
            finished(ask())
    assert finished(is_granted(client, Right("list", "pods"))) in {True, False, None}


LISTS = ("metadata", "items", "name", "resourceVersion", "spec", "status", "token", "allowed", "versions", "version")
asked = json_documents(*LISTS, "continue", "uid", "nodeName", values=["v1", "v1beta1", "pod-1"]) | st.sampled_from(
    [
        b'{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"n1"},"status":{"capacity":{"nvidia.com/gpu":"8"}}}]}',
        b'{"status":{"token":"x","expirationTimestamp":"2026-12-01T00:00:00Z"},"spec":{"audiences":["a"]}}',
        b'{"status":{"allowed":true}}',
        b'{"versions":[{"version":"v1"}]}',
    ]
).flatmap(damaged)


class _Socket:
    """A WebSocket whose frames have all arrived."""

    closed = False

    def __init__(self, frames: bytes, most: int) -> None:
        self._queue = WebSocketDataQueue(mock.Mock(_reading_paused=False), 1 << 16, loop=mock.Mock())
        self._reader = WebSocketReader(self._queue, most, compress=True, decode_text=True)
        self._reader.feed_data(frames)
        if self._queue.exception() is None:
            self._queue.feed_eof()

    async def receive(self, timeout: float | None = None) -> WSMessage:
        try:
            return cast("WSMessage", await self._queue.read())
        except EofStream:
            return WSMessage(WSMsgType.CLOSED, None, None)
        except Exception as error:  # as aiohttp does
            return WSMessage(WSMsgType.ERROR, error, None)

    async def pong(self, _data: bytes) -> None:
        return


def _frames(frames: bytes) -> None:
    """Whatever the frames of an exec are, what is kept of them has a limit, and its end is known or an error."""
    channels = pod_exec._Channels(64, ClusterSettings(name="x", context="x"))
    finished(pod_exec._receive(cast("Any", _Socket(frames, 66)), channels, cast("Any", Served().session.share)))
    assert sum(map(len, channels.stdout + channels.stderr)) <= 64
    assert (channels.excess or "x").isprintable()
    if not channels.excess and channels.status is not None:
        code = pod_exec._exit_code(channels.status)
        pod_exec._unsuccessful(code, Output(b"".join(channels.stdout), b"".join(channels.stderr)))


def _frame(message: bytes, kind: int = 2, *, last: bool = True) -> bytes:
    head = bytes([kind | 0x80 * last])
    size = len(message)
    return head + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")) + message


frames = st.lists(
    st.builds(
        lambda channel, data, kind, last: _frame(channel + data, kind, last=last),
        st.sampled_from([b"\x01", b"\x02", b"\x03", b"\x04", b"\xff", b""]),
        st.binary(max_size=70)
        | st.sampled_from([b'{"status":"Success"}', b'{"status":"Failure","details":{"causes":[]}}']),
        st.sampled_from([0, 1, 2, 2, 2, 8, 9, 10, 3, 0x42]),
        st.booleans(),
    ),
    max_size=6,
).map(b"".join)

TARGETS: Targets = {
    "answer": Target(_answer, answers),
    "page": bytes_target(wire.decode_page, json_documents("metadata", "items", *META), MalformedError),
    "event": bytes_target(wire.decode_event, json_documents("type", "object", *META), MalformedError),
    "version": bytes_target(lambda body: wire.decode_version(msgspec.Raw(body)), objects, MalformedError),
    "status": bytes_target(lambda body: wire.decode_status(msgspec.Raw(body)), bodies, MalformedError),
    "watch": bytes_target(_lines, json_documents("type", "object").map(lambda body: body + b"\n"), MalformedError),
    "pod": bytes_target(lambda body: decode_pod(msgspec.Raw(body)), objects, MalformedError),
    "node": bytes_target(lambda body: decode_node(msgspec.Raw(body)), objects, MalformedError),
    "slice": Target(_slices, slice_lists),
    "model": bytes_target(_models, json_documents("status", "gitVersion", "userInfo", "username", "allowed", "spec")),
    "questions": bytes_target(_asked, asked),
    "frames": bytes_target(_frames, frames, ExecError),
    "exec": bytes_target(_ended, bodies, ExecError),
    "retry-after": text_target(lambda text: parse_retry_after(text, 0.0), texts | http_dates | any_text),
}
