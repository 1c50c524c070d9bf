"""TLS for one API server: certificates from files or data, and a context that trusts what Go would trust."""

import base64
import binascii
import contextlib
import functools
import logging
import ssl
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509

from collector.files import in_time, read_file
from collector.kube.connection import ClusterEntry, Redacted, User
from collector.kube.errors import OUT_OF_TIME, BadContextError
from collector.text import describe_os_error
from collector.timestamps import rfc3339
from collector.tls import (
    TlsFileError,
    Validity,
    client_context,
    load_certificate,
    read_authorities,
    validity,
    validity_of,
)

__all__ = [
    "Certificate",
    "Validity",
    "authorities",
    "client_certificate",
    "context",
    "data_or_file",
    "out_of_time",
    "trusted_certificates",
    "validity",
]

log = logging.getLogger(__name__)

# Python's own, except for the security level: level 1 allows 1024-bit keys, as Go does.
_CIPHERS = "@SECLEVEL=1:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
MAX_CHAIN_LENGTH = 16  # certificates of a server that are examined for an error
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108


class Certificate(Redacted, frozen=True):
    """A client certificate chain and its private key, both PEM."""

    chain: bytes
    key: bytes


def trusted_certificates(cluster: ClusterEntry, where: str) -> bytes | None:
    """Return the CA bundle as is, None for the system's; raises BadContextError."""
    return data_or_file(
        cluster.certificate_authority_data, cluster.certificate_authority, "certificate-authority", where
    )


def client_certificate(user: User, where: str) -> Certificate | None:
    """Return the client certificate in a kubeconfig or in the files that it names; raises BadContextError."""
    chain = data_or_file(user.client_certificate_data, user.client_certificate, "client-certificate", where)
    key = data_or_file(user.client_key_data, user.client_key, "client-key", where)
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise BadContextError(f"{where}: expected client-certificate and client-key together")
    return Certificate(chain=chain, key=key)


def authorities(bundle: bytes | None, key: str, where: str) -> tuple[bytes, ...] | None:
    """Return the usable certificates of a bundle, each as DER; None for the system's, also for an empty bundle.

    Unusable ones are logged if there are others; otherwise raises BadContextError.
    """
    if not bundle:
        return None
    try:
        found = read_authorities(bundle)
    except TlsFileError as error:
        raise BadContextError(f"{where}: {key}: {error}") from None
    for skipped in found.skipped:
        log.warning("%s: %s: %s is broken; skipped", where, key, skipped)
    return found.certificates


def out_of_time(chain: Sequence[bytes], authorities: Sequence[bytes], now: float) -> str:
    """Return which certificate, of a server's chain or the issuing authorities, is not valid at `now`.

    All are DER; the text is empty if none is found.
    """
    served = [*enumerate(map(_read, chain[:MAX_CHAIN_LENGTH]))]
    issuers = {one.issuer for _, one in served if one is not None}
    for place, one in [*served, *((-1, one) for one in map(_read, authorities) if one and one.subject in issuers)]:
        if one is None:
            continue
        begins, ends = one.validity
        if begins <= now <= ends:
            continue
        whose = (
            "the server's certificate"
            if place == 0
            else "an intermediate certificate of the server"
            if place > 0
            else "the certificate authority's certificate"
        )
        if now > ends:
            return f"{whose} expired on {rfc3339(ends, 'seconds')}; renew it"
        return f"{whose} is valid from {rfc3339(begins, 'seconds')} on; is the clock right?"
    return ""


def context(
    trusted: Sequence[bytes] | None, certificate: Certificate | None, *, insecure: bool, where: str
) -> ssl.SSLContext:
    """Return a context that trusts `trusted`, each as DER (None: the system's CAs), and presents `certificate`.

    Raises BadContextError.
    """
    try:
        made = client_context(ca_data=None if trusted is None else b"".join(trusted))
    except TlsFileError as error:
        raise BadContextError(f"{where}: certificate-authority: {error}") from error
    made.set_ciphers(_CIPHERS)
    made.sslobject_class = _Explained
    if insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        _present(made, certificate, where)
    return made


def data_or_file(encoded: str, path: str, key: str, where: str) -> bytes | None:
    """Return a kubeconfig value given as base64 or else as a file; None if neither. Raises BadContextError."""
    if encoded:
        try:
            return base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            raise BadContextError(f"{where}: {key}-data: expected base64") from None
    if path:
        try:
            return in_time(path, functools.partial(read_file, path))
        except (OSError, ValueError) as error:  # ValueError: not a valid path
            raise BadContextError(f"{where}: {key} {path}: {describe_os_error(error, 'not a path')}") from error
    return None


class _Explained(ssl.SSLObject):
    """An SSL context that names an expired or not yet valid certificate, with its date."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in OUT_OF_TIME:
                found = out_of_time(_served(self), self.context.get_ca_certs(binary_form=True), time.time())
                error.verify_message = found or f"{error.verify_message}; renew it, or set the clock"
            raise


def _served(connection: ssl.SSLObject) -> list[bytes]:
    """Return the chain that a server presented, as DER; empty if unknown."""
    try:
        # Public in Python 3.13, of the same name.
        inner: Any = connection._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
        return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain() or ()]
    except Exception:  # only for explaining an error
        return []


class _Facts(NamedTuple):
    """What a certificate says about itself and its issuer."""

    subject: x509.Name
    issuer: x509.Name
    validity: Validity


def _read(certificate: bytes) -> _Facts | None:
    """Return what a certificate says; None if it cannot be read."""
    with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
        loaded = x509.load_der_x509_certificate(certificate)
        # The library reads fields only when they are asked for, and raises ValueError then.
        return _Facts(loaded.subject, loaded.issuer, validity_of(loaded))
    return None


def _present(made: ssl.SSLContext, certificate: Certificate, where: str) -> None:
    try:
        chain = "".join(map(ssl.DER_cert_to_PEM_cert, read_authorities(certificate.chain).certificates)).encode()
    except TlsFileError as error:
        raise BadContextError(f"{where}: client-certificate: {error}") from None
    # OpenSSL reads keys from files only. This one has mode 0600, is in memory if there is such a folder, and is deleted
    # once the context has read it.
    try:
        with tempfile.NamedTemporaryFile(dir=_MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else None) as file:
            file.write(chain + b"\n" + certificate.key)
            file.flush()
            load_certificate(made, file.name)
    except TlsFileError as error:
        raise BadContextError(f"{where}: client-certificate and client-key: {error}") from None
    except OSError as error:
        why = describe_os_error(error, "cannot be written")
        raise BadContextError(f"{where}: client-certificate: temporary file: {why}") from error
