"""Secrets are found in foreign text, in whatever form they appear, and nothing else is removed."""

import base64
import html
import json
import string
import traceback
from collections.abc import Callable
from typing import SupportsIndex
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.redaction import Secrets, redact, redacting
from collector.text import one_line

TOKEN = "Zx9-opaque_token.with/odd+chars=42Zq"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLXF3ZXJ0eQ"
PASSWORD = 'hunter2-ow&n"er'
KEY_LINES = ("MIGHAgEAMBMGByqGSM49AgEGCCqGSM49", "AwEHBG0wawIBAQQgAbCdEfGhIjKlMnOp")
KEY = "\n".join(("-----BEGIN PRIVATE KEY-----", *KEY_LINES, "-----END PRIVATE KEY-----", ""))


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "JSON's escapes": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
    "Python": repr,
    "Python's escapes": lambda text: "".join(f"\\x{ord(letter):02x}" for letter in text),
    "percent": lambda text: quote(text, safe=""),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "HTML": html.escape,
    "HTML's numbers": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    "base64": base64_of,
    "base64 of a header": lambda text: base64_of(f"Authorization: Bearer {text}"),
    "base64 of another header": lambda text: base64_of(f"authorization: Bearer {text}\r\n"),
    "base64 in a URL": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 of base64": lambda text: base64_of(base64_of(f"x{text}")),
    "base64 in a query": lambda text: quote(base64_of(f"xy{text}"), safe=""),
    "hexadecimal digits": lambda text: text.encode().hex(),
    "hexadecimal digits in upper case": lambda text: text.encode().hex().upper(),
    "control characters inside": lambda text: "\x00".join([text[:5], text[5:9], text[9:]]),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("secret", [TOKEN, JWT, PASSWORD])
def test_a_secret_is_found_in_any_encoding(secret: str, encoding: str) -> None:
    text = f"you sent {ENCODINGS[encoding](secret)} just now"
    shown = Secrets(secret).mask(text)
    assert shown.startswith("you sent ")
    assert shown.endswith(" just now")
    assert "***" in shown
    for size in (6, 12):  # not even a piece of it
        pieces = {secret[at : at + size] for at in range(len(secret) - size)}
        assert not any(piece in shown for piece in pieces)


@pytest.mark.parametrize("cut", [8, 12, 20, 30])
@pytest.mark.parametrize("ending", ["", "…", "..."])
def test_a_secret_that_a_limit_cut_off_is_found(cut: int, ending: str) -> None:
    assert Secrets(TOKEN).mask(f"sent {TOKEN[:cut]}{ending}") == f"sent ***{ending}"


def test_the_pieces_of_a_broken_secret_are_found() -> None:
    assert Secrets(TOKEN).mask(f"sent {TOKEN[:18]}\n{TOKEN[18:]}") == "sent ***"
    assert Secrets(JWT).mask(f"sent {JWT[10:]} and {JWT[:40]}") == "sent *** and ***"


def test_text_is_shortened_after_secrets_are_removed() -> None:
    text = f"{'x' * 90} {TOKEN} and more"
    shown = Secrets(TOKEN).redact(text, 100)
    assert shown == f"{'x' * 90} *** and …"


def test_a_header_containing_a_secret_is_secret() -> None:
    secrets = Secrets(f"Bearer {TOKEN}", f"Basic {base64_of(f'admin:{PASSWORD}')}")
    assert secrets.mask(f"got {TOKEN}, {PASSWORD} and {base64_of(f'admin:{PASSWORD}')}") == "got ***, *** and ***"
    assert secrets.mask("Bearer of admin rights") == "Bearer of admin rights"


def test_each_line_of_a_key_is_secret() -> None:
    secrets = Secrets(KEY)
    assert secrets.mask("AwEHBG0wawIBAQQgAbCdEfGhIjKlMnOp") == "***"
    assert "MIGHAgEAMBMGByqG" not in secrets.mask(json.dumps(KEY))
    assert "MIGH" not in secrets.mask(f"client-key-data: {base64_of(KEY)}")
    assert secrets.mask("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"


def test_a_short_secret_is_found_as_a_whole_word() -> None:
    text = "pod: the pods of pod-7 use pod."
    assert Secrets("pod").redact(text) == "***: the pods of ***-7 use ***."
    assert Secrets("pod").mask(text) == text  # of ours: a secret that is any word hides nothing


def test_a_secret_starting_with_another_is_found_completely() -> None:
    assert Secrets("abcd", "abcdef").mask("sent abcd and abcdef") == "sent *** and ***"


def test_without_secrets_our_text_is_unchanged() -> None:
    text = "client-key-data: expected base64; token: expected one line"
    assert Secrets().mask(text) == text
    assert Secrets(TOKEN).mask(text) == text


def test_the_oldest_secrets_are_forgotten() -> None:
    secrets = Secrets("first-secret")
    for number in range(64):
        secrets.add(f"renewed-secret-{number}")
    assert secrets.mask("first-secret renewed-secret-63") == "first-secret ***"


def test_parts_of_a_url_that_may_be_secret_are_removed() -> None:
    secrets = Secrets()
    secrets.add_url("https://hooks.example/services/T0001/B0002/XyZ123abcDEF?token=qwertz9&v=1")
    assert secrets.mask("no /services/T0001/B0002/XyZ123abcDEF here") == "no *** here"
    assert secrets.mask("unknown hook XyZ123abcDEF") == "unknown hook ***"
    assert secrets.mask("wrong qwertz9 for v1 at hooks.example") == "wrong *** for v1 at hooks.example"
    ordinary = Secrets()
    ordinary.add_url("https://api.example/api/v1/records")
    assert ordinary.mask("records: expected an array, api v1") == "records: expected an array, api v1"
    assert ordinary.mask("POST /api/v1/records") == "POST ***"


def test_the_passwords_of_the_environments_proxies_are_secret() -> None:
    secrets = Secrets()
    secrets.add_proxies({"HTTPS_PROXY": "http://me:hunter%40two@proxy:3128", "all_proxy": "you:opensesame@other"})
    assert secrets.mask("hunter@two hunter%40two opensesame") == "*** *** ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\x1b[31m\x00", "two lines"),
        ("https://me:pw@host/path", "https://***@host/path"),
        ("é" * 300, "é" * 199 + "…"),
        ("sent Bearer abc.def", "sent Bearer ***"),
        ("sent basic dXNlcjpwYXNz", "sent basic ***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("authorization=abc", "authorization=***"),
        ('{"token": "abc", "x": 1}', '{"token": "***", "x": 1}'),
        ('{"token": "a b;c", "x": 1}', '{"token": "***", "x": 1}'),
        ('{\\"token\\":\\"abc d\\"}', '{\\"token\\":\\"***\\"}'),
        ('{"Authorization":["Bearer abc"]}', '{"Authorization":["Bearer ***"]}'),
        ("map[Authorization:[Bearer abc] Accept:[*/*]]", "map[Authorization:[Bearer ***] Accept:[*/*]]"),
        ("('Authorization', 'Bearer abc')", "('Authorization', 'Bearer ***')"),
        ("authorization: Digest username=abc", "authorization: Digest ***"),
        ("access_token=abc; next", "access_token=***; next"),
        ("password=abc&user=me", "password=***&user=me"),
        ("passwd: 'abc'", "passwd: '***'"),
        ("client_secret = abc, more", "client_secret = ***, more"),
        ("Signature=abc", "Signature=***"),
        ("X-Amz-Credential=abc/region", "X-Amz-Credential=***"),
        ("X-Amz-Security-Token: abc", "X-Amz-Security-Token: ***"),
        ("api-key: abc", "api-key: ***"),
        ("api_key=abc", "api_key=***"),
        ("apikey=abc", "apikey=***"),
        ("GET /x?sig=abc%2F&y=1", "GET /x?sig=***&y=1"),
        ("Set-Cookie: session=abc; Path=/", "Set-Cookie: ***"),
        (f"found {JWT}", "found ***"),
        (f"found {KEY}", "found ***"),
        ("oc login --token=sha256~abcdefghijklmnopqrstuv", "oc login --token=***"),
    ],
)
def test_text_that_looks_like_a_secret_is_replaced(text: str, shown: str) -> None:
    assert redact(text, 200) == shown


@pytest.mark.parametrize(
    "text",
    [
        "the token was wrong",
        "[invalid bearer token, token lookup failed]",
        "Unable to authenticate the request: invalid bearer token",
        "error: token: expired",
        'WWW-Authenticate: Basic realm="x"',
        "Basic authentication required",
        "Error loading SSO Token: Token for me does not exist",
        'secrets "x" is forbidden: User "u" cannot get resource "secrets" in API group ""',
        'password authentication failed for user "gpuid"',
        "tokens: 3",
    ],
)
def test_a_sentence_about_secrets_is_unchanged(text: str) -> None:
    assert redact(text) == text


def test_secrets_are_removed_from_an_error_and_its_cause() -> None:
    def fail() -> None:
        try:
            raise ValueError(f"{TOKEN} was the cause", 7)
        except ValueError as error:
            raise ExceptionGroup("several", [RuntimeError(f"header {base64_of(TOKEN)}")]) from error

    with pytest.raises(ExceptionGroup) as caught, redacting(Secrets(TOKEN)):
        fail()
    said = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in said.replace("{TOKEN}", "")
    assert base64_of(TOKEN) not in said
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.args == ("*** was the cause", 7)


PRINTING = string.ascii_letters + string.digits + string.punctuation
SECRETS = st.text(PRINTING, min_size=6, max_size=60)
TWOFOLD = {"base64 in a query", "JSON in JSON", "percent twice", "base64 of base64"}
CHAINS = st.lists(st.sampled_from(sorted(ENCODINGS.keys() - TWOFOLD - {"control characters inside"})), max_size=3)
AROUND = st.text(st.characters(categories=["L", "N", "P", "Zs", "Cc"]), max_size=30)


@given(SECRETS, CHAINS, AROUND, AROUND)
@example("abcdef", ["base64"], "", "")
@example("a" * 20, ["percent"], "aaa", "aaaa")
def test_no_chain_of_encodings_hides_a_secret(secret: str, chain: list[str], before: str, after: str) -> None:
    text = secret
    for name in chain:
        text = ENCODINGS[name](text)
    shown = Secrets(secret).mask(f"{before} {text} {after}")
    assert "***" in shown
    assert secret not in shown.replace("***", "") or set(secret) == {"*"}
    assert one_line(text) not in shown or "***" in one_line(text)


@given(st.text(max_size=300), st.lists(st.text(max_size=40), max_size=3))
def test_any_text_and_any_secrets_make_one_line(text: str, known: list[str]) -> None:
    secrets = Secrets(*known)
    for shown in (secrets.mask(text), secrets.redact(text, 50), redact(text, 50)):
        assert shown.isprintable()
    assert len(secrets.redact(text, 50)) <= 50


class TestValuesThatArePublished:
    SECRETS = Secrets(f"Bearer {TOKEN}", PASSWORD)

    @given(st.integers(0, len(TOKEN) - 16), st.integers(16, 40), st.text(max_size=20), st.booleans())
    def test_a_piece_of_a_secret_is_found_wherever_it_is(self, at: int, size: int, before: str, upper: bool) -> None:
        piece = TOKEN[at : at + size]
        assert self.SECRETS.repeated_in(f"{before}{piece.upper() if upper else piece}-x")

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "NVIDIA H100 80GB HBM3",
            "1653123045678",
            "GPU-5f2b8c1e-aaaa-bbbb-cccc-000000000011",
            TOKEN[:15],
            "Bearer",
        ],
    )
    def test_other_values_are_not_secret(self, value: str) -> None:
        assert not self.SECRETS.repeated_in(value)

    def test_a_renewed_secret_is_known_immediately(self) -> None:
        secrets = Secrets("password-of-the-proxy")
        for number in range(200):
            secrets.add_renewed(f"token-number-{number:04}-of-many")
            assert secrets.repeated_in(f"x token-number-{number:04}-of-many")
        assert not secrets.repeated_in("-number-0001-of-many")
        assert secrets.repeated_in("password-of-the-proxy")
        assert "password" not in secrets.redact("login with password-of-the-proxy")

    def test_a_secret_added_while_a_value_is_judged_is_found_the_next_time(self) -> None:
        secrets = Secrets(PASSWORD)

        class Judged(str):
            """A value that a thread judges while the event loop adds a secret."""

            __slots__ = ()

            def lower(self) -> "Judged":
                return self

            def __getitem__(self, key: SupportsIndex | slice) -> str:
                secrets.add_renewed(TOKEN)
                return super().__getitem__(key)

        secrets.repeated_in(Judged(TOKEN))
        assert secrets.repeated_in(TOKEN)
