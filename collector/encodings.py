"""Decodes everything that a text may encode, mapping each decoded piece back to its place in the text."""

import base64
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cached_property
from math import gcd
from typing import NamedTuple

__all__ = ["UTF8", "Decoded", "Span", "decodings"]

MIN_BYTES = 6  # of a text that numbers, base64 and the like may encode
MAX_FORM = 4  # letters for which one compatibility form may stand

# A letter in UTF-8, with one character per byte.
UTF8 = re.compile(r"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")

Span = tuple[int, int]


class Decoded(NamedTuple):
    """A text that may be encoded in another."""

    text: str
    origin: Callable[[int, int], Span]  # maps its start and end to where it is encoded
    is_bytes: bool  # one character per byte, without NUL; made from any text, mostly from ones that encode nothing


def decodings(text: str) -> Iterator[Decoded]:
    """Yield what a text may encode.

    This covers escapes (of URLs, JSON, C, Python, Rust, HTML and quoted-printable), tags, Unicode compatibility forms
    of letters, and, with anything between the digits, numbers (decimal, octal, binary), binary and hexadecimal
    digits, base32 and base64, wherever they begin and end.
    """
    for pattern, unescape in _ESCAPES:
        escapes = _Escapes(text, pattern, unescape)
        decoded = escapes.decoded()
        if decoded != text:
            yield Decoded(decoded, escapes.origin, is_bytes=False)
    for base, pattern in _NUMBERS:
        codes = [int(digits, base) for digits in pattern.findall(text)]
        if len(codes) >= MIN_BYTES:
            yield Decoded("".join(map(_letter, codes)), _Numbers(text, pattern).origin, is_bytes=True)
    seen: set[tuple[int, str]] = set()
    for alphabet in _ALPHABETS:
        prepared = alphabet.prepared(text)
        joined = "".join(filter(alphabet.counts, alphabet.run.findall(prepared)))
        if len(joined) * alphabet.bits >= MIN_BYTES * 8 and (alphabet.bits, joined) not in seen:
            seen.add((alphabet.bits, joined))
            for skip in range(8 // gcd(alphabet.bits, 8)):
                yield _aligned(prepared, alphabet, joined, skip)


# Escapes: each stands for a letter, among plain letters


class _Escapes:
    def __init__(self, text: str, pattern: re.Pattern[str], unescape: Callable[[str], str]) -> None:
        self._text, self._pattern, self._unescape = text, pattern, unescape

    def decoded(self) -> str:
        return self._pattern.sub(lambda found: self._unescape(found[0]), self._text)

    def origin(self, start: int, end: int) -> Span:
        return self._spans[start][0], self._spans[end - 1][1]

    @cached_property
    def _spans(self) -> list[Span]:
        """The origin of each letter."""
        spans: list[Span] = []
        at = 0
        for found in self._pattern.finditer(self._text):
            spans += ((place, place + 1) for place in range(at, found.start()))
            spans += [found.span()] * len(self._unescape(found[0]))
            at = found.end()
        spans += ((place, place + 1) for place in range(at, len(self._text)))
        return spans


def _letter(code: int) -> str:
    return chr(code) if code <= 0x10FFFF else "\0"


def _from_backslash(escape: str) -> str:
    kind, digits = escape[1], escape[2:].strip("{}")
    if kind in "xuU" and digits:
        return _letter(int(digits, 16))
    if kind in "01234567":
        return _letter(int(escape[1:], 8))
    return _SPACES.get(kind, kind)


_SPACES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "e": "\x1b"}
_ESCAPES: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (re.compile(r"%u[0-9A-Fa-f]{4}|%[0-9A-Fa-f]{2}"), lambda escape: _letter(int(escape.lstrip("%u"), 16))),
    (
        re.compile(
            r"""\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[xu]\{[0-9A-Fa-f]{1,8}\}|[0-7]{1,3}|[nrtbfave"'`/\\])"""
        ),
        _from_backslash,
    ),
    (re.compile(r"&(?:#[0-9]{1,8}|#[xX][0-9A-Fa-f]{1,8}|[A-Za-z]{2,8});?"), html.unescape),
    (re.compile(r"=[0-9A-Fa-f]{2}"), lambda escape: _letter(int(escape[1:], 16))),
    (re.compile(r"</?[A-Za-z!][^<>]{0,99}>"), lambda _tag: ""),
    (UTF8, lambda units: units.encode("latin-1").decode(errors="replace")),
    (re.compile(r"[^\x00-\x7f]"), lambda letter: unicodedata.normalize("NFKD", letter)[:MAX_FORM]),
)


# Numbers: each stands for a byte


class _Numbers:
    def __init__(self, text: str, pattern: re.Pattern[str]) -> None:
        self._text, self._pattern = text, pattern

    def origin(self, start: int, end: int) -> Span:
        return self._spans[start][0], self._spans[end - 1][1]

    @cached_property
    def _spans(self) -> list[Span]:
        return [found.span() for found in self._pattern.finditer(self._text)]


_NUMBERS = (
    (10, re.compile(r"(?<![0-9])[0-9]{1,7}(?![0-9])")),
    (8, re.compile(r"(?<![0-9])[0-7]{1,4}(?![0-9])")),
    (2, re.compile(r"(?<![0-9])[01]{6,8}(?![0-9])")),
)


# Digits: several together stand for a byte


class _Alphabet(NamedTuple):
    bits: int  # of one digit
    run: re.Pattern[str]  # adjacent digits
    prefix: str = ""  # of a number, to be skipped: not a digit although it contains one
    signs: str = ""  # digits that are punctuation when standing alone

    def prepared(self, text: str) -> str:
        """Return a text of the same length without the prefixes."""
        return text.replace(self.prefix, "  ").replace(self.prefix.upper(), "  ") if self.prefix else text

    def counts(self, run: str) -> bool:
        """Return whether a run is more than punctuation."""
        return not self.signs or bool(run.strip(self.signs))

    def decode(self, digits: str) -> bytes:
        count = len(digits) * self.bits // 8
        if self.bits == 6:
            digits = digits[: len(digits) - (len(digits) % 4 == 1)].translate(_URLSAFE)
            return base64.b64decode(digits + "=" * (-len(digits) % 4))
        value = int(digits.translate(_BASE32) if self.bits == 5 else digits, 1 << self.bits)
        return (value >> (len(digits) * self.bits - count * 8)).to_bytes(count)


class _Aligned:
    """Digits decoded from a given offset."""

    def __init__(self, text: str, alphabet: _Alphabet, skip: int, decoded: bytes) -> None:
        self._text, self._alphabet, self._skip, self._decoded = text, alphabet, skip, decoded

    def origin(self, start: int, end: int) -> Span:
        """Return where bytes are encoded, including all adjacent digits."""
        bits = self._alphabet.bits
        first = self._skip + self._kept[start] * 8 // bits
        last = self._skip + ((self._kept[end - 1] + 1) * 8 - 1) // bits
        return self._runs[first][0], self._runs[last][1]

    @cached_property
    def _kept(self) -> list[int]:
        """Which bytes are not NUL."""
        return [at for at, byte in enumerate(self._decoded) if byte]

    @cached_property
    def _runs(self) -> list[Span]:
        """Where the run is that each digit belongs to."""
        runs = self._alphabet.run.finditer(self._text)
        return [run.span() for run in runs if self._alphabet.counts(run[0]) for _ in run[0]]


def _aligned(text: str, alphabet: _Alphabet, joined: str, skip: int) -> Decoded:
    decoded = alphabet.decode(joined[skip:])
    readable = decoded.translate(None, b"\0").decode("latin-1")  # without NUL: half of UTF-16 is that
    return Decoded(readable, _Aligned(text, alphabet, skip, decoded).origin, is_bytes=True)


_URLSAFE = str.maketrans("-_", "+/")
_BASE32 = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz234567",
    "0123456789abcdefghijklmnop0123456789abcdefghijklmnopqrstuv",
)
_ALPHABETS = (
    _Alphabet(1, re.compile(r"[01]+")),
    _Alphabet(4, re.compile(r"[0-9A-Fa-f]+"), prefix="0x"),
    _Alphabet(5, re.compile(r"[A-Za-z2-7]+")),
    _Alphabet(6, re.compile(r"[A-Za-z0-9+/_-]+"), signs="+/_-"),
    _Alphabet(6, re.compile(r"[A-Za-z0-9+/]+"), signs="+/"),  # with "-" and "_" between the digits
)
