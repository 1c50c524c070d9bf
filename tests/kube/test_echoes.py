"""What a server, a proxy or a credential plugin repeats of our secrets ends in the session."""

import base64
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from kubernetes_asyncio.client import CoreV1Api

from collector.collect.objects import PodObject, decode_pod
from collector.kube import exec as pod_exec
from collector.kube.errors import ClusterError
from collector.kube.exec import ExecError
from collector.kube.reflector import Reflector, Resource, list_all
from collector.kube.session import Request, Session
from collector.model import ReadFailure
from collector.redaction import Secrets
from tests.support.kubernetes import Issuer, Plugin, get, serving

pytestmark = pytest.mark.anyio

Failure = Callable[[Awaitable[object]], Awaitable[ClusterError]]

TOKEN = "s3cr3t-Zx9_opaque.token-with.parts-s3cr3t"
PODS = "/api/v1/namespaces/ns/pods"
EXEC = f"{PODS}/pod-a/exec"

ECHOES: dict[str, Callable[[str], str]] = {
    "a header": lambda header: f"you sent Authorization: {header}",
    "the value alone": lambda header: header.partition(" ")[2],
    "base64": lambda header: base64.b64encode(header.encode()).decode(),
    "base64 in another place": lambda header: base64.b64encode(f"ab{header}".encode()).decode(),
    "percent": lambda header: quote(header, safe=""),
    "JSON": lambda header: json.dumps({"Authorization": [header]}),
    "JSON's escapes": lambda header: "".join(f"\\u{ord(letter):04x}" for letter in header),
    "cut by the server": lambda header: header.partition(" ")[2][:25],
    "cut by our limit": lambda header: "x" * 285 + header.partition(" ")[2],
    "control characters": lambda header: "\x1b[31m\x9b\u202e" + header.replace("-", "-\x00"),
}


def clean(text: str) -> bool:
    pieces = {TOKEN[at : at + 9] for at in range(len(TOKEN) - 9)}
    return text.isprintable() and not any(piece in text for piece in pieces)


def echoing(form: str, code: int, *, status: bool = True) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        message = ECHOES[form](request.headers["Authorization"])
        if status:
            return web.json_response({"kind": "Status", "message": message, "code": code}, status=code)
        return web.Response(text=message, status=code)

    return answer


@pytest.fixture
async def session(plain_server: Any, kubeconfig: Any) -> AsyncIterator[Session]:
    kubeconfig.write({"server": plain_server.url}, {"token": TOKEN})
    async with kubeconfig.session() as session:
        yield session


@pytest.mark.parametrize("status", [True, False], ids=["Status", "text"])
@pytest.mark.parametrize("code", [401, 403, 404, 429, 500])
@pytest.mark.parametrize("form", ECHOES)
async def test_the_token_is_removed_from_an_error_response(
    session: Session, plain_server: Any, failure: Failure, form: str, code: int, status: bool
) -> None:
    plain_server.paths[PODS] = echoing(form, code, status=status)
    error = await failure(get(session, PODS))
    assert clean(str(error))
    assert len(str(error)) < 400


@pytest.mark.parametrize("form", ECHOES)
async def test_the_token_is_removed_from_streams_and_websockets(
    session: Session, plain_server: Any, failure: Failure, form: str
) -> None:
    plain_server.paths[PODS] = plain_server.paths[EXEC] = echoing(form, 403)
    assert clean(str(await failure(session.stream(Request(path=PODS)).__aenter__())))
    assert clean(str(await failure(session.websocket(Request(path=EXEC)).__aenter__())))


@pytest.mark.parametrize("form", ECHOES)
async def test_the_token_is_removed_from_a_watch_error(
    session: Session, plain_server: Any, kubeconfig: Any, form: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        message = ECHOES[form](request.headers["Authorization"])
        event = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": message}}
        return web.Response(body=json.dumps(event).encode() + b"\n")

    plain_server.paths[PODS] = answer
    async with kubeconfig.client() as client:
        pods = Resource[PodObject](
            name="pods",
            method=lambda **kwargs: CoreV1Api(client).list_namespaced_pod("ns", **kwargs),
            decode=decode_pod,
        )
        reflector = Reflector(client, pods, on_change=_ignore, on_proof=_ignore, on_restart=_ignore, on_health=_ignore)
        await reflector._list()
        with pytest.raises(ClusterError) as caught:
            await reflector._watch()
    assert "the watch failed" in str(caught.value)
    assert clean(str(caught.value))


def _ignore(*_: object) -> None:
    pass


@pytest.mark.parametrize("channel", ["status", "stdout", "stderr"])
@pytest.mark.parametrize("form", ECHOES)
async def test_the_token_is_removed_from_a_command_error(
    session: Session, plain_server: Any, kubeconfig: Any, form: str, channel: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        message = ECHOES[form](request.headers["Authorization"])
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await socket.prepare(request)
        cause = {"reason": "ExitCode", "message": "1"}
        ended = {"status": "Failure", "message": message, "details": {"causes": [cause]}}
        if channel == "status":
            ended["details"] = {}
        else:
            await socket.send_bytes((b"\x01" if channel == "stdout" else b"\x02") + message.encode())
        await socket.send_bytes(b"\x03" + json.dumps(ended).encode())
        await socket.close()
        return socket

    plain_server.paths[EXEC] = answer
    async with kubeconfig.client() as client:
        with pytest.raises(ExecError) as caught:
            await pod_exec.run(client, "ns", "pod-a", "ctr", ("nvidia-smi",), timeout=10, limit=1 << 20)
    assert clean(str(caught.value))


async def test_the_token_is_removed_from_other_responses(kubeconfig: Any, plain_server: Any) -> None:
    kubeconfig.write({"server": plain_server.url}, {"token": TOKEN})

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"items": [{"metadata": {"name": 1, TOKEN: [TOKEN]}}], TOKEN: TOKEN})

    plain_server.paths[PODS] = answer
    async with kubeconfig.client() as client:
        pods = Resource[PodObject](
            name="pods",
            method=lambda **kwargs: CoreV1Api(client).list_namespaced_pod("ns", **kwargs),
            decode=decode_pod,
        )
        with pytest.raises(Exception) as caught:  # noqa: PT011  of two kinds
            await list_all(client, pods)
    assert clean(str(caught.value))


async def test_a_password_is_removed_with_its_header(kubeconfig: Any, plain_server: Any, failure: Failure) -> None:
    kubeconfig.write({"server": plain_server.url}, {"username": "jane", "password": "pa55-s3cr3t"})

    async def answer(request: web.Request) -> web.StreamResponse:
        header = request.headers["Authorization"]
        plain = base64.b64decode(header.partition(" ")[2]).decode()
        return web.Response(status=403, text=f"{header} is {plain}")

    plain_server.paths[PODS] = answer
    async with kubeconfig.session() as session:
        error = await failure(get(session, PODS))
    assert str(error) == f"{plain_server.url}: forbidden: Basic *** is jane:***"


async def test_credentials_from_a_plugin_are_removed(
    kubeconfig: Any, plain_server: Any, plugin: Plugin, failure: Failure
) -> None:
    plugin.answer(token=TOKEN)
    kubeconfig.write({"server": plain_server.url}, plugin.user())
    plain_server.paths[PODS] = echoing("the value alone", 403)
    async with kubeconfig.session() as session:
        error = await failure(get(session, PODS))
    assert str(error) == f"{plain_server.url}: forbidden: ***"


async def test_secrets_repeated_by_a_plugin_are_removed(
    kubeconfig: Any, plain_server: Any, plugin: Plugin, failure: Failure
) -> None:
    plugin.script('echo "cannot use $LOGIN_SECRET nor $2 at $TOKEN_FILE: \x1b[31mred" >&2; exit 1')
    variables = [{"name": "LOGIN_SECRET", "value": "s3cr3t-one"}, {"name": "TOKEN_FILE", "value": "eu-central-1"}]
    kubeconfig.write(
        {"server": plain_server.url}, plugin.user(env=variables, args=["--client-secret", "s3cr3t-argument"])
    )
    async with kubeconfig.session() as session:
        error = await failure(get(session, PODS))
    assert str(error).endswith("exited with code 1: cannot use *** nor *** at eu-central-1: [31mred")


@pytest.mark.parametrize(
    "name", ["MY_PASS", "PASS", "PIN", "LOGIN_PIN", "MYPWD", "DB_PW", "OTP", "SSO_JWT", "passcode"]
)
async def test_secret_variables_of_a_plugin_are_recognised(
    kubeconfig: Any, plain_server: Any, plugin: Plugin, failure: Failure, name: str
) -> None:
    plugin.script(f'echo "cannot use ${name} with $COMPASS_MODE" >&2; exit 1')
    variables = [{"name": name, "value": "hunter2-one"}, {"name": "COMPASS_MODE", "value": "opinions"}]
    kubeconfig.write({"server": plain_server.url}, plugin.user(env=variables))
    async with kubeconfig.session() as session:
        error = await failure(get(session, PODS))
    assert str(error).endswith("cannot use *** with opinions")


async def test_a_tracing_plugin_discloses_no_token(
    kubeconfig: Any, plain_server: Any, plugin: Plugin, failure: Failure
) -> None:
    plugin.script("set -x; TOKEN=abc-s3cr3t-def; exit 1")
    kubeconfig.write({"server": plain_server.url}, plugin.user())
    async with kubeconfig.session() as session:
        assert "s3cr3t" not in str(await failure(get(session, PODS)))


async def test_a_refresh_token_repeated_by_an_issuer_is_removed(
    kubeconfig: Any, plain_server: Any, issuer: Issuer, other_authority: Any, failure: Failure
) -> None:
    config = {
        "idp-issuer-url": issuer.url,
        "client-id": "kubernetes",
        "client-secret": "cl13nt-s3cr3t",
        "refresh-token": "refresh-s3cr3t-0",
        "idp-certificate-authority-data": other_authority.data,
    }
    kubeconfig.write({"server": plain_server.url}, {"auth-provider": {"name": "oidc", "config": config}})
    issuer.answer = web.json_response({"error": "bad refresh-s3cr3t-0 of cl13nt-s3cr3t"}, status=400)
    async with kubeconfig.session() as session:
        error = await failure(get(session, PODS))
    assert "the issuer rejected the refresh-token (bad *** of ***)" in str(error)


async def test_a_renewed_refresh_token_is_secret(make_oidc: Callable[..., Any], issuer: Issuer) -> None:
    secrets = Secrets()
    await make_oidc(secrets=secrets).run()
    assert secrets.mask("refresh-s3cr3t-1") == "***"


async def test_the_credentials_of_a_proxy_are_removed(kubeconfig: Any, failure: Failure) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        header = request.headers["Proxy-Authorization"]
        plain = base64.b64decode(header.partition(" ")[2]).decode()
        return web.Response(status=502, text=f"no way for {plain} ({header.partition(' ')[2]})")

    async with serving(answer, None) as url:
        kubeconfig.write({"server": "http://cluster.test", "proxy-url": url.replace("//", "//user:pr0xy%2Fs3cr3t@")})
        async with kubeconfig.session() as session:
            error = await failure(get(session, PODS))
    assert str(error) == "http://cluster.test: HTTP status 502: no way for user:*** (***)"


async def test_a_private_key_is_removed(kubeconfig: Any, server: Any, authority: Any, failure: Failure) -> None:
    pair = authority.issue("jane")
    user = {"client-certificate": str(pair.chain), "client-key": str(pair.key)}
    kubeconfig.write({"server": server.url, "certificate-authority-data": authority.data}, user)
    key = pair.pem["key"]

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text=f"{''.join(key.splitlines()[1:-1])} {base64.b64encode(key.encode())!r}")

    server.paths[PODS] = answer
    async with kubeconfig.session() as session:
        error = await failure(get(session, PODS))
    assert str(error).startswith(f"{server.url}: HTTP status 500: ***")
    assert not any(line[:12] in str(error) for line in key.splitlines()[1:-1])


async def test_the_token_is_removed_from_stream_errors(session: Session, plain_server: Any) -> None:
    def fail() -> None:
        try:
            raise ValueError(f"got {TOKEN}")
        except ValueError as error:
            raise ExecError(ReadFailure.BAD_OUTPUT, f"cannot read {TOKEN}") from error

    with pytest.raises(ExecError) as caught:
        async with session.stream(Request(path=PODS)):
            fail()
    said = "".join(traceback.format_exception(caught.value))
    assert "got ***" in said
    assert str(caught.value) == "cannot read ***"


async def test_secrets_that_were_renewed_stay_secret(
    kubeconfig: Any, plain_server: Any, tmp_path: Any, clock: Any, failure: Failure
) -> None:
    token = tmp_path / "token"
    token.write_text("first-s3cr3t")
    kubeconfig.write({"server": plain_server.url}, {"tokenFile": str(token)})

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text="first-s3cr3t and second-s3cr3t")

    plain_server.paths[PODS] = answer
    async with kubeconfig.session(clock=clock) as session:
        await get(session, "/first")
        token.write_text("second-s3cr3t")
        clock.advance(120)
        error = await failure(get(session, PODS))
    assert str(error) == f"{plain_server.url}: forbidden: *** and ***"
