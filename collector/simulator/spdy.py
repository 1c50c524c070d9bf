"""The server side of SPDY/3.1 needed for exec: framing, header compression, streams."""

import asyncio
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

__all__ = ["DICTIONARY", "Frame", "Framer", "SpdySession"]

DATA, SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 0, 1, 2, 3, 4, 6, 7, 8, 9

_FRAME_BYTES = 32 * 1024  # of output in one frame, as container runtimes send it

# The dictionary of the SPDY/3 specification: length-prefixed header words, then the texts that values are made of.
_WORDS = (
    "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,accept-language,accept-ranges,age,"
    "allow,authorization,cache-control,connection,content-base,content-encoding,content-language,content-length,"
    "content-location,content-md5,content-range,content-type,date,etag,expect,expires,from,host,if-match,"
    "if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,max-forwards,pragma,"
    "proxy-authenticate,proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,"
    "upgrade,user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,"
    "set-cookie,keep-alive,origin"
)
_VALUES = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack(">I", len(word)) + word.encode() for word in _WORDS.split(",")) + _VALUES.encode()


class Frame(NamedTuple):
    """One frame; a data frame has `kind` 0."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    headers: Mapping[str, str]


class Framer:
    """Decodes and encodes the frames of one connection, whose header compression is stateful."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take received bytes and yield complete frames.

        Raises ValueError, zlib.error or struct.error for anything but SPDY/3.
        """
        self._buffer += data
        while len(self._buffer) >= 8:
            word, sized = struct.unpack_from(">II", self._buffer)
            length = sized & 0xFFFFFF
            if len(self._buffer) < 8 + length:
                return
            payload = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            if not word >> 31:
                yield Frame(DATA, sized >> 24, word, payload, {})
                continue
            if word >> 16 & 0x7FFF != 3:
                raise ValueError(f"SPDY version {word >> 16 & 0x7FFF}")
            yield self._control(word & 0xFFFF, sized >> 24, payload)

    def reply(self, stream: int) -> bytes:
        """Return a SYN_REPLY without headers."""
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return self.control(SYN_REPLY, struct.pack(">I", stream) + block)

    @staticmethod
    def control(kind: int, payload: bytes, flags: int = 0) -> bytes:
        """Return a control frame."""
        return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload

    @staticmethod
    def data(stream: int, payload: bytes, *, last: bool = False) -> bytes:
        """Return a data frame; `last` closes the stream in this direction."""
        return struct.pack(">II", stream, last << 24 | len(payload)) + payload

    def _control(self, kind: int, flags: int, payload: bytes) -> Frame:
        if kind in (SYN_STREAM, SYN_REPLY, HEADERS):
            stream = struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF
            block = self._inflate.decompress(payload[10 if kind == SYN_STREAM else 4 :])
            return Frame(kind, flags, stream, b"", _headers(block))
        stream = struct.unpack_from(">I", payload)[0] & 0x7FFFFFFF if kind in (RST_STREAM, WINDOW_UPDATE) else 0
        return Frame(kind, flags, stream, payload, {})


class SpdySession(asyncio.Protocol):
    """A connection taken over from HTTP after its upgrade; the client opens streams, the server writes to them."""

    def __init__(self, transport: asyncio.Transport, lost: Callable[[Exception | None], None]) -> None:
        self.closed = asyncio.Event()
        self._transport = transport
        self._lost = lost  # tells the HTTP server that the connection has ended
        self._framer = Framer()
        self._streams: dict[str, int] = {}
        self._opened = asyncio.Event()

    async def streams(self, names: set[str]) -> None:
        """Wait until the client has opened streams of all these types, or has disconnected."""
        while not names <= self._streams.keys() and not self.closed.is_set():
            self._opened.clear()
            await self._opened.wait()

    def write(self, name: str, data: bytes) -> None:
        """Send data to a stream, in frames as a container runtime does."""
        for start in range(0, len(data), _FRAME_BYTES):
            self._send(self._framer.data(self._streams[name], data[start : start + _FRAME_BYTES]))

    def finish(self, name: str) -> None:
        """Close the server side of a stream."""
        self._send(self._framer.data(self._streams[name], b"", last=True))

    def close(self) -> None:
        """Send GOAWAY, and close the connection when everything has been sent."""
        self._send(self._framer.control(GOAWAY, struct.pack(">II", max(self._streams.values(), default=0), 0)))
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client."""
        try:
            for frame in self._framer.feed(data):
                self._handle(frame)
        except (ValueError, zlib.error, struct.error):
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Handle the end of the connection."""
        self.closed.set()
        self._opened.set()
        self._lost(error)

    def _handle(self, frame: Frame) -> None:
        if frame.kind == SYN_STREAM:
            self._streams[frame.headers.get("streamtype", "")] = frame.stream
            self._send(self._framer.reply(frame.stream))
            self._opened.set()
        elif frame.kind == PING:
            self._send(self._framer.control(PING, frame.payload))
        elif frame.kind == GOAWAY:
            self._transport.close()

    def _send(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


def _headers(block: bytes) -> dict[str, str]:
    headers, at = {}, 4
    for _ in range(struct.unpack_from(">I", block)[0]):
        texts = []
        for _ in range(2):
            (length,) = struct.unpack_from(">I", block, at)
            texts.append(block[at + 4 : at + 4 + length].decode("latin-1"))
            at += 4 + length
        headers[texts[0].lower()] = texts[1]
    return headers
