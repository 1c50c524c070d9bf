"""The table of decoders: what takes foreign text, the errors that it documents, and what it is tried on.

Any other error is a fault: it would end a task, a request or a command that was to report what is wrong.
"""

import atexit
import base64
import contextlib
import functools
import html
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast
from urllib.parse import quote

import asyncpg
import bcrypt
import msgspec
import yaml
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from anyio.from_thread import BlockingPortal, start_blocking_portal
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError, create_parser
from hypothesis import strategies as st
from yarl import URL

from collector import config
from collector.backoff import parse_retry_after
from collector.collect import nvidia_smi, smi_health
from collector.collect.objects import decode_pod, node_decoder
from collector.collect.printable import printable_report
from collector.collect.printed import find_last, last_line
from collector.collect.slices import SliceBook, decode_slice
from collector.config import ConfigError, Duration, Listen, ServerSettings
from collector.config.postgres import split_postgres_url
from collector.config.selector import is_label_key, parse_selector
from collector.config.sinks import PostgresSettings, S3Settings, WebhookSettings
from collector.config.store import locate
from collector.exposition import Exposition, Metrics
from collector.files import UnreadableFileError, read_secret
from collector.grant import contexts
from collector.grant.contexts import CollectorContext
from collector.grant.granting import GrantError
from collector.inventory import Inventory
from collector.kube import authentication, kubeconfig, oidc, transport, wire
from collector.kube import exec as pod_exec
from collector.kube.bound_token import bound_token
from collector.kube.client import ApiClient
from collector.kube.connection import AuthProvider, ClusterEntry, ConnectionInfo, Exec, User
from collector.kube.credential_plugin import CredentialPlugin
from collector.kube.credentials import bearer, impersonation
from collector.kube.errors import BadContextError, ClusterError, CredentialPluginFailedError, from_answer
from collector.kube.exec import ExecError, Output
from collector.kube.server_url import parse_server
from collector.kube.wire import MalformedError
from collector.model import Gpu, canonical_uuid
from collector.proxies import ProxyUrlError, choose, parse_proxy
from collector.redaction import Secrets, redact
from collector.sinks import RejectedError, SinkError
from collector.sinks.formats import parse_time
from collector.sinks.postgres import PostgresSink
from collector.sinks.s3 import S3Sink
from collector.sinks.s3_client import ANSWER
from collector.sinks.webhook import WebhookSink
from collector.store import OpenMode, Position, Store, StoreSettings
from collector.text import csv_text, describe_redirect, escaped, one_line, printable, printable_json
from collector.views.terms import parse_terms
from collector.web.application import application
from collector.web.auth import _Authenticator
from collector.web.metrics import accepts_gzip, accepts_openmetrics
from tests.fuzz.documents import any_text, damaged, http_dates, json_documents, texts
from tests.web.conftest import FakeCollector

__all__ = ["TARGETS", "Target"]

T = TypeVar("T")


class Target(NamedTuple, Generic[T]):
    """One decoder."""

    decode: Callable[[T], object]
    inputs: st.SearchStrategy[T]
    errors: tuple[type[Exception], ...] = ()  # that it documents
    from_bytes: Callable[[bytes], T] | None = None  # for a fuzzer that makes bytes; None: it goes by `inputs`

    def run(self, value: T) -> None:
        """Decode one input; raises what the decoder does not document."""
        with contextlib.suppress(*self.errors):
            self.decode(value)


def _bytes(
    decode: Callable[[bytes], object], inputs: st.SearchStrategy[bytes], *errors: type[Exception]
) -> Target[bytes]:
    return Target(decode, inputs, errors, bytes)


def _text(decode: Callable[[str], object], inputs: st.SearchStrategy[str], *errors: type[Exception]) -> Target[str]:
    return Target(decode, inputs, errors, lambda data: data.decode(errors="surrogateescape"))


# Kubernetes

META = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels", "continue")
POD = ("metadata", "spec", "status", "nodeName", "phase", "containerStatuses", "containerID", "ready", "restartCount")
NODE = ("providerID", "nodeInfo", "bootID", "capacity", "allocatable", "nvidia.com/gpu", "nvidia.com/gpu.replicas")
STATUS = ("kind", "status", "message", "reason", "details", "causes", "retryAfterSeconds", "code")

decode_node = node_decoder(["name", "nvidia.com/gpu.replicas"], with_own_labels=True)
bodies = json_documents(*STATUS, values=["Expired", "Gone", "ExitCode", "Success", "Failure", "1", "9" * 5000])
objects = json_documents(*META, *POD, *NODE, values=["8", "1Ki", "Running"])
raw_objects = objects.map(msgspec.Raw)


def _answer(given: tuple[int, bytes, str | None, str | None]) -> object:
    status, body, retry_after, location = given
    secrets = Secrets("hunter2-hunter2-hunter2")
    error = from_answer("https://host", status, body, retry_after, location=location, redact=secrets.redact)
    assert isinstance(error, ClusterError)
    assert str(error).isprintable()
    return error


answers = st.tuples(
    st.integers(300, 599) | st.sampled_from([302, 401, 403, 404, 410, 429, 503]),
    bodies,
    st.none() | texts | http_dates,
    st.none() | any_text | st.sampled_from(["http://[", "//x:y", "http://a@b@c", "http://[::1]]", "//\u2100"]),
)


def _lines(data: bytes) -> None:
    splitter = wire.LineSplitter(limit=64)
    for at in range(0, len(data), 7):
        for line in splitter.feed(data[at : at + 7]):
            wire.decode_event(line)


def _ended(body: bytes) -> None:
    code = pod_exec._exit_code(body)
    assert str(pod_exec._unsuccessful(code, Output(body, body[::-1]))).isprintable()


def _models(body: bytes) -> None:
    client = ApiClient.__new__(ApiClient)
    GeneratedConfiguration = type("Configuration", (), {"client_side_validation": True})  # noqa: N806
    client.configuration = GeneratedConfiguration()
    client.client_side_validation = True
    response = type("Response", (), {"data": body.decode(errors="replace")})()
    for kind in ("VersionInfo", "V1SelfSubjectReview", "V1SelfSubjectAccessReview"):
        with contextlib.suppress(MalformedError):
            client.deserialize(response, kind)


# Credentials

_PLUGIN = CredentialPlugin(
    ConnectionInfo(
        where="x",
        cluster=ClusterEntry(),
        user=User(exec=Exec(command="x", api_version="client.authentication.k8s.io/v1", interactive_mode="Never")),
    )
)
_LOGIN = oidc.Oidc(
    ConnectionInfo(
        where="x",
        cluster=ClusterEntry(),
        user=User(
            auth_provider=AuthProvider(name="oidc", config={"idp-issuer-url": "https://issuer", "client-id": "x"})
        ),
    )
)
CREDENTIAL = ("kind", "apiVersion", "status", "token", "clientCertificateData", "clientKeyData", "expirationTimestamp")
credentials = json_documents(
    *CREDENTIAL,
    values=["ExecCredential", "client.authentication.k8s.io/v1", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"],
)
whole_credentials = st.builds(
    lambda status: b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":' + status + b"}",
    credentials,
)
tokens = json_documents("id_token", "refresh_token", "error", "token_endpoint", "exp")


def _issuer(given: tuple[int, bytes, str | None]) -> None:
    answer = oidc._Answer(*given)
    with contextlib.suppress(ClusterError):
        _LOGIN._accept(answer)
    with contextlib.suppress(ClusterError):
        _LOGIN._grant(_LOGIN._decode(answer, oidc._Discovery))
    oidc._code(answer)


def _token(text: str) -> None:
    oidc._expiry(text)
    bound_token(text)
    bearer(text, "x")


CLAIMS = ("exp", "iat", "sub", "aud", "kubernetes.io", "namespace", "serviceaccount", "name", "uid", "pod")
jwts = st.builds(
    lambda head, claims, tail: f"{head}.{claims}.{tail}",
    texts,
    json_documents(*CLAIMS).map(lambda body: _base64(body)) | texts,
    texts,
)


def _base64(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).decode()


# Slices of a DRA driver

SLICE = ("spec", "pool", "generation", "resourceSliceCount", "nodeName", "devices", "basic", "string")
ATTRIBUTES = ("attributes", "uuid", "type", "taints", "key", "effect", "resource.kubernetes.io/pciBusID")
slice_lists = st.lists(
    json_documents(*META, *SLICE, *ATTRIBUTES, values=["gpu", "NoSchedule", "gpu.nvidia.com/gpu-lost", "GPU-1"]),
    max_size=3,
)


def _slices(bodies: list[bytes]) -> None:
    reported: list[object] = []
    book = SliceBook(lambda *said: reported.append(said))
    kept = []
    for body in bodies:
        with contextlib.suppress(MalformedError):
            kept.append(decode_slice(msgspec.Raw(body)))
            book.apply(None, kept[-1])
    for one in kept:
        book.apply(one, None)


# Configuration

_FOLDER = Path(tempfile.mkdtemp(prefix="gpuid-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)

KUBECONFIG = (
    *("apiVersion", "kind", "current-context", "clusters", "users", "contexts", "name", "cluster", "user", "context"),
    *("server", "certificate-authority-data", "certificate-authority", "insecure-skip-tls-verify", "tls-server-name"),
    *("proxy-url", "token", "tokenFile", "username", "password", "client-certificate-data", "client-key-data", "exec"),
    *("command", "args", "env", "value", "as", "as-groups", "as-user-extra", "auth-provider", "config", "extensions"),
)
KUBECONFIG_VALUES = [
    *(
        "https://10.0.0.1:6443",
        "http://[",
        "https://\u2100",
        "socks5://x",
        "http://u:p@h:99999",
        "//",
        "x",
        "u",
        "oidc",
    ),
    *("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==", "2024-06-01", "12:30", "\ud800", "client.authentication.k8s.io/v1"),
]


def _entries(kind: str) -> st.SearchStrategy[list[Any]]:
    entry = st.dictionaries(
        st.sampled_from(KUBECONFIG),
        st.none()
        | st.booleans()
        | texts
        | st.sampled_from(KUBECONFIG_VALUES)
        | st.lists(texts, max_size=2)
        | st.dictionaries(st.sampled_from(KUBECONFIG), texts | st.sampled_from(KUBECONFIG_VALUES), max_size=4),
        max_size=6,
    )
    servers = st.sampled_from([value for value in KUBECONFIG_VALUES if "/" in value]) | texts
    if kind == "cluster":
        entry = st.builds(lambda one, server: {**one, "server": server}, entry, servers)
    if kind == "context":
        entry = st.builds(lambda one: {**one, "cluster": "x", "user": "x"}, entry)
    return st.lists(st.fixed_dictionaries({"name": st.just("x") | texts, kind: entry}), max_size=2)


def _yaml(document: Any) -> bytes:
    return yaml.safe_dump(document, allow_unicode=True).encode(errors="surrogatepass")


kubeconfigs = (
    st.fixed_dictionaries({"clusters": _entries("cluster"), "users": _entries("user"), "contexts": _entries("context")})
    .map(_yaml)
    .flatmap(damaged)
    | json_documents(*KUBECONFIG, values=[value for value in KUBECONFIG_VALUES if value.isprintable()])
    | st.sampled_from(
        [b"&a [*a]", b"[" * 5000, b"a: &a [*a, *a]", b"? [a]\n: b", b"!!python/object:x y", b"<<: 1", b"\t"]
    )
)


def _kubeconfig(content: bytes) -> None:
    file = _FOLDER / "kubeconfig"
    file.write_bytes(content)
    kubeconfig._parse.cache_clear()
    for name in kubeconfig.contexts(str(file)):
        with contextlib.suppress(ClusterError):
            info = kubeconfig.find(name, str(file))
            transport.ConnectionSettings(info)
            authentication.choose(info, lambda: 0.0, Secrets())


def _collector_kubeconfig(content: bytes) -> None:
    """Add a context of `gpuid grant` to a file that somebody else wrote."""
    file = _FOLDER / "collector"
    file.write_bytes(content)
    context = CollectorContext("a", {"server": "https://a"}, cast("Any", None))
    with contextlib.suppress(GrantError):
        yaml.safe_dump(contexts.merged(contexts._load(file), [context], {"a": {"token": "x"}}))


def _config(text: str) -> None:
    config.parse(text, _FOLDER / "gpuid.toml")


CONFIGS = (
    "[[clusters]]\ncontext = {}\nrefresh = {}\nselector = {}\n",
    "[server]\nlisten = {}\n[[clusters]]\ncontext = {}\nkubeconfig = {}\n",
    "[store]\nurl = {}\nretention = {}\n[[clusters]]\ncontext = {}\n",
    "[store]\n[sinks.x]\ntype = {}\nurl = {}\n[[clusters]]\ncontext = {}\n",
    "[[clusters]]\ncontext = {}\n[[clusters.sources]]\nselector = {}\nnamespace = {}\n",
)
toml_values = st.sampled_from(
    [
        *('"x"', '"~nobody/x"', '"sqlite://~nobody/x"', '"sqlite:///x"', '"postgresql://u:p@[/d"', '"webhook"', '"s3"'),
        *('"http://["', '"http://x"', '"http://x:99999"', '"30s"', '"99999999999d"', '":8080"', '"a in (b"', "1", "-1"),
        *("1979-05-27", "inf", "nan", "true", "[]", "[[]]", "{}", "[" * 2000, "9" * 5000, '"\\u0000"', '"\\ud800"', ""),
    ]
) | texts.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
tomls = st.builds(lambda form, values: form.format(*values), st.sampled_from(CONFIGS), st.tuples(*[toml_values] * 3))

urls = st.builds(
    lambda scheme, rest: scheme + rest,
    st.sampled_from(["http://", "https://", "socks5://", "sqlite:", "sqlite:///", "postgresql://", "//", ""]),
    any_text
    | st.sampled_from(
        [
            "[",
            "[::1",
            "[]@",
            "a[]b@/x",
            "u:p@h:1/x?y#z",
            "~nobody",
            "a:b:c",
            "@",
            ":@:",
            "%zz",
            "\u2100",
            "h:99999999",
            "][",
        ]
    ),
)


def _proxy(text: str) -> None:
    with contextlib.suppress(ProxyUrlError):
        parse_proxy(text, "x")
    with contextlib.suppress(ProxyUrlError):
        choose(URL("https://10.0.0.1:6443"), {"HTTPS_PROXY": text, "NO_PROXY": text})
    parse_server(ConnectionInfo(where="x", cluster=ClusterEntry(server=text)))


def _store_url(text: str) -> None:
    locate(text)
    split_postgres_url(text)


def _secret(content: bytes) -> None:
    file = _FOLDER / "secret"
    file.write_bytes(content)
    read_secret(file)


# HTTP


class _Site:
    """A collector with a history, whose handlers are called as aiohttp does, without a socket."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        atexit.register(self._stack.close)
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal("asyncio"))
        self._app: web.Application = self._stack.enter_context(self._portal.wrap_async_context_manager(self._open()))

    @contextlib.asynccontextmanager
    async def _open(self) -> Any:
        inventory = Inventory()
        async with Store.open(StoreSettings(url=f"sqlite://{_FOLDER}/gpuid.db")):
            pass
        collector = FakeCollector(inventory, Exposition(Metrics()), configured=("a", "b"))
        async with Store.open(StoreSettings(url=f"sqlite://{_FOLDER}/gpuid.db"), OpenMode.READER) as collector.store:
            app = application(collector, ServerSettings())
            app.freeze()
            yield app

    def call(self, function: Callable[[str], Awaitable[T]], argument: str) -> T:
        """Await a function in the loop of the site."""
        return self._portal.call(function, argument)

    def ask(self, path: str, headers: dict[str, str]) -> int:
        async def ask() -> int:
            request = make_mocked_request("GET", path, headers, app=self._app)
            request.writer.output_size = 0  # nothing of its answer has been sent
            try:
                return (await self._app._handle(request)).status
            except web.HTTPRedirection as redirect:  # which aiohttp sends as it sends an answer
                return redirect.status

        return self._portal.call(ask)


_site = functools.cache(_Site)
_token_file = _FOLDER / "token"
_token_file.write_text("hunter2")
_hash = bcrypt.hashpw(b"hunter2", bcrypt.gensalt(4)).decode()
_authenticators = (
    _Authenticator(ServerSettings(basic_auth={"jane": _hash})),
    _Authenticator(ServerSettings(bearer_token_file=_token_file)),
)


def _authorization(header: str) -> None:
    for authenticator in _authenticators:
        assert not _site().call(authenticator.admits, header)


authorizations = st.builds(
    lambda scheme, value: f"{scheme} {value}",
    st.sampled_from(["Basic", "basic", "Bearer", ""]),
    st.binary().map(lambda data: data.decode(errors="surrogateescape"))  # as aiohttp decodes a header
    | st.binary().map(lambda data: base64.b64encode(b"jane:" + data).decode()),
)
PATHS = (
    *("/", "/api/v1/clusters", "/api/v1/nodes", "/api/v1/gpus", "/api/v1/changes", "/api/v1/gpus/x/history", "/search"),
    *("/lookup", "/api/v1/suggest"),
    *(
        "/api/v1/nodes/x/history",
        "/changes",
        "/gpus",
        "/gpus/x",
        "/nodes/a/x",
        "/clusters/a",
        "/sd",
        "/readyz",
        "/healthz",
    ),
)
KEYS = (
    "limit",
    "offset",
    "since",
    "until",
    "after",
    "before",
    "cluster",
    "node",
    "serial",
    "q",
    "ids",
    "page",
    "event",
    "sort",
)
VALUES = (
    *(
        "",
        "0",
        "-1",
        "1",
        "9" * 20,
        "%00",
        "%ff",
        "%ed%a0%80",
        "%F0%9F%98%80",
        "%1b%5b2J",
        "%e2%80%ae",
        "1e9",
        "nan",
        "٣",
    ),
    *("0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "2026-W01-1", "2026-11-24", "present-1.5-1", "moved"),
    *(
        "past-999999999999999.99999999999999999999-999999999999999999",
        "%25",
        "%2f..%2f",
        "a%0d%0ab",
        "%27%20or%201=1",
        "*",
    ),
)
requests = st.builds(
    lambda path, extra, query, accept: (
        path + extra + ("?" + "&".join(f"{key}={value}" for key, value in query) if query else ""),
        {"Accept": accept, "Host": "x"},
    ),
    st.sampled_from(PATHS),
    st.sampled_from(["", "", "", "/", "/%ff", "/%00", "/..", "%ed%a0%80"]),
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=3),
    st.sampled_from(["*/*", "text/html"]),
)


def _request(given: tuple[str, dict[str, str]]) -> None:
    path, headers = given
    assert _site().ask(path, headers) in {200, 303, 400, 404, 405, 503}, path


def _request_from_bytes(data: bytes) -> tuple[str, dict[str, str]]:
    path = PATHS[data[0] % len(PATHS)] if data else "/"
    return path + quote(data[1:], safe="/?&=%"), {"Accept": "text/html", "Host": "x"}


# Sinks

_WEBHOOK = WebhookSink("x", WebhookSettings(url="http://host/path"))
_S3 = S3Sink("x", S3Settings(bucket="bucket"))
_POSTGRES = PostgresSink("x", PostgresSettings(url="postgresql://u@h/d"))


def _webhook(given: tuple[int, bytes, str | None]) -> None:
    status, body, retry_after = given
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    error = _WEBHOOK._map_answer(status, headers, body)
    assert isinstance(error, SinkError)
    assert str(error).isprintable()


def _s3(given: tuple[int, bytes, str | None]) -> None:
    status, body, retry_after = given
    headers = {} if retry_after is None else {"retry-after": retry_after}
    answer = {"body": body, "headers": headers, "status_code": status}
    parsed = create_parser("rest-xml").parse(answer, None)
    error = _S3._map_error(ClientError(parsed | {ANSWER: body}, "PutObject"), "PutObject")
    assert isinstance(error, SinkError)
    assert str(error).isprintable()


def _postgres(given: tuple[str, str]) -> None:
    state, message = given
    error = asyncpg.PostgresError.new({"C": state, "M": message, "S": "ERROR"})
    mapped = _POSTGRES._map_error(error)
    assert isinstance(mapped, SinkError)
    assert str(mapped).isprintable()


xml = st.sampled_from(
    [
        b"<Error><Code>SlowDown</Code><Message>x</Message></Error>",
        b'<?xml version="1.0"?><Error><Code>NoSuchBucket</Code><Message>\xff</Message><RequestId/></Error>',
        b"<html><body>no</body></html>",
        b"<Error><Code><Code>x</Code></Code></Error>",
        b"<!DOCTYPE x [<!ENTITY e 'e'>]><Error><Code>&e;</Code></Error>",
        b"<a>" * 5000,
    ]
).flatmap(damaged)

# A node's output

SMI = (
    b'<?xml version="1.0" ?><!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd"><nvidia_smi_log>'
    b"<driver_version>570.1</driver_version><attached_gpus>1</attached_gpus><gpu id='00000000:01:00.0'>"
    b"<product_name>NVIDIA H100</product_name><serial>123</serial><uuid>GPU-1</uuid><minor_number>0</minor_number>"
    b"<mig_mode><current_mig>Enabled</current_mig></mig_mode></gpu></nvidia_smi_log>"
)


def _smi(output: bytes) -> None:
    report = printable_report(nvidia_smi.parse(output))
    assert all(gpu.uuid.isprintable() for gpu in report.gpus)
    for gpu in report.gpus:
        for value in msgspec.structs.asdict(gpu.health).values() if gpu.health is not None else ():
            if isinstance(value, str):
                assert value.isprintable()
                assert len(value) <= 40
            assert not isinstance(value, int) or 0 <= value < 1 << 53


HEALTH_TEXTS = (
    *("Yes", "No", "N/A", "0", "1", "3 bank(s)", "None", "Reset", "GPU is lost", "GPU requires reset"),
    "x" * 99,
)


def _with_health(values: dict[str, str]) -> bytes:
    blocks = ""
    for path, text in values.items():
        names = path.split("/")
        start, end = "".join(f"<{name}>" for name in names), "".join(f"</{name}>" for name in reversed(names))
        blocks += f"{start}{html.escape(text)}{end}\n\t\t"
    return SMI.replace(b"</gpu>", blocks.encode(errors="replace") + b"</gpu>")


healths = st.dictionaries(st.sampled_from(smi_health.PATHS), st.sampled_from(HEALTH_TEXTS) | texts, max_size=12).map(
    _with_health
)

PRINTED = (
    b"".join(b"2026-10-06T00:17:09.669794202Z " + line for line in SMI.replace(b"><", b">\n<").splitlines(True)) + b"\n"
)


def _log(log: bytes) -> None:
    for complete in (True, False):
        found = find_last(log, complete=complete)
        if found.last is not None:
            assert b"</nvidia_smi_log>" in found.last.output
            _smi(found.last.output)
    assert log.endswith(last_line(log))


def _texts(text: str) -> None:
    assert one_line(text, 40).isprintable()
    assert printable(text).isprintable()
    assert escaped(text).isprintable()
    assert csv_text(text).isprintable()
    assert describe_redirect(302, text, "url").isprintable()
    assert printable_json(msgspec.json.encode(text.encode(errors="replace").decode())).decode().isprintable()
    canonical_uuid(text)
    accepts_gzip(text)
    accepts_openmetrics(text)
    is_label_key(text)
    Gpu(uuid=text)


def _redaction(given: tuple[str, str]) -> None:
    text, secret = given
    secrets = Secrets(secret)
    secrets.add_url(text)
    secrets.add_proxies({"HTTP_PROXY": text})
    for shown in (secrets.mask(text), secrets.redact(text, 60), redact(text, 60)):
        assert shown.isprintable()


def _user(given: tuple[str, str, str]) -> None:
    name, password, token = given
    for user in (User(username=name, password=password), User(token=token), User(as_user=name, as_groups=(token,))):
        info = ConnectionInfo(where="x", cluster=ClusterEntry(), user=user)
        with contextlib.suppress(BadContextError):
            authentication.choose(info, lambda: 0.0, Secrets())
        with contextlib.suppress(BadContextError):
            impersonation(user, "x")


TARGETS: dict[str, Target[Any]] = {
    "answer": Target(_answer, answers),
    "page": _bytes(wire.decode_page, json_documents("metadata", "items", *META), MalformedError),
    "event": _bytes(wire.decode_event, json_documents("type", "object", *META), MalformedError),
    "version": _bytes(lambda body: wire.decode_version(msgspec.Raw(body)), objects, MalformedError),
    "status": _bytes(lambda body: wire.decode_status(msgspec.Raw(body)), bodies, MalformedError),
    "watch": _bytes(_lines, json_documents("type", "object").map(lambda body: body + b"\n"), MalformedError),
    "pod": _bytes(lambda body: decode_pod(msgspec.Raw(body)), objects, MalformedError),
    "node": _bytes(lambda body: decode_node(msgspec.Raw(body)), objects, MalformedError),
    "slice": Target(_slices, slice_lists, from_bytes=lambda data: data.splitlines()),
    "model": _bytes(_models, json_documents("status", "gitVersion", "userInfo", "username", "allowed", "spec")),
    "exec": _bytes(_ended, bodies, ExecError),
    "plugin": _bytes(_PLUGIN._credential, credentials | whole_credentials, CredentialPluginFailedError),
    "issuer": Target(_issuer, st.tuples(st.sampled_from([200, 302, 400, 401, 500]), tokens, st.none() | any_text)),
    "token": _text(_token, jwts | any_text, BadContextError),
    "user": Target(_user, st.tuples(any_text, any_text, any_text)),
    "kubeconfig": _bytes(_kubeconfig, kubeconfigs, ClusterError),
    "collector-kubeconfig": _bytes(_collector_kubeconfig, kubeconfigs),
    "retry-after": _text(lambda text: parse_retry_after(text, 0.0), texts | http_dates | any_text),
    "selector": _text(parse_selector, any_text | texts.map(lambda text: f"a in ({text}), !b"), ValueError),
    "proxy": _text(_proxy, urls, BadContextError),
    "configuration": _text(_config, tomls | any_text, ConfigError),
    "store-url": _text(_store_url, urls, ValueError),
    "secret-file": _bytes(_secret, st.binary(), UnreadableFileError),
    "duration": _text(Duration.parse, any_text | texts, ValueError),
    "listen": _text(Listen.parse, any_text | texts, ValueError),
    "position": _text(Position.parse, any_text | st.sampled_from(VALUES), ValueError),
    "request": Target(_request, requests, from_bytes=_request_from_bytes),
    "authorization": _text(_authorization, authorizations),
    "webhook": Target(_webhook, st.tuples(st.integers(300, 599), bodies, st.none() | texts | http_dates)),
    "s3": Target(
        _s3, st.tuples(st.integers(300, 599), xml | bodies, st.none() | texts | http_dates), (ResponseParserError,)
    ),
    "postgres": Target(_postgres, st.tuples(st.text(max_size=5), any_text)),
    "terms": _text(parse_terms, any_text, ValueError),
    "record-time": _text(parse_time, any_text | st.sampled_from(VALUES), RejectedError),
    "nvidia-smi": _bytes(_smi, damaged(SMI) | st.binary(), nvidia_smi.BadOutputError),
    "health": _bytes(_smi, healths.flatmap(damaged), nvidia_smi.BadOutputError),
    "log": _bytes(_log, st.lists(damaged(PRINTED), max_size=3).map(b"".join) | st.binary(), nvidia_smi.BadOutputError),
    "text": _text(_texts, any_text | urls),
    "redaction": Target(_redaction, st.tuples(any_text | urls, any_text)),
}
