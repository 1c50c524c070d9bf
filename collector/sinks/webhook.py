"""The webhook sink: one POST of a JSON array per batch."""

import hashlib
import hmac
import logging
import math
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from urllib.parse import quote, urlsplit

import aiohttp
import anyio
import anyio.lowlevel
from yarl import URL

from collector import __version__
from collector.backoff import parse_retry_after
from collector.config.sinks import WebhookSettings
from collector.files import file_stamp
from collector.http_errors import reason as describe_failure
from collector.model import SinkRecord
from collector.proxies import ProxyUrlError, describe, is_socks
from collector.redaction import Secrets
from collector.sinks.credentials import choose_proxy, read_secret, tls_context
from collector.sinks.errors import (
    TEXT_LIMIT,
    KnownKeyError,
    Reason,
    RejectedError,
    SinkError,
    TooLargeError,
    UnavailableError,
    from_status,
)
from collector.sinks.formats import gzip, json_array
from collector.socks import connector
from collector.text import describe_redirect, without_markup
from collector.timestamps import rfc3339
from collector.urls import InvalidUrlError, parse_url

__all__ = ["WebhookSink", "signature"]

_BODY_LIMIT = 16384  # bytes of a response that are read
_BODY_SECONDS = 1.0  # to read a response's body
_INTERRUPTED_RETRIES = 3
_PART_BYTES = 1 << 16  # of a request that are handed over at once
_ABOUT_RECORDS = (400, 413, 422)  # statuses that speak of the records, which are then refused for good
_REDIRECTS = (301, 302, 303, 307, 308)

_log = logging.getLogger(__name__)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return `sha256=` and the hex HMAC-SHA256 of the X-Timestamp header, a dot and the body's bytes.

    The body is signed as transmitted, after compression.
    """
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class WebhookSink:
    """Sends one request at a time and keeps the connection open."""

    def __init__(self, name: str, settings: WebhookSettings) -> None:
        self.secrets = Secrets()
        self.secrets.add_url(settings.url)
        self.secrets.add_proxies(os.environ)
        self._name = name
        self._settings = settings
        parts = urlsplit(settings.url)
        self._host = f"{parts.scheme}://{parts.netloc}"
        self._lock = anyio.Lock()
        self._sending = False  # some of a body, but not yet all of it
        self._client: aiohttp.ClientSession | None = None
        self._proxy: URL | None = None  # on the way of the client
        self._stamps: Sequence[object] = ()  # of the certificate files that the client was made with

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        """POST the batch; any 2xx status delivers it."""
        if records and (failure := (await self._post(json_array(records), len(records), key))[1]):
            raise failure

    async def check(self) -> str:
        """POST an empty array, which checks address, certificate and token; rejecting it as empty is fine."""
        status, failure = await self._post(b"[]", 0, f"check-{time.time_ns()}")
        if failure is None:
            return f"{self._host} accepted an empty batch"
        if not isinstance(failure, RejectedError) or isinstance(failure, TooLargeError):
            raise failure
        return f"{self._host} is reachable (rejects empty batches with {status})"

    async def aclose(self) -> None:
        """Close the connection."""
        async with self._lock:
            await self._close_client()

    async def _post(self, body: bytes, count: int, key: str) -> tuple[int, SinkError | None]:
        """Send one request; return the status, and the error that any status other than 2xx means.

        It is repeated at once where the receiver hung up in the middle: its answer, such as 413, may have been lost.
        """
        for _ in range(_INTERRUPTED_RETRIES):
            with suppress(_InterruptedError):
                return await self._attempt(body, count, key)
        return await self._attempt(body, count, key)

    async def _attempt(self, body: bytes, count: int, key: str) -> tuple[int, SinkError | None]:
        settings = self._settings
        self._sending = False
        try:
            async with self._lock:
                with anyio.fail_after(settings.timeout):
                    client = await self._open()
                    return await self._exchange(client, body, count, key)
        except aiohttp.ConnectionTimeoutError:
            raise self._timeout(f"no connection within {settings.connect_timeout:g} s") from None
        except aiohttp.ServerTimeoutError:
            raise self._timeout(f"no answer within {settings.read_timeout:g} s") from None
        except TimeoutError:
            raise self._timeout(f"no answer within {settings.timeout:g} s") from None
        except (aiohttp.InvalidURL, InvalidUrlError):
            text = f"sinks.{self._name}.url: expected a URL such as https://host/path"
            raise UnavailableError(text, Reason.MISCONFIGURED) from None
        except (aiohttp.ClientError, OSError) as error:
            refused = isinstance(error, aiohttp.ClientHttpProxyError) and error.status == 407
            text = self._text(self._with_proxy(self._foreign(describe_failure(error))))
            if self._sending:
                raise _InterruptedError(text, Reason.CONNECTION) from None
            raise UnavailableError(text, Reason.UNAUTHORIZED if refused else Reason.CONNECTION) from None

    async def _exchange(
        self, client: aiohttp.ClientSession, body: bytes, count: int, key: str
    ) -> tuple[int, SinkError | None]:
        if self._settings.gzip:
            body = gzip(body)
        sent = anyio.Event()
        with anyio.CancelScope() as writing:
            response = await client.post(
                parse_url(self._settings.url),
                data=self._parts(body, writing, sent),
                headers=self._headers(body, count, key),
                proxy=None if is_socks(self._proxy) else self._proxy,
                allow_redirects=False,
            )
        if writing.cancelled_caught:
            raise self._timeout(f"it took no part of the request within {self._settings.write_timeout:g} s")
        content = b""
        try:
            # The status alone counts: the body is read for a person, and to reuse the connection.
            with anyio.move_on_after(_BODY_SECONDS):
                content = await _read(response)
                if response.status // 100 == 2:
                    await sent.wait()
        except (aiohttp.ClientError, OSError):
            _log.debug("response body incomplete", extra={"sink": self._name})
        finally:
            if response.content.at_eof() and sent.is_set():
                response.release()
            else:
                response.close()
        if response.status // 100 != 2:
            return response.status, self._map_answer(response.status, response.headers, content)
        if not sent.is_set():
            text = f"answered {response.status} before it had read the whole batch"
            return response.status, self._unavailable(text, Reason.SERVER_ERROR)
        return response.status, None

    async def _parts(self, body: bytes, writing: anyio.CancelScope, sent: anyio.Event) -> AsyncIterator[bytes]:
        """Yield the parts of a body, each of which has until the write timeout to be taken.

        A receiver may answer and hang up before it has read them all. Writing then fails, and what it has said is lost
        unless it was read before: two turns of the event loop bring in what has come.
        """
        view = memoryview(body)
        for start in range(0, len(body), _PART_BYTES):
            writing.deadline = anyio.current_time() + self._settings.write_timeout
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            self._sending = True
            yield bytes(view[start : start + _PART_BYTES])
        writing.deadline = math.inf
        self._sending = False
        sent.set()

    def _headers(self, body: bytes, count: int, key: str) -> dict[str, str]:
        """Return the headers."""
        settings = self._settings
        timestamp = rfc3339(time.time(), "seconds")
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Accept-Encoding": "identity",
            "User-Agent": f"gpuid/{__version__}",
            "X-Records-Count": str(count),
            "X-Timestamp": timestamp,
            "Idempotency-Key": quote(key, safe=":/+="),  # the letters that a header may hold
        }
        if settings.gzip:
            headers["Content-Encoding"] = "gzip"
        token = read_secret(self._name, "token", settings.token_file, settings.token_env, self.secrets)
        if token is not None:
            if not (token.isascii() and token.isprintable()):
                text = (
                    f"sinks.{self._name}.token_{'file' if settings.token_file else 'env'}: expected one line of ASCII"
                )
                raise UnavailableError(text, Reason.MISCONFIGURED)
            headers["Authorization"] = f"Bearer {token}"
        secret = read_secret(
            self._name, "hmac_secret", settings.hmac_secret_file, settings.hmac_secret_env, self.secrets
        )
        if secret is not None:
            headers["X-Signature"] = signature(secret, timestamp, body)
        return headers

    def _map_answer(self, status: int, headers: Mapping[str, str], content: bytes) -> SinkError:
        """Return the error that an answer other than 2xx means, in the receiver's own words."""
        if status in _REDIRECTS:  # before anything looks at where to
            text = describe_redirect(status, headers.get("Location"), "url")
            return self._unavailable(text, Reason.MISCONFIGURED)
        words = self._foreign(without_markup(content.decode(errors="replace")))
        text = self._text(f"answered {status}{': ' if words else ''}{words}")
        wait = parse_retry_after(headers.get("Retry-After"), time.time())
        if status == 409:
            return KnownKeyError(f"{text} (it is processing the batch)", Reason.SERVER_ERROR, retry_after=wait)
        return from_status(status, text, wait, about_records=_ABOUT_RECORDS)

    async def _open(self) -> aiohttp.ClientSession:
        """Return the client, a new one if its certificate files have changed."""
        settings = self._settings
        stamps = [file_stamp(file) for file in (settings.ca_file, settings.cert_file, settings.key_file) if file]
        if self._client is None or stamps != self._stamps:
            await self._close_client()
            context: ssl.SSLContext = tls_context(self._name, settings.ca_file, settings.cert_file, settings.key_file)
            try:
                self._proxy = choose_proxy(settings.proxy, settings.url)
            except ProxyUrlError as error:
                raise UnavailableError(f"sinks.{self._name}: {error}", Reason.MISCONFIGURED) from None
            self._client = aiohttp.ClientSession(
                connector=connector(self._proxy, context),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(connect=settings.connect_timeout, sock_read=settings.read_timeout),
                trust_env=False,  # the proxy is chosen in proxies.py, and ~/.netrc holds no secrets of ours
            )
            self._stamps = stamps
        return self._client

    async def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _foreign(self, text: str) -> str:
        return self.secrets.redact(text, TEXT_LIMIT)

    def _text(self, text: str) -> str:
        return f"sinks.{self._name}: {self._host}: {text}"

    def _unavailable(self, text: str, reason: Reason) -> UnavailableError:
        return UnavailableError(self._text(text), reason)

    def _timeout(self, text: str) -> UnavailableError:
        return self._unavailable(self._with_proxy(text), Reason.TIMEOUT)

    def _with_proxy(self, text: str) -> str:
        """Return a text that names the proxy on the way, which may be the one that it is about."""
        if self._proxy is None or (name := describe(self._proxy)) in text:
            return text
        return f"{text}; through {name}"


class _InterruptedError(UnavailableError):
    """The connection broke while the body was being sent."""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of a body."""
    body = b""
    while len(body) < _BODY_LIMIT and (chunk := await response.content.readany()):
        body += chunk
    return body[:_BODY_LIMIT]
