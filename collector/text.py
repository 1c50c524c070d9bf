"""Short texts: foreign text made safe for a line, log or file, counts with nouns, and reasons of failures."""

import functools
import itertools
import re
import shlex
from collections.abc import Collection
from typing import Any

__all__ = [
    "counted",
    "csv_text",
    "describe_os_error",
    "describe_redirect",
    "enumerated",
    "escaped",
    "natural_key",
    "one_line",
    "printable",
    "printable_json",
    "shell_word",
]

_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001  spreadsheets also accept the wide ones
_DIGITS = re.compile(r"(\d{1,18})", re.ASCII)  # of a number in a name
_MAX_HOST_LENGTH = 100  # characters of a redirect's host


def one_line(value: object, limit: int | None = None) -> str:
    """Return a value as text without line breaks or control sequences, of at most `limit` characters, cut with "…".

    White space is folded and unprintable characters are dropped; None is empty.
    """
    text = "" if value is None else str(value)
    whole = text.isprintable() and "  " not in text and text[:1] != " " and text[-1:] != " "
    line = (
        text
        if whole
        else " ".join("".join(letter for letter in text if letter.isprintable() or letter.isspace()).split())
    )
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def printable(text: str) -> str:
    """Return a text unchanged if all of it is printable, else like `one_line`: for names, whose blanks count."""
    return text if text.isprintable() else one_line(text)


def escaped(text: str) -> str:
    """Return a text on one line, with unprintable characters escaped as in Python."""
    return text if text.isprintable() else text.translate(_ESCAPES)


@functools.lru_cache(maxsize=4096)  # neighbouring names have most of their parts in common
def natural_key(text: str) -> tuple[Any, ...]:
    """Return a natural sort key: sim-2 before sim-10, equal only for the same text."""
    parts = _DIGITS.split(text)
    return (tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), text)


def shell_word(text: str) -> str:
    """Return a text as one shell word, with unprintable characters escaped for bash and zsh."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_shell_escape, text)) + "'"


def printable_json(encoded: bytes) -> bytes:
    """Return the same JSON with unprintable characters escaped, except line feeds.

    This keeps a terminal from interpreting strings. Raises UnicodeDecodeError for invalid UTF-8.
    """
    if encoded.isascii() and b"\x7f" not in encoded:  # JSON escapes the other control characters anyway
        return encoded
    written = encoded.decode()
    if written.replace("\n", "").isprintable():  # such as "Zürich"; escaping calls a function for each character
        return encoded
    return written.translate(_JSON_ESCAPES).encode()


def csv_text(text: str) -> str:
    """Return a text for a CSV file: unprintable characters are dropped, and spreadsheets do not treat it as a formula.

    A text that begins like a formula is prefixed with an apostrophe, which makes it text.
    """
    text = printable(text)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 GPU", "1,200 GPUs", "2 batches"."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{ending}"


def enumerated(names: Collection[str], limit: int) -> str:
    """Return names separated by commas, with "…" for those after the first `limit`."""
    return ", ".join(itertools.islice(names, limit)) + (", …" if len(names) > limit else "")


def describe_os_error(error: BaseException, default: str) -> str:
    """Return the system's reason for an error in lower case, such as "no such file or directory", or `default`."""
    return str(getattr(error, "strerror", None) or default).lower() if isinstance(error, OSError) else default


def describe_redirect(status: int, location: str | None, remedy: str) -> str:
    """Describe a redirect: the host in its Location, and what to set instead.

    Only the Location's host is quoted: the rest may contain a secret.
    """
    from urllib.parse import urlsplit  # slow to import, for commands that never see a redirect

    try:
        host = urlsplit(location or "").netloc.rpartition("@")[2]
    except ValueError:  # such as an IPv6 address without its end
        host = ""
    target = one_line(host, _MAX_HOST_LENGTH)
    return f"redirects ({status}){f' to {target}' if target else ''}; set {remedy} to the final address"


def _shell_escape(letter: str) -> str:
    code = ord(letter)
    if letter.isprintable():
        return f"\\{letter}" if letter in "\\'" else letter
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


class _Escapes(dict[int, str]):
    """Escapes of unprintable characters for str.translate; not cached, or foreign text could fill memory."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


class _JsonEscapes(dict[int, str]):
    def __missing__(self, code: int) -> str:
        letter = chr(code)
        if letter.isprintable() or letter == "\n":
            return letter
        units = letter.encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


_ESCAPES, _JSON_ESCAPES = _Escapes(), _JsonEscapes()
