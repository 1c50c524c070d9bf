"""A webhook receiver in a thread of its own: it keeps every request and answers as it was last told."""

import contextlib
import gzip
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

__all__ = ["Receiver", "Request", "receiving"]


class Request(NamedTuple):
    headers: Mapping[str, str]  # names in any case
    body: bytes
    status: int  # what it was answered
    peer: tuple[str, int]  # the connection's address
    certificate: dict[str, Any] | None  # the client's

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]

    @property
    def records(self) -> list[dict[str, str]]:
        body = gzip.decompress(self.body) if self.headers.get("Content-Encoding") == "gzip" else self.body
        found: list[dict[str, str]] = json.loads(body)
        return found


class _Answer(NamedTuple):
    status: int
    text: str
    delay: float  # seconds
    headers: Mapping[str, str]


class Receiver:
    """What was received at `url`; until `respond` says otherwise, everything is accepted."""

    def __init__(self, url: str) -> None:
        self.url = url  # ends with a slash
        self.host = url.rstrip("/")
        self.requests: list[Request] = []
        self.limit: int | None = None  # of the records of a request, which is 413 if it has more
        self.knows_keys = False  # a batch that it has accepted is 409 when it comes again
        self._keys: set[str] = set()  # of what it has accepted
        self._answer = _Answer(202, "", 0.0, {})

    def respond(self, status: int, text: str = "", *, delay: float = 0.0, headers: Mapping[str, str] = {}) -> None:
        """Answer what comes from now on with this, after `delay` seconds."""
        self._answer = _Answer(status, text, delay, headers)

    @property
    def accepted(self) -> list[Request]:
        return [request for request in self.requests if 200 <= request.status < 300]

    @property
    def rejected(self) -> list[Request]:
        return [request for request in self.requests if request.status >= 300]

    @property
    def records(self) -> list[dict[str, str]]:
        """The records of all requests that were accepted."""
        return [record for request in self.accepted for record in request.records]

    def receive(self, headers: Mapping[str, str], body: bytes, connection: Any, peer: tuple[str, int]) -> _Answer:
        answer, key = self._answer, headers.get("Idempotency-Key", "")
        if self.knows_keys and key in self._keys:
            answer = _Answer(409, "known", 0.0, {})
        elif self.limit is not None and key not in self._keys and int(headers["X-Records-Count"]) > self.limit:
            answer = _Answer(413, "too large", 0.0, {})
        elif 200 <= answer.status < 300:
            self._keys.add(key)
        certificate = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
        self.requests.append(Request(headers, body, answer.status, peer, certificate))
        return answer


@contextlib.contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Serve a receiver until the end of the block, over HTTPS with a server's `tls` context."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections open
        timeout = 60  # seconds that a connection may be idle

        def setup(self) -> None:
            if isinstance(self.request, ssl.SSLSocket):
                self.request.do_handshake()
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(length := int(self.headers["Content-Length"]))
            if len(body) < length:  # the client has left
                self.close_connection = True
                return
            answer = receiver.receive(dict(self.headers.items()), body, self.connection, self.client_address)
            time.sleep(answer.delay)
            content = answer.text.encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing: clients that break off or distrust us are part of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            # The handshake is left to the connection's own thread.
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "http" if tls is None else "https"
        receiver = Receiver(f"{scheme}://{'127.0.0.1' if tls is None else 'localhost'}:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
