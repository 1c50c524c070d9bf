"""Takes secrets out of what others say: the one way in which foreign text gets into an error, a log or an answer.

A server, a proxy or a program may repeat what it was given: a header, a URL, a body, whole or in part, and in an
encoding of its own. What is known to be secret is found in each of them; what only looks like a secret, by its form.
"""

import base64
import binascii
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from collector.text import one_line

__all__ = ["MASK", "Secrets", "redact", "redact_lines", "redacting"]

MASK = "***"  # stands for a secret

MAX_TEXT = 4096  # characters of a text that are looked at; the rest is dropped
MAX_FOREIGN_TEXT = 1024  # likewise of one that is all foreign: whoever sends many must not keep us busy
MAX_SECRETS = 64  # that one owner keeps: of credentials that are renewed, the newest
BLOCK = 8  # characters: any piece of a secret with twice as many, less one, contains one that is aligned
MIN_PIECE = 12  # characters of a secret that are secret by themselves
SHORT = 6  # a secret with fewer characters is found only as a word: it may well be part of an ordinary one
LEAST_MASKED = 4  # characters of a secret that is found in texts of ours, too
MIN_BEGINNING = 4  # characters of a secret that are one at the end of a text, which may have been cut off there
MIN_ENCODED = 8  # characters of a run that may be base64
MAX_DEPTH = 3  # encodings around each other that are undone
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Secrets:
    """What one session or sink must never repeat; it forgets the oldest beyond MAX_SECRETS.

    Pieces of a secret count too, as do percent-encoding, base64, hexadecimal digits and the escapes of JSON and HTML,
    also around each other.
    """

    def __init__(self, *secrets: str | bytes | None) -> None:
        self._known: deque[str] = deque(maxlen=MAX_SECRETS)
        self._wanted: _Wanted | None = None  # of `_known`, once it is needed
        self.add(*secrets)

    def add(self, *secrets: str | bytes | None) -> None:
        """Add secrets: tokens, passwords, PEM keys, or values of an Authorization header, whose scheme is none."""
        for secret in secrets:
            text = (secret.decode(errors="replace") if isinstance(secret, bytes) else secret or "").strip()
            if text in self._known:
                self._known.remove(text)
            if text:
                self._known.append(text)
                self._wanted = None

    def add_url(self, url: str) -> None:
        """Add what may be secret in a URL: the password, the path and the query, and what looks random in them."""
        try:
            parts = urlsplit(url)
            password = parts.password
        except ValueError:
            self.add(url)
            return
        self.add(password, unquote(password or ""), parts.fragment)
        path = parts.path.rstrip("/")
        if path.count("/") > 1 or _looks_random(path.lstrip("/")):
            self.add(path)
        self.add(*(segment for segment in path.split("/") if _looks_random(segment)))
        self.add(parts.query, *(value for _, value in parse_qsl(parts.query) if len(value) >= SHORT))

    def add_proxies(self, environment: Mapping[str, str]) -> None:
        """Add the passwords of the proxies that an environment names."""
        for name in PROXY_VARIABLES:
            for url in (environment.get(name), environment.get(name.lower())):
                if url:
                    self.add_url(url if "://" in url else f"http://{url}")

    def redact(self, text: object, limit: int | None = None) -> str:
        """Return a foreign text as `redact` does, also without these secrets."""
        return _without_forms(self._without_known(str(text)[:MAX_FOREIGN_TEXT], least=1), limit)

    def mask(self, text: object) -> str:
        """Return a text of ours, which may repeat what others said, in one line without these secrets.

        What only looks like a secret stays: a text of ours may well speak of a `client-key: expected …`. So does a
        secret of less than LEAST_MASKED characters, which may be any word of it.
        """
        return self._without_known(text, least=LEAST_MASKED)

    def _without_known(self, text: object, least: int) -> str:
        line = one_line(str(text)[:MAX_TEXT])
        if not line or not self._known:
            return line
        if self._wanted is None:
            self._wanted = _Wanted.of(self._known)
        return _masked(line, _found(line, self._wanted, least, MAX_DEPTH))

    def __repr__(self) -> str:
        """Return the kind alone."""
        return "Secrets(…)"


@contextmanager
def redacting(secrets: Secrets) -> Iterator[None]:
    """Take the secrets out of every error that leaves the block, and of its causes, which a traceback repeats."""
    try:
        yield
    except Exception as error:
        _mask_error(secrets, error, set())
        raise


def _mask_error(secrets: Secrets, error: BaseException | None, seen: set[int]) -> None:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.args = tuple(_mask_argument(secrets, argument) for argument in error.args)
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for one in (error.__cause__, error.__context__, *inner):
        _mask_error(secrets, one, seen)


def _mask_argument(secrets: Secrets, argument: object) -> object:
    if not isinstance(argument, str | bytes):
        return argument
    text = argument if isinstance(argument, str) else argument.decode(errors="replace")
    masked = secrets.mask(text)
    return argument if masked == one_line(text[:MAX_TEXT]) else masked


def redact(text: object, limit: int | None = None) -> str:
    """Return foreign text as one line that prints, of at most `limit` characters; `***` stands for a secret.

    What looks like one is replaced: the value of a header or key that names a secret, private keys, tokens of known
    forms. For what is known to be secret there is `Secrets`.
    """
    return _without_forms(one_line(str(text)[:MAX_FOREIGN_TEXT]), limit)


def redact_lines(text: str) -> list[str]:
    """Return the lines of a traceback without what looks like a secret in them; the lines of code stay as they are."""
    lines = _KEY_BLOCK.sub(MASK, text).split("\n")
    for at, line in enumerate(lines):
        if at == 0 or not _CODE_PLACE.match(lines[at - 1]):
            lines[at] = _replaced(line)
    return lines


# What is known


class _Wanted(NamedTuple):
    """Secrets, prepared to be found."""

    words: tuple[str, ...]
    blocks: dict[
        str, list[tuple[str, int]]
    ]  # aligned pieces of BLOCK characters -> the words that have them, and where

    @classmethod
    def of(cls, secrets: Iterable[str]) -> "_Wanted":
        parts = {one_line(part) for secret in secrets for part in _parts(secret)}
        words = tuple(sorted(parts - {""}, key=len, reverse=True))
        blocks: dict[str, list[tuple[str, int]]] = {}
        for word in words:
            if len(word) >= MIN_PIECE:
                for at in range(0, len(word) - BLOCK + 1, BLOCK):
                    blocks.setdefault(word[at : at + BLOCK], []).append((word, at))
        return cls(words, blocks)


_Span = tuple[int, int]


def _found(text: str, wanted: _Wanted, least: int, depth: int) -> Iterator[_Span]:
    """Yield where secrets of at least so many characters are in a text, whole or in pieces, as they are or encoded."""
    readable = text.isprintable()
    yield from _plain(text, wanted, least if readable else SHORT)  # a short one is in any bytes by chance
    if readable:
        yield from _cut_off(text, wanted, least)
    if depth == 0:
        return
    for escape in _ESCAPES:  # one at a time: a secret may itself hold what looks like another
        if escape.search(text):
            decoded, spans = _unescaped(text, escape)
            for start, end in _found(decoded, wanted, least, depth - 1):
                yield spans[start][0], spans[end - 1][1]
    for runs, decode in ((_BASE64_RUN, _from_base64), (_HEX_RUN, _from_hex)):
        for run in runs.finditer(text):
            if any(next(_found(inner, wanted, least, depth - 1), None) for inner in decode(run[0])):
                yield run.span()


def _plain(text: str, wanted: _Wanted, least: int) -> Iterator[_Span]:
    for word in wanted.words:
        if least <= len(word) <= len(text):
            yield from _whole(text, word)
    if wanted.blocks:
        yield from _pieces(text, wanted)


def _whole(text: str, word: str) -> Iterator[_Span]:
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        if len(word) >= SHORT or not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum()):
            yield at, end
        at = text.find(word, end)


def _cut_off(text: str, wanted: _Wanted, least: int) -> Iterator[_Span]:
    """Yield the beginnings of secrets at the end of a text: they may be what somebody's limit has left of them."""
    end = len(text.rstrip("….\"'"))
    for word in wanted.words:
        start = max(0, end - len(word))
        at = text.find(word[:MIN_BEGINNING], start, end) if len(word) >= least else -1
        while at >= 0:
            if word.startswith(text[at:end]):
                yield at, end
                break
            at = text.find(word[:MIN_BEGINNING], at + 1, end)


def _pieces(text: str, wanted: _Wanted) -> Iterator[_Span]:
    for at in range(len(text) - BLOCK + 1):
        for word, offset in wanted.blocks.get(text[at : at + BLOCK], ()):
            start, end = _extended(text, at, word, offset)
            if end - start >= MIN_PIECE:
                yield start, end


def _extended(text: str, at: int, word: str, offset: int) -> _Span:
    """Return how far a text agrees with a word around a block that both have."""
    before = 0
    while before < min(at, offset) and text[at - before - 1] == word[offset - before - 1]:
        before += 1
    after = BLOCK
    while at + after < len(text) and offset + after < len(word) and text[at + after] == word[offset + after]:
        after += 1
    return at - before, at + after


def _masked(text: str, spans: Iterable[_Span]) -> str:
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if start > end or not pieces:
            pieces += [text[end:start], MASK]
        end = max(end, stop)
    return "".join([*pieces, text[end:]])


def _parts(secret: str) -> Iterator[str]:
    """Yield the secrets in a secret: what follows the scheme of a header, a password, the lines of a key."""
    scheme, _, value = secret.partition(" ")
    if scheme.lower() == "basic" and value:
        yield from _parts(_basic_password(value))
    if scheme.lower() in {"bearer", "basic"} and value:
        yield value
    elif "-----BEGIN " in secret:
        yield from (line for line in secret.splitlines() if not line.startswith("-----"))
    else:
        yield secret


def _basic_password(value: str) -> str:
    try:
        return base64.b64decode(value).decode().partition(":")[2]
    except ValueError:
        return ""


def _looks_random(text: str) -> bool:
    """Return whether a part of a URL may be a secret rather than a word."""
    kinds = (str.isdigit, str.isupper, str.islower)
    mixed = sum(any(kind(letter) for letter in text) for kind in kinds) > 1
    return len(text) >= 16 or (len(text) >= 8 and mixed)


# What is encoded

_HEX_RUN = re.compile(rf"[0-9A-Fa-f]{{{MIN_ENCODED},}}")
_BASE64_RUN = re.compile(rf"[A-Za-z0-9+/_-]{{{MIN_ENCODED},}}={{0,2}}")
_URLSAFE = str.maketrans("-_", "+/")
_ESCAPES = tuple(
    re.compile(escape)
    for escape in (
        r"(?:%[0-9A-Fa-f]{2})+",
        r"""(?:\\x[0-9A-Fa-f]{2})+|\\u[0-9A-Fa-f]{4}|\\["'\\/]""",
        r"&#[0-9]{1,6};|&#[xX][0-9A-Fa-f]{1,5};|&(?:amp|lt|gt|quot|apos);",
    )
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}


def _unescaped(text: str, escape: re.Pattern[str]) -> tuple[str, list[_Span]]:
    """Return a text with escapes undone once, and for each of its characters where it comes from."""
    letters: list[str] = []
    spans: list[_Span] = []
    end = 0
    for found in escape.finditer(text):
        letters += text[end : found.start()]
        spans += ((at, at + 1) for at in range(end, found.start()))
        unescaped = _unescape(found[0])
        letters += unescaped
        spans += [found.span()] * len(unescaped)
        end = found.end()
    letters += text[end:]
    spans += ((at, at + 1) for at in range(end, len(text)))
    return "".join(letters), spans


def _unescape(escape: str) -> str:
    if escape[0] == "&":
        if escape in _ENTITIES:
            return _ENTITIES[escape]
        code = int(escape[3:-1], 16) if escape[2] in "xX" else int(escape[2:-1])
        return chr(code)
    if escape[0] == "%" or escape[1] == "x":
        return bytes.fromhex(escape.replace("%", "").replace("\\x", "")).decode(errors="replace")
    return chr(int(escape[2:6], 16)) if escape[1] == "u" else escape[1]


def _from_hex(run: str) -> Iterator[str]:
    """Yield the texts whose hexadecimal digits a run may be, wherever it was cut."""
    for start in (0, 1):
        yield bytes.fromhex(run[start : start + (len(run) - start) // 2 * 2]).decode("latin-1")


def _from_base64(run: str) -> Iterator[str]:
    """Yield the texts whose base64 a run may be, wherever it was cut."""
    letters = run.rstrip("=").translate(_URLSAFE)
    for start in range(4):
        piece = letters[start:]
        piece = piece[: len(piece) - (len(piece) % 4 == 1)]
        try:
            decoded = base64.b64decode(piece + "=" * (-len(piece) % 4))
        except binascii.Error:  # too short for a single byte
            continue
        yield decoded.decode("utf-8", "replace") if start == 0 else decoded.decode("latin-1")


# What looks like a secret


def _without_forms(line: str, limit: int | None) -> str:
    return one_line(_replaced(line), limit) if line else ""


def _replaced(line: str) -> str:
    for pattern, replacement in _PATTERNS:
        line = pattern.sub(replacement, line)
    return line


_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_CODE_PLACE = re.compile(r'[\s|]*File ".*", line \d+, in ')  # of a traceback; the line of code follows
_ASSIGNED = r"""\\?["']?\s*[:=]\s*[\[({]?\s*"""  # between a key and its value, in JSON, in a query, in a header
_PLAIN_WORD = (  # what follows the name of a secret in a sentence about it
    r"(?!realm\b|(?:a|an|and|auth\w*|are|cannot|could|credentials?|does|error|expected|expired|failed|for|from|has|header|in|invalid|is"
    r"|keys?|lookup|missing|must|no|not|of|or|required|scheme|than|the|to|tokens?|was|were|with)\b(?![\w=/+.-]))"
)
_VALUE = r"""(?:\\u[0-9a-fA-F]{4}|\\/|[^\s"',;&)}\]\\<>])+"""
_QUOTED = r"""(?P<quote>\\?["'])(?:(?!(?P=quote)).)+"""
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", MASK),
        (rf"""(\b(?:set-)?cookie{_ASSIGNED}["']?)(?!\*)[^"'\]}})]+""", rf"\1{MASK}"),
        # A value in quotes ends where they end.
        (
            r"(?:(?<=token)|(?<=password)|(?<=passwd)|(?<=passphrase)|(?<=secret)|(?<=client-key-data)"
            rf"|(?<=api[-_]key)|(?<=apikey)|(?<=access[-_]key)|(?<=private[-_]key))({_ASSIGNED}){_QUOTED}",
            rf"\1\g<quote>{MASK}",
        ),
        (
            r"((?:token|password|passwd|passphrase|\bpwd|secret|signature|credentials?|authorization|client-key-data"
            rf"|api[-_]?key|access[-_]?key|private[-_]?key|session[-_]?id){_ASSIGNED}\\?[\"']?"
            rf"(?:(?:bearer|basic|digest|negotiate|ntlm|token|aws4-hmac-sha256)\s+)?){_PLAIN_WORD}{_VALUE}",
            rf"\1{MASK}",
        ),
        (rf"""(\b(?:bearer|basic|negotiate)\s+){_PLAIN_WORD}{_VALUE}""", rf"\1{MASK}"),
        (rf"([?&](?:key|sig|code|auth|apikey|access_key)=){_VALUE}", rf"\1{MASK}"),
        (r"(://)[^/@\s]+@", rf"\1{MASK}@"),
        # JSON web tokens, and the tokens of EKS, OpenShift, Google, GitHub, GitLab, Slack and Vault.
        (
            r"\b(?:eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)*|k8s-aws-v1\.[\w-]+|sha256~[\w-]{20,}|ya29\.[\w-]{20,}"
            r"|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|hv[sb]\.[\w-]{20,})",
            MASK,
        ),
    )
)
