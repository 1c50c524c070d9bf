"""TLS contexts made of PEM files; nothing here ever asks the terminal for a key's password."""

import ssl
from pathlib import Path
from typing import Literal

from collector.model import GpuidError
from collector.text import describe_os_error

__all__ = ["TlsFileError", "client_context", "load_certificate", "reason", "server_context"]


class TlsFileError(GpuidError):
    """A certificate, key or CA file cannot be used; the text is the reason alone."""

    def __init__(self, reason: str, *, kind: Literal["ca", "cert"], file: Path | str | None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.file = file


def client_context(
    *, ca: Path | None = None, cert: Path | None = None, key: Path | None = None, ca_data: str | None = None
) -> ssl.SSLContext:
    """Return a context that trusts `ca` or `ca_data` (neither: the system's CAs) and presents `cert`.

    Raises TlsFileError.
    """
    try:
        context = ssl.create_default_context(cafile=ca, cadata=ca_data)
    except (OSError, ValueError) as error:
        raise TlsFileError(reason(error, "expected PEM certificates"), kind="ca", file=ca) from error
    if cert is not None:
        load_certificate(context, cert, key)
    return context


def server_context(cert: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """Return a context for a server, with `client_ca` one that admits only clients it signed; raises TlsFileError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, cert, key)
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise TlsFileError(reason(error, "expected PEM certificates"), kind="ca", file=client_ca) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, cert: Path | str, key: Path | str | None = None) -> None:
    """Let a context present a certificate chain, whose key may be in the same file; raises TlsFileError."""
    try:
        # With an empty password, OpenSSL refuses an encrypted key instead of asking for one.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        text = reason(error, "expected a PEM certificate with its unencrypted key")
        raise TlsFileError(text, kind="cert", file=key or cert) from error


def reason(error: BaseException, default: str) -> str:
    """Return why a file could not be loaded: the system's words, or `default` where it is the content that is wrong."""
    if isinstance(error, ssl.SSLError):
        return "the certificate and the key do not match" if error.reason == "KEY_VALUES_MISMATCH" else default
    return describe_os_error(error, default)
