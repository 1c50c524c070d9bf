"""Where the s3 sink's credentials come from: what changes is used at once, nobody is asked, and nothing else waits."""

import asyncio
import contextlib
import os
import re
import select
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest
from aiohttp import web

from collector.config import Duration
from collector.config.sinks import S3Settings
from collector.model import SinkRecord
from collector.sinks import Reason, UnavailableError
from collector.sinks.s3 import S3Sink
from collector.sinks.s3_client import _Program
from tests.support.s3 import Exchange, answering, lake
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("aws_environment")]
MakeRecord = Callable[..., SinkRecord]


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, aws_environment: None) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))


def stored(_: Exchange) -> web.StreamResponse:
    return web.Response(headers={"ETag": '"5d41402abc4b2a76b9719d911017c592"'})


def refused(code: str) -> web.StreamResponse:
    return web.Response(status=403, text=f"<Error><Code>{code}</Code><Message>no</Message></Error>")


def scope(exchange: Exchange) -> list[str]:
    """Return the parts of what a request is signed with: the key, the day, the region …"""
    found = re.search(r"Credential=([^,]+)", exchange.headers["Authorization"])
    assert found is not None
    return found[1].split("/")


def replace(path: Path, text: str) -> None:
    """Write a file as Kubernetes and sidecars do: the new one takes the old one's place."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.rename(path)


def credentials(key: str) -> str:
    return f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-{key}\n"


class TestWhatChanges:
    """Files are read again at each call."""

    async def test_rotated_credentials_are_used_at_once(self, record: MakeRecord, tmp_path: Path) -> None:
        replace(tmp_path / "credentials", credentials("OLDKEY"))
        async with answering(stored) as (url, seen), lake(url) as sink:
            await sink.send([record()], key="k")
            replace(tmp_path / "credentials", credentials("NEWKEY"))
            await sink.send([record()], key="k")
        assert [scope(one)[0] for one in seen] == ["OLDKEY", "NEWKEY"]

    async def test_a_mounted_secret_is_followed_through_its_link(self, record: MakeRecord, tmp_path: Path) -> None:
        for name in ("OLDKEY", "NEWKEY"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "credentials").write_text(credentials(name))
        (tmp_path / "..data").symlink_to("OLDKEY")
        (tmp_path / "credentials").symlink_to("..data/credentials")
        async with answering(stored) as (url, seen), lake(url) as sink:
            await sink.send([record()], key="k")
            (tmp_path / "..data.new").symlink_to("NEWKEY")
            (tmp_path / "..data.new").rename(tmp_path / "..data")
            await sink.send([record()], key="k")
        assert [scope(one)[0] for one in seen] == ["OLDKEY", "NEWKEY"]

    async def test_a_changed_region_is_used_at_once(
        self, record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        replace(tmp_path / "credentials", credentials("KEY"))
        async with answering(stored) as (url, seen), lake(url) as sink:
            for region in ("eu-west-1", "eu-central-1"):
                replace(tmp_path / "config", f"[default]\nregion = {region}\n")
                await sink.send([record()], key="k")
        assert [scope(one)[2] for one in seen] == ["eu-west-1", "eu-central-1"]

    async def test_a_profile_added_later_is_used(self, record: MakeRecord, tmp_path: Path) -> None:
        async with answering(stored) as (url, seen), lake(url, profile="late") as sink:
            with pytest.raises(UnavailableError, match="late") as caught:
                await sink.send([record()], key="k")
            replace(tmp_path / "credentials", credentials("KEY").replace("default", "late"))
            await sink.send([record()], key="k")
        assert caught.value.reason is Reason.MISCONFIGURED
        assert len(seen) == 1

    @pytest.mark.parametrize("by", ["environment", "profile"])
    async def test_a_renewed_web_identity_is_exchanged_at_once(
        self, record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        token = tmp_path / "token"
        if by == "environment":
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gpuid")
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        else:
            text = f"[default]\nrole_arn = arn:aws:iam::123456789012:role/gpuid\nweb_identity_token_file = {token}\n"
            replace(tmp_path / "config", text)

        def answer(exchange: Exchange) -> web.StreamResponse:
            if exchange.method == "PUT":
                return stored(exchange)
            given = parse_qs(exchange.body.decode())["WebIdentityToken"][0]
            text = (
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
                f"<AccessKeyId>KEY-OF-{given}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
                "<SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
                "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )
            return web.Response(text=text, content_type="text/xml")

        async with answering(answer) as (url, seen):
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
            async with lake(url) as sink:
                for text in ("first", "second"):
                    replace(token, text)
                    await sink.send([record()], key="k")
        assert [scope(one)[0] for one in seen if one.method == "PUT"] == ["KEY-OF-first", "KEY-OF-second"]

    async def test_the_error_quotes_the_credential_service(
        self, record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gpuid")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        (tmp_path / "token").write_text("hunter2-token")
        page = "<html><title>No way out</title><body>hunter2-token"
        async with answering(lambda _: web.Response(status=403, text=page)) as (url, _), lake(url) as sink:
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
            with pytest.raises(UnavailableError, match="AssumeRoleWithWebIdentity answered 403: No way out") as caught:
                await sink.send([record()], key="k")
        assert caught.value.reason is Reason.UNAUTHORIZED

    async def test_a_changed_ca_file_is_used_at_once(self, record: MakeRecord, tmp_path: Path, certificates) -> None:
        replace(tmp_path / "credentials", credentials("KEY"))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificates.server_cert, certificates.server_key)
        authority, other = certificates.ca.read_text(), certificates.client_cert.read_text()
        ca = tmp_path / "ca.pem"
        replace(ca, "no certificate")
        async with answering(stored, tls=tls) as (url, seen), lake(url, ca_file=ca) as sink:
            with pytest.raises(UnavailableError, match=f"sinks.lake.ca_file: {ca}") as caught:
                await sink.send([record()], key="k")
            assert caught.value.reason is Reason.MISCONFIGURED
            replace(ca, other)
            with pytest.raises(UnavailableError) as caught:
                await sink.send([record()], key="k")
            assert caught.value.reason is Reason.CONNECTION
            replace(ca, authority)
            await sink.send([record()], key="k")
            replace(ca, other)
            with pytest.raises(UnavailableError):
                await sink.send([record()], key="k")
        assert len(seen) == 1

    async def test_a_missing_bundle_of_the_environment_is_misconfigured(
        self, record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace(tmp_path / "credentials", credentials("KEY"))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
        async with answering(stored) as (url, _), lake(url) as sink:
            with pytest.raises(UnavailableError) as caught:
                await sink.send([record()], key="k")
        assert caught.value.reason is Reason.MISCONFIGURED

    async def test_a_program_is_run_again_after_its_key_was_refused(self, record: MakeRecord, tmp_path: Path) -> None:
        program(tmp_path, f'cat "{tmp_path}/answer"')

        def answer(exchange: Exchange) -> web.StreamResponse:
            return stored(exchange) if scope(exchange)[0] == "NEWKEY" else refused("InvalidAccessKeyId")

        async with answering(answer) as (url, _), lake(url) as sink:
            (tmp_path / "answer").write_text(answer_of_program("OLDKEY"))
            with pytest.raises(UnavailableError) as caught:
                await sink.send([record()], key="k")
            assert caught.value.reason is Reason.UNAUTHORIZED
            (tmp_path / "answer").write_text(answer_of_program("NEWKEY"))
            await sink.send([record()], key="k")

    async def test_old_clients_are_closed_completely(self, record: MakeRecord, tmp_path: Path) -> None:
        async with answering(stored) as (url, _), lake(url) as sink:
            replace(tmp_path / "credentials", credentials("KEY"))
            await sink.send([record()], key="k")
            files, threads = open_files(), threading.active_count()
            for number in range(12):
                replace(tmp_path / "credentials", credentials(f"KEY{number}"))
                await sink.send([record()], key="k")
            await eventually(lambda: open_files() <= files + 1)
            await eventually(lambda: threading.active_count() <= threads + 1)  # of anyio's, which come and go
        await eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "gpuid s3 lake"])


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def program(folder: Path, script: str) -> None:
    """Make a shell script the default profile's `credential_process`."""
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o700)
    replace(folder / "config", f"[default]\ncredential_process = {file}\n")


def answer_of_program(key: str) -> str:
    return f'{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "secret-{key}"}}'


CHECK = """
import os, sys
if len(sys.argv) > 2:
    os.login_tty(int(sys.argv[2]))
import anyio
from collector.config.sinks import S3Settings
from collector.sinks import SinkError, open_sink

async def check():
    sink = open_sink("lake", S3Settings(bucket="gpu-serials", endpoint_url=sys.argv[1], path_style=True))
    try:
        print(await sink.check())
    except SinkError as error:
        print(error.reason, error)
    finally:
        await sink.aclose()

anyio.run(check)
"""


def check_on_a_terminal(url: str) -> str:
    """Return what a check says on a terminal of its own, at which nobody types anything."""
    ours, theirs = os.openpty()
    try:
        command = [sys.executable, "-c", CHECK, url, str(theirs)]
        process = subprocess.Popen(command, pass_fds=[theirs])
        os.close(theirs)
        written = b""
        deadline = time.monotonic() + 60
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while time.monotonic() < deadline:
                if select.select([ours], [], [], 1)[0]:
                    if not (chunk := os.read(ours, 4096)):
                        break
                    written += chunk
        asked = process.poll() is None and time.monotonic() >= deadline
        process.kill()
        process.wait()
        assert not asked, f"still waiting: {written!r}"
        return written.decode().replace("\r\n", "")
    finally:
        os.close(ours)


class TestNobodyIsAsked:
    MFA = (
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/gpuid\nsource_profile = base\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/me\n[profile base]\n"
    )

    @pytest.mark.parametrize("chained", [False, True])
    def test_no_mfa_code_is_prompted_for(self, tmp_path: Path, chained: bool) -> None:
        replace(tmp_path / "config", self.MFA if not chained else chain(self.MFA))
        replace(tmp_path / "credentials", credentials("KEY").replace("default", "base"))
        said = check_on_a_terminal("http://127.0.0.1:1")
        assert said.startswith("unauthorized sinks.lake: s3://gpu-serials: ")
        assert "Enter MFA code for arn:aws:iam::123456789012:mfa/me" in said
        assert "use a role without mfa_serial" in said

    @pytest.mark.parametrize("chained", [False, True])
    def test_programs_cannot_prompt(self, tmp_path: Path, chained: bool) -> None:
        program(tmp_path, 'read code; echo "got [$code]" >&2; read code </dev/tty && echo "asked" >&2; exit 1')
        if chained:
            process = (tmp_path / "config").read_text().replace("default", "profile base")
            replace(
                tmp_path / "config", f"[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = base\n{process}"
            )
        said = check_on_a_terminal("http://127.0.0.1:1")
        assert said.startswith("unauthorized sinks.lake: s3://gpu-serials: ")
        assert "got []" in said
        assert "/dev/tty" in said
        assert "asked" not in said

    @pytest.mark.parametrize("session", [False, True])
    async def test_no_login_is_prompted_for(self, record: MakeRecord, tmp_path: Path, session: bool) -> None:
        sso = "sso_start_url = https://x.awsapps.com/start\nsso_region = eu-west-1\n"
        role = "sso_account_id = 123456789012\nsso_role_name = gpuid\n"
        text = f"[default]\nsso_session = s\n{role}[sso-session s]\n{sso}" if session else f"[default]\n{sso}{role}"
        replace(tmp_path / "config", text)
        async with lake("http://127.0.0.1:1") as sink:
            with pytest.raises(UnavailableError, match="Error loading SSO Token: Token for ") as caught:
                await sink.send([record()], key="k")
        assert caught.value.reason is Reason.UNAUTHORIZED


def chain(mfa: str) -> str:
    """Return the same, with another role in front that needs the first one."""
    first = "[default]\nrole_arn = arn:aws:iam::123456789012:role/other\nsource_profile = second\n"
    return first + mfa.replace("[default]", "[profile second]")


def by_container(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/keys")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hunter2-token")


def by_instance(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)


def by_sts(monkeypatch: pytest.MonkeyPatch, url: str, folder: Path) -> None:
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gpuid")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "token"))
    (folder / "token").write_text("hunter2-token")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)


CONTAINER = "the credential service of the container"
INSTANCE = "the credential service of the instance"
KEYS = {"AccessKeyId": "EVIL", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}


class TestCredentialServices:
    """Only they provide keys, and errors in their answers name them."""

    async def refusal(self, record: MakeRecord, endpoint: str = "http://127.0.0.1:1") -> str:
        async with lake(endpoint) as sink:
            with pytest.raises(UnavailableError) as caught:
                await sink.send([record()], key="k")
        assert caught.value.reason is Reason.UNAUTHORIZED
        assert "hunter2" not in str(caught.value)
        return str(caught.value).removeprefix("sinks.lake: s3://gpu-serials: ")

    @pytest.mark.parametrize(
        ("service", "said"),
        [
            (by_container, f"{CONTAINER} redirects (302) to {{}}; check AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            (by_instance, f"{INSTANCE} redirects (302) to {{}}; check AWS_EC2_METADATA_SERVICE_ENDPOINT"),
            (by_sts, "STS redirects (302) to {}; check AWS_ENDPOINT_URL_STS"),
        ],
    )
    async def test_a_redirect_is_not_followed(
        self, record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Any, said: str
    ) -> None:
        def elsewhere(_: Exchange) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"{other}/hunter2"})

        async with answering(lambda _: web.json_response(KEYS)) as (other, seen), answering(elsewhere) as (url, _):
            service(monkeypatch, url, tmp_path)
            text = await self.refusal(record, other)
        assert text == said.format(other.removeprefix("http://"))
        assert seen == []

    async def test_an_instance_s_keys_are_used(self, record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
        def answer(exchange: Exchange) -> web.StreamResponse:
            if exchange.path.endswith("/api/token"):
                return web.Response(text="token")
            assert exchange.headers["x-aws-ec2-metadata-token"] == "token"
            if exchange.path.endswith("/role"):
                return web.json_response(KEYS | {"AccessKeyId": "GOOD"})
            return web.Response(text="role")

        async with answering(answer) as (url, _), answering(stored) as (s3, seen):
            by_instance(monkeypatch, url, Path())
            async with lake(s3) as sink:
                await sink.send([record()], key="k")
        assert [scope(one)[0] for one in seen] == ["GOOD"]

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (KEYS | {"AccessKeyId": None}, "returned a response whose AccessKeyId is empty"),
            (KEYS | {"SecretAccessKey": 5}, "returned a response whose SecretAccessKey is not a text"),
            (KEYS | {"Token": ["t"]}, "returned a response whose Token is not a text"),
            ({"AccessKeyId": "EVIL"}, "returned a response without SecretAccessKey"),
            (KEYS | {"Expiration": 5}, "returned a response in an unexpected format"),
            (KEYS | {"Expiration": "tomorrow"}, "failed: "),
            ([], "returned a response in an unexpected format"),
            (None, "returned a response in an unexpected format"),
        ],
    )
    async def test_an_unexpected_answer_names_the_service_in_one_line(
        self, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, answer: object, said: str
    ) -> None:
        async with answering(lambda _: web.json_response(answer)) as (url, _):
            by_container(monkeypatch, url, Path())
            assert (await self.refusal(record)).startswith(f"{CONTAINER} {said}")

    async def test_an_endless_answer_is_cut_off(self, record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
        async with answering(lambda _: web.Response(body=bytes(2 << 20))) as (url, _):
            by_container(monkeypatch, url, Path())
            assert (await self.refusal(record)).startswith(f"{CONTAINER} answered 200 with more than 1 MiB")

    @pytest.mark.parametrize(
        ("page", "said"),
        [
            ("<html><body>Welcome</body></html>", "STS returned a response without AssumeRoleWithWebIdentityResult"),
            ("Welcome", "STS failed: Unable to parse response"),
        ],
    )
    async def test_a_web_page_instead_of_sts_is_an_error(
        self, record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, said: str
    ) -> None:
        async with answering(lambda _: web.Response(text=page)) as (url, _):
            by_sts(monkeypatch, url, tmp_path)
            assert (await self.refusal(record)).startswith(said)


class TestNothingElseWaits:
    async def test_a_hanging_file_affects_only_its_sink(
        self, record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = tmp_path / "token"
        os.mkfifo(token)  # opening it waits for somebody to write, as a file system waits for its server
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gpuid")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        async with answering(500) as (url, seen):
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
            settings = S3Settings(bucket="gpu-serials", endpoint_url=url, path_style=True, timeout=Duration(0.5))
            sink = S3Sink("lake", settings, grace=0.5)
            for said in ("no answer within 1 s", "still no answer"):
                with pytest.raises(UnavailableError, match=said) as caught:
                    await sink.send([record()], key="k")
                assert caught.value.reason is Reason.TIMEOUT
            writer = os.open(token, os.O_WRONLY)
            os.write(writer, b"token")
            os.close(writer)
            token.unlink()
            token.write_text("token")

            async def asked() -> bool:
                with contextlib.suppress(UnavailableError):
                    await sink.send([record()], key="k")
                return bool(seen)

            await eventually(asked)
            await sink.aclose()

    async def test_a_sink_with_a_hanging_file_can_be_closed(
        self, record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.mkfifo(tmp_path / "token")
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gpuid")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        settings = S3Settings(bucket="gpu-serials", endpoint_url="http://127.0.0.1:1", timeout=Duration(0.2))
        sink = S3Sink("lake", settings, grace=0.2)
        with pytest.raises(UnavailableError):
            await sink.send([record()], key="k")
        with anyio.fail_after(30):
            await sink.aclose()
        os.close(os.open(tmp_path / "token", os.O_RDWR))  # lets the thread go

    async def test_a_program_that_hangs_is_killed(self, record: MakeRecord, tmp_path: Path) -> None:
        program(tmp_path, f'sleep 1000 & echo $! >"{tmp_path}/child"; echo $$ >"{tmp_path}/pid"; wait')
        pids = [tmp_path / "pid", tmp_path / "child"]

        def started() -> bool:
            return all(file.exists() and file.read_text().strip() for file in pids)

        async with lake("http://127.0.0.1:1") as sink, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: sink.send([record()], key="k"))
            await eventually(started)
            assert all(running(int(file.read_text())) for file in pids)
            tasks.cancel_scope.cancel()
        await eventually(lambda: not any(running(int(file.read_text())) for file in pids))

    @pytest.mark.parametrize("turns", range(1, 5))
    async def test_a_program_abandoned_while_it_starts_leaves_nothing_open(self, turns: int) -> None:
        program = await _Program.start("sleep", "1000", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        waiting = asyncio.create_task(program.communicate())
        for _ in range(turns):  # of the event loop
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        process = program._process
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.closed, process.stderr.closed) == (True, True)
        await eventually(lambda: process.returncode, -signal.SIGKILL)

    async def test_an_agent_holding_the_output_open_is_cleaned_up(self, record: MakeRecord, tmp_path: Path) -> None:
        program(tmp_path, f"setsid sleep 1000 & echo $! >>\"{tmp_path}/agents\"; echo '{answer_of_program('KEY')}'")
        settings = S3Settings(bucket="gpu-serials", endpoint_url="http://127.0.0.1:1", timeout=Duration(2))
        sink = S3Sink("lake", settings)
        try:
            threads: list[int] = []
            files: list[int] = []
            for _ in range(3):
                with pytest.raises(UnavailableError, match="no answer within 2 s"):
                    await sink.send([record()], key="k")
                threads.append(threading.active_count())
                files.append(open_files())
            await eventually(lambda: threading.active_count() <= threads[0] and open_files() <= files[0])
            assert not [thread for thread in threading.enumerate() if "credential_process" in thread.name]
        finally:
            await sink.aclose()
            for agent in (tmp_path / "agents").read_text().split():
                os.kill(int(agent), signal.SIGKILL)

    async def test_a_program_with_endless_output_is_killed(self, record: MakeRecord, tmp_path: Path) -> None:
        program(tmp_path, f'echo $$ >"{tmp_path}/pid"; exec yes')
        async with lake("http://127.0.0.1:1") as sink:
            with pytest.raises(UnavailableError, match="it printed more than 1 MiB") as caught:
                await sink.send([record()], key="k")
        assert caught.value.reason is Reason.UNAUTHORIZED
        await eventually(lambda: not running(int((tmp_path / "pid").read_text())))

    async def test_a_long_error_message_of_a_program_is_quoted(self, record: MakeRecord, tmp_path: Path) -> None:
        program(tmp_path, f"head -c 500000 /dev/zero >&2; echo '{answer_of_program('KEY')}'")
        async with answering(stored) as (url, seen), lake(url, timeout=Duration(30)) as sink:
            await sink.send([record()], key="k")
        assert [scope(one)[0] for one in seen] == ["KEY"]

    async def test_a_thread_that_cannot_start_is_one_clear_line(
        self, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink = S3Sink("lake", S3Settings(bucket="gpu-serials", endpoint_url="http://127.0.0.1:1"))
        arguments = sink._put_arguments([record()], "k")
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("gpuid s3"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(UnavailableError, match=r"the sink's thread cannot start$"):
            await sink._put(arguments)


def running(process: int) -> bool:
    """Return whether a process does anything; one that has ended may wait for somebody to take notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
