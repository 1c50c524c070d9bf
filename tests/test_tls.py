"""Bundles of CA certificates, taken as Go takes them."""

import contextlib
import ssl
from pathlib import Path

import pytest

from collector.tls import TlsFileError, client_context, read_authorities, server_context
from tests.support.kubernetes import Authority


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("authorities")
    return Authority(folder, "one").path.read_text(), Authority(folder, "two").path.read_text()


BROKEN = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
BODY = "not base64!"


class TestWhatIsTaken:
    @pytest.mark.parametrize(
        "bundle",
        [
            "{one}{two}",
            "# NetLock Arany (Class Gold) Főtanúsítvány\n{one}{two}",
            "\ufeff{one}{two}",
            "text before\n{one}\ntext between\n{two}text after",
            "{one_crlf}{two_crlf}",
            "{one_cut}\n{two}",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{one}{two}",
            "  {one_indented}\n{two}",
            "# -----BEGIN CERTIFICATE-----\n# MIIB\n# -----END CERTIFICATE-----\n{one}{two}",
        ],
    )
    def test_certificates_are_found_in_any_text(self, pems: tuple[str, str], bundle: str):
        one, two = pems
        text = bundle.format(
            one=one,
            two=two,
            one_crlf=one.replace("\n", "\r\n"),
            two_crlf=two.replace("\n", "\r\n"),
            one_cut=one.rstrip("\n"),
            one_indented=one.replace("\n", "\n  "),
        )
        found = read_authorities(text.encode())
        assert [ssl.DER_cert_to_PEM_cert(der) for der in found.certificates] == [one, two]
        assert found.skipped == ()

    def test_undecodable_bytes_do_not_matter(self, pems: tuple[str, str]):
        found = read_authorities(b"\xff\xfe\x00 Latin-1: \xe4\n" + pems[0].encode())
        assert len(found.certificates) == 1

    @pytest.mark.parametrize(
        ("bundle", "skipped"),
        [
            ("{broken}{one}{two}", "certificate 1 of 3 (line 1)"),
            ("{one}{two}{broken}", "certificate 3 of 3 (line {line})"),
            ("-----BEGIN CERTIFICATE-----\nMIIB\n{one}{two}", "certificate 1 of 3 (line 1)"),
            ("{broken_base64}{one}{two}", "certificate 1 of 3 (line 1)"),
        ],
    )
    def test_a_broken_one_is_skipped_by_its_position(self, pems: tuple[str, str], bundle: str, skipped: str):
        one, two = pems
        line = (one + two).count("\n") + 1
        text = bundle.format(one=one, two=two, broken=BROKEN, broken_base64=BROKEN.replace("MIIB", BODY))
        found = read_authorities(text.encode())
        assert len(found.certificates) == 2
        assert found.skipped == (skipped.format(line=line),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected PEM certificates"),
        (b"no CA", "expected PEM certificates"),
        (BROKEN.encode(), "expected PEM certificates; the only one in it is broken"),
        (BROKEN.encode() * 3, "expected PEM certificates; all 3 in it are broken"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n", "expected PEM certificates, found PRIVATE KEY"),
    ],
)
def test_a_bundle_without_certificates_is_one_clear_line(content: bytes, message: str):
    with pytest.raises(TlsFileError) as caught:
        read_authorities(content)
    assert str(caught.value) == message


def test_der_gets_conversion_instructions(pems: tuple[str, str]):
    with pytest.raises(TlsFileError) as caught:
        read_authorities(ssl.PEM_cert_to_DER_cert(pems[0]))
    assert str(caught.value) == (
        "expected PEM certificates, found DER; `openssl x509 -inform der -in FILE -out FILE.pem` converts it"
    )


def connect(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Let a client and a server shake hands in memory; raises ssl.SSLError if either refuses the other."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    with contextlib.suppress(ssl.SSLWantReadError):
        ends[0].read()  # with TLS 1.3, a server refuses a client after the client's last step
    assert [end.version() for end in ends] == ["TLSv1.3"] * 2


class TestContexts:
    @pytest.fixture
    def bundle(self, tmp_path: Path, pems: tuple[str, str]) -> Path:
        path = tmp_path / "ca.crt"
        path.write_text(f"# Főtanúsítvány\n{BROKEN}{pems[0]}", encoding="utf-8")
        return path

    def test_a_file_s_broken_certificates_are_logged(self, bundle: Path, caplog: pytest.LogCaptureFixture):
        context = client_context(ca=bundle)
        assert len(context.get_ca_certs()) == 1
        assert caplog.messages == [f"{bundle}: certificate 1 of 2 (line 2) is broken; skipped"]

    def test_a_servers_client_ca_is_read_the_same_way(self, bundle: Path, tmp_path: Path):
        pair = Authority(tmp_path, "server-ca").issue("server", "127.0.0.1")
        context = server_context(pair.chain, pair.key, client_ca=bundle)
        assert len(context.get_ca_certs()) == 1
        assert context.verify_mode is ssl.CERT_OPTIONAL

    def test_plain_authorities_are_enough_on_both_sides(self, tmp_path: Path):
        authority = Authority(tmp_path, "plain")  # without a key usage and key identifiers
        served, shown = authority.issue("served", "127.0.0.1"), authority.issue("shown")
        server = server_context(served.chain, served.key, client_ca=authority.path)
        connect(client_context(ca=authority.path, cert=shown.chain, key=shown.key), server)

    def test_a_bundle_need_not_hold_the_root(self, tmp_path: Path):
        served = Authority(tmp_path, "root").issue("served", "127.0.0.1")
        connect(client_context(ca=served.chain), server_context(served.chain, served.key))

    @pytest.mark.parametrize(("content", "message"), [(None, "no such file or directory"), ("x", "expected PEM cert")])
    def test_an_unusable_file_raises_our_error(self, tmp_path: Path, content: str | None, message: str):
        path = tmp_path / "ca.crt"
        if content is not None:
            path.write_text(content)
        with pytest.raises(TlsFileError, match=message) as caught:
            client_context(ca=path)
        assert (caught.value.kind, caught.value.file) == ("ca", path)
