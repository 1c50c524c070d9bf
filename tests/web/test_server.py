"""Authentication, TLS, and errors in the address or the certificate."""

import datetime
import errno
import functools
import ipaddress
import logging
import os
import ssl
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import bcrypt
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from collector.config import ConfigError, Listen, ServerSettings
from collector.tls import Validity, validity
from collector.web import serve
from collector.web.limits import HttpLimits
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


def certificate(folder: Path, name: str, *, days: int = 1) -> tuple[Path, Path]:
    """A self-signed certificate for this machine and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    certificate_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


class TestAuthentication:
    async def test_basic_authentication_asks_for_a_known_user_and_password(self, site: Any, serving: Any) -> None:
        async with serving(site, basic_auth={"sre": hashed("right")}) as client:
            answers = [
                await client.get("/metrics", auth=auth)
                for auth in (None, ("sre", "wrong"), ("nobody", "right"), ("sre", "right"), ("sre", "right"))
            ]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 200, 200]
        assert answers[0].headers["WWW-Authenticate"] == 'Basic realm="gpuid", charset="UTF-8"'
        assert answers[0].text == "authentication required\n"

    async def test_a_bearer_token_is_read_again_when_its_file_changes(
        self, site: Any, serving: Any, tmp_path: Path
    ) -> None:
        token = tmp_path / "token"
        token.write_text("first\n")
        async with serving(site, bearer_token_file=token) as client:

            async def status(value: str) -> int:
                return int((await client.get("/sd", headers={"Authorization": f"Bearer {value}".strip()})).status_code)

            assert [await status("first"), await status("second"), await status("")] == [200, 401, 401]
            token.write_text("second\n")
            assert [await status("first"), await status("second")] == [401, 200]
            token.write_text("\n")
            assert await status("") == 401

    async def test_either_credential_is_enough(self, site: Any, serving: Any, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("t")
        async with serving(site, bearer_token_file=token, basic_auth={"sre": hashed("p")}) as client:
            assert (await client.get("/", headers={"Authorization": "Bearer t"})).status_code == 200
            assert (await client.get("/", auth=("sre", "p"))).status_code == 200
            for wrong in (b"Basic %%%", b"Basic \xff", b"Bearer \xff", b"Basic /w==", b"Digest x", b"Basic"):
                assert (await client.get("/", headers={"Authorization": wrong})).status_code == 401

    async def test_probes_need_none(self, site: Any, serving: Any) -> None:
        async with serving(site, basic_auth={"sre": hashed("p")}) as client:
            for path, status in (("/healthz", 200), ("/readyz", 200), ("/api/v1/gpus", 401), ("/nothing", 401)):
                assert (await client.get(path)).status_code == status


class TestGuessing:
    """Passwords are hashed slowly and one at a time for all clients."""

    async def test_slow_guesses_do_not_delay_other_requests(
        self, site: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed, statuses = threading.Event(), Counter[int]()
        async with serving(site, basic_auth={"sre": hashed("right")}) as client:
            client.timeout = httpx.Timeout(60)
            assert (await client.get("/sd", auth=("sre", "right"))).status_code == 200
            monkeypatch.setattr("bcrypt.checkpw", lambda password, expected: closed.wait(60) and password == b"right")

            async def guess(password: str) -> None:
                statuses[(await client.get("/sd", auth=("sre", password))).status_code] += 1

            async def refused() -> bool:
                return statuses == {429: 12}

            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(guess, f"guess-{number}")
                await eventually(refused)
                assert (await client.get("/sd", auth=("sre", "one more"))).headers["Retry-After"] == "1"
                assert (await client.get("/sd", auth=("sre", "right"))).status_code == 200
                for path in ("/healthz", "/readyz"):
                    assert (await client.get(path, auth=("sre", "one more"))).status_code == 200
                closed.set()
        assert statuses == {429: 12, 401: 8}

    async def test_one_password_in_concurrent_requests_is_hashed_once(
        self, site: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        statuses, hashes_made, check = Counter[int](), Counter[bytes](), bcrypt.checkpw

        def count(password: bytes, expected: bytes) -> bool:
            hashes_made[password] += 1
            return check(password, expected)

        monkeypatch.setattr("bcrypt.checkpw", count)
        async with serving(site, basic_auth={"sre": hashed("right")}) as client:

            async def ask() -> None:
                statuses[(await client.get("/sd", auth=("sre", "right"), timeout=60)).status_code] += 1

            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(ask)
        assert (statuses, hashes_made) == ({200: 50}, {b"right": 1})


class TestTls:
    async def test_https_uses_the_configured_certificate(self, site: Any, serving: Any, tmp_path: Path) -> None:
        cert, key = certificate(tmp_path, "server")
        async with serving(
            site, cert_file=cert, key_file=key, verify=ssl.create_default_context(cafile=cert)
        ) as client:
            assert client.base_url.scheme == "https"
            assert (await client.get("/sd")).json()[0]["labels"]["__scheme__"] == "https"

    async def test_clients_must_show_a_certificate_when_a_ca_is_given(
        self, site: Any, serving: Any, tmp_path: Path
    ) -> None:
        cert, key = certificate(tmp_path, "server")
        client_cert, client_key = certificate(tmp_path, "client")
        bare = ssl.create_default_context(cafile=cert)
        armed = ssl.create_default_context(cafile=cert)
        armed.load_cert_chain(client_cert, client_key)
        async with serving(site, cert_file=cert, key_file=key, client_ca_file=client_cert, verify=armed) as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/sd")).status_code == 200
            assert "prod-a up" in (await client.get("/readyz?verbose")).text
            async with httpx.AsyncClient(base_url=client.base_url, verify=bare) as other:
                for path in ("/sd", "/metrics", "/api/v1/gpus", "/gpus", "/nowhere", "//healthz", "/healthz/../sd"):
                    refused = await other.get(path)
                    assert (refused.status_code, "certificate is required" in refused.text) == (403, True), path

    async def test_probes_need_no_certificate(self, site: Any, serving: Any, tmp_path: Path) -> None:
        cert, key = certificate(tmp_path, "server")
        client_cert, _ = certificate(tmp_path, "client")
        stranger = trusting(cert, *certificate(tmp_path, "stranger"))
        async with serving(
            site, cert_file=cert, key_file=key, client_ca_file=client_cert, verify=trusting(cert)
        ) as client:
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path)).status_code == 200
            assert (await client.get("/readyz?verbose")).text == "ok\n"
            async with httpx.AsyncClient(base_url=client.base_url, verify=stranger) as other:
                with pytest.raises(httpx.TransportError):
                    await other.get("/healthz")


class TestNewCertificates:
    """The files are checked so often that the tests need not wait."""

    @pytest.fixture
    def serving(self, serving: Any) -> Any:
        return functools.partial(serving, limits=HttpLimits(certificate_check_interval=0.02))

    async def test_a_new_pair_is_used_for_new_connections(self, site: Any, serving: Any, tmp_path: Path) -> None:
        cert, key = certificate(tmp_path, "server")
        new_cert, new_key = certificate(tmp_path, "renewed")
        async with serving(site, cert_file=cert, key_file=key, verify=trusting(cert)) as client:
            assert await answers(client, trusting(cert))
            new_key.replace(key)
            new_cert.replace(cert)
            await eventually(lambda: answers(client, trusting(cert)))

    async def test_a_pair_that_cannot_be_read_for_a_while_is_used_later(
        self, site: Any, serving: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_file: Path) -> bytes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        cert, key = certificate(tmp_path, "server")
        new_cert, new_key = certificate(tmp_path, "renewed")
        async with serving(site, cert_file=cert, key_file=key, verify=trusting(cert)) as client:
            with monkeypatch.context() as system:
                system.setattr("collector.web.tls.read_file", fail)
                new_key.replace(key)
                new_cert.replace(cert)
                await eventually(lambda: os.strerror(errno.EMFILE).lower() in caplog.text.lower())
            await eventually(lambda: answers(client, trusting(cert)))

    async def test_the_expiry_of_the_certificate_is_reported(
        self, site: Any, serving: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cert, key = certificate(tmp_path, "a")
        good: list[Validity | None] = []
        async with serving(site, cert_file=cert, key_file=key, verify=trusting(cert), on_certificate=good.append):
            (first,) = good
            assert first == validity(cert.read_bytes())
            cert.write_bytes(certificate(tmp_path, "c")[0].read_bytes())  # of another key
            await eventually(lambda: "keeping the current one" in caplog.text)
            assert good == [first]
            renewed = certificate(tmp_path, "b", days=2)
            key.write_bytes(renewed[1].read_bytes())
            cert.write_bytes(renewed[0].read_bytes())
            await eventually(lambda: good[1:], [validity(renewed[0].read_bytes())])

    async def test_a_certificate_that_does_not_match_its_key_is_refused(
        self, site: Any, serving: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cert, key = certificate(tmp_path, "server")
        trusted = trusting(cert)
        new_cert, new_key = certificate(tmp_path, "renewed")
        async with serving(site, cert_file=cert, key_file=key, verify=trusted) as client:
            new_cert.replace(cert)
            await eventually(lambda: "keeping the current one: server.cert_file: cannot use" in caplog.text)
            assert await answers(client, trusted)
            new_key.replace(key)
            await eventually(lambda: answers(client, trusting(cert)))
            assert not await answers(client, trusted)

    async def test_a_new_client_ca_is_used(self, site: Any, serving: Any, tmp_path: Path) -> None:
        cert, key = certificate(tmp_path, "server")
        pairs = [certificate(tmp_path, name) for name in ("first", "second")]
        first, second = (trusting(cert, *pair) for pair in pairs)
        ca = tmp_path / "ca.crt"
        ca.write_bytes(pairs[0][0].read_bytes())
        async with serving(site, cert_file=cert, key_file=key, client_ca_file=ca, verify=first) as client:
            assert [await answers(client, context) for context in (first, second)] == [True, False]
            ca.with_suffix(".new").write_bytes(pairs[1][0].read_bytes())
            ca.with_suffix(".new").replace(ca)
            await eventually(lambda: answers(client, second))
            assert not await answers(client, first)

    async def test_an_invalid_client_ca_is_refused(
        self, site: Any, serving: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cert, key = certificate(tmp_path, "server")
        pair = certificate(tmp_path, "client")
        ca = tmp_path / "ca.crt"
        ca.write_bytes(pair[0].read_bytes())
        async with serving(
            site, cert_file=cert, key_file=key, client_ca_file=ca, verify=trusting(cert, *pair)
        ) as client:
            ca.write_text("nothing")
            await eventually(lambda: "keeping the current one: server.client_ca_file: cannot use" in caplog.text)
            assert await answers(client, trusting(cert, *pair))
            assert not await answers(client, trusting(cert))


def trusting(authority: Path, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client's context that trusts an authority, and shows a certificate if given one and its key."""
    context = ssl.create_default_context(cafile=authority)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


async def answers(client: httpx.AsyncClient, context: ssl.SSLContext) -> bool:
    """Whether a new connection of this kind is served."""
    async with httpx.AsyncClient(base_url=client.base_url, verify=context) as other:
        try:
            return (await other.get("/sd")).status_code == 200
        except httpx.TransportError:
            return False


class TestMalformed:
    @pytest.mark.parametrize(
        ("request_line", "status"),
        [
            (b"GET / HTTP/1.1", b"400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b", b"400"),
            (b"GET / HTTP/9.9\r\nHost: a", b"400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + 100_000 * b"x", b"431"),
            (b"GET /\xe9 HTTP/1.1\r\nHost: a", b"400"),
            (b"\x16\x03\x01 nonsense", b"400"),
            (b"GET /sd HTTP/1.1\r\nHost: ", b"400"),
        ],
    )
    async def test_a_malformed_request_is_refused_without_a_log_line(
        self, site: Any, serving: Any, caplog: pytest.LogCaptureFixture, request_line: bytes, status: bytes
    ) -> None:
        with caplog.at_level(logging.INFO):
            async with (
                serving(site) as client,
                await anyio.connect_tcp("127.0.0.1", client.base_url.port) as stream,
            ):
                with anyio.fail_after(30):
                    await stream.send(request_line + b"\r\n\r\n")
                    answer = await stream.receive()
        assert answer.split(b" ")[1] == status
        assert caplog.records == []

    async def test_a_body_that_cannot_be_decoded_is_not_logged(
        self, site: Any, serving: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde"
        with caplog.at_level(logging.INFO):
            async with (
                serving(site) as client,
                await anyio.connect_tcp("127.0.0.1", client.base_url.port) as stream,
            ):
                with anyio.fail_after(30):
                    await stream.send(body)
                    while b"ok" not in await stream.receive():
                        pass
                    with pytest.raises(anyio.EndOfStream):
                        await stream.receive()
        assert caplog.records == []

    def test_errors_of_the_request_parser_are_not_logged(self) -> None:
        for file, ours in (("/lib/aiohttp/_http_parser.pyx", False), ("/lib/aiohttp/web_app.py", True)):
            with pytest.raises(IndexError) as caught:  # as yarl raises it for "GET http://[]@/"
                exec(compile("raise IndexError('string index out of range')", file, "exec"))
            error = (caught.type, caught.value, caught.tb)
            record = logging.LogRecord("asyncio", logging.ERROR, __file__, 1, "Fatal error", (), error)
            assert bool(logging.getLogger("asyncio").filter(record)) is ours


class TestMistakes:
    async def fail(self, site: Any, **settings: Any) -> str:
        with anyio.fail_after(25), pytest.raises(ConfigError) as caught:
            await serve(site.collector, ServerSettings(**settings), ready=lambda url: None)
        return str(caught.value)

    async def test_a_taken_port_is_one_clear_line(self, site: Any, serving: Any) -> None:
        async with serving(site) as client:
            address = f"127.0.0.1:{client.base_url.port}"
            assert await self.fail(site, listen=Listen(address)) == (
                f"server.listen: cannot listen on {address}: the address is already in use"
            )

    async def test_a_foreign_host_is_one_clear_line(self, site: Any) -> None:
        assert await self.fail(site, listen=Listen("192.0.2.1:80")) == (
            "server.listen: cannot listen on 192.0.2.1:80: cannot assign requested address"
        )
        assert await self.fail(site, listen=Listen("a..b:80")) == (
            "server.listen: cannot listen on a..b:80: name or service not known"
        )
        too_long = ".".join(["a" * 60] * 5)  # for any name server
        assert await self.fail(site, listen=Listen(f"{too_long}:80")) == (
            f"server.listen: cannot listen on {too_long}:80: name or service not known"
        )

    async def test_a_missing_certificate_is_one_clear_line(self, site: Any, tmp_path: Path) -> None:
        message = await self.fail(
            site, listen=Listen("127.0.0.1:0"), cert_file=tmp_path / "no.crt", key_file=tmp_path / "no.key"
        )
        assert message == (f"server.cert_file: cannot use {tmp_path}/no.crt with its key: no such file or directory")

    async def test_a_missing_or_empty_token_file_is_one_clear_line(self, site: Any, tmp_path: Path) -> None:
        path = tmp_path / "token"
        listen = Listen("127.0.0.1:0")
        assert await self.fail(site, listen=listen, bearer_token_file=path) == (
            f"server.bearer_token_file: cannot read {path}: no such file or directory"
        )
        path.write_text("\n")
        assert await self.fail(site, listen=listen, bearer_token_file=path) == (
            f"server.bearer_token_file: expected a token in {path}, but the file is empty"
        )
