"""The webhook sink: one POST of a JSON array per batch."""

import hashlib
import hmac
import logging
import os
import ssl
import time
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

import anyio
import httpx

from collector import __version__
from collector.backoff import parse_retry_after
from collector.config.sinks import WebhookSettings
from collector.files import file_stamp
from collector.model import SinkRecord
from collector.redaction import Secrets
from collector.sinks.credentials import read_secret, tls_context
from collector.sinks.errors import TEXT_LIMIT, Reason, SinkError, UnavailableError, from_status
from collector.sinks.formats import gzip, json_array
from collector.text import describe_redirect
from collector.timestamps import rfc3339

__all__ = ["WebhookSink", "signature"]

_BODY_LIMIT = 16384  # bytes of a response that are read
_BODY_SECONDS = 1.0  # to read a response's body, and to close the response

_log = logging.getLogger(__name__)
# These log whole URLs and headers, and the path of a webhook's URL is often a secret.
for _library in ("httpx", "httpcore"):
    logging.getLogger(_library).setLevel(logging.WARNING)


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
        self._client: httpx.AsyncClient | None = None
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
        if status not in (400, 422):
            raise failure
        return f"{self._host} is reachable (rejects empty batches with {status})"

    async def aclose(self) -> None:
        """Close the connection."""
        async with self._lock:
            await self._close_client()

    async def _post(self, body: bytes, count: int, key: str) -> tuple[int, SinkError | None]:
        """Send one request; return the status, and the error that any status other than 2xx means."""
        try:
            async with self._lock:
                with anyio.fail_after(self._settings.timeout):
                    client = await self._open()
                    return await self._exchange(client, body, count, key)
        except TimeoutError:
            text = f"no answer within {self._settings.timeout:g} s"
            raise self._unavailable(text, Reason.TIMEOUT) from None
        except httpx.TimeoutException as error:
            text = f"no answer in time ({type(error).__name__})"
            raise self._unavailable(text, Reason.TIMEOUT) from None
        except httpx.TransportError as error:
            text = self._foreign(str(error) or type(error).__name__)
            reason = Reason.UNAUTHORIZED if isinstance(error, httpx.ProxyError) and "407" in text else Reason.CONNECTION
            raise self._unavailable(text, reason) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self._unavailable(self._foreign(str(error)), Reason.CONNECTION) from None

    async def _exchange(
        self, client: httpx.AsyncClient, body: bytes, count: int, key: str
    ) -> tuple[int, SinkError | None]:
        if self._settings.gzip:
            body = gzip(body)
        request = client.build_request(
            "POST", self._settings.url, content=body, headers=self._headers(body, count, key)
        )
        response = await client.send(request, stream=True, follow_redirects=False)
        text = ""
        try:
            # The status alone counts: the body is read for a person, and to reuse the connection.
            with anyio.move_on_after(_BODY_SECONDS):
                text = await _read(response)
        except httpx.HTTPError:
            _log.debug("response body incomplete", extra={"sink": self._name})
        finally:
            with anyio.move_on_after(_BODY_SECONDS, shield=True):
                await response.aclose()
        if response.is_success:
            return response.status_code, None
        return response.status_code, self._map_status(response, self._foreign(text))

    def _headers(self, body: bytes, count: int, key: str) -> dict[str, str]:
        """Return the headers."""
        settings = self._settings
        timestamp = rfc3339(time.time(), "seconds")
        headers = {
            "Content-Type": "application/json",
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

    def _map_status(self, response: httpx.Response, text: str) -> SinkError:
        status = response.status_code
        wait = parse_retry_after(response.headers.get("Retry-After"), time.time())
        return from_status(status, self._text(f"answered {status}{': ' if text else ''}{text}"), wait)

    async def _open(self) -> httpx.AsyncClient:
        """Return the client, a new one if its certificate files have changed."""
        settings = self._settings
        stamps = [file_stamp(file) for file in (settings.ca_file, settings.cert_file, settings.key_file) if file]
        if self._client is None or stamps != self._stamps:
            await self._close_client()
            context: ssl.SSLContext = tls_context(self._name, settings.ca_file, settings.cert_file, settings.key_file)
            try:
                self._client = httpx.AsyncClient(
                    verify=context,
                    proxy=settings.proxy,
                    trust_env=settings.proxy is None,
                    event_hooks={"response": [self._refuse_redirect]},
                    timeout=httpx.Timeout(
                        settings.timeout,
                        connect=settings.connect_timeout,
                        read=settings.read_timeout,
                        write=settings.write_timeout,
                    ),
                )
            except (ValueError, ImportError):
                text = "invalid proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
                raise self._unavailable(text, Reason.MISCONFIGURED) from None
            self._stamps = stamps
        return self._client

    async def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _refuse_redirect(self, response: httpx.Response) -> None:
        """Raise UnavailableError for an answer that redirects, before httpx looks at where to."""
        if response.is_redirect:
            text = describe_redirect(response.status_code, response.headers.get("Location"), "url")
            raise self._unavailable(text, Reason.MISCONFIGURED)

    def _foreign(self, text: str) -> str:
        return self.secrets.redact(text, TEXT_LIMIT)

    def _text(self, text: str) -> str:
        return f"sinks.{self._name}: {self._host}: {text}"

    def _unavailable(self, text: str, reason: Reason) -> UnavailableError:
        return UnavailableError(self._text(text), reason)


async def _read(response: httpx.Response) -> str:
    """Return the beginning of a body as text."""
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) >= _BODY_LIMIT:
            break
    return body[:_BODY_LIMIT].decode(errors="replace")
