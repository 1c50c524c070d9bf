"""Redacts secrets in foreign text before it appears in an error, log or response.

A server, proxy or program may quote its input: a header, URL or body, whole or in part, in any encoding. Known secrets
are found by their letters and digits, in either case and with anything between them, in the text and in everything it
may encode; text that only looks like a secret is found by its form.

Deliberately disguised secrets are not found: reversed, shifted, compressed or encrypted text, encodings of pieces that
are too short to be secret, and rare encodings (base85, uuencode, byte-swapped words).
"""

import base64
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import parse_qsl, unquote, urlsplit

from collector.encodings import Span
from collector.secret_search import SHORT_LENGTH, TERMINAL_SEQUENCE, SecretIndex
from collector.text import one_line

__all__ = ["MASK", "Secrets", "redact", "redact_lines", "redacting"]

MASK = "***"  # replaces a secret, or text that may contain one and is too long to search

MAX_TEXT = 4096  # characters of a text that are searched; the rest is dropped
MAX_FOREIGN_TEXT = 1024  # likewise for entirely foreign text, so that a flood of it stays cheap
MAX_SECRETS = 64  # kept per owner: the newest, for renewed credentials
PIECE_LENGTH = 16  # consecutive characters of a secret in published values
MAX_HARMLESS, MAX_HARMLESS_LENGTH = 256, 128  # published values that were searched and are remembered
MIN_MASKED_LENGTH = 4  # fewest characters of a secret to be found in our own texts
MAX_ROUNDS = 4  # rounds of decoding for a text without secrets
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Secrets:
    """The secrets of one session or sink; beyond MAX_SECRETS, the oldest renewed ones are forgotten.

    Pieces of at least 8 letters and digits also count, as do nested encodings supported by `encodings.decodings`. A
    secret with fewer letters and digits is found only as a whole.
    """

    def __init__(self, *secrets: str | bytes | None) -> None:
        self._lasting: deque[str] = deque(maxlen=MAX_SECRETS)
        self._renewed: deque[str] = deque(maxlen=MAX_SECRETS)
        self._index: SecretIndex | None = None  # of all of them, built on demand
        self._published: tuple[str, frozenset[str]] | None = None  # for `repeated_in`, built on demand
        self._harmless: set[str] = set()  # values that repeat none of them: a fleet has the same ones again and again
        self._adding = threading.Lock()  # values are also judged in threads
        self.add(*secrets)

    def add(self, *secrets: str | bytes | None) -> None:
        """Add secrets: tokens, passwords, PEM keys, or Authorization header values, whose scheme is not secret."""
        self._add(self._lasting, secrets)

    def add_renewed(self, *secrets: str | bytes | None) -> None:
        """Add secrets that are regularly replaced by new ones."""
        self._add(self._renewed, secrets)

    def _add(self, known: deque[str], secrets: Iterable[str | bytes | None]) -> None:
        for secret in secrets:
            text = (secret.decode(errors="replace") if isinstance(secret, bytes) else secret or "").strip()
            with self._adding:
                if text in known:
                    known.remove(text)
                    known.append(text)
                elif text:
                    known.append(text)
                    self._index = self._published = None
                    self._harmless = set()  # a value that is being judged is added to the previous one

    def add_url(self, url: str) -> None:
        """Add the potential secrets of a URL: password, path and query, and random-looking parts of them."""
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
        self.add(parts.query, *(value for _, value in parse_qsl(parts.query) if len(value) >= SHORT_LENGTH))

    def add_proxies(self, environment: Mapping[str, str]) -> None:
        """Add the passwords of the proxies in an environment."""
        for name in PROXY_VARIABLES:
            for url in (environment.get(name), environment.get(name.lower())):
                if url:
                    self.add_url(url if "://" in url else f"http://{url}")

    def repeated_in(self, value: str) -> bool:
        """Return whether a published value has PIECE_LENGTH consecutive characters of a secret, in any case.

        This runs for every value of every reading, so its time depends only on the value. Shorter secrets may be
        ordinary words in a name.
        """
        harmless = self._harmless
        if len(value) < PIECE_LENGTH or value in harmless:
            return False
        repeated = self._repeated_in(value.lower())
        if not repeated and len(value) <= MAX_HARMLESS_LENGTH:
            if len(harmless) >= MAX_HARMLESS:
                harmless.clear()
            harmless.add(value)
        return repeated

    def _repeated_in(self, lower: str) -> bool:
        half = PIECE_LENGTH // 2
        published = self._published
        if published is None:
            with self._adding:
                text = "\n".join({*self._lasting, *self._renewed}).lower()
                published = text, frozenset(text[at : at + half] for at in range(0, len(text), half))
                self._published = published
        text, halves = published
        # Every piece contains half a piece that begins at a multiple of that length in the secrets.
        return not halves.isdisjoint([lower[at : at + half] for at in range(len(lower) - half + 1)]) and any(
            lower[at : at + PIECE_LENGTH] in text for at in range(len(lower) - PIECE_LENGTH + 1)
        )

    def redact(self, text: object, limit: int | None = None) -> str:
        """Redact a foreign text like `redact`, and additionally these secrets."""
        return _without_forms(self._without_known(str(text)[:MAX_FOREIGN_TEXT], least=1), limit)

    def mask(self, text: object) -> str:
        """Return one of our texts, which may quote others, on one line without these secrets.

        Text that only looks like a secret is kept, such as `client-key: expected …`, and so are secrets of less than
        MIN_MASKED_LENGTH characters, which may be ordinary words.
        """
        return self._without_known(text, least=MIN_MASKED_LENGTH)

    def _without_known(self, text: object, least: int) -> str:
        text = str(text)[:MAX_TEXT]
        if not text or not (self._lasting or self._renewed):
            return _line(text)
        if self._index is None:
            known = dict.fromkeys([*self._lasting, *self._renewed])
            self._index = SecretIndex.of(part for secret in known for part in _parts(secret))
        if TERMINAL_SEQUENCE.search(text):  # its end may be the beginning of a secret
            text = _masked(text, self._index.find(text, least) or ())
        line = _line(text)
        for _ in range(MAX_ROUNDS):
            spans = self._index.find(line, least)
            masked = line[: len(line) // 4] + MASK if spans is None else _masked(line, spans)
            if masked == line:
                return line
            line = masked
        return MASK

    def __repr__(self) -> str:
        """Return only the class name."""
        return "Secrets(…)"


@contextmanager
def redacting(secrets: Secrets) -> Iterator[None]:
    """Redact secrets in every error that leaves the block and in its causes, which tracebacks show."""
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
    return argument if masked == _line(text[:MAX_TEXT]) else masked


def redact(text: object, limit: int | None = None) -> str:
    """Return foreign text as one printable line of at most `limit` characters, with secrets replaced by `***`.

    This replaces text that looks secret: values of headers or keys that name a secret, private keys, and tokens of
    known forms. For known secrets, use `Secrets`.
    """
    return _without_forms(_line(str(text)[:MAX_FOREIGN_TEXT]), limit)


def _line(text: str) -> str:
    return one_line(TERMINAL_SEQUENCE.sub("", text))


def redact_lines(text: str) -> list[str]:
    """Return the lines of a traceback with apparent secrets redacted; lines of code are kept."""
    lines = _KEY_BLOCK.sub(MASK, text).split("\n")
    for at, line in enumerate(lines):
        if at == 0 or not _CODE_PLACE.match(lines[at - 1]):
            lines[at] = _replaced(line)
    return lines


# What is known

_PADDING = re.compile(r"={0,6}(?![^\W_])")  # of base64 and base32


def _masked(text: str, spans: Iterable[Span]) -> str:
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if start > end or not pieces:
            pieces += [text[end:start], MASK]
        padding = _PADDING.match(text, stop)
        end = max(end, padding.end() if padding else stop)
    return "".join([*pieces, text[end:]])


def _parts(secret: str) -> Iterator[str]:
    """Yield the parts of a secret: the text after a header's scheme, a password, the lines of a key."""
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
    """Return whether a part of a URL may be a secret instead of a word."""
    kinds = (str.isdigit, str.isupper, str.islower)
    mixed = sum(any(kind(letter) for letter in text) for kind in kinds) > 1
    return len(text) >= 16 or (len(text) >= 8 and mixed)


# What looks like a secret


def _without_forms(line: str, limit: int | None) -> str:
    return one_line(_replaced(line), limit) if line else ""


def _replaced(line: str) -> str:
    for pattern, replacement in _PATTERNS:
        line = pattern.sub(replacement, line)
    return line


_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_CODE_PLACE = re.compile(r'[\s|]*File ".*", line \d+, in ')  # in a traceback; the line of code follows
_ASSIGNED = r"""\\?["']?\s*[:=]\s*[\[({]?\s*"""  # between a key and its value, in JSON, in a query, in a header
_PLAIN_WORD = (  # text after the name of a secret in a sentence
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
        # A quoted value ends at the closing quote.
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
