"""What the tests of the sinks share: records, certificates, and real servers."""

import datetime
import ipaddress
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from collector.model import SinkRecord
from tests.support import s3


@pytest.fixture
def record() -> Callable[..., SinkRecord]:
    def make(number: int = 0, **changed: Any) -> SinkRecord:
        fields: dict[str, Any] = {
            "cluster": "prod",
            "node": "gpu-node-01",
            "machine": "i-0abc",
            "source": "gpu-operator/nvidia-device-plugin-abc12",
            "chassis": "1821325191344",
            "gpu": str(1761025346025 + number),
            "time": "2026-06-07T10:30:45Z",
            "uuid": f"GPU-{number:08x}",
            "model": "NVIDIA GB200",
            "event": "appeared",
        }
        return SinkRecord(**(fields | changed))

    return make


@pytest.fixture
def aws_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of this machine's own settings of AWS count."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "BOTO_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": s3.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": s3.SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


class Certificates(NamedTuple):
    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return an authority of our own, and a server's and a client's certificate that it signed."""
    folder = tmp_path_factory.mktemp("certificates")
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _sign("test authority", authority_key, None, authority_key)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(name, key, authority, authority_key)
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return Certificates(*(folder / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")))


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = issuer_key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


class Server(NamedTuple):
    url: str  # of the owner, without the password
    password: str
    port: int


@pytest.fixture(scope="session")
def postgres(certificates: Certificates) -> Iterator[Server]:
    """Start a real PostgreSQL with TLS and passwords; skip where its programs are absent."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no postgres and initdb on PATH or in /usr/lib/postgresql")
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="gpuid-postgres-", dir="/tmp"))
    try:
        (folder / "password").write_text("hunter2-owner")
        shutil.copy(certificates.server_cert, folder / "server.pem")
        shutil.copy(certificates.server_key, folder / "server.key")
        (folder / "server.key").chmod(0o600)
        if account is not None:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, account, None)
        data = folder / "data"
        _as(account, programs / "initdb", "-D", data, "-U", "gpuid", "-A", "scram-sha-256", "-N", "--no-locale",
            "-E", "UTF8", f"--pwfile={folder / 'password'}")  # fmt: skip
        port = _free_port()
        (data / "postgresql.auto.conf").write_text(
            f"listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories=''\nfsync=off\n"
            f"ssl=on\nssl_cert_file='{folder}/server.pem'\nssl_key_file='{folder}/server.key'\n"
        )
        _as(account, programs / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log", "start")
        try:
            yield Server(f"postgresql://gpuid@localhost:{port}/postgres", "hunter2-owner", port)
        finally:
            _as(account, programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    if shutil.which("pg_ctl") and shutil.which("initdb") and shutil.which("postgres"):
        found.append(Path(str(shutil.which("pg_ctl"))).parent)
    return found[-1] if found else None


def _account() -> str | None:
    """Name a user to run as, because postgres refuses root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _as(account: str | None, *command: object) -> None:
    subprocess.run(
        list(map(str, command)),
        check=True,
        user=account,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def unused_port() -> int:
    return _free_port()
