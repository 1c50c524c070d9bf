"""Decides the effect of one write on the active marks: which GPU a name refers to, and which mark ends."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.marks import MAX_MARKS, Mark, NewMark
from collector.model import GpuidError, canonical_uuid
from collector.store import schema
from collector.store.sound import optional_text, text
from collector.text import counted, enumerated

__all__ = ["Book", "KnownGpu", "KnownGpus", "Marked", "Refusal", "RefusedMarkError", "Unmarked", "parts"]

MAX_NAMED_UUIDS = 8  # named in an error
VALUES_PER_QUERY = 500

_T = TypeVar("_T")


class KnownGpu(NamedTuple):
    """The identifiers of a named GPU."""

    uuid: str
    serial: str | None


class Refusal(NamedTuple):
    """A request that cannot be fulfilled for a GPU, as it was named, and why."""

    name: str
    reason: str


class RefusedMarkError(GpuidError):
    """Nothing was written, because it is impossible for some GPUs; each has a line with the reason."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        super().__init__("; ".join(f"{one.name}: {one.reason}" for one in refusals))
        self.refusals = tuple(refusals)


class Marked(NamedTuple):
    """The result for one GPU to be marked."""

    name: str  # as given
    mark: Mark
    seen: bool  # whether gpuid has ever seen this GPU
    former: Mark | None  # the previous mark that this one ended
    unchanged: bool = False  # it already had this mark


class Unmarked(NamedTuple):
    """The result for one GPU whose mark was to be removed; None: it had none."""

    name: str
    mark: Mark | None
    still: Mark | None = None  # a mark of its serial, from before the GPU was known, which now applies to the GPU


class KnownGpus:
    """The GPUs to which some names may refer, by UUID and by serial."""

    def __init__(self) -> None:
        self._serials: dict[str, str | None] = {}  # the newest known data, by UUID
        self._holders: dict[str, set[str]] = {}  # UUIDs, by serial
        self._chassis: set[str] = set()

    def add(self, uuid: str, serial: str | None) -> None:
        """Add a GPU's current or former identifiers, newest first."""
        self._serials[uuid] = self._serials.get(uuid) or serial
        if serial is not None:
            self._holders.setdefault(serial, set()).add(uuid)

    async def load(self, connection: AsyncConnection, names: Collection[str]) -> None:
        """Add the GPUs that the history and earlier marks have for some names."""
        uuids = {canonical_uuid(name) for name in names}
        await self._search(connection, uuids, set(names))
        serials = {serial for uuid in uuids if (serial := self._serials.get(uuid)) is not None}
        await self._search(connection, set(), serials.difference(names))
        unknown = sorted(name for name in names if not self.named(name))
        for part in parts(unknown):
            found = await connection.scalars(select(_placements.chassis).where(_placements.chassis.in_(part)))
            self._chassis.update(map(text, found))

    def named(self, name: str) -> list[KnownGpu]:
        """Return the GPUs to which a name refers, by UUID."""
        uuid = canonical_uuid(name)
        found = [uuid] if uuid in self._serials else sorted(self._holders.get(name, ()))
        return [KnownGpu(one, self._serials[one] if one == uuid else name) for one in found]

    def is_chassis(self, name: str) -> bool:
        """Return whether a name is that of a chassis and not of a GPU."""
        return name in self._chassis

    def is_only_holder(self, uuid: str, serial: str) -> bool:
        """Return whether no other known GPU has the serial."""
        return self._holders.get(serial, {uuid}) <= {uuid}

    async def _search(self, connection: AsyncConnection, uuids: set[str], serials: set[str]) -> None:
        for table, moment_of in ((_placements, _placements.since), (_marks, _marks.set_at)):
            for column, wanted in ((table.uuid, uuids), (table.serial, serials)):
                for part in parts(sorted(wanted)):
                    newest = func.max(moment_of)
                    query = (
                        select(table.uuid, table.serial)
                        .where(column.in_(part), table.uuid.is_not(None))
                        .group_by(table.uuid, table.serial)
                        .order_by(newest.desc())
                    )
                    if table is _marks:  # a GPU marked only by its UUID was never seen
                        query = query.where(table.serial.is_not(None))
                    for uuid, serial in map(tuple, await connection.execute(query)):
                        self.add(text(uuid), optional_text(serial))


class Book:
    """The marks that have not been removed, and the effect of one write on them."""

    def __init__(self, marks: Iterable[Mark], known: KnownGpus, now: float, by: str, most: int = MAX_MARKS) -> None:
        self.new: dict[int, Mark] = {}  # by identity, in order
        self.ended: list[Mark] = []
        self._known = known
        self._now = now
        self._by = by
        self._most = most  # the limit of active marks
        self._by_uuid: dict[str, Mark] = {}
        self._by_serial: dict[str, list[Mark]] = {}
        self._refused: list[Refusal] = []
        for mark in marks:
            self._add(mark)

    def mark(self, name: str, new: NewMark) -> Marked:
        """Mark a GPU, and return the result."""
        found = self._known.named(name)
        uuid, serial = found[0] if found else _as_named(name)
        values = msgspec.structs.asdict(new)
        mark = Mark(uuid=uuid, serial=serial, set_at=self._now, set_by=self._by, **values)
        if len(found) > 1:
            self._refuse(name, f"{counted(len(found), 'GPU')} have this serial", [gpu.uuid for gpu in found])
        elif not found and self._known.is_chassis(name):
            self._refused.append(Refusal(name, "this is the serial of a chassis; use those of its GPUs"))
        else:
            formers = self._marks_of(uuid, serial)
            former = next((one for one in formers if one.in_force(self._now)), None)
            if former is not None and all(getattr(former, field) == value for field, value in values.items()):
                return Marked(name, former, bool(found), None, unchanged=True)
            for one in formers:
                self._end(one)
            self._add(mark)
            self.new[id(mark)] = mark
            return Marked(name, mark, bool(found), former)
        return Marked(name, mark, bool(found), None)

    def unmark(self, name: str) -> Unmarked:
        """Remove a GPU's mark, and return the result."""
        found = self._named(name)
        if len(found) > 1:
            uuids = sorted(mark.uuid for mark in found if mark.uuid is not None)
            self._refuse(name, f"{counted(len(found), 'marked GPU')} have this serial", uuids)
            return Unmarked(name, None)
        by_serial = self._by_serial_of(name)
        if not found and by_serial is not None:
            reason = f"it is marked by its serial {by_serial.serial}, as every GPU with it is; unmark the serial"
            self._refused.append(Refusal(name, reason))
        for mark in found:
            self._end(mark)
        still = None if by_serial in found else by_serial
        return Unmarked(name, self._as_ended(found[0]) if found else None, still)

    def check(self) -> None:
        """Check that everything can be written; raises RefusedMarkError."""
        if self._refused:
            raise RefusedMarkError(self._refused)
        marks = [*self._by_uuid.values(), *(mark for group in self._by_serial.values() for mark in group)]
        count = len({id(mark) for mark in marks if mark.in_force(self._now)})
        if self.new and count > self._most:
            reason = f"{counted(count, 'GPU')} would be marked, and at most {self._most:,} can be; unmark some"
            raise RefusedMarkError([Refusal(counted(len(self.new), "mark"), reason)])

    def endings(self) -> Iterable[tuple[float, str | None, list[int]]]:
        """Yield when and by whom marks were ended, with their ids."""
        groups: dict[tuple[float, str | None], list[int]] = {}
        for mark in self.ended:
            if mark.until is not None and mark.until <= self._now:  # it expired then
                groups.setdefault((mark.until, None), []).append(mark.id)
            else:
                groups.setdefault((max(self._now, mark.set_at), self._by), []).append(mark.id)
        for (time, who), ids in groups.items():
            yield time, who, ids

    def _as_ended(self, mark: Mark) -> Mark:
        return msgspec.structs.replace(mark, removed_at=max(self._now, mark.set_at), removed_by=self._by)

    def _by_serial_of(self, name: str) -> Mark | None:
        """Return the active mark of the serial, from before the GPU was known, of a GPU named by its UUID."""
        uuid = canonical_uuid(name)
        serial = next((gpu.serial for gpu in self._known.named(name) if gpu.uuid == uuid), None)
        if serial is None:
            return None
        marks = self._by_serial.get(serial, ())
        return next((mark for mark in marks if mark.uuid is None and mark.in_force(self._now)), None)

    def _add(self, mark: Mark) -> None:
        if mark.uuid is not None:
            self._by_uuid[mark.uuid] = mark
        if mark.serial is not None:
            self._by_serial.setdefault(mark.serial, []).append(mark)

    def _end(self, mark: Mark) -> None:
        if mark.uuid is not None:
            del self._by_uuid[mark.uuid]
        if mark.serial is not None:
            self._by_serial[mark.serial].remove(mark)
        if self.new.pop(id(mark), None) is None:  # otherwise the same GPU was named twice
            self.ended.append(mark)

    def _refuse(self, name: str, reason: str, uuids: Collection[str]) -> None:
        self._refused.append(Refusal(name, f"{reason} ({enumerated(uuids, MAX_NAMED_UUIDS)}); use the UUID"))

    def _marks_of(self, uuid: str | None, serial: str | None) -> list[Mark]:
        """Return the marks of one GPU: its own, and any of its serial from before the GPU was known."""
        found = [self._by_uuid[uuid]] if uuid in self._by_uuid else []
        if serial is not None and (uuid is None or self._known.is_only_holder(uuid, serial)):
            found += [mark for mark in self._by_serial.get(serial, ()) if mark.uuid is None]
        return found

    def _named(self, name: str) -> list[Mark]:
        """Return the active marks for a name: those made under this name, or those of the GPU to which it refers."""
        uuid = canonical_uuid(name)
        found = [self._by_uuid[uuid]] if uuid in self._by_uuid else self._by_serial.get(name, [])
        if by_serial := [mark for mark in found if mark.uuid is None]:
            found = by_serial
        if not found:
            found = [mark for gpu in self._known.named(name) for mark in self._marks_of(gpu.uuid, gpu.serial)]
        return [mark for mark in found if mark.in_force(self._now)]


def _as_named(name: str) -> tuple[str | None, str | None]:
    """Return the UUID and serial of an unknown GPU: one of them is its name."""
    return (canonical_uuid(name), None) if name.upper().startswith("GPU-") else (None, name)


def parts(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Yield the values in chunks that fit into one statement."""
    return (values[start : start + VALUES_PER_QUERY] for start in range(0, len(values), VALUES_PER_QUERY))


_marks, _placements = schema.marks.c, schema.placements.c
