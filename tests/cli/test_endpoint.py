"""Where a collector answers, and with which TLS files."""

import errno
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from collector.cli.endpoint import client_tls, connection_problem, server_endpoint, url_endpoint
from collector.config import ConfigError, Listen, ServerSettings

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def encrypted_key(certificate: tuple[Path, Path], tmp_path: Path) -> Path:
    """The certificate's key, encrypted with the password `secret`."""
    key = serialization.load_pem_private_key(certificate[1].read_bytes(), password=None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    file = tmp_path / "encrypted.key"
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return file


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("10.0.0.1:80", "http://10.0.0.1:80"),
    ],
)
def test_a_wildcard_address_is_reached_by_loopback(listen: str, url: str):
    assert server_endpoint(ServerSettings(listen=Listen(listen))) == (url, None, None)


def test_a_url_has_no_trailing_slash():
    assert url_endpoint("https://gpuid.example.com/base/").url == "https://gpuid.example.com/base"


def test_the_servers_own_certificate_is_trusted(certificate: tuple[Path, Path]):
    cert, key = certificate
    endpoint = server_endpoint(ServerSettings(cert_file=cert, key_file=key))
    assert endpoint.tls is not None
    assert not endpoint.tls.check_hostname
    assert endpoint.tls.verify_mode is ssl.CERT_REQUIRED
    assert endpoint.tls.cert_store_stats()["x509"] == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file or directory"), (b"", "expected PEM certificates"), (b"\xff", "expected PEM certificates")],
)
def test_an_unusable_server_certificate_is_named(
    certificate: tuple[Path, Path], tmp_path: Path, content: bytes | None, reason: str
):
    file = tmp_path / "bad.crt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        server_endpoint(ServerSettings(cert_file=file, key_file=certificate[1]))
    assert str(raised.value) == f"server.cert_file: {file}: {reason}"


def test_without_tls_options_there_is_no_context():
    assert client_tls(ca=None, cert=None, key=None) is None


def test_an_unusable_file_names_its_option(certificate: tuple[Path, Path], encrypted_key: Path, tmp_path: Path):
    absent = tmp_path / "absent"
    cert, _ = certificate
    unencrypted = "expected a PEM certificate with its unencrypted key"
    for options, text in (
        ({"ca": absent, "cert": None, "key": None}, f"--ca: {absent}: no such file or directory"),
        ({"ca": None, "cert": absent, "key": None}, f"--cert: {absent}: no such file or directory"),
        ({"ca": None, "cert": cert, "key": None}, f"--cert: {cert}: {unencrypted}"),
        ({"ca": None, "cert": cert, "key": encrypted_key}, f"--key: {encrypted_key}: {unencrypted}"),
    ):
        with pytest.raises(ConfigError) as raised:
            client_tls(**options)
        assert str(raised.value) == text


@pytest.mark.parametrize("configured", [False, True])
def test_a_key_password_is_never_prompted_for(
    gpuid: Run, certificate: tuple[Path, Path], encrypted_key: Path, tmp_path: Path, configured: bool
):
    cert, _ = certificate
    if configured:
        config = tmp_path / "gpuid.toml"
        config.write_text(
            f'[server]\ncert_file = "{cert}"\nkey_file = "{encrypted_key}"\nclient_ca_file = "{cert}"\n'
            '[[clusters]]\ncontext = "x"\n'
        )
        options: tuple[str | Path, ...] = ("--config", config)
    else:
        options = ("--url", "https://127.0.0.1:1", "--cert", cert, "--key", encrypted_key)
    # Without a terminal of its own, OpenSSL would ask on standard error and read the answer from standard input.
    result = gpuid("ls", *options, input="secret\n", start_new_session=True)
    option = "server.key_file" if configured else "--key"
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"gpuid: {option}: {encrypted_key}: expected a PEM certificate with its unencrypted key\n"


def test_the_first_cause_with_a_reason_explains_a_connection():
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    outer = RuntimeError("All connection attempts failed")
    outer.__cause__ = refused
    assert connection_problem(outer) == "connection refused"
    assert connection_problem(RuntimeError("odd")) == "odd"
    assert connection_problem(RuntimeError()) == "RuntimeError"
