"""Secrets, certificates and proxies of sinks, read from where the settings point at the moment they are used."""

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
    """Return what `work` returns, which asks a sink's files, from a thread: a file system that hangs stops only it.

    Raises what `work` raises, and UnavailableError for a file system that does not answer.
    """
    try:
        asked = partial(files.in_time, f"sinks.{sink}", work)
        return await anyio.to_thread.run_sync(asked, abandon_on_cancel=True)
    except OSError as error:
        text = describe_os_error(error, "the files of its settings cannot be read")
        raise UnavailableError(f"sinks.{sink}: {text}", Reason.MISCONFIGURED) from None


def read_secret(sink: str, key: str, file: Path | None, variable: str | None, secrets: Secrets) -> str | None:
    """Return the secret in `file` or the environment's `variable`; None if neither is configured.

    It is read on each call, so that a rotated secret is used immediately, and added to `secrets`. Raises
    UnavailableError, whose text names the configuration key, if there is none.
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
        raise UnavailableError(f"{where}: expected a secret, found nothing", Reason.MISCONFIGURED)
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
    """Return the proxy to a URL, the key `proxy` or else the environment's; None for a direct connection.

    An empty key means none, whatever the environment says. Raises ProxyUrlError and InvalidUrlError.
    """
    if proxy is None:
        return choose(parse_url(url), os.environ)
    return parse_proxy(proxy, "proxy") if proxy else None
