"""Service-account tokens that renew themselves, against a server that may answer anything."""

import errno
import json
import logging
import os
import stat
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from aiohttp import web

from collector.kube.errors import ExpiredTokenError
from collector.kube.token_renewal import RETRY, TokenRenewal
from collector.tls import Validity
from tests.support.kubernetes import get, status
from tests.support.tokens import AUDIENCE, service_account_token
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"
TOKEN = "/api/v1/namespaces/gpuid/serviceaccounts/collector/token"  # a path
REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
LIFETIME = 3600
USER = "system:serviceaccount:gpuid:collector"


class TokenApi:
    """What the server says to TokenRequests and to who asks whether they are allowed."""

    def __init__(self, server, clock):
        self.server, self.clock = server, clock
        self.requests: list[dict[str, Any]] = []
        self.reviews: list[dict[str, Any]] = []
        self.allowed: bool | None = True
        self.broken = 0  # the HTTP status of every review
        self.answer: Callable[[], web.Response] | None = None  # instead of a token
        self.claims: dict[str, Any] = {}  # of the tokens
        self.gate = anyio.Event()
        self.gate.set()
        server.paths |= {TOKEN: self._request, REVIEW: self._review}

    def token(self, number: int, **claims: Any) -> str:
        given: dict[str, Any] = {"made": int(self.clock()), "signature": f"s3cr3t-{number}"} | claims
        return service_account_token(**given)

    async def _request(self, request):
        body = await request.json()
        self.requests.append(body["spec"])
        await self.gate.wait()
        if self.answer is not None:
            return self.answer()
        claims = {"lifetime": body["spec"]["expirationSeconds"], "aud": body["spec"]["audiences"]} | self.claims
        return web.json_response(body | {"status": {"token": self.token(len(self.requests), **claims)}}, status=201)

    async def _review(self, request):
        body = await request.json()
        self.reviews.append(body["spec"]["resourceAttributes"])
        if self.broken:
            return status(self.broken, "not now", "ServiceUnavailable")
        if self.allowed is None:
            return status(403, "no reviews here", "Forbidden")
        return web.json_response(body | {"status": {"allowed": self.allowed}}, status=201)


@pytest.fixture
def api(server, clock):
    return TokenApi(server, clock)


class World:
    """A kubeconfig with a token of the service account, in a file or inline, and the session that uses it."""

    def __init__(self, kubeconfig, cluster, clock, folder):
        self.kubeconfig, self.cluster, self.clock = kubeconfig, cluster, clock
        self.file = folder / "token"
        self.expiries: list[Validity | None] = []

    def write(self, token: str, *, inline: bool = False) -> None:
        if not inline:
            self.file.write_text(token + "\n")
            self.file.chmod(0o600)
        self.kubeconfig.write(self.cluster, {"token": token} if inline else {"tokenFile": str(self.file)})

    def client(self):
        return self.kubeconfig.client(clock=self.clock, on_credential_expiry=self.expiries.append)

    def renewal(self, client, **options):
        return TokenRenewal(client, **({"clock": self.clock, "elapsed": self.clock} | options))


@pytest.fixture
def world(kubeconfig, server, authority, clock, tmp_path):
    cluster = {"server": server.url, "certificate-authority-data": authority.data}
    return World(kubeconfig, cluster, clock, tmp_path)


def shown(server) -> str | None:
    return server.tokens[-1].rpartition(".")[2] if server.tokens else None


def messages(caplog, level: int) -> list[str]:
    found = [record for record in caplog.records if record.name == "collector.kube.token_renewal"]
    return [record.getMessage() for record in found if record.levelno == level]


class TestInAFile:
    async def test_it_is_renewed_at_four_fifths_of_its_lifetime(self, world, api, server, clock, caplog):
        world.write(api.token(0))
        async with world.client() as client:
            renewal = world.renewal(client)
            assert await renewal.step() == 60
            clock.advance(0.8 * LIFETIME - 11)
            await renewal.step()
            assert api.requests == []
            clock.advance(11)
            await renewal.step()
            assert api.requests == [{"audiences": [AUDIENCE], "expirationSeconds": LIFETIME}]
            assert world.file.read_text() == api.token(1) + "\n"
            await get(client.session, PODS)
            assert shown(server) == "s3cr3t-1"
            assert await renewal.step() == 60
            clock.advance(0.8 * LIFETIME)
            await renewal.step()
            await get(client.session, PODS)
            assert shown(server) == "s3cr3t-2"
        assert len(api.requests) == 2
        assert messages(caplog, logging.INFO)[0] == f"token of {USER} renewed; it expires on 2027-01-15T09:48:00Z"
        assert messages(caplog, logging.WARNING) == []

    async def test_a_self_renewing_token_is_not_reported_as_expiring(self, world, api, clock):
        world.write(api.token(0))
        async with world.client() as client:
            renewal = world.renewal(client)
            await get(client.session, PODS)
            assert world.expiries[-1] == Validity(clock(), clock() + LIFETIME), "whether it does is not known yet"
            for _ in range(4):
                await renewal.step()
                await get(client.session, PODS)
                assert world.expiries[-1] is None
                clock.advance(0.8 * LIFETIME)

    async def test_the_file_keeps_its_mode_and_owner(self, world, api, clock, tmp_path):
        world.write(api.token(0))
        world.file.chmod(0o640)
        before = sorted(path.name for path in tmp_path.iterdir())
        owner = world.file.stat().st_uid, world.file.stat().st_gid
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
        assert world.file.read_text() == api.token(1) + "\n"
        found = world.file.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, *owner)
        assert sorted(path.name for path in tmp_path.iterdir()) == before

    async def test_it_is_requested_with_the_same_properties(self, world, api, clock):
        bound = {"secret": {"name": "gpuid-token", "uid": "uid-2"}}
        api.claims = {"bound": bound}
        world.write(api.token(0, lifetime=86400, aud=["https://issuer.example.com", "other"], bound=bound))
        async with world.client() as client:
            clock.advance(0.9 * 86400)
            await world.renewal(client).step()
        assert api.requests == [
            {
                "audiences": ["https://issuer.example.com", "other"],
                "expirationSeconds": 86400,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "gpuid-token", "uid": "uid-2"},
            }
        ]
        assert world.file.read_text() == api.token(1, lifetime=86400, aud=["https://issuer.example.com", "other"],
                                                   bound=bound) + "\n"  # fmt: skip
        attributes = {"namespace": "gpuid", "name": "collector", "verb": "create", "group": ""}
        assert api.reviews[0] == attributes | {"resource": "serviceaccounts", "subresource": "token"}

    async def test_a_token_written_by_others_wins_if_it_expires_later(self, world, api, server, clock):
        world.write(api.token(0))
        async with world.client() as client:
            renewal = world.renewal(client)
            await renewal.step()
            clock.advance(0.85 * LIFETIME)
            world.write(api.token(77))
            await renewal.step()
            assert api.requests == [], "it is not due any more"
            await get(client.session, PODS)
            assert shown(server) == "s3cr3t-77"

    async def test_a_symbolic_link_in_a_secret_volume_is_unchanged(self, world, api, server, clock, tmp_path, caplog):
        data = tmp_path / "..2027_01_01"
        data.mkdir()
        (data / "token").write_text(first := api.token(0))
        (tmp_path / "..data").symlink_to(data.name)
        world.file.symlink_to("..data/token")
        world.kubeconfig.write(world.cluster, {"tokenFile": str(world.file)})
        ends = clock() + LIFETIME
        async with world.client() as client:
            renewal = world.renewal(client)
            clock.advance(0.8 * LIFETIME)
            for _ in range(3):
                await renewal.step()
                await get(client.session, PODS)
                clock.advance(60)
            assert shown(server) == "s3cr3t-1"
            assert world.expiries[-1] == Validity(ends - LIFETIME, ends), "after a restart, that one counts"
            # The kubelet brings what was put into the Secret.
            (data / "token").write_text(api.token(77))
            clock.advance(60)
            await get(client.session, PODS)
            assert shown(server) == "s3cr3t-77"
        assert world.file.is_symlink()
        assert first not in (data / "token").read_text()
        assert sorted(path.name for path in data.iterdir()) == ["token"]
        (_, kept) = messages(caplog, logging.INFO)
        assert kept == (
            f"the renewed token is kept only in memory: {world.file}: it is a symbolic link, as in the volume of a"
            " Secret; a restart falls back to the old one, which expires on 2027-01-15T09:00:00Z"
        )

    async def test_a_path_through_a_secret_volume_is_unchanged(self, world, api, clock, tmp_path):
        data = tmp_path / "..2027_01_01"
        data.mkdir()
        (tmp_path / "..data").symlink_to(data.name)
        world.file = tmp_path / "..data" / "token"
        world.write(first := api.token(0))
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
        assert len(api.requests) == 1
        assert world.file.read_text() == first + "\n"

    async def test_a_file_without_write_permission_is_unchanged(self, world, api, clock, monkeypatch):
        world.write(first := api.token(0))
        monkeypatch.setattr(os, "access", lambda *_path, **_how: False)
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
        assert len(api.requests) == 1
        assert world.file.read_text() == first + "\n"

    async def test_a_file_that_cannot_be_replaced_is_unchanged(self, world, api, server, clock, monkeypatch, caplog):
        def busy(*_names: object, **_folders: object) -> None:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))  # a file that is a mount by itself

        world.write(first := api.token(0))
        before = sorted(path.name for path in world.file.parent.iterdir())
        monkeypatch.setattr(os, "replace", busy)
        async with world.client() as client:
            renewal = world.renewal(client)
            clock.advance(0.9 * LIFETIME)
            await renewal.step()
            await get(client.session, PODS)
            assert shown(server) == "s3cr3t-1"
            assert world.expiries[-1] is not None
            assert world.file.read_text() == first + "\n"
            assert sorted(path.name for path in world.file.parent.iterdir()) == before
            monkeypatch.undo()
            await renewal.step()
            await get(client.session, PODS)
        assert world.file.read_text() == api.token(1) + "\n"
        assert world.expiries[-1] is None
        assert "device or resource busy" in messages(caplog, logging.INFO)[1]

    async def test_a_deleted_file_is_not_recreated(self, world, api, server, clock):
        world.write(api.token(0))
        async with world.client() as client:
            renewal = world.renewal(client)
            await renewal.step()
            world.file.unlink()
            clock.advance(0.9 * LIFETIME)
            await renewal.step()
            await get(client.session, PODS)
        assert shown(server) == "s3cr3t-1"
        assert not world.file.exists()


class TestInline:
    async def test_it_is_renewed_in_memory_and_its_expiry_stays_published(self, world, api, server, clock, caplog):
        ends = clock() + LIFETIME
        world.write(api.token(0), inline=True)
        content = world.kubeconfig.path.read_text()
        async with world.client() as client:
            renewal = world.renewal(client)
            for _ in range(50):
                clock.advance(600)
                await renewal.step()
                await get(client.session, PODS)
            assert shown(server) == f"s3cr3t-{len(api.requests)}"
        assert len(api.requests) > 5
        assert world.expiries == [Validity(ends - LIFETIME, ends)]
        assert world.kubeconfig.path.read_text() == content
        assert [text for text in messages(caplog, logging.INFO) if "renewed;" not in text] == [
            "the renewed token is kept only in memory: the kubeconfig: it is inline in the kubeconfig; a restart falls"
            " back to the old one, which expires on 2027-01-15T09:00:00Z"
        ]

    async def test_a_changed_kubeconfig_keeps_the_renewed_one_for_the_same_server(self, world, api, server, clock):
        world.write(first := api.token(0), inline=True)
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
            world.kubeconfig.write(world.cluster, {"token": first, "as": "jane"})
            clock.advance(60)
            await get(client.session, PODS)
        assert shown(server) == "s3cr3t-1"

    async def test_another_server_never_gets_the_renewed_one(self, world, api, server, plain_server, clock):
        world.write(first := api.token(0), inline=True)
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
            world.kubeconfig.write({"server": plain_server.url}, {"token": first})
            clock.advance(60)
            await get(client.session, PODS)
        assert shown(plain_server) == "s3cr3t-0"

    @pytest.mark.parametrize("claims", [{"uid": "uid-2"}, {"name": "other"}, {"lifetime": 86400}])
    async def test_a_different_token_in_the_kubeconfig_wins(self, world, api, server, clock, claims):
        world.write(api.token(0), inline=True)
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
            world.write(api.token(77, **claims), inline=True)
            clock.advance(60)
            await get(client.session, PODS)
        assert shown(server) == "s3cr3t-77"

    async def test_a_rejected_renewed_token_is_replaced_by_the_kubeconfigs(self, world, api, server, clock):
        world.write(first := api.token(0), inline=True)
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
            server.only(first)
            await get(client.session, PODS)
            await get(client.session, PODS)
        assert [token.rpartition("-")[2] for token in server.tokens[-3:]] == ["1", "0", "0"]


class TestWithoutTheRight:
    async def test_it_is_used_as_before_and_its_expiry_published(self, world, api, server, clock, caplog):
        api.allowed = False
        world.write(api.token(0))
        ends = clock() + LIFETIME
        async with world.client() as client:
            renewal = world.renewal(client)
            for _ in range(100):
                await renewal.step()
                await get(client.session, PODS)
                clock.advance(60)
            assert len(api.reviews) == 2, "it is asked again after an hour"
        assert api.requests == []
        assert shown(server) == "s3cr3t-0"
        assert world.expiries == [Validity(ends - LIFETIME, ends)]
        assert messages(caplog, logging.INFO) == [
            f"cannot renew the token: {USER} may not create serviceaccounts/token for itself;"
            " it expires on 2027-01-15T09:00:00Z"
        ]

    async def test_a_403_is_treated_the_same(self, world, api, clock, caplog):
        api.allowed = None
        api.answer = lambda: status(403, "no such luck", "Forbidden")
        world.write(api.token(0))
        async with world.client() as client:
            renewal = world.renewal(client)
            clock.advance(0.8 * LIFETIME)
            for _ in range(20):
                await renewal.step()
                await get(client.session, PODS)
                clock.advance(30)
        assert len(api.requests) == 1
        (said,) = messages(caplog, logging.INFO)
        assert said.startswith(
            f"cannot renew the token: {USER} may not create serviceaccounts/token for itself; it expires on "
        )
        assert messages(caplog, logging.WARNING) == []
        assert world.expiries[-1] is not None

    async def test_a_right_that_is_granted_later_is_used(self, world, api, clock):
        api.allowed = False
        world.write(api.token(0, lifetime=86400))
        async with world.client() as client:
            renewal = world.renewal(client)
            clock.advance(0.9 * 86400)
            await renewal.step()
            api.allowed = True
            clock.advance(3600)
            await renewal.step()
        assert len(api.requests) == 1


class TestBadAnswers:
    @pytest.mark.parametrize(
        ("answer", "claims", "said"),
        [
            (
                web.json_response({"kind": "TokenRequest", "status": {}}),
                {},
                "nothing that is not a service-account token",
            ),
            (web.json_response({"status": {"token": 5}}), {}, "nothing that is not a service-account token"),
            (
                web.json_response({"status": {"token": "s3cr3t\r\nX: y"}}),
                {},
                "something that is not a service-account tok",
            ),
            (web.Response(text="<html>"), {}, "nothing that is not a service-account token"),
            (web.Response(body=b"[" * 100_000), {}, "nothing that is not a service-account token"),
            (web.Response(body=b" " * (2 << 20)), {}, "nothing that is not a service-account token"),
            (status(500, "broken", "InternalError"), {}, "500"),
            (status(404, "serviceaccounts not found", "NotFound"), {}, "serviceaccounts not found"),
            (None, {"signature": "s3cr3t" * 10_000}, "something that is not a service-account token"),
            (None, {"name": "admin"}, "the token of another service account"),
            (None, {"namespace": "kube-system"}, "the token of another service account"),
            (None, {"uid": "uid-2"}, "the token of another service account"),
            (None, {"sub": "system:serviceaccount:kube-system:admin"}, "something that is not a service-account token"),
            (None, {"aud": ["vault"]}, "a token for other audiences"),
            (None, {"bound": {"pod": {"name": "p", "uid": "u"}}}, "a token bound to another object"),
            (None, {"exp": None}, "something that is not a service-account token"),
            (None, {"lifetime": 60}, "a token that expires no later"),
        ],
    )
    async def test_the_old_token_is_kept(self, world, api, server, clock, caplog, answer, claims, said):
        world.write(first := api.token(0))
        api.claims = claims
        if answer is not None:
            body, code, kind = answer.body, answer.status, answer.content_type
            api.answer = lambda: web.Response(body=body, status=code, content_type=kind)
        async with world.client() as client:
            renewal = world.renewal(client)
            clock.advance(0.8 * LIFETIME)
            for _ in range(5):
                await renewal.step()
                await get(client.session, PODS)
                clock.advance(60)
            assert shown(server) == "s3cr3t-0"
        assert world.file.read_text() == first + "\n"
        (warning,) = messages(caplog, logging.WARNING)
        assert warning.startswith("token renewal failed; it expires on 2027-01-15T09:00:00Z: ")
        assert said in warning
        assert "\n" not in warning

    async def test_a_new_token_the_server_rejects_is_never_used(self, world, api, server, clock, caplog):
        world.write(first := api.token(0))
        server.only(first)
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
            await get(client.session, PODS)
        assert shown(server) == "s3cr3t-0"
        assert world.file.read_text() == first + "\n"
        (warning,) = messages(caplog, logging.WARNING)
        assert "the API server refuses the token that it has just issued" in warning

    @pytest.mark.parametrize("code", [429, 503])
    async def test_a_new_token_not_yet_accepted_is_not_used(self, world, api, server, clock, code):
        world.write(first := api.token(0))
        async with world.client() as client:
            renewal = world.renewal(client)
            await renewal.step()
            clock.advance(0.9 * LIFETIME)
            api.broken = code
            await renewal.step()
            await get(client.session, PODS)
            assert (shown(server), world.file.read_text()) == ("s3cr3t-0", first + "\n")
            api.broken = 0
            clock.advance(10)
            await renewal.step()
            await get(client.session, PODS)
        assert shown(server) == "s3cr3t-2"

    async def test_it_is_retried_with_growing_delays(self, world, api, clock):
        day = 4 * 3600
        api.answer = lambda: status(503, "busy", "ServiceUnavailable")
        world.write(api.token(0, lifetime=day))
        async with world.client() as client:
            renewal = world.renewal(client)
            await renewal.step()
            clock.advance(0.8 * day)
            start, published = clock(), []
            while clock() < start + 0.15 * day:
                pause = await renewal.step()
                assert 1 <= pause <= 60
                await get(client.session, PODS)
                published.append((clock() - start, world.expiries[-1]))
                clock.advance(pause)
        assert 0.15 * day / RETRY.maximum / 1.3 < len(api.requests) < 0.15 * day / RETRY.maximum * 1.3 + 8
        early = {expiry for at, expiry in published if at < 0.1 * day}
        late = {expiry for at, expiry in published if at >= 0.1 * day}
        assert early == {None}
        assert late == {Validity(start - 0.8 * day, start + 0.2 * day)}


class TestEnded:
    async def test_the_error_says_how_to_get_another(self, world, api, server, clock, failure):
        world.write(api.token(0))
        server.only()
        async with world.client() as client:
            clock.advance(LIFETIME + 1)
            error = await failure(get(client.session, PODS))
            await world.renewal(client).step()
        assert type(error) is ExpiredTokenError
        assert str(error).endswith(
            f"the token of {USER} expired on 2027-01-15T09:00:00Z and gpuid cannot renew it; replace it"
        )

    async def test_a_token_written_by_grant_is_used(self, world, api, server, clock, failure):
        world.write(api.token(0))
        server.only()
        async with world.client() as client:
            clock.advance(LIFETIME + 1)
            await failure(get(client.session, PODS))
            world.write(second := api.token(5))
            server.only(second)
            await get(client.session, PODS)
        assert shown(server) == "s3cr3t-5"


class TestOfOthers:
    @pytest.mark.parametrize("inline", [True, False])
    async def test_a_pods_own_token_is_left_to_the_kubelet(self, world, api, clock, inline):
        world.write(api.token(0, bound={"pod": {"name": "p", "uid": "u"}}), inline=inline)
        async with world.client() as client:
            clock.advance(0.9 * LIFETIME)
            await world.renewal(client).step()
        assert api.reviews == api.requests == []

    @pytest.mark.parametrize("token", ["s3cr3t", "e30.e30.s3cr3t"])
    async def test_other_tokens_are_not_renewed(self, world, api, token):
        world.write(token)
        async with world.client() as client:
            await world.renewal(client).step()
            await get(client.session, PODS)
        assert api.reviews == api.requests == []
        assert world.expiries == [None]

    async def test_other_credentials_are_not_renewed(self, kubeconfig, world, api):
        kubeconfig.write(world.cluster, {"username": "me", "password": "s3cr3t"})
        async with world.client() as client:
            assert await world.renewal(client).step() == 60
        assert api.reviews == api.requests == []


class TestRotationDuringRenewal:
    @pytest.mark.parametrize("claims", [{"uid": "uid-2"}, {"name": "other"}, {"lifetime": 86400}])
    async def test_a_token_written_to_the_file_wins(self, world, api, server, clock, claims):
        world.write(api.token(0))
        api.gate = anyio.Event()
        clock.advance(0.9 * LIFETIME)
        async with world.client() as client:
            renewal = world.renewal(client)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(renewal.step)
                await eventually(lambda: len(api.requests), 1)
                world.write(rotated := api.token(77, **claims))
                clock.advance(60)
                await get(client.session, PODS)
                assert shown(server) == "s3cr3t-77"
                api.gate.set()
            await get(client.session, PODS)
            assert shown(server) == "s3cr3t-77"
            await renewal.step()
            await get(client.session, PODS)
        assert shown(server) == "s3cr3t-77"
        assert world.file.read_text() == rotated + "\n"


class TestOtherClock:
    @pytest.mark.parametrize("ahead", [3000.0, 4000.0, 90000.0])
    async def test_a_fast_clock_does_not_renew_more_often(self, world, api, clock, caplog, ahead):
        world.write(api.token(0))
        clock.advance(5)
        async with world.client() as client:
            renewal, start = world.renewal(client, clock=lambda: clock() + ahead), clock()
            while clock() < start + LIFETIME:
                clock.advance(await renewal.step())
        assert len(api.requests) <= 3
        (warning,) = messages(caplog, logging.WARNING)
        assert warning.startswith("this machine's clock is ahead of the API server's by more than 60 s; ")

    async def test_a_slow_clock_renews_in_time(self, world, api, clock):
        world.write(api.token(0))
        async with world.client() as client:
            clock.advance(0.8 * LIFETIME)
            renewal, start = world.renewal(client, clock=lambda: clock() - 0.3 * LIFETIME), clock()
            api.claims = {"made": start}
            await renewal.step()
            assert api.requests == [], "how old the first one is, only the clock says"
            world.write(api.token(1, made=start - LIFETIME))
            while clock() < start + 3 * LIFETIME:
                api.claims = {"made": int(clock())}
                clock.advance(await renewal.step())
                assert clock() < (client.session.tokens.token.validity.ends if api.requests else clock() + 1)
        assert len(api.requests) >= 3

    async def test_a_server_with_backdated_tokens_is_not_asked_endlessly(self, world, api, clock):
        world.write(api.token(0, lifetime=600))
        async with world.client() as client:
            renewal, start = world.renewal(client), clock()
            clock.advance(500)
            while clock() < start + 3600:
                api.claims = {"made": int(clock()) - 100_000, "exp": int(clock()) + 400}
                clock.advance(await renewal.step())
        assert len(api.requests) < 60


async def test_no_request_waits_for_a_renewal(world, api, server, clock):
    world.write(api.token(0))
    api.gate = anyio.Event()
    clock.advance(0.9 * LIFETIME)
    async with world.client() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(world.renewal(client, wait=clock.wait).run)
        await eventually(lambda: len(api.requests), 1)
        for _ in range(3):
            await get(client.session, PODS)
        assert shown(server) == "s3cr3t-0"
        api.gate.set()
        await eventually(lambda: world.file.read_text() != "" and "s3cr3t-0" not in world.file.read_text())
        tasks.cancel_scope.cancel()


async def test_every_token_is_among_the_secrets(world, api, server, clock):
    world.write(first := api.token(0))
    server.only(first)
    async with world.client() as client:
        clock.advance(0.8 * LIFETIME)
        renewal = world.renewal(client)
        for number in range(1, 100):
            await renewal.step()
            assert len(api.requests) == number
            said = client.session.secrets.mask(f"so it says {json.dumps(api.token(number))} and {json.dumps(first)}")
            assert said == 'so it says "***" and "***"'
            clock.advance(RETRY.maximum * 1.2)
