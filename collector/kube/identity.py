"""Identifies the API server behind a session, as far as TLS proves it.

Anything a server says about itself may be copied from another one. It cannot copy the private key of a certificate that
we verify, which signs each handshake.

Certificates from the same authority prove nothing by themselves: a company's CA may sign those of all its clusters.
"""

import functools
import hashlib
import ssl
import warnings
from collections.abc import Callable, Iterable
from enum import StrEnum

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yarl import URL

__all__ = ["Evidence", "Proof", "ProofKind"]

MAX_KEYS = 64  # per session; a server with more keys proves nothing
_CERTIFICATES = 256  # whose keys are remembered, for all sessions


class ProofKind(StrEnum):
    """What two sessions with the same server can have in common."""

    ADDRESS = "address"  # the path, and the authorities that verify the server
    KEY = "key"  # key of the server's certificate, and the path


class Proof(msgspec.Struct, frozen=True):
    """One proof of the server's identity: everything the session has ever connected with, as a digest."""

    kind: ProofKind
    digest: str


class Evidence:
    """What the connections of one session prove; `on_change` is called with it on every change.

    It only grows, and all of it counts: a server that forwards some connections to another one, and thereby shows that
    one's key, is not mistaken for it. A single unverified connection voids all proof.
    """

    def __init__(self, on_change: Callable[[frozenset[Proof]], None] = lambda _proofs: None) -> None:
        self._on_change = on_change
        self._verified = True
        self._addresses: set[str] = set()
        self._paths: set[str] = set()  # behind one server, such as Rancher, each path is another cluster
        self._keys: set[str] = set()
        self._reported: frozenset[Proof] = frozenset()

    @property
    def proofs(self) -> frozenset[Proof]:
        """The proofs so far."""
        if not self._verified or not self._keys:
            return frozenset()
        found = {ProofKind.ADDRESS: self._addresses, ProofKind.KEY: self._keys | self._paths}
        return frozenset(Proof(kind, _digest(seen)) for kind, seen in found.items() if seen)

    def add_server(self, server: URL, server_name: str | None, proxy: URL | None, trust: str | None) -> None:
        """Record the server to which the session connects from now on, and its `trust` there; None: unverified."""
        if server.scheme != "https" or trust is None:
            self._verified = False
        else:
            path = server.raw_path.rstrip("/")
            route = f"{proxy.scheme}://{proxy.host}:{proxy.port}" if proxy else ""
            self._paths.add(f"path {path}")
            self._addresses.add(f"{server.host}:{server.port}{path} {server_name} {route} {trust}")
        self._report()

    def observe(self, context: ssl.SSLContext) -> None:
        """Record the key of every server that completes a handshake in this context, which must verify it."""
        observer, base = self, context.sslobject_class

        class Observed(base):  # type: ignore[misc, valid-type]  # keeps the context's own class working
            def do_handshake(self) -> None:
                super().do_handshake()  # raises until it is complete, and for an unverified server
                observer._add_certificate(self.getpeercert(binary_form=True) or b"")

        context.sslobject_class = Observed

    def _add_certificate(self, certificate: bytes) -> None:
        key = _key(certificate)
        if key not in self._keys:
            if len(self._keys) < MAX_KEYS:
                self._keys.add(key)
            else:
                self._verified = False
            self._report()

    def _report(self) -> None:
        if (proofs := self.proofs) != self._reported:
            self._reported = proofs
            self._on_change(proofs)


def trust(authorities: Iterable[bytes] | None) -> str:
    """Return a digest of some authorities, each as DER; None for the system's."""
    return "system" if authorities is None else _digest(map(_key, authorities))


@functools.lru_cache(maxsize=_CERTIFICATES)  # every connection presents one
def _key(certificate: bytes) -> str:
    """Return a digest of a certificate's public key; of the certificate itself where the key cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            key = x509.load_der_x509_certificate(certificate).public_key()
            content = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # the library may not know the algorithm, and a certificate serves just as well for comparing
        content = certificate
    return hashlib.sha256(content).hexdigest()


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(set(parts))).encode("utf-8", "replace")).hexdigest()
