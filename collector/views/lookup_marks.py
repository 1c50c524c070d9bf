"""Finds GPUs by the tickets of their marks, and the marks of GPUs that were never seen."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from collector.marks import Mark
from collector.model import Placement, canonical_uuid
from collector.store import History, PastPlacement, StoreError
from collector.views.cooperative import yielding
from collector.views.lookup_past import last_places
from collector.views.lookup_view import LookupView
from collector.views.matches import Hunt, Kind, Match

__all__ = ["find_marked"]


async def find_marked(view: LookupView, history: History | None, hunts: Sequence[Hunt]) -> None:
    """Find marks by ticket, and by serial or UUID those of otherwise unknown GPUs."""
    marks = view.marks.all(view.now())
    if not marks:
        return
    book = _Book(marks)
    wanted = [(hunt, one) async for hunt in yielding(hunts) for one in book.of(hunt)]
    present = {id(one.mark): _present(view, one.mark) for _, one in wanted}
    gone = [one.mark.uuid for _, one in wanted if one.mark.uuid and not present[id(one.mark)]]
    past = await _last_places(view, history, gone)
    for hunt, (kind, mark) in wanted:
        for placement in present[id(mark)]:
            hunt.add_gpu(kind, placement)
        if not present[id(mark)]:
            hunt.add(mark.uuid or mark.serial, Match(kind=kind, former_gpu=past.get(mark.uuid or ""), mark=mark))


class _Marked(NamedTuple):
    kind: Kind
    mark: Mark


class _Book:
    """Marks by ticket and by the GPUs they name."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._tickets: dict[str, list[Mark]] = {}
        self._named: dict[str, Mark] = {}
        for mark in marks:
            for key in {mark.ticket.lower(), mark.ticket.rstrip("/").rpartition("/")[2].lower()} - {""}:
                self._tickets.setdefault(key, []).append(mark)
            for name in (mark.uuid, mark.serial):
                if name is not None:
                    self._named[name.lower()] = mark

    def of(self, hunt: Hunt) -> Iterator[_Marked]:
        """Yield the marks whose ticket is a term, and that of the term's GPU if not found otherwise."""
        for reading in hunt.term.readings:
            key = reading.lower()
            for mark in self._tickets.get(key, ()):
                yield _Marked(Kind.TICKET, mark)
            named = None if hunt.found else self._named.get(key) or self._named.get(canonical_uuid(reading).lower())
            if named is not None:
                yield _Marked(Kind.UUID if key == (named.uuid or "").lower() else Kind.SERIAL, named)


def _present(view: LookupView, mark: Mark) -> list[Placement]:
    find = view.inventory.find
    return find(uuid=mark.uuid) if mark.uuid is not None else find(serial=mark.serial)


async def _last_places(view: LookupView, history: History | None, uuids: Sequence[str]) -> dict[str, PastPlacement]:
    try:
        return await last_places(view, history, uuids) if uuids else {}
    except StoreError:  # which the look-up reports itself
        return {}
