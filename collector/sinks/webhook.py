"""The webhook sink: one POST of a JSON array per batch."""

import hashlib
import hmac
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import anyio
import anyio.to_thread
import httpx
from yarl import URL

from collector import __version__
from collector.backoff import parse_retry_after
from collector.config.sinks import WebhookSettings
from collector.files import file_stamp
from collector.http_errors import proxy_answer
from collector.model import SinkRecord
from collector.proxies import ProxyUrlError, describe
from collector.redaction import Secrets
from collector.sinks.credentials import ask_files, choose_proxy, read_secret, tls_context
from collector.sinks.early_answer import Transport
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
from collector.sinks.markup import without_markup
from collector.text import describe_redirect
from collector.timestamps import rfc3339
from collector.urls import InvalidUrlError

__all__ = ["WebhookSink", "signature"]

_BODY_LIMIT = 16384  # bytes of a response that are read
_BODY_SECONDS = 1.0  # to read a response's body
_INTERRUPTED_RETRIES = 3
_SMALL_BATCH = 1000  # records: as many are encoded in less time than a thread takes to answer
_PART_BYTES = 1 << 16  # of a request written at a time
_ABOUT_RECORDS = (400, 413, 422)  # statuses about the records themselves, which are then rejected permanently
_REDIRECTS = (301, 302, 303, 307, 308)

_log = logging.getLogger(__name__)
# These log whole URLs and headers, and a webhook URL's path is often secret.
for _library in ("httpx", "httpcore"):
    logging.getLogger(_library).setLevel(logging.WARNING)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return `sha256=` and the hex HMAC-SHA256 of the X-Timestamp header, a dot and the body's bytes.

    The body is signed as transmitted, after compression.
    """
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class _Files(NamedTuple):
    """The contents of the settings' files for one attempt."""

    stamps: Sequence[object]  # of the certificate files
    context: ssl.SSLContext | None  # None: the transport's is still valid
    token: str | None
    hmac_secret: str | None


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
        files = (
            settings.ca_file,
            settings.cert_file,
            settings.key_file,
            settings.token_file,
            settings.hmac_secret_file,
        )
        self._has_files = any(files)
        self._lock = anyio.Lock(fast_acquire=True)
        self._begun = False  # part of a body has been written
        self._sent = False  # all of it
        # httpx's client would do more: redirects, cookies, ~/.netrc and other things that must not be, and cost time.
        self._transport: Transport | None = None
        self._timeouts = httpx.Timeout(
            settings.timeout,
            connect=settings.connect_timeout,
            read=settings.read_timeout,
            write=settings.write_timeout,
        ).as_dict()
        self._proxy: URL | None = None  # used by the transport
        self._stamps: Sequence[object] = ()  # of the transport's certificate files

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        """POST the batch; any 2xx status delivers it."""
        if not records:
            return
        if len(records) > _SMALL_BATCH:
            body = await anyio.to_thread.run_sync(json_array, records)
        else:
            body = json_array(records)
        if failure := (await self._post(body, len(records), key))[1]:
            raise failure

    async def check(self) -> str:
        """POST an empty array, to check address, certificate and token; rejecting it as empty is fine."""
        status, failure = await self._post(b"[]", 0, f"check-{time.time_ns()}")
        if failure is None:
            return f"{self._host} accepted an empty batch"
        if not isinstance(failure, RejectedError) or isinstance(failure, TooLargeError):
            raise failure
        return f"{self._host} is reachable (rejects empty batches with {status})"

    async def aclose(self) -> None:
        """Close the connection."""
        async with self._lock:
            await self._close_transport()

    async def _post(self, body: bytes, count: int, key: str) -> tuple[int, SinkError | None]:
        """Send one request; return the status, and the error for any status other than 2xx.

        It is repeated immediately if the receiver hung up midway: its response, such as 413, may have been lost.
        """
        if self._settings.gzip:
            body = await anyio.to_thread.run_sync(gzip, body)
        for _ in range(_INTERRUPTED_RETRIES):
            with suppress(_InterruptedError):
                return await self._attempt(body, count, key)
        return await self._attempt(body, count, key)

    async def _attempt(self, body: bytes, count: int, key: str) -> tuple[int, SinkError | None]:
        settings = self._settings
        self._begun = self._sent = False
        try:
            async with self._lock:
                with anyio.fail_after(settings.timeout):
                    # Without files, there is nothing that may hang.
                    asks = self._transport is None or self._has_files
                    found = await ask_files(self._name, self._ask_files) if asks else self._ask_files()
                    transport = await self._open(found)
                    if found.hmac_secret is None:
                        headers = self._headers(found, body, count, key)
                    else:
                        headers = await anyio.to_thread.run_sync(self._headers, found, body, count, key)
                    return await self._exchange(transport, body, headers)
        except httpx.ConnectTimeout:
            raise self._timeout(f"no connection within {settings.connect_timeout:g} s") from None
        except httpx.WriteTimeout:
            text = f"it did not read any of the request within {settings.write_timeout:g} s"
            raise self._timeout(text) from None
        except httpx.TimeoutException:
            raise self._timeout(f"no answer within {settings.read_timeout:g} s") from None
        except TimeoutError:
            raise self._timeout(f"no answer within {settings.timeout:g} s") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, InvalidUrlError):
            text = f"sinks.{self._name}.url: expected a URL such as https://host/path"
            raise UnavailableError(text, Reason.MISCONFIGURED) from None
        except httpx.HTTPError as error:
            text = self._text(self._with_proxy(self._foreign(_describe(error))))
            if self._begun and not self._sent:
                raise _InterruptedError(text, Reason.CONNECTION) from None
            refused = isinstance(error, httpx.ProxyError) and str(error).startswith("407")
            reason = Reason.UNAUTHORIZED if refused else Reason.CONNECTION
            raise UnavailableError(text, reason, outcome_unknown=self._sent) from None

    async def _exchange(
        self, transport: Transport, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, SinkError | None]:
        extensions = {"timeout": self._timeouts}
        url = self._settings.url
        request = httpx.Request("POST", url, content=self._parts(body), headers=headers, extensions=extensions)
        response = await transport.handle_async_request(request)
        status, content = response.status_code, b""
        try:
            if status in _REDIRECTS:
                text = describe_redirect(status, response.headers.get("Location"), "url")
                raise self._unavailable(text, Reason.MISCONFIGURED)
            # Only the status counts: the body is read for messages and to reuse the connection.
            with anyio.move_on_after(_BODY_SECONDS):
                try:
                    async for chunk in response.aiter_raw():
                        content += chunk
                        if len(content) >= _BODY_LIMIT:
                            break
                except httpx.HTTPError:
                    _log.debug("response body incomplete", extra={"sink": self._name})
        finally:
            with anyio.CancelScope(shield=True):  # or the connection would stay open until the next request
                await response.aclose()
        if status == 204 and (
            response.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in response.headers
        ):
            await self._close_transport()  # further data would be mistaken for the next response
        if not response.is_success:
            return status, self._map_answer(status, response.headers, content[:_BODY_LIMIT])
        if not self._sent:
            text = self._text(f"responded with {status} before reading the whole batch")
            return status, UnavailableError(text, Reason.SERVER_ERROR, outcome_unknown=True)
        return status, None

    async def _parts(self, body: bytes) -> AsyncIterator[bytes]:
        """Yield the parts of a body, each of which must be written within the write timeout."""
        self._begun = True
        view = memoryview(body)
        for start in range(0, len(body), _PART_BYTES):
            yield bytes(view[start : start + _PART_BYTES])
        self._sent = True

    def _ask_files(self) -> _Files:
        """Return the current contents of the settings' files; call this in a thread if there are any."""
        settings = self._settings
        stamps = [file_stamp(file) for file in (settings.ca_file, settings.cert_file, settings.key_file) if file]
        context = None
        if self._transport is None or stamps != self._stamps:
            context = tls_context(self._name, settings.ca_file, settings.cert_file, settings.key_file)
        return _Files(
            stamps,
            context,
            read_secret(self._name, "token", settings.token_file, settings.token_env, self.secrets),
            read_secret(self._name, "hmac_secret", settings.hmac_secret_file, settings.hmac_secret_env, self.secrets),
        )

    def _headers(self, found: _Files, body: bytes, count: int, key: str) -> dict[str, str]:
        """Return the headers; call this in a thread if it signs, as a large body takes a while."""
        settings = self._settings
        timestamp = rfc3339(time.time(), "seconds")
        headers = {
            "Accept": "*/*",
            "Connection": "keep-alive",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Accept-Encoding": "identity",
            "User-Agent": f"gpuid/{__version__}",
            "X-Records-Count": str(count),
            "X-Timestamp": timestamp,
            "Idempotency-Key": quote(key, safe=":/+="),  # the characters allowed in a header
        }
        if settings.gzip:
            headers["Content-Encoding"] = "gzip"
        if (token := found.token) is not None:
            if not (token.isascii() and token.isprintable()):
                text = (
                    f"sinks.{self._name}.token_{'file' if settings.token_file else 'env'}: expected one line of ASCII"
                )
                raise UnavailableError(text, Reason.MISCONFIGURED)
            headers["Authorization"] = f"Bearer {token}"
        if found.hmac_secret is not None:
            headers["X-Signature"] = signature(found.hmac_secret, timestamp, body)
        return headers

    def _map_answer(self, status: int, headers: Mapping[str, str], content: bytes) -> SinkError:
        """Return the error for a response other than 2xx, quoting the receiver."""
        words = self._foreign(without_markup(content.decode(errors="replace")))
        text = self._text(f"answered {status}{': ' if words else ''}{words}")
        wait = parse_retry_after(headers.get("Retry-After"), time.time())
        if status == 409:
            return KnownKeyError(f"{text} (it is processing the batch)", Reason.SERVER_ERROR, retry_after=wait)
        about = _ABOUT_RECORDS if "X-Squid-Error" not in headers else ()  # from a proxy that forwarded nothing
        return from_status(status, text, wait, about_records=about)

    async def _open(self, found: _Files) -> Transport:
        """Return the transport, recreated if its certificate files have changed."""
        settings = self._settings
        if self._transport is None or found.context is not None:
            await self._close_transport()
            assert found.context is not None  # noqa: S101  without a transport there is one
            try:
                self._proxy = choose_proxy(settings.proxy, settings.url)
            except ProxyUrlError as error:
                raise UnavailableError(f"sinks.{self._name}: {error}", Reason.MISCONFIGURED) from None
            self._transport = Transport(found.context, self._proxy)
            self._stamps = found.stamps
        return self._transport

    async def _close_transport(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def _foreign(self, text: str) -> str:
        return self.secrets.redact(text, TEXT_LIMIT)

    def _text(self, text: str) -> str:
        return f"sinks.{self._name}: {self._host}: {text}"

    def _unavailable(self, text: str, reason: Reason) -> UnavailableError:
        return UnavailableError(self._text(text), reason)

    def _timeout(self, text: str) -> UnavailableError:
        return UnavailableError(self._text(self._with_proxy(text)), Reason.TIMEOUT, outcome_unknown=self._sent)

    def _with_proxy(self, text: str) -> str:
        """Return a text with the name of the proxy on the way, which may be at fault."""
        if self._proxy is None or (name := describe(self._proxy)) in text:
            return text
        return f"{text}; through {name}"


class _InterruptedError(UnavailableError):
    """The connection broke while the body was being sent."""


def _describe(error: httpx.HTTPError) -> str:
    """Return why a request got no response; messages of httpx and httpcore may contain headers and URLs."""
    text = str(error)
    if isinstance(error, httpx.NetworkError):  # from early_answer.py
        return text
    if isinstance(error, httpx.ProxyError):
        return proxy_answer(int(text[:3]))
    if isinstance(error, httpx.RemoteProtocolError):
        gone = text.startswith("Server disconnected")
        return "the server closed the connection" if gone else "the response is not valid HTTP"
    return f"the request failed ({type(error).__name__})"
