"""A known secret is found however it is encoded, split or recased; ordinary text is kept, and no text takes long."""

import base64
import html
import json
import quopri
import re
import string
import time
from collections.abc import Callable
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.encodings import decodings
from collector.redaction import Secrets

TOKEN = "Zq7vTokenSecretAbcdef0123456789xyzKLM"
UUID = "3f9a1c0e-77b2-4d15-9e60-a1b2c3d4e5f6"
BOOTSTRAP = "abcdef.0123456789abcdef"
PIECE = 8  # letters and digits of a secret that nobody may see

Encode = Callable[[str], str]


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, re.sub(r"\x1b\[\d*m", "", text.lower())))


def disclosed(secret: str, text: str) -> set[str]:
    """Return the pieces of a secret that a text shows, whatever stands between the letters."""
    known, shown = letters(secret), letters(text)
    return {known[at : at + PIECE] for at in range(len(known) - PIECE + 1) if known[at : at + PIECE] in shown}


def each(template: str) -> Encode:
    return lambda text: "".join(template.format(byte) for byte in text.encode())


def joined(template: str, separator: str) -> Encode:
    return lambda text: separator.join(template.format(byte) for byte in text.encode())


def b64(text: str, encoding: str = "utf-8") -> str:
    return base64.b64encode(text.encode(encoding)).decode()


def wrapped(text: str, width: int, separator: str = "\n") -> str:
    return separator.join(text[at : at + width] for at in range(0, len(text), width))


def wide(text: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) for letter in text)


FORMS: dict[str, Encode] = {
    "upper case": str.upper,
    "lower case": str.lower,
    "other case": str.swapcase,
    "title": str.title,
    "blanks": lambda text: wrapped(text, 10, " "),
    "letters alone": lambda text: wrapped(text, 1, " "),
    "commas": lambda text: wrapped(text, 8, ", "),
    "dashes": lambda text: wrapped(text, 5, "-"),
    "lines": lambda text: wrapped(text, 7, "\r\n"),
    "quotes": lambda text: wrapped(text, 4, '", "'),
    "concatenated": lambda text: wrapped(text, 6, '" + "'),
    "escaped lines": lambda text: json.dumps(wrapped(text, 6)),
    "colours": lambda text: wrapped(text, 4, "\x1b[1;31m"),
    "colours without ESC": lambda text: wrapped(text, 4, "[0m"),
    "a cursor without ESC": lambda text: wrapped(text, 4, "[2K[1G"),
    "a cursor that moves": lambda text: wrapped(text, 4, "\x1b[2K\x1b[1G"),
    "brackets": lambda text: f"[{wrapped(text, 3, '][')}]",
    "links of a terminal": lambda text: wrapped(text, 4, "\x1b]8;;http://x\x1b\\"),
    "escaped colours": lambda text: json.dumps(wrapped(text, 4, "\x1b[1m")),
    "invisible characters": lambda text: wrapped(text, 1, "\u200b"),
    "combining marks": lambda text: wrapped(text, 1, "\u0301"),
    "wide letters": wide,
    "bold letters": lambda text: re.sub("[A-Z]", lambda found: chr(0x1D400 + ord(found[0]) - 65), text),
    "parts": lambda text: f"{text[:11]} ... {text[11:]}",
    "the middle": lambda text: f"q{text[9:18]}q",
    "hex": lambda text: text.encode().hex(),
    "hex, blanks": lambda text: text.encode().hex(" "),
    "hex, colons": lambda text: text.encode().hex(":").upper(),
    "hex, an odd digit before": lambda text: "f" + text.encode().hex(),
    "hex, words": lambda text: text.encode().hex(" ", 2),
    "hex, wrapped": lambda text: wrapped(text.encode().hex(), 9),
    "hex of UTF-16": lambda text: text.encode("utf-16-be").hex(),
    "Go's %#v": joined("{:#x}", ", "),
    "C's bytes": joined("0x{:02X}", ","),
    "Go's bytes": lambda text: f"[{joined('{}', ' ')(text)}]",
    "Python's bytes": lambda text: str(list(text.encode())),
    "bytes, dots": joined("{}", "."),
    "octal bytes": joined("{:03o}", " "),
    "bits": joined("{:08b}", " "),
    "bits, all together": each("{:08b}"),
    "Python's bin()": joined("{:#b}", " "),
    "tags": lambda text: wrapped(text, 4, "<wbr>"),
    "highlighted": lambda text: f"<i>{wrapped(text, 4, '</i><i>')}</i>",
    "octal escapes": each("\\{:03o}"),
    "\\U": each("\\U{:08x}"),
    "\\u{}": each("\\u{{{:x}}}"),
    "\\x{}": each("\\x{{{:x}}}"),
    "\\u": each("\\u{:04X}"),
    "%u": each("%u{:04x}"),
    "U+": joined("U+{:04X}", " "),
    "one escape": lambda text: text[:5] + f"\\u{{{ord(text[5]):x}}}" + text[6:],
    "an octal escape": lambda text: text[:5] + f"\\{ord(text[5]):o}" + text[6:],
    "percent": each("%{:02x}"),
    "HTML": each("&#{};"),
    "HTML, zeros": each("&#x{:06X};"),
    "HTML without ends": each("&#{}"),
    "quoted-printable": each("={:02X}"),
    "quoted-printable, wrapped": lambda text: wrapped(each("={:02X}")(text), 9, "=\n"),
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
    "base32, lower case": lambda text: base64.b32encode(text.encode()).decode().lower(),
    "base32 in another place": lambda text: base64.b32encode(f"abc{text}".encode()).decode(),
    "base64": b64,
    "base64 of UTF-16": lambda text: b64(text, "utf-16"),
    "base64 of UTF-16, big end first": lambda text: b64(text, "utf-16-be"),
    "base64 of UTF-32": lambda text: b64(text, "utf-32"),
    "base64, lines of 8": lambda text: wrapped(b64(text), 8),
    "base64, lines of 5": lambda text: wrapped(b64(text), 5, "\r\n "),
    "base64, quotes": lambda text: f'"{wrapped(b64(text), 6, chr(34) + " + " + chr(34))}"',
    "base64, dashes": lambda text: wrapped(b64(text), 8, "-"),
    "base64, escaped lines": lambda text: json.dumps(wrapped(b64(text), 8)),
    "base64 of colours": lambda text: b64(wrapped(text, 4, "\x1b[1m")),
    "base64 of invisible characters": lambda text: b64(wrapped(text, 1, "\u200b")),
    "base64 of wide letters": lambda text: b64(wide(text)),
    "percent of wide letters": lambda text: quote(wide(text)),
    "percent of invisible characters": lambda text: quote(wrapped(text, 1, "\u200b")),
    "base64 of a header's JSON": lambda text: b64(json.dumps({"Authorization": [f"Bearer {text}"], "Accept": "a/b"})),
    "base64 four times": lambda text: b64(b64(b64(b64(text)))),
    "percent four times": lambda text: quote(quote(quote(each("%{:02x}")(text)))),
    "base64 of hex of base32": lambda text: b64(base64.b32encode(text.encode()).hex(" ")),
    "octal of base64 of bytes": lambda text: each("\\{:03o}")(b64(str(list(text.encode())))),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [TOKEN, UUID, BOOTSTRAP])
def test_a_secret_is_found_in_any_form(secret: str, form: str) -> None:
    secrets = Secrets(f"Bearer {secret}")
    for shown in (secrets.mask(f"sent <{FORMS[form](secret)}> now"), secrets.redact(f"<{FORMS[form](secret)}>", 300)):
        assert "***" in shown
        assert not disclosed(secret, shown)
        assert not any(disclosed(secret, other.text) for other in decodings(shown))


@pytest.mark.parametrize("form", FORMS)
def test_text_around_a_secret_is_kept(form: str) -> None:
    shown = Secrets(TOKEN).mask(f"the server received <{FORMS[form](TOKEN)}> from us")
    assert shown.startswith("the server received ")
    assert shown.endswith("from us")


@pytest.mark.parametrize(
    "text",
    [
        'pods is forbidden: User "system:serviceaccount:gpuid:gpuid" cannot list resource "pods" in API group "" in the'
        ' namespace "gpu-operator": Azure does not have opinion for this user.',
        "Failed to initialize NVML: Driver/library version mismatch, NVML library version: 550.127.05",
        "[::1]:443 dial tcp 10.0.0.1:6443: i/o timeout [0 1 1 2 3 5 8 13 21 34 55 89 144]",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 is not in %2Fvar%2Flib",
        "relation &quot;placements&quot; does not exist\\nLINE 1: SELECT * FROM placements",
        "the services of production, correct batteries and horses",
    ],
)
def test_ordinary_texts_are_unchanged(text: str) -> None:
    secrets = Secrets(f"Bearer {TOKEN}", UUID, BOOTSTRAP, "correct-horse-battery-production-services")
    assert secrets.mask(text) == text
    assert secrets.redact(text) == text


def test_a_short_secret_is_found_whole_in_any_case_and_encoding() -> None:
    secrets = Secrets("s3cR-et")
    assert secrets.mask("S3CR-ET czNjUi1ldA== 73:33:63:52:2d:65:74") == "*** *** ***"
    assert secrets.mask("s3 cret") == "s3 cret"


def test_a_secret_in_another_script_is_found() -> None:
    secrets = Secrets("Пароль-für-Zürich")
    assert secrets.mask(f"ПАРОЛЬ FÜR ZÜRICH {b64('Пароль-für-Zürich')} {quote('Пароль-für-Zürich')}") == "*** *** ***"


# Chains of encodings around a secret that was split

LISTS = {
    "bytes": (joined("{}", ", "), lambda text: bytes(map(int, re.findall("[0-9]+", text))).decode()),
    "octal": (each("\\{:03o}"), lambda text: bytes(int(code, 8) for code in re.findall("[0-7]{3}", text)).decode()),
}
CODECS: dict[str, tuple[Encode, Encode]] = {
    **LISTS,
    "percent": (each("%{:02X}"), unquote),
    "URL": (lambda text: quote(text, safe=""), unquote),
    "JSON": (json.dumps, lambda text: str(json.loads(text))),
    "JSON's escapes": (each("\\u{:04x}"), lambda text: json.loads(f'"{text}"')),
    "HTML": (each("&#{};"), html.unescape),
    "HTML's names": (html.escape, html.unescape),
    "quoted-printable": (each("={:02X}"), lambda text: quopri.decodestring(text).decode()),
    "hex": (lambda text: text.encode().hex(), lambda text: bytes.fromhex(text).decode()),
    "hex, colons": (lambda text: text.encode().hex(":"), lambda text: bytes.fromhex(text.replace(":", "")).decode()),
    "base32": (lambda text: base64.b32encode(text.encode()).decode(), lambda text: base64.b32decode(text).decode()),
    "base64": (b64, lambda text: base64.b64decode(text).decode()),
    "base64, lines": (lambda text: wrapped(b64(text), 12), lambda text: base64.b64decode(text).decode()),
    "base64 of UTF-16": (lambda text: b64(text, "utf-16-le"), lambda text: base64.b64decode(text).decode("utf-16-le")),
    "URL-safe base64": (
        lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64decode(text).decode(),
    ),
}
SEPARATORS = st.sampled_from(["\u200b", "…", " ", ", ", "-", "\n", '" "', "\x1b[1m", ".", "\t"])
SECRETS = st.text(string.ascii_letters + string.digits + "-._~+/", min_size=12, max_size=60).filter(
    lambda secret: len(letters(secret)) >= PIECE
)


def decoded(text: str, chain: list[str]) -> str:
    for name in reversed(chain):
        try:
            text = CODECS[name][1](text)
        except ValueError:
            return ""
    return text


@given(
    SECRETS,
    st.lists(st.sampled_from(sorted(CODECS)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 60), SEPARATORS), max_size=5),
    st.sampled_from([str, str.upper, str.lower, str.swapcase]),
    st.just(1000) | st.integers(0, 300),
)
@example(TOKEN, ["base64", "base64", "base64"], [(9, " "), (20, "\n")], str.upper, 1000)
@example("AAAAAAAAAAA/", ["HTML"], [(1, " ")], str, 1000)
def test_no_chain_of_encodings_hides_a_piece(
    secret: str, chain: list[str], splits: list[tuple[int, str]], recase: Encode, cut: int
) -> None:
    text = recase(secret)
    for at, separator in splits:
        text = text[:at] + separator + text[at:]
    for name in chain:
        text = CODECS[name][0](text)
    text = text[:cut]  # of a foreign text, no more is looked at than its beginning
    shown = Secrets(secret).redact(f"<{text}>")
    for seen in (shown, decoded(shown.strip("<>"), chain), decoded(shown.replace("***", "").strip("<>"), chain)):
        # Where a text was cut, eight letters without a digit may be an ordinary word.
        assert not {piece for piece in disclosed(secret, seen) if cut == 1000 or not piece.isalpha()}


@given(st.lists(st.sampled_from([TOKEN, TOKEN[:9], TOKEN[9:20], TOKEN[:4], " ", "%41", "\\", "Q", "***", "="])))
def test_removal_never_creates_a_secret(pieces: list[str]) -> None:
    secrets = Secrets(TOKEN)
    shown = secrets.mask("".join(pieces))
    assert secrets.mask(shown) == shown
    assert not disclosed(TOKEN, shown)


@given(st.text() | st.text("\\%=&#;xuU{}0123456789abcdefABCDEF+/_-* \x1b[m"), st.text(max_size=40))
def test_every_text_is_read(text: str, secret: str) -> None:
    assert Secrets(secret, TOKEN).redact(text).isprintable()
    for other in decodings(text):
        if other.text:
            start, end = other.origin(0, len(other.text))
            assert 0 <= start < end <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "".join(
            ("%41", "\\u0041", "&#65;", "=41", "\\101", "\uff21", "%2541", "&amp;#65;", "\\\\x41")[at % 9]
            for at in range(16384)
        ),
        quote(quote(each("\\u{:04x}")(TOKEN * 100))),
        " ".join([b64(b64(TOKEN))] * 1000),
        "".join(TOKEN[at % 7 :][:9] + "Q" for at in range(7000)),
        "%25" * 22000,
        "\ufdfa" * 65536,
        "-" * 65536,
        "\x1b]" * 32768,
        "0" * 65536,
    ],
    ids=["escapes", "escapes in escapes", "base64", "pieces", "percent", "Unicode", "dashes", "terminal", "zeros"],
)
def test_a_hostile_text_takes_little_time(text: str) -> None:
    secrets = Secrets(TOKEN, *(f"{TOKEN}{number}" for number in range(63)))
    secrets.mask("prepared")
    for read in (secrets.mask, secrets.redact):
        started = time.process_time()
        shown = read(text[:65536])
        assert not disclosed(TOKEN, shown)
        assert read(shown) == shown
        assert time.process_time() - started < 0.5  # ten times what it takes
