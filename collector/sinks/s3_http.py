"""HTTP for the s3 sink, unlike botocore's without redirects, waits for 100 Continue, and endless or early responses."""

import io
from collections.abc import AsyncIterator
from typing import Any

import anyio
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiobotocore.utils import _RefCountedSession  # type: ignore[import-untyped]  # used for those services

from collector.sinks.markup import without_markup
from collector.text import describe_redirect, one_line

__all__ = ["CredentialServiceSession", "HttpSession", "UnusableAnswerError"]

_NO_S3 = "with a page instead of S3's response, so nothing is stored; check endpoint_url"

MAX_ANSWER_BYTES = 1 << 20  # of a response body; those of S3 and STS have a few kilobytes
_MAX_WORDS_LENGTH = 1 << 14  # characters of a response that an error quotes, before shortening
_PART_BYTES = 1 << 16  # of a request body written at a time


class UnusableAnswerError(Exception):
    """A response that S3 would not send; the text says why, without secrets."""


class HttpSession(AIOHTTPSession):  # type: ignore[misc]
    """botocore's HTTP session without redirects, which could send records and a session token anywhere."""

    async def _get_session(self, proxy_url: str | None) -> "_Requests":
        return _Requests(await super()._get_session(proxy_url))


class CredentialServiceSession(_RefCountedSession):  # type: ignore[misc]
    """The session for a container's or instance's credential service: a redirect could make us sign with any key."""

    async def _get_session(self, proxy_url: str | None) -> "_PlainRequests":
        return _PlainRequests(await super()._get_session(proxy_url))


class _PlainRequests:
    """The requests of an aiohttp session; raises UnusableAnswerError."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> "_Answer":
        async with self._session.request(method, allow_redirects=False, **options) as response:
            body = await _read(response)
            _refuse_redirect(response, body)
        return _Answer(response, body)


class _Requests:
    """The requests of a session of aiohttp; raises UnusableAnswerError.

    A response from AWS that names another region has no Location; botocore then uses that region.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, method: str, *, headers: Any, data: Any = None, **options: Any) -> "_Answer":
        # aiohttp would wait forever for a 100, which many servers and proxies never send.
        headers.pop("Expect", None)
        taken = anyio.Event()
        if (whole := _bytes(data)) and "Content-Length" in headers:
            data = _parts(whole, taken)
        else:
            taken.set()
        async with self._session.request(
            method, headers=headers, data=data, allow_redirects=False, **options
        ) as response:
            body = await _read(response)
            _refuse_redirect(response, body)
            if response.ok and not taken.is_set():
                if (protocol := response._protocol) is not None:  # noqa: SLF001  `connection` is already None at the end
                    protocol.abort()  # otherwise unsent data would keep it open
                raise UnusableAnswerError(f"responded with {response.status} before reading the whole object")
        # botocore would treat it as a service error, or as success without looking at it.
        page = body.strip() and not body.lstrip().startswith((b"<?xml", b"<Error"))
        if method in ("PUT", "DELETE") and response.ok and page:
            raise UnusableAnswerError(f"answered {response.status} {_NO_S3}: {_words(body)}")
        return _Answer(response, body)


def _bytes(data: Any) -> bytes:
    """Return a request's body; empty if it has none or one of another type."""
    if isinstance(data, io.BytesIO):
        return data.getvalue()
    return bytes(data) if isinstance(data, bytes | bytearray) else b""


async def _parts(whole: bytes, taken: anyio.Event) -> AsyncIterator[bytes]:
    """Yield the parts of a body; `taken` is set with the last one: a response ends sending immediately."""
    view = memoryview(whole)
    for start in range(0, len(whole), _PART_BYTES):
        if start + _PART_BYTES >= len(whole):
            taken.set()
        yield bytes(view[start : start + _PART_BYTES])


async def _read(response: Any) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            response.close()
            limit = f"more than {MAX_ANSWER_BYTES >> 20} MiB"
            raise UnusableAnswerError(f"answered {response.status} with {limit}; check endpoint_url")
    return bytes(body)


def _words(body: bytes) -> str:
    return one_line(without_markup(body.decode(errors="replace")), _MAX_WORDS_LENGTH)


def _refuse_redirect(response: Any, body: bytes) -> None:
    """Raise UnusableAnswerError for a redirect, unless AWS says that the bucket is in another region.

    If the region is not named, botocore would ask for it with a request that is redirected again.
    """
    if response.status // 100 != 3:
        return
    if location := response.headers.get("Location"):
        response.close()
        raise UnusableAnswerError(describe_redirect(response.status, location, "endpoint_url and region"))
    if "x-amz-bucket-region" not in response.headers and b"<Error" not in body:
        words = _words(body)
        said = f": {words}" if words else " with an empty body"
        raise UnusableAnswerError(f"answered {response.status} {response.reason}{said}; check endpoint_url and region")


class _Answer:
    """The parts of an aiohttp response that botocore uses, with the body already read."""

    def __init__(self, response: Any, body: bytes) -> None:
        self.url = response.url
        self.status = response.status
        self.raw_headers = response.raw_headers
        self._body = body

    async def read(self) -> bytes:
        return self._body
