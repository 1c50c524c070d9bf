"""What people note of GPUs, and which of these marks are in force."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from collector.timestamps import rfc3339

__all__ = ["Mark", "MarkKind", "Marks", "mark_object"]


class MarkKind(StrEnum):
    """What is to become of a marked GPU: the closed set of the `mark` label."""

    RMA = "rma"
    QUARANTINE = "quarantine"
    WATCH = "watch"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """One mark of one GPU, from when it was set until it was removed; times are Unix seconds.

    A GPU that was unknown when it was marked has its UUID or its serial only, as it was given.
    """

    id: int = 0  # in the store
    uuid: str | None = None
    serial: str | None = None
    kind: MarkKind
    note: str = ""
    ticket: str = ""  # a URL, or what names it elsewhere
    set_at: float
    set_by: str
    until: float | None = None  # when it ends by itself; None: never
    removed_at: float | None = None  # None while nobody has removed it
    removed_by: str | None = None

    def in_force(self, now: float) -> bool:
        """Return whether it is in force at a time (Unix seconds)."""
        return self.removed_at is None and (self.until is None or now < self.until)


class Marks:
    """The marks in force: one for each GPU, found by its UUID or else by its serial."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._by_uuid: dict[str, Mark] = {}
        self._by_serial: dict[str, Mark] = {}
        self.replace(marks)

    def replace(self, marks: Iterable[Mark]) -> None:
        """Let exactly these marks be in force."""
        self._by_uuid, self._by_serial = {}, {}
        for mark in marks:
            if mark.uuid is not None:
                self._by_uuid[mark.uuid] = mark
            elif mark.serial is not None:
                self._by_serial[mark.serial] = mark

    def of(self, uuid: str, serial: str | None, now: float) -> Mark | None:
        """Return the mark of a GPU that is in force at `now` (Unix seconds), if it has one."""
        if not self._by_uuid and not self._by_serial:
            return None
        mark = self._by_uuid.get(uuid) or (self._by_serial.get(serial) if serial is not None else None)
        return mark if mark is not None and mark.in_force(now) else None

    def all(self, now: float) -> list[Mark]:
        """Return all marks that are in force at `now` (Unix seconds), the newest first."""
        found = [mark for mark in (*self._by_uuid.values(), *self._by_serial.values()) if mark.in_force(now)]
        return sorted(found, key=lambda mark: mark.set_at, reverse=True)


def mark_object(mark: Mark | None) -> dict[str, str | None] | None:
    """Return a mark as JSON has it in the row of a GPU; None for none."""
    if mark is None:
        return None
    return {
        "as": mark.kind.value,
        "note": mark.note,
        "ticket": mark.ticket,
        "until": rfc3339(mark.until),
        "set": rfc3339(mark.set_at),
        "by": mark.set_by,
    }
