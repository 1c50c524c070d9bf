"""OpenID Connect logins and their renewal."""

import contextlib

import anyio
import pytest
from aiohttp import web

from collector.kube.credentials import RefreshingCredentials
from collector.kube.errors import BadContextError, CredentialPluginFailedError, UnauthorizedError

pytestmark = pytest.mark.anyio


@pytest.fixture
def make(make_oidc):
    """Return what makes an Oidc at the issuer."""
    return make_oidc


async def test_a_valid_id_token_is_used_without_asking_the_issuer(make, issuer, clock):
    token = issuer.token(0, clock() + 100)
    found = await make(id_token=token).run()
    assert found.authorization == f"Bearer {token}"
    assert found.expires == clock() + 100
    assert issuer.grants == []


@pytest.mark.parametrize("token", [None, "expired", "no token at all"])
async def test_without_a_valid_id_token_the_issuer_provides_one(make, issuer, clock, token):
    token = issuer.token(0, clock() + 5) if token == "expired" else token
    found = await make(id_token=token).run()
    assert found.authorization == f"Bearer {issuer.token(1, clock() + 600)}"
    assert found.expires == clock() + 600
    assert issuer.grants == [{"grant_type": "refresh_token", "refresh_token": "refresh-s3cr3t-0"}]
    assert issuer.authorizations == ["Basic a3ViZXJuZXRlczpzM2NyM3QtY2xpZW50"]


async def test_the_issuer_s_ca_may_have_any_text_around_it(make, issuer, other_authority, tmp_path):
    (tmp_path / "ca.crt").write_bytes("# Főtanúsítvány\n".encode() + other_authority.path.read_bytes())
    settings = {"idp_certificate_authority_data": None, "idp_certificate_authority": str(tmp_path / "ca.crt")}
    await make(**settings).run()
    assert len(issuer.grants) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no CA", "x: oidc: idp-certificate-authority: expected PEM certificates"),
        (None, "x: oidc: idp-certificate-authority {path}: no such file or directory"),
    ],
)
async def test_an_invalid_ca_is_named_by_its_key(make, failure, tmp_path, content, message):
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_text(content)
    error = await failure(make(idp_certificate_authority_data=None, idp_certificate_authority=str(path)).run())
    assert str(error) == message.format(path=path)


async def test_a_failing_issuer_is_asked_less_and_less_often(make, issuer, clock, failure):
    issuer.answer = web.Response(status=503)
    login = make()
    for _ in range(300):
        await failure(login.run())
        clock.advance(1)
    assert len(issuer.grants) == 8  # after 0, 5, 15, 35, 75, 135, 195 and 255 seconds
    login.reset("changed")
    await failure(login.run())
    assert len(issuer.grants) == 9


@pytest.mark.parametrize("url", ["https://[::1", "https://" + "[" * 4700])
async def test_an_issuer_without_a_valid_url_is_named_by_key(make, failure, url):
    error = await failure(make(idp_issuer_url=url).run())
    assert str(error).startswith("x: oidc: idp-issuer-url: not a URL")


async def test_a_token_endpoint_on_another_host_uses_its_own_proxy(make, issuer, failure, monkeypatch):
    issuer.tokens = "https://tokens.example.com"
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cr3t@127.0.0.1:1")  # 127.0.0.1 itself is reached directly
    error = await failure(make().run())
    assert str(error).endswith(": proxy 127.0.0.1:1: connection refused")


async def test_rotated_refresh_tokens_are_used(make, issuer, clock):
    source = RefreshingCredentials(make().run, where="x", clock=clock)
    shown = []
    for _ in range(3):
        shown.append((await source.get()).authorization)
        clock.advance(550)
    assert len(set(shown)) == 3
    assert [grant["refresh_token"] for grant in issuer.grants] == [f"refresh-s3cr3t-{number}" for number in range(3)]


async def test_a_cancelled_login_does_not_wait_for_discovery(make, issuer):
    issuer.hangs_at = "/.well-known/openid-configuration"
    with anyio.fail_after(25):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make().run)
            await issuer.waiting.wait()
            tasks.cancel_scope.cancel()
    assert issuer.grants == []


async def test_a_cancelled_login_keeps_the_new_refresh_token(make, issuer):
    issuer.hangs_at = "/token"
    login = make()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(login.run)
        await issuer.waiting.wait()
        tasks.cancel_scope.cancel()
        issuer.go.set()
    issuer.hangs_at = ""
    await login.run()
    assert [grant["refresh_token"] for grant in issuer.grants] == ["refresh-s3cr3t-0", "refresh-s3cr3t-1"]


async def test_a_cancelled_login_does_not_wait_for_a_hanging_issuer(make, issuer):
    issuer.hangs_at = "/token"

    async def log_in():
        with contextlib.suppress(CredentialPluginFailedError):
            await make(grant_timeout=0.2).run()

    with anyio.fail_after(25):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log_in)
            await issuer.waiting.wait()
            tasks.cancel_scope.cancel()


async def test_an_issuer_that_keeps_its_refresh_token_is_fine(make, issuer):
    issuer.rotate = False
    login = make()
    await login.run()
    await login.run()
    assert len(issuer.grants) == 2


async def test_a_refused_id_token_is_renewed_before_its_expiry(make, issuer, clock):
    source = RefreshingCredentials(make(id_token=issuer.token(0, clock() + 1e6)).run, where="x", clock=clock)
    first = await source.get()
    clock.advance(10)
    source.refused(first)
    assert (await source.get()).authorization == f"Bearer {issuer.token(1, clock() + 600)}"


async def test_a_public_client_names_itself_in_the_form(make, issuer):
    await make(client_secret=None).run()
    assert issuer.grants[0]["client_id"] == "kubernetes"
    assert issuer.authorizations == [None]


async def test_the_secret_is_sent_in_the_form_if_required(make, issuer):
    issuer.methods = ["client_secret_post"]
    await make().run()
    assert (issuer.grants[0]["client_id"], issuer.grants[0]["client_secret"]) == ("kubernetes", "s3cr3t-client")
    assert issuer.authorizations == [None]


async def test_the_ca_may_be_a_file(make, other_authority):
    await make(idp_certificate_authority_data=None, idp_certificate_authority=str(other_authority.path)).run()


async def test_an_issuer_is_not_trusted_without_its_ca(make, issuer, failure):
    error = await failure(make(idp_certificate_authority_data=None).run())
    assert type(error) is CredentialPluginFailedError
    assert "certificate verify failed" in str(error)
    assert issuer.grants == []


async def test_an_expired_login_says_to_log_in_again(make, issuer, failure):
    issuer.refresh_token = "another-s3cr3t"
    error = await failure(make(refresh_token="refresh-s3cr3t-old").run())
    assert type(error) is UnauthorizedError
    assert str(error) == "x: oidc: the issuer rejected the refresh-token (invalid_grant); log in again"


async def test_an_expired_id_token_alone_requires_a_login(make, issuer, clock, failure):
    login = make(refresh_token=None, id_token=issuer.token(0, clock() + 100))
    assert (await login.run()).expires == clock() + 100
    clock.advance(100)
    error = await failure(login.run())
    assert type(error) is UnauthorizedError
    assert "the id-token expired on 2027-01-15T08:01:40Z" in str(error)


async def test_only_an_id_token_that_is_not_renewed_expires(make, issuer, clock):
    token = issuer.token(0, clock() + 100)
    alone = await make(refresh_token=None, id_token=token).run()
    assert alone.lapse is not None
    assert alone.lapse.ends == clock() + 100
    assert (await make(id_token=token).run()).lapse is None


async def test_a_login_without_any_token_is_unauthorized(make, failure):
    assert type(await failure(make(refresh_token=None).run())) is UnauthorizedError


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, "s3cr3t", "HTTP status 500"),
        (302, "s3cr3t", "redirects (302); set idp-issuer-url to the final address"),
        (200, "s3cr3t", "not an OpenID Connect response"),
        (200, '{"access_token": "s3cr3t"}', "the issuer renewed the login without an id_token"),
    ],
)
async def test_any_other_answer_of_an_issuer_is_a_failure(make, issuer, failure, status, body, message):
    issuer.answer = web.Response(status=status, text=body, headers={"Location": "/elsewhere"})
    error = await failure(make().run())
    assert type(error) is CredentialPluginFailedError
    assert message in str(error)


async def test_an_unreachable_issuer_is_a_failure(make, failure):
    error = await failure(make(idp_issuer_url="https://127.0.0.1:1").run())
    assert type(error) is CredentialPluginFailedError
    assert str(error).startswith("x: oidc: issuer https://127.0.0.1:1: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"client_id": None}, "expected client-id"),
        ({"idp_issuer_url": None}, "expected idp-issuer-url"),
        ({"idp_issuer_url": "http://issuer"}, "idp-issuer-url: expected https"),
    ],
)
async def test_settings_that_cannot_work_are_refused(make, settings, message):
    with pytest.raises(BadContextError, match=message):
        make(**settings)
