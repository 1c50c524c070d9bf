"""How the s3 sink's HTTP differs from botocore's: no redirects, no waiting for a 100, no endless answers."""

from typing import Any

from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]

from collector.sinks.pages import page_text
from collector.text import describe_redirect

__all__ = ["HttpSession", "UnusableAnswerError"]

_NO_S3 = "with a page instead of S3's answer, so nothing is stored; check endpoint_url"

MAX_ANSWER_BYTES = 1 << 20  # of the body of an answer; those of S3 and STS have a few kilobytes


class UnusableAnswerError(Exception):
    """An answer is none that S3 gives; the text says why, without anything secret."""


class HttpSession(AIOHTTPSession):  # type: ignore[misc]
    """botocore's way to HTTP, which follows no redirect: one would take the records and a session token anywhere."""

    async def _get_session(self, proxy_url: str | None) -> "_Requests":
        return _Requests(await super()._get_session(proxy_url))


class _Requests:
    """The requests of a session of aiohttp; raises UnusableAnswerError.

    An answer of AWS that names another region has no Location, and botocore asks there.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, method: str, *, headers: Any, **options: Any) -> "_Answer":
        # aiohttp would wait for a 100 without end, and many servers and proxies send none.
        headers.pop("Expect", None)
        async with self._session.request(method, headers=headers, allow_redirects=False, **options) as response:
            if response.status // 100 == 3 and (location := response.headers.get("Location")):
                response.close()
                raise UnusableAnswerError(describe_redirect(response.status, location, "endpoint_url and region"))
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    response.close()
                    limit = f"more than {MAX_ANSWER_BYTES >> 20} MiB"
                    raise UnusableAnswerError(f"answered {response.status} with {limit}; check endpoint_url")
        # botocore would take it for an error of the service.
        if method == "PUT" and response.ok and body.strip() and not body.lstrip().startswith((b"<?xml", b"<Error")):
            raise UnusableAnswerError(f"answered {response.status} {_NO_S3}: {page_text(bytes(body))}")
        return _Answer(response, bytes(body))


class _Answer:
    """What botocore takes from a response of aiohttp, with the body read already."""

    def __init__(self, response: Any, body: bytes) -> None:
        self.url = response.url
        self.status = response.status
        self.raw_headers = response.raw_headers
        self._body = body

    async def read(self) -> bytes:
        return self._body
