"""Finds known secrets in a text by their letters and digits, directly and in everything the text may encode."""

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from collector.encodings import UTF8, Decoded, Span, decodings
from collector.text import one_line

__all__ = ["SHORT_LENGTH", "TERMINAL_SEQUENCE", "SecretIndex"]

MIN_PIECE_LENGTH = 8  # letters and digits of a secret that are secret on their own
MIN_WORDS_LENGTH = 12  # likewise for letters only, which may be ordinary words
BLOCK, STEP = 5, 4  # letters and digits: any piece of MIN_PIECE_LENGTH contains a block that begins at a step
MAX_PLACES = 16  # of secrets with the same block to compare
SHORT_LENGTH = 6  # a shorter secret is found only as a word, since it may be part of an ordinary one
MIN_BEGINNING_LENGTH = 4  # characters of a secret that count at the end of a text, which may be truncated
MIN_ENCODED_LENGTH = 8  # printable characters in decoded bytes that may be encoded, too
MIN_ENCODED_PIECE_LENGTH = 11  # likewise if all secrets have MIN_PIECE_LENGTH letters and digits: their base64
MAX_DEPTH = 5  # nested encodings to decode
MAX_WORK, MIN_WORK, WORK_PER_CHARACTER = (
    50_000,
    10_000,
    40,
)  # characters decoded per text; beyond that, its end is dropped

TERMINAL_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-2AB]")

_LETTERS = re.compile(r"[^\W_]+")
# Also without ESC, which may have been lost.
_SEQUENCE = re.compile(rf"{TERMINAL_SEQUENCE.pattern}|\[[0-9;?]{{0,12}}[A-HJKSTfhlmnsu]")
_READABLE_RUN = re.compile(rf"(?:[\t\n\r\x1b -~]|{UTF8.pattern}){{{MIN_ENCODED_LENGTH},}}")
_OTHER = re.compile(r"[^\x00-\x7f]")


def _lower(text: str) -> str:
    """Return a text in lower case, of the same length."""
    return text.replace("İ", "I").lower()


def _skeleton(text: str) -> str:
    """Return the letters and digits of a text."""
    return "".join(_LETTERS.findall(text))


def _skeleton_positions(text: str) -> list[int]:
    return [at for found in _LETTERS.finditer(text) for at in range(*found.span())]


def _blanks(found: re.Match[str]) -> str:
    return " " * len(found[0])


class SecretIndex(NamedTuple):
    """An index of secrets in lower case."""

    words: tuple[str, ...]  # verbatim, longest first
    short: tuple[str, ...]  # those found only as a whole: too few letters and digits for pieces
    cased: str  # the letters and digits of the others, each followed by a line feed
    letters: str  # the same in lower case
    places: dict[str, list[int]]  # BLOCK of these at each STEP -> positions; at most MAX_PLACES

    @classmethod
    def of(cls, secrets: Iterable[str]) -> "SecretIndex":
        """Return an index of secrets, the oldest first."""
        parts = {one_line(secret): None for secret in secrets}
        for part in tuple(parts):
            parts[part.encode(errors="replace").decode("latin-1")] = None  # as in text decoded from bytes
        words = {_lower(part): _skeleton(part) for part in parts if part.strip("*")}
        cased: list[str] = []
        places: dict[str, list[int]] = {}
        length = 0
        for skeleton in reversed(words.values()):  # the newest first
            if len(skeleton) < MIN_PIECE_LENGTH:
                continue
            lowered = _lower(skeleton)
            for at in range(0, len(skeleton) - BLOCK + 1, STEP):
                known = places.setdefault(lowered[at : at + BLOCK], [])
                if len(known) < MAX_PLACES:
                    known.append(length + at)
            cased.append(skeleton + "\n")
            length += len(skeleton) + 1
        joined = "".join(cased)
        longest_first = sorted(words, key=len, reverse=True)
        short = tuple(word for word in longest_first if len(words[word]) < MIN_PIECE_LENGTH)
        return cls(tuple(longest_first), short, joined, _lower(joined), places)

    def find(self, line: str, least: int) -> list[Span] | None:
        """Return where secrets of at least `least` characters are, whole or in pieces, plain or encoded.

        None: the line may encode more than there is time to search.
        """
        spans = list(_whole(_lower(line), self.words, least))
        budget = min(MAX_WORK, MIN_WORK + WORK_PER_CHARACTER * len(line))
        texts = deque([_Text(line, lambda start, end: (start, end), depth=0, root=0)])
        seen = {(0, line)}
        roots = itertools.count(1)
        while texts:
            text = texts.popleft()
            spans += (text.origin(*span) for span in self._found(text.text, least))
            for decoded in decodings(text.text) if text.depth < MAX_DEPTH else ():
                budget -= len(decoded.text)
                if budget < 0:
                    return None
                inner = text.inner(decoded)
                if decoded.is_bytes:
                    spans += (inner.origin(*span) for span in self._found_in_bytes(inner.text, least))
                    texts += self._readable(inner, roots)
                elif (inner.root, inner.text) not in seen:
                    seen.add((inner.root, inner.text))
                    texts.append(inner)
        return spans

    def _found(self, text: str, least: int) -> Iterator[Span]:
        lowered = _lower(text)
        yield from _whole(lowered, self.short, least)
        yield from _cut_off(lowered, self.words, least)
        yield from self._pieces(text)

    def _found_in_bytes(self, text: str, least: int) -> Iterator[Span]:
        yield from _whole(
            _lower(text), self.short, max(least, SHORT_LENGTH)
        )  # shorter ones occur in any bytes by chance
        yield from self._pieces(text)

    def _readable(self, text: "_Text", roots: Iterator[int]) -> Iterator["_Text"]:
        """Yield the parts of decoded bytes that may themselves encode something."""
        least = MIN_ENCODED_LENGTH if self.short else MIN_ENCODED_PIECE_LENGTH
        for run in _READABLE_RUN.finditer(text.text):
            if len(run[0]) >= least:
                yield text.part(*run.span(), root=next(roots))

    def _pieces(self, text: str) -> Iterator[Span]:
        if not (self.letters.isascii() or text.isascii()):
            yield from self._pieces_of(text)
        text = _OTHER.sub(" ", text)  # such as marks and invisible characters, which appear as letters in bytes
        yield from self._pieces_of(text)
        if "[" in text:  # possibly of a control sequence: "[5A" may also begin a secret
            yield from self._pieces_of(_SEQUENCE.sub(_blanks, text))

    def _pieces_of(self, text: str) -> Iterator[Span]:
        skeleton = _lower(_skeleton(text))
        last = len(skeleton) - BLOCK + 1
        blocks = map(skeleton.__getitem__, map(slice, range(last), range(BLOCK, last + BLOCK)))
        if self.places.keys().isdisjoint(blocks):
            return
        positions = _skeleton_positions(text)
        at = 0
        while at < last:
            reach = 0
            for place in self.places.get(skeleton[at : at + BLOCK], ()):
                before, after = _agreement(skeleton, at, self.letters, place)
                if self._is_secret(place - before, place + after):
                    yield positions[at - before], positions[at + after - 1] + 1
                    reach = max(reach, at + after)
            at = max(at + 1, reach - MIN_PIECE_LENGTH + 1)  # anything longer has a block from there on

    def _is_secret(self, start: int, end: int) -> bool:
        """Return whether a piece is secret on its own: a few letters may be a word or two."""
        if end - start >= MIN_WORDS_LENGTH:
            return True
        piece = self.cased[start:end]
        is_whole = self.cased[start - 1 : start] in {"", "\n"} and self.cased[end] == "\n"
        is_word = piece.isalpha() and (piece[1:].islower() or piece.isupper())
        return end - start >= MIN_PIECE_LENGTH and (is_whole or not is_word)


class _Text(NamedTuple):
    """A text in a line, possibly encoded."""

    text: str
    origin: Callable[[int, int], Span]  # maps a position in it to one in the line
    depth: int  # nesting depth of encodings
    root: int  # the part of the line that may encode it, searched only once

    def inner(self, decoded: Decoded) -> "_Text":
        return _Text(decoded.text, lambda *span: self.origin(*decoded.origin(*span)), self.depth + 1, self.root)

    def part(self, start: int, end: int, root: int) -> "_Text":
        return _Text(self.text[start:end], lambda a, b: self.origin(start + a, start + b), self.depth, root)


def _whole(text: str, words: Iterable[str], least: int) -> Iterator[Span]:
    for word in words:
        at = text.find(word) if len(word) >= least else -1
        while at >= 0:
            end = at + len(word)
            if len(word) >= SHORT_LENGTH or not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum()):
                yield at, end
            at = text.find(word, end)


def _cut_off(text: str, words: Iterable[str], least: int) -> Iterator[Span]:
    """Yield beginnings of secrets at the end of a text, which may have been truncated by a limit."""
    end = len(text.rstrip("….\"'"))
    for word in words:
        start = max(0, end - len(word))
        at = text.find(word[:MIN_BEGINNING_LENGTH], start, end) if len(word) >= least else -1
        while at >= 0:
            if word.startswith(text[at:end]):
                yield at, end
                break
            at = text.find(word[:MIN_BEGINNING_LENGTH], at + 1, end)


def _agreement(text: str, at: int, other: str, place: int) -> tuple[int, int]:
    """Return how many characters before and after a position are equal in two texts."""
    before = 0
    while before < min(at, place) and text[at - before - 1] == other[place - before - 1]:
        before += 1
    after = BLOCK
    while at + after < len(text) and text[at + after] == other[place + after]:  # which ends with a line feed
        after += 1
    return before, after
