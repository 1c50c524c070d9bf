"""TLS towards one API server: certificates from files or data, made into a context that trusts what Go trusts."""

import base64
import binascii
import ssl
import tempfile
from pathlib import Path

from collector.kube.connection import ClusterEntry, Redacted, User
from collector.kube.errors import BadContextError

__all__ = ["Certificate", "authorities", "certificate", "context", "data"]


class Certificate(Redacted, frozen=True):
    """A client certificate chain and its private key, both PEM."""

    chain: bytes
    key: bytes


def authorities(cluster: ClusterEntry, where: str) -> bytes | None:
    """Read the PEM certificates to trust; None is the system's. Raises BadContext."""
    return data(cluster.certificate_authority_data, cluster.certificate_authority, "certificate-authority", where)


def certificate(user: User, where: str) -> Certificate | None:
    """Read the client certificate that a kubeconfig itself holds or names; raises BadContext."""
    chain = data(user.client_certificate_data, user.client_certificate, "client-certificate", where)
    key = data(user.client_key_data, user.client_key, "client-key", where)
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise BadContextError(f"{where}: expected client-certificate and client-key together")
    return Certificate(chain=chain, key=key)


def context(trusted: bytes | None, shown: Certificate | None, *, insecure: bool, where: str) -> ssl.SSLContext:
    """Make what verifies against `trusted` (None: the system's) and shows `shown`; raises BadContext."""
    try:
        made = ssl.create_default_context(cadata=trusted.decode("ascii", "replace") if trusted else None)
    except (ssl.SSLError, ValueError) as error:
        raise BadContextError(f"{where}: certificate-authority: expected PEM certificates") from error
    # Go asks less of a CA than OpenSSL's strict mode, and takes any trusted certificate for an anchor, not only a root.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if shown is not None:
        _show(made, shown, where)
    return made


def data(encoded: str, path: str, key: str, where: str) -> bytes | None:
    """Read what a kubeconfig gives either as base64 or as a file; None if as neither. Raises BadContext."""
    if encoded:
        try:
            return base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            raise BadContextError(f"{where}: {key}-data: expected base64") from None
    if path:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise BadContextError(f"{where}: {key} {path}: {(error.strerror or 'cannot be read').lower()}") from error
    return None


def _show(made: ssl.SSLContext, shown: Certificate, where: str) -> None:
    # OpenSSL takes keys from files alone. This one has mode 0600, lies in memory where there is such a folder, and is
    # gone when the context has read it.
    memory = Path("/dev/shm")  # noqa: S108
    try:
        with tempfile.NamedTemporaryFile(dir=memory if memory.is_dir() else None) as file:
            file.write(shown.chain + b"\n" + shown.key)
            file.flush()
            # An empty password, because without one OpenSSL would ask the terminal for an encrypted key's.
            made.load_cert_chain(file.name, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadContextError(f"{where}: client-certificate and client-key do not belong together") from None
        raise BadContextError(
            f"{where}: client-certificate and client-key: expected PEM, the key not encrypted"
        ) from None
    except OSError as error:
        raise BadContextError(f"{where}: client-certificate: no temporary file: {error.strerror}") from error
