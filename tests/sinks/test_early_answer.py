"""Receivers that answer before they have read a batch, in threads of their own, heard on both event loops."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from collector.config import Duration
from collector.config.sinks import WebhookSettings
from collector.model import SinkRecord
from collector.sinks import Reason, TooLargeError, UnavailableError, open_sink
from tests.sinks.test_webhook import server_tls
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
MakeRecord = Callable[..., SinkRecord]
TIMES = 5

TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


class Receiver:
    """Accepts connections one after the other; `handle` gets each, with the request's headers and some of its body."""

    def __init__(self, handle: Callable[[socket.socket, bytes], None], tls: ssl.SSLContext | None) -> None:
        self.connections = 0
        self.closed = 0
        self.tunnels: list[bytes] = []
        self._handle = handle
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}/" if tls else f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with contextlib.suppress(OSError):
                    self._answer(connection)
                connection.close()
                self.closed += 1

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is not sent yet is lost by a reset
        if connection.recv(8, socket.MSG_PEEK) == b"CONNECT ":
            self.tunnels.append(read_head(connection))
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        if self._tls is None:
            self._handle(connection, read_head(connection))
            return
        with self._tls.wrap_socket(connection, server_side=True) as secured:
            self._handle(secured, read_head(secured))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def read_head(connection: socket.socket) -> bytes:
    """Return what has come when the headers are complete."""
    head = b""
    while b"\r\n\r\n" not in head:
        if not (part := connection.recv(2048)):
            raise ConnectionError("the client hung up")
        head += part
    return head


def read_body(connection: socket.socket, head: bytes) -> None:
    """Read the rest of a request."""
    (length,) = (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
    missing = length - len(head.partition(b"\r\n\r\n")[2])
    while missing > 0 and (part := connection.recv(min(missing, 65536))):
        missing -= len(part)


@contextlib.contextmanager
def receiving(handle: Callable[[socket.socket, bytes], None], tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    with Receiver(handle, tls) as receiver:
        yield receiver


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificates: Any) -> ssl.SSLContext | None:
    return server_tls(certificates) if request.param else None


@pytest.fixture
async def sink_to(certificates: Any) -> Any:
    async with contextlib.AsyncExitStack() as stack:

        def make(url: str, **settings: Any) -> Any:
            if url.startswith("https"):
                settings["ca_file"] = certificates.ca
            sink = open_sink("hook", WebhookSettings(url=url, **settings))
            stack.push_async_callback(sink.aclose)
            return sink

        yield make


def batch(record: MakeRecord) -> list[SinkRecord]:
    """Return some megabytes, more than the buffers of a connection take."""
    return [record(number) for number in range(30_000)]


async def test_an_answer_before_a_reset_is_always_read(
    tls: ssl.SSLContext | None, sink_to: Any, record: MakeRecord
) -> None:
    def handle(connection: socket.socket, _: bytes) -> None:
        connection.sendall(TOO_LARGE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    records = batch(record)
    with receiving(handle, tls) as receiver:
        sink = sink_to(receiver.url)
        for _ in range(TIMES):
            with pytest.raises(TooLargeError, match=r"answered 413: too large$"):
                await sink.send(records, key="k")
        await sink.aclose()
    assert receiver.connections == TIMES  # none had to be repeated


async def test_an_answer_without_reading_the_rest_is_read(
    tls: ssl.SSLContext | None, sink_to: Any, record: MakeRecord
) -> None:
    done = threading.Event()

    def handle(connection: socket.socket, _: bytes) -> None:
        connection.sendall(TOO_LARGE)
        done.wait(60)

    with receiving(handle, tls) as receiver:
        with pytest.raises(TooLargeError, match=r"answered 413: too large$"):
            await sink_to(receiver.url).send(batch(record), key="k")
        done.set()


async def test_a_receiver_answering_before_reading_gets_the_batch(
    tls: ssl.SSLContext | None, sink_to: Any, record: MakeRecord
) -> None:
    def handle(connection: socket.socket, head: bytes) -> None:
        connection.sendall(ACCEPTED)
        read_body(connection, head)
        second = read_head(connection)
        read_body(connection, second)
        connection.sendall(ACCEPTED)

    with receiving(handle, tls) as receiver:
        sink = sink_to(receiver.url)
        await sink.send(batch(record), key="k")
        await sink.send([record()], key="l")
        await sink.aclose()
    assert receiver.connections == 1


async def test_an_answer_followed_by_another_is_ignored(sink_to: Any, record: MakeRecord) -> None:
    waiting = threading.Event()

    def handle(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
        waiting.wait(1.5)  # longer than there is after an answer of 2xx
        read_body(connection, head)
        connection.sendall(ACCEPTED)

    with receiving(handle) as receiver:
        await sink_to(receiver.url).send(batch(record), key="k")


async def test_a_connection_closed_without_an_answer_is_retried(
    tls: ssl.SSLContext | None, sink_to: Any, record: MakeRecord
) -> None:
    def handle(connection: socket.socket, _: bytes) -> None:
        pass

    with receiving(handle, tls) as receiver:
        sink = sink_to(receiver.url)
        with pytest.raises(UnavailableError, match="connection") as caught:
            await sink.send(batch(record), key="k")
        await sink.aclose()
    assert caught.value.reason is Reason.CONNECTION
    assert receiver.connections == 4


async def test_a_200_for_half_a_batch_delivers_nothing(
    tls: ssl.SSLContext | None, sink_to: Any, record: MakeRecord
) -> None:
    done = threading.Event()

    def handle(connection: socket.socket, _: bytes) -> None:
        connection.sendall(ACCEPTED)
        done.wait(60)

    with receiving(handle, tls) as receiver:
        with pytest.raises(UnavailableError, match="responded with 202 before reading the whole batch"):
            await sink_to(receiver.url).send(batch(record), key="k")
        done.set()


async def test_a_short_write_timeout_does_not_hide_an_answer(sink_to: Any, record: MakeRecord) -> None:
    done = threading.Event()

    def handle(connection: socket.socket, _: bytes) -> None:
        connection.sendall(ACCEPTED)
        done.wait(60)

    with receiving(handle) as receiver:
        with pytest.raises(UnavailableError, match="responded with 202 before"):
            await sink_to(receiver.url, write_timeout=Duration(0.3)).send(batch(record), key="k")
        done.set()


async def test_an_early_answer_is_read_through_a_tunnel(certificates: Any, sink_to: Any, record: MakeRecord) -> None:
    def handle(connection: socket.socket, _: bytes) -> None:
        connection.sendall(TOO_LARGE)

    with receiving(handle, server_tls(certificates)) as receiver:
        proxy = f"http://127.0.0.1:{receiver.port}"
        for _ in range(TIMES):
            with pytest.raises(TooLargeError):
                await sink_to(receiver.url, proxy=proxy).send(batch(record), key="k")
    assert receiver.connections == len(receiver.tunnels) == TIMES


async def test_a_connection_that_was_closed_meanwhile_is_replaced(
    tls: ssl.SSLContext | None, sink_to: Any, record: MakeRecord
) -> None:
    def handle(connection: socket.socket, head: bytes) -> None:
        read_body(connection, head)
        connection.sendall(ACCEPTED)

    with receiving(handle, tls) as receiver:
        sink = sink_to(receiver.url)
        for number in range(3):
            await sink.send([record(number)], key=str(number))
            await eventually(lambda: receiver.closed == receiver.connections)
        await sink.aclose()
    assert receiver.connections == 3
