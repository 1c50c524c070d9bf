"""Every way in which a kubeconfig authenticates and connects, against a real server, over time."""

import base64
import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
import yaml
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from collector import config
from collector.kube import errors
from collector.kube.connection import ClusterEntry, ConnectionInfo, User
from collector.kube.credentials import Credential
from collector.kube.server_url import parse_server
from collector.kube.session import Request, Session
from collector.kube.transport import ConnectionSettings
from collector.timestamps import rfc3339
from tests.support.kubernetes import get, status
from tests.support.processes import free_ports

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"


@pytest.fixture
def cluster(server, authority):
    return {"server": server.url, "certificate-authority-data": authority.data}


class TestToken:
    async def test_a_token_file_has_precedence_and_is_read_again(self, kubeconfig, cluster, server, tmp_path, clock):
        (tmp_path / "token").write_text("s3cr3t-1\n")
        kubeconfig.write(cluster, {"token": "s3cr3t-0", "tokenFile": "token"})
        async with kubeconfig.session(clock=clock) as session:
            await get(session, PODS)
            (tmp_path / "token").write_text("s3cr3t-2\n")
            await get(session, PODS)
            clock.advance(60)
            await get(session, PODS)
            (tmp_path / "token").write_text("s3cr3t-3\n")
            server.only("s3cr3t-3")
            await get(session, PODS)
        assert server.tokens == [f"Bearer s3cr3t-{number}" for number in (1, 1, 2, 2, 3)]

    async def test_a_replaced_token_is_used_after_a_refusal(self, kubeconfig, cluster, server):
        kubeconfig.write(cluster, {"token": "s3cr3t-1"})
        async with kubeconfig.session() as session:
            await get(session, PODS)
            kubeconfig.write(cluster, {"token": "s3cr3t-22"})
            server.only("s3cr3t-22")
            await get(session, PODS)
        assert server.tokens == ["Bearer s3cr3t-1", "Bearer s3cr3t-1", "Bearer s3cr3t-22"]

    async def test_a_replaced_token_is_used_within_a_minute(self, kubeconfig, cluster, server, clock):
        kubeconfig.write(cluster, {"token": "s3cr3t-1"})
        async with kubeconfig.session(clock=clock) as session:
            await get(session, PODS)
            kubeconfig.write(cluster, {"token": "s3cr3t-22"})
            clock.advance(60)
            await get(session, PODS)
        assert server.tokens == ["Bearer s3cr3t-1", "Bearer s3cr3t-22"]

    async def test_a_kubeconfig_that_is_damaged_later_changes_nothing(self, kubeconfig, cluster, server, clock, caplog):
        kubeconfig.write(cluster, {"token": "s3cr3t-1"})
        async with kubeconfig.session(clock=clock) as session:
            kubeconfig.path.write_text("users: [s3cr3t")
            for _ in range(3):
                clock.advance(60)
                await get(session, PODS)
        assert server.tokens == ["Bearer s3cr3t-1"] * 3
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == [f"ignoring changed kubeconfig files: {kubeconfig.path}: not valid YAML (line 2)"]

    async def test_a_kubeconfig_that_cannot_be_read_for_a_while_is_used_within_a_minute(
        self, kubeconfig, cluster, server, clock, caplog, monkeypatch
    ):
        reads = []

        def fail(file):
            reads.append(file)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        kubeconfig.write(cluster, {"token": "s3cr3t-1"})
        async with kubeconfig.session(clock=clock) as session:
            kubeconfig.write(cluster, {"token": "s3cr3t-22"})
            server.only("s3cr3t-22")
            with monkeypatch.context() as system:
                system.setattr("collector.kube.kubeconfig.read_file", fail)
                for _ in range(8):
                    clock.advance(10)
                    with pytest.raises(errors.UnauthorizedError):
                        await get(session, PODS)
            assert len(reads) == 2
            clock.advance(60)
            await get(session, PODS)
        assert server.tokens[-1] == "Bearer s3cr3t-22"
        assert caplog.text.count("ignoring changed kubeconfig files") == 1

    async def test_a_kubeconfig_that_changes_again_is_used_at_once(self, kubeconfig, cluster, server, clock):
        kubeconfig.write(cluster, {"token": "s3cr3t-1"})
        async with kubeconfig.session(clock=clock) as session:
            kubeconfig.path.write_text("users: [s3cr3t")
            server.only("s3cr3t-22")
            with pytest.raises(errors.UnauthorizedError):
                await get(session, PODS)
            kubeconfig.write(cluster, {"token": "s3cr3t-22"})
            await get(session, PODS)
        assert server.tokens[-1] == "Bearer s3cr3t-22"

    @pytest.mark.parametrize("damaged", [False, True])
    async def test_a_change_is_used_after_a_request_that_was_cancelled_while_it_was_read(
        self, kubeconfig, cluster, server, clock, monkeypatch, damaged
    ):
        def fail(_file):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        async def hang(_connector):
            await anyio.sleep_forever()

        kubeconfig.write(cluster, {"token": "s3cr3t-1"})
        async with kubeconfig.session(clock=clock) as session:
            kubeconfig.write(cluster, {"token": "s3cr3t-22"})
            server.only("s3cr3t-22")
            if damaged:  # it could not be used once before
                with monkeypatch.context() as system:
                    system.setattr("collector.kube.kubeconfig.read_file", fail)
                    with pytest.raises(errors.UnauthorizedError):
                        await get(session, PODS)
                clock.advance(60)
            with monkeypatch.context() as system:
                system.setattr("collector.kube.connector.Connector.connect", hang)
                with anyio.move_on_after(0.5) as scope:
                    await get(session, PODS)
            assert scope.cancelled_caught
            await get(session, PODS)
        assert server.tokens[-1] == "Bearer s3cr3t-22"

    async def test_a_plugin_is_not_run_more_often_while_a_changed_kubeconfig_is_damaged(
        self, kubeconfig, cluster, plugin, server, clock
    ):
        runs = {}
        for damaged in (False, True):
            plugin.answer(token="s3cr3t-1")
            kubeconfig.write(cluster, plugin.user())
            before = len(plugin.runs)
            async with kubeconfig.session(clock=clock) as session:
                if damaged:
                    kubeconfig.path.write_text("users: [s3cr3t")
                server.only("another")
                for _ in range(30):
                    clock.advance(1)
                    with pytest.raises(errors.UnauthorizedError):
                        await get(session, PODS)
            runs[damaged] = len(plugin.runs) - before
        assert 0 < runs[True] <= runs[False] + 1  # that the file changed may be a reason for another run

    async def test_streams_and_websockets_recover_from_a_401(self, kubeconfig, cluster, server):
        kubeconfig.write(cluster, {"token": "s3cr3t-1"})
        async with kubeconfig.session() as session:
            kubeconfig.write(cluster, {"token": "s3cr3t-22"})
            server.only("s3cr3t-22")
            async with session.stream(Request(path=PODS)) as chunks:
                assert [chunk async for chunk in chunks]
        assert server.tokens == ["Bearer s3cr3t-1", "Bearer s3cr3t-22"]

    async def test_many_concurrent_refusals_all_recover(self, kubeconfig, cluster, plugin, server, clock):
        plugin.answer(token="s3cr3t-1")
        kubeconfig.write(cluster, plugin.user())
        async with kubeconfig.session(clock=clock) as session:
            await get(session, PODS)
            plugin.answer(token="s3cr3t-2")
            server.only("s3cr3t-2")
            clock.advance(10)
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(get, session, PODS)
        assert len(plugin.runs) == 2


async def test_basic_authentication_works(kubeconfig, cluster, server):
    kubeconfig.write(cluster, {"username": "me", "password": "s3cr3t"})
    async with kubeconfig.session() as session:
        await get(session, PODS)
    assert server.tokens == ["Basic bWU6czNjcjN0"]


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (
            {"token": "s3cr3t", "username": "me", "password": "s3cr3t"},
            'user "u": token: expected either a token or username and password',
        ),
        (
            {
                "exec": {"command": "x", "apiVersion": "client.authentication.k8s.io/v1"},
                "auth-provider": {"name": "oidc"},
            },
            'user "u": exec: expected either exec or auth-provider',
        ),
    ],
)
async def test_two_authentication_methods_are_refused_as_by_kubectl(kubeconfig, cluster, failure, user, message):
    kubeconfig.write(cluster, user)
    error = await failure(_get(kubeconfig.session()))
    assert type(error) is errors.BadContextError
    assert str(error).endswith(message)


async def test_impersonation_works(kubeconfig, cluster, server):
    kubeconfig.write(cluster, {"token": "s3cr3t", "as": "jane", "as-groups": ["a", "b"], "as-user-extra": {"k": ["v"]}})
    async with kubeconfig.session() as session:
        await get(session, PODS)
    (seen,) = server.seen
    assert (seen.headers["Impersonate-User"], seen.groups) == ("jane", ["a", "b"])
    assert seen.headers["Impersonate-Extra-k"] == "v"


class TestClientCertificate:
    async def test_from_files_next_to_the_kubeconfig(self, kubeconfig, cluster, server, authority, tmp_path):
        pair = authority.issue("jane")
        (tmp_path / "jane.crt").symlink_to(pair.chain)
        (tmp_path / "jane.key").symlink_to(pair.key)
        kubeconfig.write(cluster, {"client-certificate": "jane.crt", "client-key": "jane.key"})
        async with kubeconfig.session() as session:
            await get(session, PODS)
        assert server.seen[0].subject == "jane"

    async def test_from_data_without_leaving_a_key_on_disk(
        self, kubeconfig, cluster, server, authority, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        folders = [tmp_path, Path("/dev/shm")]
        before = {path for folder in folders for path in folder.iterdir()}
        kubeconfig.write(cluster, certificate_data(authority.issue("jane")))
        async with kubeconfig.session() as session:
            await get(session, PODS)
            assert {path for folder in folders for path in folder.iterdir()} - before == {kubeconfig.path}
        assert server.seen[0].subject == "jane"

    async def test_replaced_files_are_used_while_a_stream_continues(
        self, kubeconfig, cluster, server, authority, tmp_path, clock
    ):
        go_on = anyio.Event()

        async def watch(request):
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(b"one")
            await go_on.wait()
            await answer.write(b"two")
            return answer

        server.paths["/watch"] = watch
        first, second = authority.issue("first"), authority.issue("second")
        (tmp_path / "c").write_bytes(first.chain.read_bytes())
        (tmp_path / "k").write_bytes(first.key.read_bytes())
        kubeconfig.write(cluster, {"client-certificate": "c", "client-key": "k"})
        async with kubeconfig.session(clock=clock) as session, session.stream(Request(path="/watch")) as chunks:
            assert await anext(chunks) == b"one"
            (tmp_path / "c").write_bytes(second.chain.read_bytes())
            (tmp_path / "k").write_bytes(second.key.read_bytes())
            clock.advance(60)
            await get(session, PODS)
            go_on.set()
            assert [chunk async for chunk in chunks] == [b"two"]
        assert [seen.subject for seen in server.seen] == ["first", "second"]

    async def test_partly_replaced_files_change_nothing(self, kubeconfig, cluster, server, authority, tmp_path, clock):
        first, second = authority.issue("first"), authority.issue("second")
        (tmp_path / "c").write_bytes(first.chain.read_bytes())
        (tmp_path / "k").write_bytes(first.key.read_bytes())
        kubeconfig.write(cluster, {"client-certificate": "c", "client-key": "k"})
        async with kubeconfig.session(clock=clock) as session:
            await get(session, PODS)
            (tmp_path / "c").write_bytes(second.chain.read_bytes())
            clock.advance(60)
            await get(session, PODS)
            (tmp_path / "k").write_bytes(second.key.read_bytes())
            clock.advance(60)
            await get(session, PODS)
        assert [seen.subject for seen in server.seen] == ["first", "first", "second"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda user, other: user.pop("client-key-data"), "expected client-certificate and client-key together"),
            (lambda user, other: user.update({"client-key-data": "s3cr3t!"}), "client-key-data: expected base64"),
            (
                lambda user, other: user.update({"client-key-data": "czNjcjN0"}),
                "a PEM certificate with its unencrypted key",
            ),
            (
                lambda user, other: user.update({"client-key-data": other["client-key-data"]}),
                "client-certificate and client-key: the certificate and the key do not match",
            ),
            (
                lambda user, other: user.update({"client-key-data": "", "client-key": "/no/key"}),
                "client-key /no/key: no such file or directory",
            ),
        ],
    )
    async def test_an_unusable_certificate_is_a_bad_context(
        self, kubeconfig, cluster, authority, failure, change, message
    ):
        user = certificate_data(authority.issue("jane"))
        change(user, certificate_data(authority.issue("joe")))
        kubeconfig.write(cluster, user)
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.BadContextError
        assert str(error).endswith(message)
        assert str(error).startswith(f'context "prod" in {kubeconfig.path}: ')

    async def test_a_short_key_that_go_accepts_is_presented(self, kubeconfig, cluster, authority):
        kubeconfig.write(cluster, certificate_data(authority.issue("jane", rsa_bits=1024)))
        async with kubeconfig.session() as session:
            assert not session.anonymous

    async def test_an_encrypted_key_is_refused_without_asking_for_its_password(
        self, kubeconfig, cluster, authority, failure
    ):
        pair = authority.issue("jane")
        key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"s3cr3t"),
            )
        )
        kubeconfig.write(cluster, certificate_data(pair))
        assert str(await failure(_get(kubeconfig.session()))).endswith("a PEM certificate with its unencrypted key")


class TestExecPlugin:
    async def test_its_token_is_renewed_before_it_expires(self, kubeconfig, cluster, plugin, server, clock):
        plugin.answer(token="s3cr3t-1", expirationTimestamp=_timestamp(clock() + 900))
        kubeconfig.write(cluster, plugin.user("v1beta1"))
        plugin.answer("v1beta1", token="s3cr3t-1", expirationTimestamp=_timestamp(clock() + 900))
        async with kubeconfig.session(clock=clock) as session:
            await get(session, PODS)
            plugin.answer("v1beta1", token="s3cr3t-2", expirationTimestamp=_timestamp(clock() + 1800))
            clock.advance(700)
            await get(session, PODS)
            clock.advance(50)
            await get(session, PODS)
        assert server.tokens == ["Bearer s3cr3t-1", "Bearer s3cr3t-1", "Bearer s3cr3t-2"]
        assert len(plugin.runs) == 2

    async def test_its_token_is_renewed_when_it_is_refused(self, kubeconfig, cluster, plugin, server, clock):
        plugin.answer(token="s3cr3t-1")
        kubeconfig.write(cluster, plugin.user())
        async with kubeconfig.session(clock=clock) as session:
            await get(session, PODS)
            plugin.answer(token="s3cr3t-2")
            server.only("s3cr3t-2")
            clock.advance(10)
            await get(session, PODS)
        assert server.tokens == ["Bearer s3cr3t-1", "Bearer s3cr3t-1", "Bearer s3cr3t-2"]

    async def test_an_unchanged_refused_credential_is_unauthorized(
        self, kubeconfig, cluster, plugin, server, clock, failure
    ):
        plugin.answer(token="s3cr3t-1")
        server.only("s3cr3t-2")
        kubeconfig.write(cluster, plugin.user())
        async with kubeconfig.session(clock=clock) as session:
            for _ in range(10):
                assert type(await failure(get(session, PODS))) is errors.UnauthorizedError
        assert len(plugin.runs) == 1, "a token that is a moment old is not replaced"

    async def test_its_certificate_is_presented_and_renewed(
        self, kubeconfig, cluster, plugin, server, authority, clock
    ):
        kubeconfig.write(cluster, plugin.user())
        async with kubeconfig.session(clock=clock) as session:
            for name in ("first", "second"):
                pair = authority.issue(name).pem
                plugin.answer(
                    clientCertificateData=pair["chain"],
                    clientKeyData=pair["key"],
                    expirationTimestamp=_timestamp(clock() + 100),
                )
                await get(session, PODS)
                clock.advance(90)
        assert [seen.subject for seen in server.seen] == ["first", "second"]

    async def test_an_invalid_certificate_is_a_plugin_failure(self, kubeconfig, cluster, plugin, failure):
        plugin.answer(clientCertificateData="s3cr3t", clientKeyData="s3cr3t")
        kubeconfig.write(cluster, plugin.user())
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.CredentialPluginFailedError

    async def test_a_plugin_installed_later_is_found(self, kubeconfig, cluster, plugin, clock, failure):
        plugin.answer(token="s3cr3t")
        kubeconfig.write(cluster, plugin.user(installHint="Install it."))
        plugin.path.rename(plugin.folder / "away")
        async with kubeconfig.session(clock=clock) as session:
            error = await failure(get(session, PODS))
            assert type(error) is errors.CredentialPluginMissingError
            assert str(error).endswith(f'exec plugin "{plugin.path}" is not installed: Install it.')
            (plugin.folder / "away").rename(plugin.path)
            clock.advance(5)
            await get(session, PODS)

    async def test_a_static_token_takes_precedence(self, kubeconfig, cluster, plugin, server):
        kubeconfig.write(cluster, plugin.user() | {"token": "s3cr3t"})
        async with kubeconfig.session() as session:
            await get(session, PODS)
        assert plugin.runs == []

    async def test_unrelated_kubeconfig_changes_do_not_run_the_plugin(self, kubeconfig, cluster, plugin, clock):
        plugin.answer(token="s3cr3t")
        kubeconfig.write(cluster, plugin.user())
        async with kubeconfig.session(clock=clock) as session:
            await get(session, PODS)
            kubeconfig.write(cluster, plugin.user(), preferences={"colors": True})
            clock.advance(60)
            await get(session, PODS)
        assert len(plugin.runs) == 1


class TestAuthProvider:
    async def test_oidc_renews_its_token(self, kubeconfig, cluster, server, issuer, other_authority, clock):
        settings = {
            "idp-issuer-url": issuer.url,
            "client-id": "kubernetes",
            "refresh-token": issuer.refresh_token,
            "id-token": issuer.token(0, clock() + 100),
            "idp-certificate-authority-data": other_authority.data,
        }
        kubeconfig.write(cluster, {"auth-provider": {"name": "oidc", "config": settings}})
        async with kubeconfig.session(clock=clock) as session:
            await get(session, PODS)
            clock.advance(90)
            await get(session, PODS)
            server.only(issuer.token(2, clock() + 610))
            clock.advance(10)
            await get(session, PODS)
        assert len(issuer.grants) == 2

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("gcp", "; use the exec plugin gke-gcloud-auth-plugin instead"),
            ("azure", "; use the exec plugin kubelogin instead"),
            ("other", ""),
        ],
    )
    async def test_the_removed_ones_name_their_successors(self, kubeconfig, cluster, failure, name, hint):
        kubeconfig.write(cluster, {"auth-provider": {"name": name, "config": {"access-token": "s3cr3t"}}})
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.BadContextError
        assert str(error).endswith(f'auth-provider "{name}" is not supported{hint}')


class TestTls:
    async def test_a_ca_file_is_trusted(self, kubeconfig, server, authority):
        kubeconfig.write({"server": server.url, "certificate-authority": str(authority.path)})
        await _get(kubeconfig.session())

    async def test_another_ca_is_not_trusted(self, kubeconfig, server, other_authority, failure):
        kubeconfig.write({"server": server.url, "certificate-authority-data": other_authority.data})
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.UntrustedCertificateError
        assert str(error).startswith(f"{server.url}: certificate verify failed: ")

    async def test_a_given_ca_replaces_those_of_the_system(self, kubeconfig, server, failure):
        kubeconfig.write({"server": server.url})
        error = await failure(_get(kubeconfig.session()))
        assert "certificate verify failed" in str(error)

    async def test_a_replaced_ca_file_is_used(self, kubeconfig, server, authority, other_authority, tmp_path, clock):
        (tmp_path / "ca").write_bytes(other_authority.path.read_bytes())
        kubeconfig.write({"server": server.url, "certificate-authority": "ca"})
        async with kubeconfig.session(clock=clock) as session:
            with pytest.raises(errors.UnreachableError):
                await get(session, PODS)
            (tmp_path / "ca").write_bytes(authority.path.read_bytes() + b"\n")
            await get(session, PODS)  # without waiting for the next look at the files

    async def test_a_replaced_certificate_is_used_after_a_refusal(
        self, kubeconfig, cluster, authority, other_authority, server
    ):
        kubeconfig.write(cluster, certificate_data(other_authority.issue("jane")))
        async with kubeconfig.session() as session:
            with pytest.raises(errors.UnreachableError):
                await get(session, PODS)
            kubeconfig.write(cluster, certificate_data(authority.issue("jane")))
            await get(session, PODS)
        assert server.seen[-1].subject == "jane"

    async def test_a_new_address_is_used_after_a_timeout(self, kubeconfig, plain_server):
        (port,) = free_ports(1)
        kubeconfig.write({"server": f"http://127.0.0.1:{port}"})
        async with kubeconfig.session() as session:
            with pytest.raises(errors.UnreachableError):
                await get(session, PODS)
            kubeconfig.write({"server": plain_server.url})
            await get(session, PODS)

    async def test_a_new_ca_is_used_as_soon_as_verification_fails(self, kubeconfig, server, authority, other_authority):
        kubeconfig.write({"server": server.url, "certificate-authority-data": other_authority.data})
        async with kubeconfig.session() as session:
            with pytest.raises(errors.UntrustedCertificateError):
                await get(session, PODS)
            kubeconfig.write({"server": server.url, "certificate-authority-data": authority.data})
            await get(session, PODS)
            async with session.stream(Request(path=PODS)) as chunks:
                assert [chunk async for chunk in chunks]

    @pytest.mark.parametrize("key", ["certificate-authority", "certificate-authority-data"])
    async def test_a_ca_with_skipped_verification_is_refused_as_by_kubectl(
        self, kubeconfig, server, authority, failure, key
    ):
        ca = authority.data if key.endswith("data") else str(authority.path)
        kubeconfig.write({"server": server.url, "insecure-skip-tls-verify": True, key: ca})
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.BadContextError
        assert str(error).endswith(
            ": insecure-skip-tls-verify and certificate-authority are mutually exclusive; remove one"
        )

    async def test_a_bundle_is_interpreted_as_in_go(self, kubeconfig, server, authority, other_authority, caplog):
        good, other = authority.path.read_text(), other_authority.path.read_text()
        broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
        bundle = f"# NetLock Arany (Class Gold) Főtanúsítvány\n{other}text\n{broken}{good}\nmore text"
        kubeconfig.write(
            {"server": server.url, "certificate-authority-data": base64.b64encode(bundle.encode()).decode()}
        )
        await _get(kubeconfig.session())
        where = f'context "prod" in {kubeconfig.path}'
        line = bundle[: bundle.index(broken)].count("\n") + 1
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
            f"{where}: certificate-authority: certificate 2 of 3 (line {line}) is broken; skipped"
        ]

    async def test_a_server_s_own_certificate_may_be_the_anchor(self, kubeconfig, server, authority):
        kubeconfig.write({"server": server.url, "certificate-authority": str(authority.path.parent / "server.crt")})
        await _get(kubeconfig.session())

    async def test_a_wrong_host_name_needs_tls_server_name(self, kubeconfig, named_server, authority, failure):
        cluster = {"server": named_server.url, "certificate-authority-data": authority.data}
        kubeconfig.write(cluster)
        error = await failure(_get(kubeconfig.session()))
        assert "certificate is not valid for '127.0.0.1'" in str(error)
        kubeconfig.write(cluster | {"tls-server-name": "kubernetes.test"})
        await _get(kubeconfig.session())

    async def test_verification_can_be_skipped(self, kubeconfig, named_server, authority):
        kubeconfig.write(
            {"server": named_server.url, "insecure-skip-tls-verify": True}, certificate_data(authority.issue("jane"))
        )
        await _get(kubeconfig.session())
        assert named_server.seen[0].subject == "jane"

    async def test_an_invalid_ca_is_a_bad_context(self, kubeconfig, server, failure):
        kubeconfig.write({"server": server.url, "certificate-authority-data": "bm8gQ0E="})
        error = await failure(_get(kubeconfig.session()))
        assert str(error).endswith("certificate-authority: expected PEM certificates")

    @pytest.mark.parametrize("url", ["https://", "ftp://c", "https://c:port", "https://fd00::1", "https://[::1"])
    async def test_a_server_that_is_no_url_is_a_bad_context(self, kubeconfig, failure, url):
        kubeconfig.write({"server": url})
        assert type(await failure(_get(kubeconfig.session()))) is errors.BadContextError

    @pytest.mark.parametrize("url", ["https://127.0.0.1.:6443", "https://1.2.3.4.5:6443"])
    async def test_an_invalid_address_is_a_bad_context(self, kubeconfig, failure, url):
        kubeconfig.write({"server": url})
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.BadContextError
        assert str(error) == f"{url}: not a valid address"

    async def test_a_server_without_a_scheme_is_treated_as_by_kubectl(
        self, kubeconfig, plain_server, server, authority
    ):
        kubeconfig.write({"server": plain_server.url.removeprefix("http://")})
        await _get(kubeconfig.session())
        kubeconfig.write({"server": server.url.removeprefix("https://"), "certificate-authority-data": authority.data})
        await _get(kubeconfig.session())
        assert len(plain_server.seen) == len(server.seen) == 1


class TestProxy:
    async def test_requests_and_websockets_go_through_it(self, kubeconfig, cluster, server, proxy, failure):
        proxy.password = "s3cr3t/@"
        url = proxy.url.replace("http://", "http://user:s3cr3t%2F%40@")
        kubeconfig.write(cluster | {"proxy-url": url}, {"token": "s3cr3t"})
        async with kubeconfig.session() as session:
            await get(session, PODS)
            error = await failure(session.websocket(Request(path="/exec")).__aenter__())
        assert "did not upgrade" in str(error)
        assert set(proxy.targets) == {f"127.0.0.1:{server.port}"}
        assert "Proxy-Authorization" not in server.seen[0].headers

    async def test_a_name_for_tls_is_kept_through_it(self, kubeconfig, named_server, authority, proxy):
        kubeconfig.write(
            {
                "server": named_server.url,
                "certificate-authority-data": authority.data,
                "tls-server-name": "kubernetes.test",
                "proxy-url": proxy.url,
            }
        )
        await _get(kubeconfig.session())
        assert len(proxy.targets) == 1

    async def test_the_proxy_itself_may_use_tls(self, kubeconfig, cluster, tls_proxy):
        kubeconfig.write(cluster | {"proxy-url": tls_proxy.url})
        await _get(kubeconfig.session())
        assert len(tls_proxy.targets) == 1

    async def test_a_refusal_says_that_it_was_the_proxy(self, kubeconfig, cluster, server, proxy, failure):
        proxy.password = "s3cr3t"
        kubeconfig.write(cluster | {"proxy-url": proxy.url.replace("http://", "http://user:wrong-s3cr3t@")})
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.UnreachableError
        name = f"proxy {proxy.url.removeprefix('http://')}"
        assert (
            str(error) == f"{server.url}: {name} responded with HTTP status 407: it requires a login in the proxy URL"
        )

    async def test_an_absent_one_says_that_it_was_the_proxy(self, kubeconfig, cluster, server, failure):
        kubeconfig.write(cluster | {"proxy-url": "http://user:s3cr3t@127.0.0.1:1"})
        error = await failure(_get(kubeconfig.session()))
        assert str(error) == f"{server.url}: proxy 127.0.0.1:1: connection refused"

    async def test_a_proxy_of_another_kind_is_a_bad_context(self, kubeconfig, cluster, failure):
        kubeconfig.write(cluster | {"proxy-url": "socks4://user:s3cr3t@127.0.0.1:1"})
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.BadContextError
        assert "socks4 proxies are not supported" in str(error)

    async def test_the_environment_s_proxy_is_used(self, kubeconfig, proxy, failure, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "example.com")
        kubeconfig.write({"server": "https://api.gpuid.invalid:6443"})
        error = await failure(_get(kubeconfig.session()))
        name = f"proxy {proxy.url.removeprefix('http://')}"
        assert str(error) == f"https://api.gpuid.invalid:6443: {name} responded with HTTP status 502"
        assert proxy.targets == ["api.gpuid.invalid:6443"]


class TestSocksProxy:
    @pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
    async def test_requests_and_websockets_go_through_it(
        self, kubeconfig, cluster, server, socks_proxy, failure, scheme
    ):
        url = socks_proxy.url.replace("socks5", scheme)
        kubeconfig.write(cluster | {"proxy-url": url}, {"token": "s3cr3t"})
        async with kubeconfig.session() as session:
            await get(session, PODS)
            error = await failure(session.websocket(Request(path="/exec")).__aenter__())
        assert "did not upgrade" in str(error)
        assert set(socks_proxy.targets) == {f"127.0.0.1:{server.port}"}

    async def test_the_proxy_resolves_names_that_tls_verifies(self, kubeconfig, named_server, authority, socks_proxy):
        server = f"https://kubernetes.test:{named_server.port}"
        kubeconfig.write({"server": server, "certificate-authority-data": authority.data, "proxy-url": socks_proxy.url})
        await _get(kubeconfig.session())
        assert socks_proxy.targets == [f"kubernetes.test:{named_server.port}"]

    async def test_a_name_for_tls_is_kept_through_it(self, kubeconfig, named_server, authority, socks_proxy, failure):
        cluster = {
            "server": named_server.url,
            "certificate-authority-data": authority.data,
            "proxy-url": socks_proxy.url,
        }
        kubeconfig.write(cluster)
        assert type(await failure(_get(kubeconfig.session()))) is errors.UntrustedCertificateError
        kubeconfig.write(cluster | {"tls-server-name": "kubernetes.test"})
        await _get(kubeconfig.session())

    async def test_it_authenticates_to_the_proxy(self, kubeconfig, cluster, server, socks_proxy, failure):
        socks_proxy.password = "s3cr3t/@"
        url = socks_proxy.url.replace("://", "://user:s3cr3t%2F%40@")
        kubeconfig.write(cluster | {"proxy-url": url})
        await _get(kubeconfig.session())
        kubeconfig.write(cluster | {"proxy-url": url.replace("%40", "")})
        error = await failure(_get(kubeconfig.session()))
        place = socks_proxy.url.removeprefix("socks5://")
        assert str(error) == f"{server.url}: proxy {place}: username and password authentication failure"
        kubeconfig.write(cluster | {"proxy-url": socks_proxy.url})
        error = await failure(_get(kubeconfig.session()))
        assert str(error) == f"{server.url}: proxy {place}: no acceptable authentication methods were offered"

    @pytest.mark.parametrize(
        ("reply", "words"), [(5, "connection refused by destination host"), (4, "host unreachable")]
    )
    async def test_its_refusal_says_that_it_was_the_proxy(
        self, kubeconfig, cluster, server, socks_proxy, failure, reply, words
    ):
        socks_proxy.reply = reply
        kubeconfig.write(cluster | {"proxy-url": socks_proxy.url})
        error = await failure(_get(kubeconfig.session()))
        assert type(error) is errors.UnreachableError
        place = socks_proxy.url.removeprefix("socks5://")
        assert str(error) == f"{server.url}: proxy {place}: {words}"

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("socks5://user:s3cr3t@127.0.0.1:1", "proxy 127.0.0.1:1: connection refused"),
            ("socks5://gpuid.invalid", "proxy gpuid.invalid:1080: cannot be resolved"),
        ],
    )
    async def test_an_absent_one_says_that_it_was_the_proxy(self, kubeconfig, cluster, server, failure, url, words):
        kubeconfig.write(cluster | {"proxy-url": url})
        error = await failure(_get(kubeconfig.session()))
        assert str(error) == f"{server.url}: {words}"

    async def test_a_server_other_than_socks_is_reported(self, kubeconfig, cluster, server, plain_server, failure):
        url = plain_server.url.replace("http", "socks5")
        kubeconfig.write(cluster | {"proxy-url": url})
        error = await failure(_get(kubeconfig.session()))
        assert str(error).startswith(f"{server.url}: proxy {plain_server.url.removeprefix('http://')}: ")

    async def test_the_environment_s_is_used(self, kubeconfig, named_server, authority, socks_proxy, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", socks_proxy.url)
        server = f"https://kubernetes.test:{named_server.port}"
        kubeconfig.write({"server": server, "certificate-authority-data": authority.data})
        await _get(kubeconfig.session())
        assert len(socks_proxy.targets) == 1


class TestServerUrl:
    async def test_credentials_in_the_url_are_a_fallback(self, kubeconfig, server, authority):
        url = server.url.replace("https://", "https://me:s3cr3t@")
        cluster = {"server": url, "certificate-authority-data": authority.data}
        kubeconfig.write(cluster)
        async with kubeconfig.session() as session:
            assert session.host == server.url
            await get(session, PODS)
        kubeconfig.write(cluster, {"token": "s3cr3t"})
        await _get(kubeconfig.session())
        assert server.tokens == ["Basic bWU6czNjcjN0", "Bearer s3cr3t"]

    @pytest.mark.parametrize(
        ("given", "taken"),
        [
            ("https://::1:6443", "https://[::1]:6443"),
            ("https://fd00::1:2:6443/k8s/clusters/c-1", "https://[fd00::1:2]:6443/k8s/clusters/c-1"),
            ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
            ("https://me:s3cr3t@::1:6443", "https://[::1]:6443"),
            (" https://c/a%2Fb/ ", "https://c/a%2Fb/"),
            ("HTTPS://C:6443?x=1#y", "https://c:6443"),
        ],
    )
    def test_it_is_interpreted_as_by_kubectl(self, given, taken):
        info = ConnectionInfo(where="x", cluster=ClusterEntry(server=given))
        assert str(parse_server(info).url) == taken

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("tcp://c", 'x: server: expected https:// or http://, got "tcp://"'),
            ("https://", "x: server: expected a host, as in https://10.0.0.1:6443"),
            ("https://me:s3cr3t@c:port", "x: server: not a URL; expected one such as https://10.0.0.1:6443"),
            ("https://c:99999", "x: server: not a URL; expected one such as https://10.0.0.1:6443"),
            ("https://fd00::1", "x: server: an IPv6 address needs brackets, as in https://[fd00::1]:6443"),
            ("https://" + "[" * 4700, "x: server: not a URL; expected one such as https://10.0.0.1:6443"),
        ],
    )
    def test_an_invalid_url_says_what_is_wrong(self, given, message):
        info = ConnectionInfo(where="x", cluster=ClusterEntry(server=given))
        with pytest.raises(errors.BadContextError) as caught:
            parse_server(info)
        assert str(caught.value) == message


class TestWhyTheServerRefuses:
    """The error after a refusal includes what is known about our own credentials."""

    @pytest.fixture(params=[401, 403])
    def refusing(self, request, server):
        async def refuse(_request):
            return status(request.param, "no")

        server.paths[PODS] = refuse

    async def test_a_user_without_credentials_is_named(self, kubeconfig, cluster, refusing, failure):
        kubeconfig.write(cluster, {})
        assert str(await failure(_get(kubeconfig.session()))).endswith(
            ': no; user "u" of the kubeconfig has no credentials'
        )
        kubeconfig.write(cluster, contexts=[{"name": "prod", "context": {"cluster": "c"}}])
        assert str(await failure(_get(kubeconfig.session()))).endswith(": no; its context names no user")

    @pytest.mark.parametrize(
        ("days", "words"),
        [
            ((-9, -2), "the client certificate expired on {last}; renew it"),
            ((2, 9), "the client certificate is valid from {first} on; is the clock right?"),
            ((-1, 1), ""),
        ],
    )
    async def test_a_certificate_outside_its_validity_is_named(self, server, authority, days, words):
        user = User(
            **{
                key.replace("-", "_"): value
                for key, value in certificate_data(authority.issue("jane", days=days)).items()
            }
        )
        settings = ConnectionSettings(ConnectionInfo(where="x", cluster=ClusterEntry(server=server.url), user=user))
        assert settings.validity is not None
        first, last = (rfc3339(when, "seconds") for when in settings.validity)
        now = datetime.now(UTC).timestamp()
        assert settings.credential_problem(Credential(), now) == words.format(first=first, last=last)

    async def test_a_certificate_refused_in_the_handshake_is_named(self, kubeconfig, server, authority, failure):
        pair = authority.issue("jane", days=(-9, -2))
        kubeconfig.write({"server": server.url, "certificate-authority-data": authority.data}, certificate_data(pair))
        error = await failure(_get(kubeconfig.session()))
        assert "; the client certificate expired on 20" in str(error)
        assert str(error).endswith("Z; renew it")

    async def test_an_expired_token_is_named(self, kubeconfig, cluster, issuer, clock, refusing, failure):
        kubeconfig.write(cluster, {"token": issuer.token(0, clock() - 100)})
        error = await failure(_get(kubeconfig.session(clock=clock)))
        assert str(error).endswith("; the token expired on 2027-01-15T07:58:20Z; renew it")

    async def test_a_token_with_a_line_break_names_its_user(self, kubeconfig, cluster, failure):
        kubeconfig.write(cluster, {"token": "s3cr3t-1\ns3cr3t-2"})
        error = await failure(_get(kubeconfig.session()))
        where = f'context "prod" in {kubeconfig.path}: user "u": token'
        assert str(error) == f"{where}: the token contains a line break; copy it again, as one line"


class Expiries(list):
    """The ends of the credentials that a session has reported."""

    def note(self, found):
        self.append(found and found.ends)


class TestExpiry:
    """When credentials end that nobody here can renew."""

    @pytest.fixture
    def expiries(self):
        return Expiries()

    async def test_the_expiry_of_a_renewed_client_certificate_is_reported(
        self, kubeconfig, cluster, authority, expiries, clock
    ):
        first, second = authority.issue("a", days=(-1, 3)), authority.issue("b", days=(-1, 5))
        kubeconfig.write(cluster, certificate_data(first))
        async with kubeconfig.session(clock=clock, on_credential_expiry=expiries.note) as session:
            await get(session, PODS)
            await get(session, PODS)
            kubeconfig.write(cluster, certificate_data(second))
            clock.advance(60)
            await get(session, PODS)
            kubeconfig.write(cluster, {"token": "s3cr3t"})
            clock.advance(60)
            await get(session, PODS)
        now = datetime.now(UTC).timestamp()
        assert [expiry and round((expiry - now) / 86400) for expiry in expiries] == [3, 5, None]

    async def test_the_earlier_expiry_of_token_or_certificate_is_reported(
        self, kubeconfig, cluster, authority, issuer, expiries
    ):
        pair = authority.issue("a", days=(-1, 3))
        for end in (2e9, 1.9e9, 1e9):
            kubeconfig.write(cluster, {"token": issuer.token(0, end)})
            async with kubeconfig.session(on_credential_expiry=expiries.note) as session:
                await get(session, PODS)
        kubeconfig.write(cluster, {"token": issuer.token(0, 2e9)} | certificate_data(pair))
        async with kubeconfig.session(on_credential_expiry=expiries.note) as session:
            await get(session, PODS)
        assert expiries[:3] == [2e9, 1.9e9, 1e9]
        assert expiries[3] < 2e9

    async def test_only_certificates_of_a_plugin_have_an_expiry(
        self, kubeconfig, cluster, authority, plugin, expiries, clock
    ):
        pair = authority.issue("a", days=(-1, 3)).pem
        plugin.answer(clientCertificateData=pair["chain"], clientKeyData=pair["key"])
        kubeconfig.write(cluster, plugin.user())
        async with kubeconfig.session(on_credential_expiry=expiries.note) as session:
            await get(session, PODS)
        plugin.answer(token="s3cr3t", expirationTimestamp="2030-01-01T00:00:00Z")
        async with kubeconfig.session(on_credential_expiry=expiries.note) as session:
            await get(session, PODS)
        assert round((expiries[0] - datetime.now(UTC).timestamp()) / 86400) == 3
        assert expiries[1:] == [None]

    async def test_token_files_have_no_expiry(self, kubeconfig, cluster, tmp_path, issuer, expiries):
        (tmp_path / "token").write_text(issuer.token(0, 2e9))
        kubeconfig.write(cluster, {"tokenFile": "token"})
        async with kubeconfig.session(on_credential_expiry=expiries.note) as session:
            await get(session, PODS)
        assert expiries == [None]


async def test_an_unexpected_error_becomes_ours_without_secrets(kubeconfig, cluster, failure, monkeypatch):
    def fail(*_arguments):
        raise KeyError("s3cr3t")

    monkeypatch.setattr("collector.kube.authentication.choose", fail)
    kubeconfig.write(cluster)
    error = await failure(_get(kubeconfig.session()))
    assert type(error) is errors.BadContextError
    assert "failed unexpectedly (test_session_credentials.py, line " in str(error)
    assert "KeyError" not in str(error)


async def test_a_failing_plugin_runs_again_once_the_kubeconfig_changes(
    kubeconfig, cluster, plugin, clock, failure, server
):
    plugin.script("exit 1")
    kubeconfig.write(cluster, plugin.user())
    async with kubeconfig.session(clock=clock) as session:
        for _ in range(30):
            await failure(get(session, PODS))
            clock.advance(5)
        runs = len(plugin.runs)
        assert runs < 7
        await failure(get(session, PODS))
        clock.advance(60)
        plugin.answer(token="s3cr3t")
        plugin.script('cat "$here/answer"')
        kubeconfig.write(cluster, plugin.user(), preferences={"changed": True})
        await get(session, PODS)
    assert server.tokens == ["Bearer s3cr3t"]


class TestInCluster:
    async def test_the_service_account_is_used_and_read_again(self, server, authority, tmp_path, clock, monkeypatch):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        (tmp_path / "ca.crt").write_bytes(authority.path.read_bytes())
        (tmp_path / "token").write_text("s3cr3t-1")
        cluster = config.ClusterSettings(name="here", in_cluster=True)
        async with Session(cluster, clock=clock, service_account=tmp_path) as session:
            assert session.host == server.url
            await get(session, PODS)
            (tmp_path / "token").write_text("s3cr3t-2")
            clock.advance(60)
            await get(session, PODS)
        assert server.tokens == ["Bearer s3cr3t-1", "Bearer s3cr3t-2"]

    async def test_outside_a_pod_it_is_a_bad_context(self, failure, monkeypatch):
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        error = await failure(_get(Session(config.ClusterSettings(name="here", in_cluster=True))))
        assert type(error) is errors.BadContextError


async def test_several_kubeconfigs_are_merged(server, authority, tmp_path):
    def write(path, document):
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(document))
        return str(path)

    pair = authority.issue("jane")
    entry = {"server": server.url, "certificate-authority-data": authority.data}
    first = write(
        tmp_path / "a/config",
        {
            "clusters": [{"name": "c", "cluster": entry}],
            "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "jane"}}],
        },
    )
    user = {"client-certificate": "jane.crt", "client-key": "jane.key"}
    second = write(tmp_path / "b/config", {"users": [{"name": "jane", "user": user}]})
    (tmp_path / "b/jane.crt").write_bytes(pair.chain.read_bytes())
    (tmp_path / "b/jane.key").write_bytes(pair.key.read_bytes())
    await _get(Session(config.ClusterSettings(context="prod", kubeconfig=os.pathsep.join((first, second)))))
    assert server.seen[0].subject == "jane"


def certificate_data(pair):
    return {
        "client-certificate-data": base64.b64encode(pair.chain.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
    }


async def _get(session):
    async with session:
        return await get(session, PODS)


def _timestamp(seconds):
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
