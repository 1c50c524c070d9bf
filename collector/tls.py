"""TLS contexts from PEM files, without ever prompting for a key's password.

CA bundles are read as in Go: text around the certificates does not matter, and a broken certificate is skipped with a
warning.
"""

import base64
import binascii
import codecs
import logging
import re
import ssl
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from collector.files import read_file
from collector.model import GpuidError
from collector.text import describe_os_error

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "Authorities",
    "TlsFileError",
    "Validity",
    "client_context",
    "load_certificate",
    "read_authorities",
    "reason",
    "server_context",
    "validity",
    "validity_of",
]

log = logging.getLogger(__name__)

_BEGIN = re.compile(rb"^[ \t]*-----BEGIN ([A-Z0-9 ]+)-----", re.MULTILINE)
_SSL_REASONS = {
    "KEY_VALUES_MISMATCH": "the certificate and the key do not match",
    "EE_KEY_TOO_SMALL": "its key is too small",
    "CA_KEY_TOO_SMALL": "the key of its issuer is too small",
    "CA_MD_TOO_WEAK": "its signature uses a digest that is too weak",
}
_LABELS = (b"CERTIFICATE", b"X509 CERTIFICATE")


class TlsFileError(GpuidError):
    """A certificate, key or CA file cannot be used; the text is only the reason."""

    def __init__(self, reason: str, *, kind: Literal["ca", "cert"], file: Path | str | None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.file = file


class Validity(NamedTuple):
    """The validity period (Unix seconds) of a certificate or token; -inf for an unknown start."""

    begins: float
    ends: float


class Authorities(NamedTuple):
    """The certificates of a bundle."""

    certificates: tuple[bytes, ...]  # usable ones, as DER
    skipped: tuple[str, ...]  # the others, such as `certificate 2 of 3 (line 21)`


def read_authorities(content: bytes, file: Path | str | None = None) -> Authorities:
    """Return the certificates of a bundle; raises TlsFileError if there are none."""
    content = content.removeprefix(codecs.BOM_UTF8)
    blocks = [
        (label[1], content[label.end() :].partition(b"-----END " + label[1] + b"-----"), label.start())
        for label in _BEGIN.finditer(content)
    ]
    found = [(body, end, start) for label, (body, end, _), start in blocks if label in _LABELS]
    good, skipped = [], []
    for number, (body, end, start) in enumerate(found, 1):
        certificate = _certificate(body) if end else None
        if certificate is not None:
            good.append(certificate)
        else:
            line = content.count(b"\n", 0, start) + 1
            skipped.append(f"certificate {number} of {len(found)} (line {line})")
    if good:
        return Authorities(tuple(good), tuple(skipped))
    text = "expected PEM certificates"
    if found:
        text += "; the only one in it is broken" if len(found) == 1 else f"; all {len(found)} in it are broken"
    elif blocks:
        text += f", found {blocks[0][0].decode()}"
    elif _certificate_der(content):
        text += ", found DER; `openssl x509 -inform der -in FILE -out FILE.pem` converts it"
    raise TlsFileError(text, kind="ca", file=file)


def client_context(
    *, ca: Path | None = None, cert: Path | None = None, key: Path | None = None, ca_data: bytes | None = None
) -> ssl.SSLContext:
    """Return a context that trusts `ca` or `ca_data` in DER (neither: the system's CAs) and presents `cert`.

    Raises TlsFileError.
    """
    try:
        context = ssl.create_default_context(cadata=ca_data if ca is None else _authorities(ca))
    except (OSError, ValueError) as error:
        raise TlsFileError(reason(error, "expected certificates"), kind="ca", file=ca) from error
    _verify_as_go(context)
    if cert is not None:
        load_certificate(context, cert, key)
    return context


def server_context(cert: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """Return a server context; with `client_ca`, a certificate that a client shows must be signed by it.

    Whether a client needs one depends on what it asks for. Raises TlsFileError.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _verify_as_go(context)
    load_certificate(context, cert, key)
    if client_ca is not None:
        try:
            context.load_verify_locations(cadata=_authorities(client_ca))
        except (OSError, ValueError) as error:
            raise TlsFileError(reason(error, "expected certificates"), kind="ca", file=client_ca) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _verify_as_go(context: ssl.SSLContext) -> None:
    """Accept the chains that Go accepts, on every version of Python.

    Go asks less of a CA than OpenSSL's strict mode, which Python uses from 3.13 on: a CA without a key usage is valid.
    And it trusts each certificate of a bundle, not only a root; Python does so from 3.13 on.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def load_certificate(context: ssl.SSLContext, cert: Path | str, key: Path | str | None = None) -> None:
    """Load a certificate chain into a context; the key may be in the same file; raises TlsFileError."""
    try:
        # With an empty password, OpenSSL rejects an encrypted key instead of prompting.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        text = reason(error, "expected a PEM certificate with its unencrypted key")
        raise TlsFileError(text, kind="cert", file=key or cert) from error


def validity(chain: bytes) -> Validity | None:
    """Return the validity of the first certificate in a PEM chain; None if it cannot be determined."""
    from cryptography import x509  # here, because it takes long to load

    try:
        with warnings.catch_warnings(action="ignore"):  # about the contents of others' certificates
            return validity_of(x509.load_pem_x509_certificate(chain))
    except Exception:  # the library raises many, and none is a reason not to use a certificate
        return None


def validity_of(certificate: "x509.Certificate") -> Validity:
    """Return the validity of a certificate; raises ValueError if it cannot be read."""
    return Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


def reason(error: BaseException, default: str) -> str:
    """Return why a file could not be loaded: the system's reason, or `default` for invalid content."""
    if isinstance(error, ssl.SSLError):
        return _SSL_REASONS.get(error.reason or "", default)
    return describe_os_error(error, default)


def _authorities(file: Path) -> bytes:
    """Return a file's certificates as DER, logging skipped ones; raises TlsFileError and OSError."""
    found = read_authorities(read_file(file), file)
    for skipped in found.skipped:
        log.warning("%s: %s is broken; skipped", file, skipped)
    return b"".join(found.certificates)


def _certificate(body: bytes) -> bytes | None:
    """Return the DER of a PEM block's body; None if it is not a certificate."""
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        return None
    return der if _certificate_der(der) else None


def _certificate_der(der: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except (OSError, ValueError):
        return False
    return True
