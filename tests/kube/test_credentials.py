"""Tokens, passwords and certificates over time."""

import base64
import math

import anyio
import pytest

from collector.kube import credentials
from collector.kube.connection import User
from collector.kube.credentials import Credential, FileCredentials, RefreshingCredentials, basic, bearer, jwt_validity
from collector.kube.errors import BadContextError, CredentialPluginFailedError

pytestmark = pytest.mark.anyio


class Mint:
    """Makes numbered credentials that live for `lifetime` seconds; with `broken` it fails instead."""

    def __init__(self, clock, lifetime=None):
        self.clock = clock
        self.lifetime = lifetime
        self.made = 0
        self.tried = 0
        self.broken = False
        self.gate = anyio.Event()
        self.gate.set()

    async def __call__(self):
        self.tried += 1
        await self.gate.wait()
        if self.broken:
            raise CredentialPluginFailedError(f"broken {self.tried}")
        self.made += 1
        expires = None if self.lifetime is None else self.clock() + self.lifetime
        return Credential(authorization=f"token {self.made}", expires=expires)


class TestRenewed:
    async def test_a_credential_is_cached_while_it_is_valid(self, clock):
        mint = Mint(clock, lifetime=3600)
        source = RefreshingCredentials(mint, where="x", clock=clock)
        first = await source.get()
        clock.advance(3600 - 301)
        assert await source.get() is first
        assert mint.tried == 1

    @pytest.mark.parametrize(("lifetime", "margin"), [(3600, 300), (600, 120), (60, 12)])
    async def test_a_credential_is_renewed_before_it_expires(self, clock, lifetime, margin):
        source = RefreshingCredentials(Mint(clock, lifetime), where="x", clock=clock)
        await source.get()
        clock.advance(lifetime - margin - 1)
        assert (await source.get()).authorization == "token 1"
        clock.advance(1)
        assert (await source.get()).authorization == "token 2"

    async def test_without_an_expiry_it_is_kept_until_rejected(self, clock):
        source = RefreshingCredentials(Mint(clock), where="x", clock=clock)
        first = await source.get()
        clock.advance(1e8)
        assert await source.get() is first
        source.refused(first)
        assert (await source.get()).authorization == "token 2"

    async def test_a_rejection_of_an_older_credential_is_ignored(self, clock):
        mint = Mint(clock)
        source = RefreshingCredentials(mint, where="x", clock=clock)
        first = await source.get()
        clock.advance(10)
        source.refused(first)
        await source.get()
        clock.advance(10)
        source.refused(first)
        assert (await source.get()).authorization == "token 2"
        assert mint.tried == 2

    async def test_a_rejected_new_credential_is_not_renewed_immediately(self, clock):
        mint = Mint(clock)
        source = RefreshingCredentials(mint, where="x", clock=clock)
        source.refused(await source.get())
        clock.advance(4)
        assert (await source.get()).authorization == "token 1"
        clock.advance(1)
        assert (await source.get()).authorization == "token 2"

    async def test_repeated_rejections_cause_growing_delays(self, clock):
        mint = Mint(clock)
        source = RefreshingCredentials(mint, where="x", clock=clock)
        for _ in range(600):
            source.refused(await source.get())
            clock.advance(1)
        assert mint.made == 8  # after 0, 5, 15, 35, 75, 155, 315 and 495 seconds
        source.reset("changed")
        await source.get()
        assert mint.made == 9
        clock.advance(3600)
        source.refused(await source.get())
        await source.get()
        assert mint.made == 10, "one that was good for long is made again at once"

    async def test_concurrent_callers_share_one_run(self, clock):
        mint = Mint(clock)
        mint.gate = anyio.Event()
        source = RefreshingCredentials(mint, where="x", clock=clock)
        got = []

        async def ask():
            got.append(await source.get())

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            mint.gate.set()
        assert len(got) == 50
        assert mint.tried == 1

    async def test_concurrent_callers_share_its_failure(self, clock):
        mint = Mint(clock)
        mint.broken, mint.gate = True, anyio.Event()
        source = RefreshingCredentials(mint, where="x", clock=clock)
        failures = []

        async def ask():
            try:
                await source.get()
            except CredentialPluginFailedError as error:
                failures.append(str(error))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            mint.gate.set()
        assert failures == ["broken 1"] * 50

    async def test_a_cancelled_run_is_taken_over_by_the_next_caller(self, clock):
        mint = Mint(clock)
        mint.gate = anyio.Event()
        source = RefreshingCredentials(mint, where="x", clock=clock)
        got = []

        async def ask():
            got.append(await source.get())

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as impatient:

                async def cancel():
                    await anyio.wait_all_tasks_blocked()
                    tasks.start_soon(ask)
                    impatient.cancel()
                    mint.gate.set()

                tasks.start_soon(cancel)
                await source.get()
        assert [one.authorization for one in got] == ["token 1"]
        assert mint.tried == 2

    async def test_a_credential_is_used_until_it_expires_if_renewal_fails(self, clock, caplog):
        mint = Mint(clock, lifetime=600)
        source = RefreshingCredentials(mint, where="x", clock=clock)
        first = await source.get()
        mint.broken = True
        clock.advance(500)
        assert await source.get() is first
        assert caplog.messages[-1:] == ["x: credential renewal failed; using the current ones until expiry: broken 2"]
        clock.advance(100)
        with pytest.raises(CredentialPluginFailedError, match="broken 3"):
            await source.get()
        mint.broken = False
        clock.advance(5)
        assert (await source.get()).authorization == "token 2"

    async def test_a_refused_credential_is_not_used_if_renewal_fails(self, clock):
        mint = Mint(clock)
        source = RefreshingCredentials(mint, where="x", clock=clock)
        first = await source.get()
        clock.advance(10)
        mint.broken = True
        source.refused(first)
        with pytest.raises(CredentialPluginFailedError, match="broken 2"):
            await source.get()

    async def test_a_credential_made_expired_is_renewed_within_seconds(self, clock):
        mint = Mint(clock, lifetime=-100)
        source = RefreshingCredentials(mint, where="x", clock=clock)
        assert (await source.get()).authorization == "token 1"
        assert (await source.get()).authorization == "token 1"
        clock.advance(25)
        assert (await source.get()).authorization == "token 2"


class TestTokenFile:
    async def test_it_is_read_again_after_a_minute(self, tmp_path, clock):
        path = tmp_path / "token"
        path.write_text("s3cr3t-1\n")
        source = FileCredentials(path, where="x", clock=clock)
        assert (await source.get()).authorization == "Bearer s3cr3t-1"
        path.write_text("s3cr3t-2\n")
        clock.advance(59)
        assert (await source.get()).authorization == "Bearer s3cr3t-1"
        clock.advance(1)
        assert (await source.get()).authorization == "Bearer s3cr3t-2"

    async def test_it_is_read_again_when_its_token_is_refused(self, tmp_path, clock):
        path = tmp_path / "token"
        path.write_text("s3cr3t-1")
        source = FileCredentials(path, where="x", clock=clock)
        first = await source.get()
        source.refused(first)
        assert await source.get() is first
        path.write_text("s3cr3t-2")
        source.refused(first)
        assert (await source.get()).authorization == "Bearer s3cr3t-2"

    @pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text(" \n")])
    async def test_the_last_token_is_used_while_the_file_is_missing(self, tmp_path, clock, damage):
        path = tmp_path / "token"
        path.write_text("s3cr3t-1")
        source = FileCredentials(path, where="x", clock=clock)
        await source.get()
        damage(path)
        clock.advance(60)
        assert (await source.get()).authorization == "Bearer s3cr3t-1"

    async def test_the_inline_token_is_used_until_the_file_exists(self, tmp_path, clock):
        path = tmp_path / "token"
        source = FileCredentials(path, where="x", fallback="s3cr3t-0", clock=clock)
        assert (await source.get()).authorization == "Bearer s3cr3t-0"
        path.write_text("s3cr3t-1")
        clock.advance(60)
        assert (await source.get()).authorization == "Bearer s3cr3t-1"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no such file or directory"),
            (b"", "empty"),
            (b"\xff\xfe", "expected UTF-8 text"),
            (b"s3cr3t s3cr3t", "the token contains a space; copy it again, as one line"),
            (b"s3cr3t\r\nX-Injected: 1", "the token contains a line break; copy it again, as one line"),
            (b"s3cr3t\xc3\xa4", "the token contains a non-ASCII character; copy it again, as one line"),
            (b"s3cr3t\x07", "the token contains a control character; copy it again, as one line"),
        ],
    )
    async def test_a_file_without_a_token_is_named(self, tmp_path, clock, failure, content, message):
        path = tmp_path / "token"
        if content is not None:
            path.write_bytes(content)
        error = await failure(FileCredentials(path, where="x", clock=clock).get())
        assert type(error) is BadContextError
        assert str(error) == f"x: token file {path}: {message}"


@pytest.mark.parametrize(
    ("claims", "expiry"),
    [
        (b'{"exp": 1800000000}', 1_800_000_000),
        (b'{"exp": 1.5e9, "sub": "x"}', 1.5e9),
        (b'{"exp": null}', None),
        (b"{}", None),
        (b'{"exp": "1800000000"}', None),
        (b'{"exp": 1e300}', None),
        (b'{"exp": -1}', None),
        (b"[" * 100_000, None),
        (b"\xff", None),
    ],
)
def test_the_expiry_of_a_token_is_read(claims, expiry):
    payload = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
    found = jwt_validity(f"e30.{payload}.c2ln")
    assert (found and found.ends) == expiry


@pytest.mark.parametrize(
    ("claims", "begins"),
    [
        (b'{"exp": 2e9}', -math.inf),
        (b'{"exp": 2e9, "iat": 1.5e9}', 1.5e9),
        (b'{"exp": 2e9, "iat": 1.5e9, "nbf": 1.6e9}', 1.6e9),
        (b'{"exp": 2e9, "iat": "yesterday", "nbf": [1]}', -math.inf),
    ],
)
def test_the_start_of_a_tokens_validity_is_read(claims, begins):
    payload = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
    assert jwt_validity(f"e30.{payload}.c2ln") == (begins, 2e9)


@pytest.mark.parametrize("token", ["", "s3cr3t", "a.b", "a.!.c", "..", "a.ä.c"])
def test_a_token_other_than_a_jwt_has_no_expiry(token):
    assert jwt_validity(token) is None


def test_a_password_may_contain_any_character():
    assert basic("me", "pä:ss").authorization == "Basic bWU6cMOkOnNz"


def test_the_repr_of_a_credential_shows_no_secret():
    assert "s3cr3t" not in repr(bearer("s3cr3t", "x"))


def test_impersonation_is_sent_in_headers():
    user = User(
        as_user="jane",
        as_uid="1",
        as_groups=("dev", "ops"),
        as_user_extra={"example.com/Scopes": ("view", "edit"), "none": None},
    )
    assert credentials.impersonation(user, "x") == [
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "1"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-example.com%2Fscopes", "view"),
        ("Impersonate-Extra-example.com%2Fscopes", "edit"),
    ]
    assert credentials.impersonation(User(), "x") == []


@pytest.mark.parametrize("user", [User(as_groups=("dev",)), User(as_user="jane\r\nX: y")])
def test_ambiguous_impersonation_is_refused(user):
    with pytest.raises(BadContextError):
        credentials.impersonation(user, "x")
