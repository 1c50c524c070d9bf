"""Secrets, certificates and proxies of sinks, read when they are used."""

import os
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from yarl import URL

from collector import files
from collector.proxies import choose, parse_proxy
from collector.redaction import Secrets
from collector.sinks.errors import Reason, UnavailableError
from collector.text import describe_os_error
from collector.tls import TlsFileError, client_context
from collector.urls import parse_url

__all__ = ["ask_files", "choose_proxy", "read_secret", "tls_context"]

_T = TypeVar("_T")


async def ask_files(sink: str, work: Callable[[], _T]) -> _T:
    """Run `work`, which reads a sink's files, in a thread and return its result: a hanging file system blocks only it.

    Raises the errors of `work`, and UnavailableError for a file system that does not respond.
    """
    try:
        asked = partial(files.in_time, f"sinks.{sink}", work)
        return await anyio.to_thread.run_sync(asked, abandon_on_cancel=True)
    except OSError as error:
        text = describe_os_error(error, "the files of its settings cannot be read")
        raise UnavailableError(f"sinks.{sink}: {text}", Reason.MISCONFIGURED) from None


def read_secret(sink: str, key: str, file: Path | None, variable: str | None, secrets: Secrets) -> str | None:
    """Return the secret in `file` or the environment's `variable`; None if neither is configured.

    It is read on each call, so that a rotated secret takes effect immediately, and added to `secrets`. Raises
    UnavailableError, whose text names the configuration key, if it is missing.
    """
    if file is not None:
        where = f"sinks.{sink}.{key}_file: {file}"
        try:
            secret = files.read_secret(file)
        except files.UnreadableFileError as error:
            raise UnavailableError(f"{where}: {error}", Reason.MISCONFIGURED) from None
    elif variable is not None:
        where = f"sinks.{sink}.{key}_env: {variable}"
        secret = os.environ.get(variable, "").strip()
    else:
        return None
    if not secret:
        raise UnavailableError(f"{where}: expected a secret, but it is empty", Reason.MISCONFIGURED)
    secrets.add_renewed(secret)
    return secret


def tls_context(sink: str, ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return a client's TLS context; raises UnavailableError naming the key whose file is unusable."""
    try:
        return client_context(ca=ca, cert=cert, key=key)
    except TlsFileError as error:
        where = f"ca_file: {ca}" if error.kind == "ca" else f"cert_file: {cert}"
        raise UnavailableError(f"sinks.{sink}.{where}: {error}", Reason.MISCONFIGURED) from None


def choose_proxy(proxy: str | None, url: str) -> URL | None:
    """Return the proxy for a URL, from the key `proxy` or else the environment; None for a direct connection.

    An empty key means no proxy, regardless of the environment. Raises ProxyUrlError and InvalidUrlError.
    """
    if proxy is None:
        return choose(parse_url(url), os.environ)
    return parse_proxy(proxy, "proxy") if proxy else None
