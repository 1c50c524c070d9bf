"""Parses pasted text for look-ups: serials, UUIDs, nodes and addresses, with any separators and labels."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from collector.model import Place
from collector.text import one_line

__all__ = ["MAX_TERMS", "MAX_TERM_LENGTH", "Term", "is_digits", "parse_term", "parse_terms", "short_bus"]

MAX_TERMS = 10_000  # looked up at once
MAX_TERM_LENGTH = 500  # characters; the longest provider ids have about 300
MAX_WORDS = 8  # of a text with blanks that may be one name, such as a model
MAX_PLACE_WORDS = 3  # of a text that may only be a node with its cluster
MAX_GROUP_LENGTH = 7  # digits per group of a serial written with blanks
MAX_SHOWN_LENGTH = 120  # characters of a term in an error


class Term(NamedTuple):
    """One id as given, and everything it may mean."""

    text: str
    readings: tuple[str, ...] = ()  # most likely first
    places: tuple[Place, ...] = ()  # possible meanings of "cluster/node"
    bus: str = ""  # a PCI bus address in upper case, with its eight-digit domain if it has one
    node: str = ""  # of the address, if given with it
    at: str = ""  # the time in one of our URLs
    words: tuple["Term", ...] = ()  # its words, in case it means nothing as a whole
    note: str = ""  # why it may not be found

    @property
    def grouped(self) -> bool:
        """Whether it is groups of digits, and so likely one serial with blanks instead of several ids."""
        return bool(self.words) and all(
            is_digits(word.text) and len(word.text) <= MAX_GROUP_LENGTH for word in self.words
        )


def parse_terms(text: str, *, most: int = MAX_TERMS) -> list[Term]:
    """Return the ids in a text of lines, cells or lists, in order and including repetitions.

    Blanks also separate ids, unless the words are one name: only the fleet can tell, so such a term has `words`.
    Headers ("Serial") and empty cells are skipped. Raises ValueError, also for more than `most`.
    """
    terms: list[Term] = []
    count = 0
    for number, cell in enumerate(_cells(text)):
        if number == 0 and _HEADING.fullmatch(cell) and _SEPARATORS.search(text.strip()):
            continue
        for term in _split(cell, count + 1):
            count += max(1, len(term.words))
            if count > most:
                raise ValueError(f"expected at most {most:,} ids at once, got more; split them into several requests")
            terms.append(term)
    return terms


def parse_term(text: str, number: int = 1) -> Term:
    """Return a whole text as one id, whatever it contains; raises ValueError."""
    cell, cells = _clean(text), list(_cells(text))
    _check_length(cell, number)
    if not cells:
        return Term(one_line(text, MAX_SHOWN_LENGTH))
    if len(cells) > 1:
        return _term(cell.replace("\0", " "), number)
    term = _term(cells[0], number)  # without quotes, commas and scanner prefixes
    return term if cell == cells[0] or "\0" in cell else term._replace(readings=(cell, *term.readings))


def is_digits(text: str) -> bool:
    """Return whether a text consists of ASCII digits only."""
    return text.isascii() and text.isdigit()


def short_bus(address: str) -> str:
    """Return a PCI bus address in upper case without its domain."""
    return ":".join(address.upper().rsplit(":", 2)[-2:])


def _cells(text: str) -> Iterator[str]:
    """Yield the cells of a text; headers only if there is nothing else."""
    cells = [cell for cell in map(_clean, _SEPARATORS.split(text)) if cell and cell not in _ENVELOPE]
    naming = [cell for cell in cells if not _NAMELESS.fullmatch(cell)]
    yield from naming or cells


def _clean(text: str) -> str:
    return " ".join(text.translate(_UNSEEN).split())


def _split(cell: str, number: int) -> Iterator[Term]:
    """Yield the terms of one cell."""
    ids = _LISTED.findall(cell)
    if ids:
        yield from (_term(one, number + index) for index, one in enumerate(ids))
        return
    words = cell.split(" ")
    if len(words) > MAX_WORDS:
        for index, word in enumerate(word for word in words if not _LABEL_WORD.fullmatch(word)):
            _check_length(word, number + index)
            yield _term(word, number + index)
        return
    _check_length(cell, number)
    term = _term(cell, number)
    kept = [word for word in _without_label(cell).split(" ") if not _LABEL_WORD.fullmatch(word)]
    if len(kept) > 1 and (not term.places or len(kept) > MAX_PLACE_WORDS):
        term = term._replace(words=tuple(_term(word, number) for word in kept))
    yield term


def _check_length(text: str, number: int) -> None:
    if len(text) > MAX_TERM_LENGTH:
        shown = one_line(text, 20)
        raise ValueError(f'id {number:,} ("{shown}"): expected at most {MAX_TERM_LENGTH} characters, got {len(text):,}')


def _term(cell: str, number: int) -> Term:
    shown = one_line(cell, MAX_TERM_LENGTH)
    if _ADDRESS.search(cell):
        found = _address(cell, number)
        if found is not None:
            return found._replace(text=shown)
    readings = dict.fromkeys(_readings(cell))
    places = dict.fromkeys(_places(cell))
    bus, node = next(filter(None, map(_bus, readings)), ""), ""
    if not bus and cell.count(" ") == 1:  # "gpu-0003 0000:4e:00.0"
        node, address = cell.split(" ")
        bus = _bus(_without_label(address))
        if _HEADING.fullmatch(node):  # "bus 4e:00.0"
            node = ""
    return Term(shown, tuple(readings), tuple(places), bus, node if bus else "", note=_note(cell))


def _readings(cell: str) -> Iterator[str]:
    """Yield possible readings of an id, its own spelling first."""
    yield cell
    plain = unicodedata.normalize("NFKC", cell).translate(_DASHES)
    yield plain
    bare = _without_label(plain).strip(_BRACKETS)
    for name in (bare, bare.replace(" ", "")):
        if not name:
            continue
        yield name
        if (uuid := _uuid(name)) is not None:
            yield uuid
        if (labelled := _SCANNED.fullmatch(name)) is not None:
            yield labelled[1]
        if (number := _SPREADSHEET.fullmatch(name)) is not None:
            yield number[1]
        if _PROVIDED.match(name) and not name.endswith("/"):
            yield name.rpartition("/")[2]


def _without_label(text: str) -> str:
    return _LABEL.sub("", text)


def _uuid(name: str) -> str | None:
    found = _UUID.fullmatch(name)
    if found is None:
        return None
    digits = found[1].replace("-", "").lower()
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "GPU-" + "-".join(parts)


def _places(cell: str) -> Iterator[Place]:
    for found in (_NAMED.fullmatch(cell), _NODE_OF.fullmatch(cell)):
        if found is not None:
            yield Place(found[2], found[1])
    name = _without_label(cell).replace(" / ", "/")
    if not _PROVIDED.match(name) and not _UUID.fullmatch(name):
        for index, letter in enumerate(name):
            if letter == "/" and 0 < index < len(name) - 1 and " " not in name[index:]:
                yield Place(name[:index], name[index + 1 :])


def _bus(text: str) -> str:
    found = _BUS.fullmatch(text)
    if found is None:
        return ""
    domain, bus, function = found[1], found[2], found[3] or ".0"
    return f"{domain.zfill(8) + ':' if domain else ''}{bus}{function}".upper()


def _address(cell: str, number: int) -> Term | None:
    """Return the target of one of our URLs, with any host and prefix; None for any other URL."""
    try:
        url = urlsplit(cell if "://" in cell or cell.startswith("/") else f"//{cell}")
    except ValueError:  # such as an IPv6 address without its end
        return None
    query = parse_qs(url.query)
    at = query.get("at", [""])[0]
    names = [unquote(name) for name in url.path.split("/")]
    for index in range(len(names) - 2, -1, -1):
        name = names[index + 1]
        if names[index] not in _COLLECTIONS or not name:
            continue
        if names[index] == "nodes" and index >= 2 and names[index - 2] == "clusters":
            return Term(cell, (), (Place(names[index - 1], name),), at=at)
        if name != "lookup":
            return _term(_clean(name), number)._replace(at=at)
    for key in _QUERIED:
        if key in query:
            return _term(_clean(query[key][0]), number)._replace(at=at)
    return Term(cell, (cell,), note="this URL is not the page of a GPU, node or cluster") if "://" in cell else None


def _note(cell: str) -> str:
    if _ROUNDED.fullmatch(cell):
        return "a spreadsheet rounded it: format the column as text and copy it again"
    if cell.upper().startswith("MIG-") and not cell.upper().startswith("MIG-GPU-"):
        return "this is the UUID of a MIG instance; only those of GPUs are recorded"
    return ""


_SEPARATORS = re.compile("[\r\n\t\v\f\0\x04\x1c-\x1f\x85\u2028\u2029,;|\"'`“”„‟‘’‚‛«»、，；]+")  # noqa: RUF001  separators from spreadsheets, chats and scanners
_ENVELOPE = frozenset({"[)>", "06", "[", "]", "-"})  # of a Data Matrix code of ISO/IEC 15434, and of lists
# Invisible characters: soft hyphens, joiners, direction marks, a byte order mark.
_UNSEEN = dict.fromkeys([0xAD, 0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF])
_DASHES = dict.fromkeys((*range(8208, 8214), 8722), "-")
_PROVIDED = re.compile(r"\w+://|nodes?/", re.IGNORECASE)  # an id of a cloud, or kubectl's "node/NAME"
_BRACKETS = "()[]{}<>.:#=* "
_SERIAL_WORD = r"(?:s/?n|serial(?:[\s_-]*(?:number|num|no|nr))?)"
_LABEL_NAMES = (
    rf"(?:(?:gpu|card|board|chassis|node|nvidia|product)[\s_-]*)?(?:{_SERIAL_WORD}|uuid|u?id|node(?:[\s_-]*name)?"
    r"|host(?:name)?|machine|chassis|gpu|part(?:[\s_-]*(?:number|no))?|p/?n|model|pci(?:[\s_-]*bus(?:[\s_-]*id)?)?"
    r"|bus(?:[\s_-]*id)?|provider[\s_-]*id|ticket)s?\.?"
)
_LABEL = re.compile(rf"^{_LABEL_NAMES}\s*[:=#@]\s*(?=\S)", re.IGNORECASE)
_HEADING = re.compile(_LABEL_NAMES, re.IGNORECASE)
_LABEL_WORD = re.compile(rf"{_LABEL_NAMES}\s*[:=#]|{_SERIAL_WORD}\.?|\W", re.IGNORECASE)
_NAMELESS = re.compile(rf"\W+|{_LABEL_NAMES}\s*[:=#]", re.IGNORECASE)
# "SN1652923034028" of a scanner, "S…" or "1S…" of a data identifier, "1P…" before a part number, "(21)…" of GS1.
_SCANNED = re.compile(rf"(?:{_SERIAL_WORD}\.?[\s:#-]*|1?S\)?|1P|\(?21\))(?=\w*\d)(\w[\w.-]{{3,}})", re.IGNORECASE)
_SPREADSHEET = re.compile(r"'?(\d{6,})\.0+", re.ASCII)
_ROUNDED = re.compile(r"\d(?:[.,]\d+)?E\+?\d+", re.ASCII | re.IGNORECASE)
_HEX = r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}"
_UUID = re.compile(rf"(?:MIG-)?(?:GPU-)?({_HEX})(?:/\d+){{0,2}}", re.IGNORECASE)
_LISTED = re.compile(r"\(UUID: ([\w/-]+)\)")  # in a line of `nvidia-smi -L`
_NAMED = re.compile(r"(?:on )?(\S+) \((.+)\)")  # "gpu-0003 (sim-0)", as on the page
_NODE_OF = re.compile(r"(?:on |in )?(\S+) (?:of|·|in) (\S+)")
_BUS = re.compile(r"(?:([0-9a-f]{8}|[0-9a-f]{4}):)?([0-9a-f]{2}:[0-9a-f]{2})(\.[0-7])?", re.ASCII | re.IGNORECASE)
_COLLECTIONS = frozenset({"gpus", "nodes", "clusters", "chassis"})
_QUERIED = ("q", "ids", "serial", "uuid", "node", "chassis", "machine", "cluster")
_ADDRESS = re.compile(r"^https?://|/(?:gpus|nodes|clusters|chassis)/|/(?:search|lookup|gpus|nodes)\?", re.IGNORECASE)
