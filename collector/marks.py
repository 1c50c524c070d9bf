"""People's marks on GPUs, and which of them currently apply."""

import bisect
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from collector.timestamps import MAX_TIME, parse_end

__all__ = [
    "MAX_ID_LENGTH",
    "MAX_MARKS",
    "MAX_NOTE_LENGTH",
    "MAX_TICKET_LENGTH",
    "MAX_WHO_LENGTH",
    "NO_MARKS",
    "Mark",
    "MarkKind",
    "MarkedGpu",
    "Marks",
    "NewMark",
    "check_id",
    "check_who",
    "parse_until",
]

MAX_MARKS = 10_000  # that can apply at the same time
MAX_ID_LENGTH = 128  # characters of a serial or UUID; readings have shorter ones
MAX_NOTE_LENGTH = 500  # characters
MAX_TICKET_LENGTH = 300  # characters; it is the value of a label
MAX_WHO_LENGTH = 100  # characters

_BARE_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_TICKET_ID = re.compile(r"[\w#][\w#./-]*")  # such as OPS-123, which browsers do not mistake for a URL


class MarkKind(StrEnum):
    """The kind of mark: the closed set of the `mark` label."""

    RMA = "rma"
    QUARANTINE = "quarantine"
    WATCH = "watch"


class NewMark(msgspec.Struct, frozen=True, kw_only=True):
    """A new mark; ValueError says what was expected."""

    kind: MarkKind
    note: str = ""
    ticket: str = ""  # a URL, or a ticket's name
    until: float | None = None  # Unix seconds when it expires; None: never

    def __post_init__(self) -> None:
        """Check the values, which are shown to others; the ticket is a link and a label value."""
        _check_text("note", self.note, MAX_NOTE_LENGTH)
        _check_text("ticket", self.ticket, MAX_TICKET_LENGTH)
        if self.ticket and not (_TICKET_ID.fullmatch(self.ticket) or _is_web_address(self.ticket)):
            raise ValueError(
                "ticket: expected an http or https URL without user and password, or a name such as OPS-123"
            )

    def check_until(self, now: float) -> None:
        """Check that it has not already expired at `now` (Unix seconds)."""
        if self.until is not None and not now < self.until <= MAX_TIME:
            raise ValueError("until: expected a time in the future, before the year 10000")


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """One mark on one GPU, from when it was set until it was removed; times are Unix seconds.

    For a GPU that was unknown when marked, only the given UUID or serial is set.
    """

    id: int = 0  # in the store
    uuid: str | None = None
    serial: str | None = None
    kind: MarkKind
    note: str = ""
    ticket: str = ""  # a URL, or a ticket's name
    set_at: float
    set_by: str
    until: float | None = None  # when it expires; None: never
    removed_at: float | None = None  # None if not removed
    removed_by: str | None = None  # None: it expired

    def in_force(self, now: float) -> bool:
        """Return whether it applies at a time (Unix seconds)."""
        return self.removed_at is None and (self.until is None or now < self.until)


class MarkedGpu(NamedTuple):
    """A marked GPU; serial or UUID is empty if neither the mark nor the inventory has it."""

    serial: str
    uuid: str
    mark: Mark


class Marks:
    """The current marks, one per GPU, by UUID or else by serial."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._by_uuid: dict[str, Mark] = {}
        self._by_serial: dict[str, Mark] = {}
        self._ends: list[float] = []
        self.version = 0  # differs after each `replace`
        self.incomplete = False  # a mark lacks its GPU's serial or UUID
        self.replace(marks)

    def replace(self, marks: Iterable[Mark]) -> None:
        """Replace all marks with these."""
        by_uuid: dict[str, Mark] = {}
        by_serial: dict[str, Mark] = {}
        for mark in marks:
            if mark.uuid is not None:
                by_uuid[mark.uuid] = mark
            elif mark.serial is not None:
                by_serial[mark.serial] = mark
        self._by_uuid, self._by_serial = by_uuid, by_serial
        self._ends = sorted(mark.until for mark in self if mark.until is not None)
        self.incomplete = any(mark.uuid is None or mark.serial is None for mark in self)
        self.version += 1

    def expired(self, now: float) -> int:
        """Return how many have expired at `now` (Unix seconds) since they were last set."""
        return bisect.bisect_right(self._ends, now)

    def of(self, uuid: str, serial: str | None, now: float) -> Mark | None:
        """Return the mark that applies to a GPU at `now` (Unix seconds), if any."""
        if not self._by_uuid and not self._by_serial:
            return None
        for mark in (self._by_uuid.get(uuid), self._by_serial.get(serial) if serial is not None else None):
            if mark is not None and mark.in_force(now):
                return mark
        return None

    def all(self, now: float) -> list[Mark]:
        """Return all marks that apply at `now` (Unix seconds), newest first."""
        return sorted((mark for mark in self if mark.in_force(now)), key=lambda mark: mark.set_at, reverse=True)

    def __iter__(self) -> Iterator[Mark]:
        """Return the marks as last set, including those that have expired since."""
        return iter((*self._by_uuid.values(), *self._by_serial.values()))


NO_MARKS = Marks()  # shared and never filled


def check_id(text: str) -> str:
    """Return a GPU's serial or UUID in gpuid's spelling; ValueError says what was expected.

    A UUID may lack its "GPU-", as in other tools.
    """
    name = text.strip()
    if not name:
        raise ValueError("expected a serial or UUID")
    if len(name) > MAX_ID_LENGTH:
        raise ValueError(f"expected a serial or UUID of at most {MAX_ID_LENGTH} characters, got {len(name)}")
    if not name.isprintable() or any(letter.isspace() for letter in name) or "," in name:
        raise ValueError("expected one serial or UUID, without blanks, commas and control characters")
    if name in (".", "..") or name.upper() == "GPU-" or name.upper().startswith("MIG-"):
        raise ValueError("expected a GPU's serial or UUID")
    return f"GPU-{name.lower()}" if _BARE_UUID.fullmatch(name) else name


def parse_until(text: str, now: float) -> float:
    """Return when a mark expires (Unix seconds): a time, or how long from now; ValueError says what was expected."""
    try:
        return parse_end(text, now)
    except ValueError as error:
        raise ValueError(f"until: {error}") from None


def check_who(text: str) -> str:
    """Return the author of a mark; ValueError says what was expected."""
    if not text.strip():
        raise ValueError("expected a name")
    _check_text("name", text, MAX_WHO_LENGTH)
    return text


def _check_text(field: str, text: str, most: int) -> None:
    if len(text) > most:
        raise ValueError(f"{field}: expected at most {most} characters, got {len(text)}")
    if not text.isprintable():
        raise ValueError(f"{field}: expected one line without control characters")


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host, user = parts.hostname, parts.username
    except ValueError:  # such as an IPv6 address without its end
        return False
    return parts.scheme in ("http", "https") and bool(host) and user is None and " " not in text
