"""A certificate authority, a TLS API server, a proxy and an OpenID issuer, all real and on the loopback interface."""

import asyncio
import base64
import datetime
import ipaddress
import json
import logging
import ssl
import textwrap
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from collector import config
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError
from collector.kube.session import Request, Session
from tests.support.clock import Clock

SECRET = "s3cr3t"  # part of every token and password in these tests; nothing may ever say it
ENCODED = "czNjcjN0"  # nor in base64


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    chain: Path
    key: Path

    @property
    def pem(self) -> dict[str, str]:
        return {"chain": self.chain.read_text(), "key": self.key.read_text()}


class Authority:
    """Signs what the tests need."""

    def __init__(self, folder: Path, name: str, *, days: tuple[float, float] = (-1, 1), rsa_bits: int = 0) -> None:
        self._folder = folder
        self._key = _new_key(rsa_bits)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.crt"
        # As plain as many clusters' own: no key identifiers, which strict verification would ask for.
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._sign(self._name, self._key.public_key(), constraints, days=days)
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def data(self) -> str:
        return base64.b64encode(self.path.read_bytes()).decode()

    def issue(self, name: str, *hosts: str, days: tuple[float, float] = (-1, 1), rsa_bits: int = 0) -> Pair:
        """Issue a certificate that is valid from one until another number of days from now."""
        key = _new_key(rsa_bits)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extensions: list[x509.ExtensionType] = [x509.BasicConstraints(ca=False, path_length=None)]
        if hosts:
            extensions.append(x509.SubjectAlternativeName([_general(host) for host in hosts]))
        certificate = self._sign(subject, key.public_key(), *extensions, days=days)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        *extensions: x509.ExtensionType,
        days: tuple[float, float] = (-1, 1),
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        first, last = (now + datetime.timedelta(days=day) for day in days)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(first).not_valid_after(last)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(self._key, hashes.SHA256())


def _new_key(rsa_bits: int) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    groups: list[str]
    subject: str | None  # of the client's certificate
    body: bytes

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


@dataclass
class ApiServer:
    """Answers as `paths` says, else with who asks; with `allowed`, refuses every other Authorization."""

    url: str = ""
    allowed: set[str] | None = None
    paths: dict[str, Handler] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def only(self, *tokens: str) -> None:
        self.allowed = {f"Bearer {token}" for token in tokens}

    @property
    def tokens(self) -> list[str | None]:
        """What was shown, request by request."""
        return [seen.authorization for seen in self.seen]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        subject = dict(pair for name in certificate["subject"] for pair in name)["commonName"] if certificate else None
        body = await request.read()
        self.connections.add(request.transport)
        self.seen.append(
            Seen(
                request.method,
                request.path_qs,
                dict(request.headers),
                request.headers.getall("Impersonate-Group", []),
                subject,
                body,
            )
        )
        if self.allowed is not None and request.headers.get("Authorization") not in self.allowed:
            return status(401, "Unauthorized")
        if handler := self.paths.get(request.path):
            return await handler(request)
        return web.json_response({"path": request.path, "subject": subject})


def status(code: int, message: str, reason: str = "", **headers: str) -> web.Response:
    """Make an answer as Kubernetes gives them for errors."""
    return web.json_response(
        {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code},
        status=code,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


@asynccontextmanager
async def serving(handle: Handler, context: ssl.SSLContext | None, host: str = "127.0.0.1") -> AsyncIterator[str]:
    application = web.Application(client_max_size=1 << 24)
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=context)
    await site.start()
    scheme = "https" if context else "http"
    yield f"{scheme}://{host}:{runner.addresses[0][1]}"
    await runner.cleanup()


def _context(pair: Pair, client_authority: Authority | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as Go verifies
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # keys of any length
    context.load_cert_chain(pair.chain, pair.key)
    if client_authority:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(client_authority.path)
    return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other")


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[ApiServer]:
    api = ApiServer()
    async with serving(api.handle, _context(authority.issue("server", "127.0.0.1"), authority)) as api.url:
        yield api


@pytest.fixture
async def named_server(authority: Authority) -> AsyncIterator[ApiServer]:
    """Yield a server whose certificate holds a name alone, not the address that it is reached at."""
    api = ApiServer()
    async with serving(api.handle, _context(authority.issue("named", "kubernetes.test"), authority)) as api.url:
        yield api


@asynccontextmanager
async def serving_with(pair: Pair) -> AsyncIterator[ApiServer]:
    """Yield a server with this certificate."""
    api = ApiServer()
    async with serving(api.handle, _context(pair, None)) as api.url:
        yield api


@pytest.fixture
async def plain_server() -> AsyncIterator[ApiServer]:
    """Yield a server without TLS."""
    api = ApiServer()
    async with serving(api.handle, None) as api.url:
        yield api


@dataclass
class Proxy:
    """An HTTP proxy for CONNECT; with a password it asks for it."""

    url: str = ""
    password: str | None = None
    targets: list[str] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split("\r\n")[0].split(" ")
            assert method == "CONNECT"
            self.targets.append(target)
            expected = "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()
            if self.password and f"Proxy-Authorization: {expected}" not in head.split("\r\n"):
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            host, _, port = target.rpartition(":")
            try:
                onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
            except OSError:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pipe(reader, onward_writer), _pipe(onward_reader, writer))
        finally:
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    made = Proxy()
    listener = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield made
    listener.close()


@pytest.fixture
async def tls_proxy(authority: Authority) -> AsyncIterator[Proxy]:
    made = Proxy()
    context = _context(authority.issue("proxy", "127.0.0.1"), None)
    listener = await asyncio.start_server(made.handle, "127.0.0.1", 0, ssl=context)
    made.url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield made
    listener.close()


@dataclass
class SocksProxy:
    """A SOCKS5 proxy (RFC 1928, RFC 1929); with a password it asks for it, and `reply` is its answer to a request."""

    url: str = ""
    password: str | None = None
    reply: int = 0
    targets: list[str] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            version, count = await reader.readexactly(2)
            methods = await reader.readexactly(count)
            assert version == 5
            method = 0 if self.password is None else 2
            writer.write(bytes([5, method if method in methods else 0xFF]))
            if method not in methods:
                return
            if self.password is not None:
                user, password = [await self._text(reader, skip) for skip in (1, 0)]
                right = (user, password) == ("user", self.password)
                writer.write(bytes([1, 0 if right else 1]))
                if not right:
                    return
            _version, _command, _reserved, kind = await reader.readexactly(4)
            host = (
                await self._text(reader, 0)
                if kind == 3
                else str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
            )
            port = int.from_bytes(await reader.readexactly(2), "big")
            self.targets.append(f"{host}:{port}")
            writer.write(bytes([5, self.reply, 0, 1, 0, 0, 0, 0, 0, 0]))
            if self.reply == 0:
                onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_pipe(reader, onward_writer), _pipe(onward_reader, writer))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _text(self, reader: asyncio.StreamReader, skip: int) -> str:
        length = (await reader.readexactly(skip + 1))[-1]
        return (await reader.readexactly(length)).decode()


@pytest.fixture
async def socks_proxy() -> AsyncIterator[SocksProxy]:
    made = SocksProxy()
    listener = await asyncio.start_server(made.handle, "127.0.0.1", 0)
    made.url = f"socks5://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield made
    listener.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@dataclass
class Issuer:
    """An OpenID Connect issuer that rotates its refresh tokens."""

    clock: Clock
    url: str = ""
    tokens: str = ""  # where the token_endpoint is, if not at `url`
    refresh_token: str = f"refresh-{SECRET}-0"
    methods: list[str] | None = None
    grants: list[dict[str, str]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    answer: web.Response | None = None
    rotate: bool = True
    lifetime: float = 600
    redirects: dict[str, str] = field(default_factory=dict)  # path -> where to
    hangs_at: str = ""  # the path where `waiting` is set and everything stops until `go`
    waiting: anyio.Event = field(default_factory=anyio.Event)
    go: anyio.Event = field(default_factory=anyio.Event)

    def token(self, number: int, expires: float) -> str:
        """Make an id-token; nobody here verifies its signature."""
        claims = json.dumps({"exp": expires, "sub": f"{SECRET}-{number}", "pad": "~~~???"}).encode()
        payload = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
        return f"e30.{payload}.c2ln"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == self.hangs_at:
            self.waiting.set()
            await self.go.wait()
        if location := self.redirects.get(request.path):
            return web.Response(status=307, headers={"Location": location})
        if request.path == "/.well-known/openid-configuration":
            methods = {"token_endpoint_auth_methods_supported": self.methods} if self.methods else {}
            return web.json_response(
                {"issuer": self.url, "token_endpoint": f"{self.tokens or self.url}/token"} | methods
            )
        form = {key: str(value) for key, value in (await request.post()).items()}
        self.grants.append(form)
        self.authorizations.append(request.headers.get("Authorization"))
        if self.answer is not None:
            return self.answer
        if form["refresh_token"] != self.refresh_token:
            return web.json_response({"error": "invalid_grant", "error_description": SECRET}, status=400)
        number = len(self.grants)
        tokens = {"id_token": self.token(number, self.clock() + self.lifetime), "token_type": "bearer"}
        if self.rotate:
            self.refresh_token = f"refresh-{SECRET}-{number}"
            tokens["refresh_token"] = self.refresh_token
        return web.json_response(tokens)


@pytest.fixture
async def issuer(other_authority: Authority, clock: Clock) -> AsyncIterator[Issuer]:
    made = Issuer(clock)
    async with serving(made.handle, _context(other_authority.issue("issuer", "127.0.0.1"), None)) as made.url:
        yield made


@dataclass
class Kubeconfig:
    """A kubeconfig file with the context `prod`, replaced by each `write`."""

    path: Path

    def write(self, cluster: dict[str, Any], user: dict[str, Any] | None = None, **more: Any) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
        }
        self.path.write_text(yaml.safe_dump(document | more))

    def session(self, **options: Any) -> Session:
        """Return a session; options that are settings of a cluster are its settings."""
        keys = options.keys() & set(config.ClusterSettings.__struct_fields__)
        settings = {key: options.pop(key) for key in keys}
        return Session(config.ClusterSettings(context="prod", kubeconfig=str(self.path), **settings), **options)

    def client(self, **options: Any) -> ApiClient:
        return ApiClient(self.session(**options))


async def get(session: Session, path: str, query: Sequence[tuple[str, str]] = (), **options: Any) -> bytes:
    """Return the body at a path."""
    return (await session.fetch(Request(path=path, query=query), **options)).body


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Kubeconfig:
    return Kubeconfig(tmp_path / "config")


class Plugin:
    """An exec plugin: a shell script that prints `answer` and notes each run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "plugin"
        self._runs = folder / "runs"
        self.script('cat "$(dirname "$0")/answer"')

    def script(self, body: str) -> None:
        head = """\
            #!/bin/sh
            here="$(dirname "$0")"
            echo "$$" >> "$here/runs"
            printf '%s' "$KUBERNETES_EXEC_INFO" > "$here/info"
        """
        self.path.write_text(textwrap.dedent(head) + body + "\n")
        self.path.chmod(0o755)

    def answer(self, version: str = "v1", **status: Any) -> None:
        document = {"kind": "ExecCredential", "apiVersion": f"client.authentication.k8s.io/{version}", "status": status}
        (self.folder / "answer").write_text(json.dumps(document))

    @property
    def runs(self) -> list[int]:
        """Process ids of the runs so far."""
        return [int(line) for line in self._runs.read_text().split()] if self._runs.exists() else []

    @property
    def information(self) -> Any:
        """The input of the last run."""
        return json.loads((self.folder / "info").read_text())

    def user(self, version: str = "v1", **more: Any) -> dict[str, Any]:
        api_version = f"client.authentication.k8s.io/{version}"
        return {
            "exec": {"apiVersion": api_version, "command": str(self.path), "interactiveMode": "Never"} | more,
        }


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Plugin(folder)


@pytest.fixture(autouse=True)
def nothing_says_a_secret(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail whichever test makes a log record, at any level and of any library, that holds a secret."""
    caplog.set_level(logging.DEBUG)
    yield
    formatter = logging.Formatter()
    for record in [*caplog.get_records("setup"), *caplog.get_records("call")]:
        said = formatter.format(record) + repr(vars(record))
        assert SECRET not in said, "a log record holds a secret"
        assert ENCODED not in said, "a log record holds a secret"


@pytest.fixture
def failure() -> Callable[[Awaitable[object]], Awaitable[ClusterError]]:
    """Return a function that awaits a ClusterError and returns it; no line of its traceback holds a secret."""

    async def await_failure(doomed: Awaitable[object]) -> ClusterError:
        with pytest.raises(ClusterError) as caught:
            await doomed
        assert "\n" not in str(caught.value)
        said = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert SECRET not in said
        assert ENCODED not in said
        return caught.value

    return await_failure
