"""What proxies and receivers send over a connection, whenever they send it and wherever they hang up."""

import contextlib
import re
import socket
from typing import Any
from unittest import mock

import httpcore
from hypothesis import strategies as st
from python_socks.async_.asyncio import _proxy
from yarl import URL

from collector import socks
from collector.config.sinks import WebhookSettings
from collector.model import SinkRecord
from collector.sinks import SinkError
from collector.sinks.early_answer import Transport, _Socket, _Stream
from collector.sinks.formats import json_array
from collector.sinks.webhook import WebhookSink
from collector.tls import client_context
from tests.fuzz.documents import damaged
from tests.fuzz.running import finish, peer_of
from tests.fuzz.target import Target, Targets, check_message

__all__ = ["TARGETS"]

MAX_ANSWER_BYTES = 8192  # fits into the buffer of a socket
LARGE = b"x" * (1 << 20)  # does not
PASSWORD = "S3cr3tS3cr3t0123"
RECORD = SinkRecord(
    cluster="prod",
    node="n1",
    machine="m",
    source="p",
    chassis="",
    gpu="1",
    time="2026-11-27T00:00:00Z",
    uuid="GPU-1",
    model="",
    event="moved",
)


def _socks(given: tuple[bytes, bool]) -> None:
    """There is a connection if a proxy says so in SOCKS5, and then nothing of what follows is lost."""
    answer, with_user = given[0][:MAX_ANSWER_BYTES], given[1]
    proxy = URL.build(
        scheme="socks5",
        host="corp",
        port=1080,
        user="jane" if with_user else None,
        password=PASSWORD if with_user else None,
    )
    ours, theirs = peer_of(answer)
    rest = _rest_of(answer, with_user=with_user)

    async def accept(*_args: object, **_options: object) -> socket.socket:
        return ours

    with contextlib.closing(ours), contextlib.closing(theirs), mock.patch.object(_proxy, "connect_tcp", accept):
        failed = finish(_connected(proxy))
        if failed is None:
            assert rest is not None
            assert ours.recv(MAX_ANSWER_BYTES + 1) == rest
        else:
            assert rest is None, failed
            check_message(failed)
            assert failed.startswith("proxy corp:1080: ")
            assert PASSWORD not in failed


async def _connected(proxy: URL) -> str | None:
    """Return why a proxy did not connect; None if it did."""
    try:
        await socks.connect(proxy, "host", 443)
    except socks.SocksProxyError as error:
        return str(error)
    return None


def _rest_of(answer: bytes, *, with_user: bool) -> bytes | None:
    """Return what follows a proxy's words in RFC 1928; None if they are others."""
    if with_user and answer.startswith(b"\5\2\1\0"):
        answer = answer[4:]
    elif answer.startswith(b"\5\0"):
        answer = answer[2:]
    else:
        return None
    if not answer.startswith(b"\5\0\0") or len(answer) < 5:
        return None
    host = {1: 4, 3: 1 + answer[4], 4: 16}.get(answer[3])
    if host is None or len(answer) < 4 + host + 2:
        return None
    if answer[3] == 3 and answer[5 : 4 + host].decode(errors="replace").count("\N{REPLACEMENT CHARACTER}"):
        return None
    return answer[4 + host + 2 :]


class _Network(httpcore.AsyncNetworkBackend):
    """A network in which every connection gets the same answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.read = b""  # by the peer, in the last connection
        self._open = contextlib.ExitStack()

    async def connect_tcp(self, *_args: Any, **_options: Any) -> httpcore.AsyncNetworkStream:
        ours, self._theirs = peer_of(self._answer)
        for one in (ours, self._theirs):
            self._open.enter_context(contextlib.closing(one))
        plain = _Socket(ours)
        return _Stream(plain, plain)

    def close(self) -> None:
        """Read what was sent, and close all."""
        with contextlib.suppress(BlockingIOError):
            while part := self._theirs.recv(1 << 16):
                self.read += part
        self._open.close()


def _early(answer: bytes) -> None:
    """What a receiver says before it has read a request is read, however large that is."""
    answer = answer[:MAX_ANSWER_BYTES]
    finish(_written(answer))
    network = _Network(answer)
    failed = finish(_delivered(answer, network))
    if failed is None:
        assert FINAL.search(answer)
        assert json_array([RECORD]) in network.read
    else:
        check_message(str(failed))


FINAL = re.compile(rb"HTTP/\d\.\d +2\d\d")


async def _written(answer: bytes) -> None:
    ours, theirs = peer_of(answer)
    with contextlib.closing(ours), contextlib.closing(theirs):
        plain = _Socket(ours)
        stream = _Stream(plain, plain)
        try:
            await stream.write(LARGE, 20.0)
        except httpcore.WriteError:
            read = b""
            while part := await stream.read(100, 20.0):
                read += part
            assert read == answer
        else:
            raise AssertionError("all was sent to a peer that reads nothing")


async def _delivered(answer: bytes, network: _Network) -> SinkError | None:
    """Return why a batch was not delivered; None if it was."""
    sink = WebhookSink("x", WebhookSettings(url="http://host/path"))
    transport = Transport(_CONTEXT, None)
    transport._pool._network_backend = network
    sink._transport, sink._stamps = transport, []
    with contextlib.closing(network):
        try:
            await sink.send([RECORD], key="k")
        except SinkError as error:
            return error
        finally:
            await transport.aclose()
    return None


_CONTEXT = client_context()

proxies = st.tuples(
    st.builds(
        lambda parts: b"".join(parts),
        st.tuples(
            st.sampled_from([b"\5\0", b"\5\2\1\0", b"\5\2\1\1", b"\5\xff", b"\4\0"]),
            st.sampled_from(
                [
                    *(
                        b"\5\0\0\1\x7f\0\0\1\x1f\x90",
                        b"\5\0\0\4" + bytes(18),
                        b"\5\0\0\3\4host\0\x50",
                        b"\5\0\0\3\0\0\0",
                    ),
                    *(b"\5\1\0\1", b"\5\5\0\1" + bytes(6), b"\5\x63\0", b"\5\0\1\1" + bytes(6), b"\5\0\0\2" + bytes(6)),
                ]
            ),
            st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"\x16\3\1"]),
        ),
    ).flatmap(damaged),
    st.booleans(),
)
answers = st.lists(
    st.sampled_from(
        [
            *(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n",
            ),
            *(
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
                b"HTTP/1.0 204 \r\n\r\n",
            ),
            b"HTTP/1.1 503 x\r\nRetry-After: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
            b"HTTP/1.1 409 Conflict\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"<html>",
        ]
    ).flatmap(damaged),
    max_size=3,
).map(b"".join)

TARGETS: Targets = {"socks": Target(_socks, proxies), "early-answer": Target(_early, answers)}
