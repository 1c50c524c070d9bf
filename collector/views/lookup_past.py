"""Finds GPUs and nodes that are gone, in the history or else in the changes in memory."""

from collections.abc import Iterable, Sequence

from collector.model import Event, Gpu, Place, canonical_uuid
from collector.store import History, PastPlacement
from collector.views.cooperative import yielding
from collector.views.lookup_present import Hunts, keyed, parts_of
from collector.views.lookup_view import LookupView
from collector.views.matches import Hunt, Kind, Match
from collector.views.recent_changes import ChangeGroup

__all__ = ["MAX_SCANS", "find_past", "find_past_parts", "find_remembered", "last_places"]

MAX_SCANS = 10  # terms per look-up for which the whole history is scanned


async def find_past(view: LookupView, history: History, hunts: Sequence[Hunt]) -> None:
    """Find GPUs by their former serial, UUID or chassis, and nodes that are gone; raises StoreError."""
    names = await keyed(hunts)
    spellings = await _spellings(hunts)
    wanted: dict[tuple[int, str], tuple[int, Hunt, Kind]] = {}  # by hunt and UUID: the newest placement
    async for one in yielding(await history.identities(spellings)):
        for kind, value in ((Kind.UUID, one.uuid), (Kind.SERIAL, one.serial), (Kind.CHASSIS, one.chassis)):
            for hunt in names.get(value.lower(), ()) if value else ():
                key = (id(hunt), one.uuid)
                if not hunt.has(one.uuid) and (key not in wanted or wanted[key][0] < one.placement):
                    wanted[key] = (one.placement, hunt, kind)
    rows = await _numbered(history, (number for number, _, _ in wanted.values()))
    async for number, hunt, kind in yielding(sorted(wanted.values(), key=lambda one: one[0], reverse=True)):
        if (row := rows.get(number)) is not None:
            _add(view, hunt, kind, row)
    await _find_left_nodes(view, history, hunts, names, spellings)


async def _find_left_nodes(
    view: LookupView, history: History, hunts: Sequence[Hunt], names: Hunts, spellings: Sequence[str]
) -> None:
    places: dict[Place, list[Hunt]] = {}
    for hunt in hunts:
        for place in hunt.term.places:
            places.setdefault(place, []).append(hunt)
    asked = {*spellings, *(place.node for place in places)}
    wanted: list[tuple[int, Hunt]] = []
    async for one in yielding(await history.left_nodes(asked)):
        place = Place(one.cluster, one.node)
        if view.inventory.node(place) is None:
            wanted += [(one.placement, hunt) for hunt in (*names.get(one.node.lower(), ()), *places.get(place, ()))]
    rows = await _numbered(history, (number for number, _ in wanted))
    for number, hunt in sorted(wanted, key=lambda one: one[0], reverse=True):
        if (row := rows.get(number)) is not None:
            hunt.add(Place(row.cluster, row.node), Match(kind=Kind.NODE, former_node=row))


async def find_past_parts(view: LookupView, history: History, hunt: Hunt, most: int) -> None:
    """Scan the whole history for substrings; raises StoreError."""
    part = min(parts_of(hunt), key=len, default="")
    if not part:
        return
    for row in await history.where_like(part, limit=most + 1):
        if not hunt.has(row.uuid):
            _add(view, hunt, Kind.PARTIAL, row)
    for row in await history.left_like(part, limit=most + 1):
        place = Place(row.cluster, row.node)
        if view.inventory.node(place) is None:
            hunt.add(place, Match(kind=Kind.PARTIAL, former_node=row))
    if hunt.total > most:
        hunt.more = True


async def last_places(view: LookupView, history: History | None, uuids: Sequence[str]) -> dict[str, PastPlacement]:
    """Return where GPUs were last, by UUID, as far as known; raises StoreError."""
    if history is None:
        return {gpu.uuid: _remembered(group, gpu) for group, gpu in _gone(view) if gpu.uuid in uuids}
    newest: dict[str, int] = {}
    for one in await history.identities(uuids):
        newest[one.uuid] = max(one.placement, newest.get(one.uuid, 0))
    rows = await _numbered(history, newest.values())
    return {row.uuid: row for row in rows.values()}


async def find_remembered(view: LookupView, hunts: Sequence[Hunt]) -> None:
    """Find GPUs that left since the collector started, if the history is unavailable."""
    names = await keyed(hunts)
    for group, gpu in _gone(view):
        for kind, value in ((Kind.UUID, gpu.uuid), (Kind.SERIAL, gpu.serial), (Kind.CHASSIS, gpu.chassis)):
            for hunt in names.get(value.lower(), ()) if value else ():
                if not hunt.has(gpu.uuid):
                    _add(view, hunt, kind, _remembered(group, gpu))


def _gone(view: LookupView) -> Iterable[tuple[ChangeGroup, Gpu]]:
    return (
        (group, gpu)
        for group in view.recent_changes.newest(Event.VANISHED)
        for gpu in group.gpus
        if not view.inventory.find(uuid=gpu.uuid)
    )


def _remembered(group: ChangeGroup, gpu: Gpu) -> PastPlacement:
    return PastPlacement(
        id=0,
        uuid=gpu.uuid,
        serial=gpu.serial,
        model=gpu.model,
        chassis=gpu.chassis,
        cluster=group.place.cluster,
        node=group.place.node,
        machine="",
        since=0.0,  # unknown
        until=group.time,
        confirmed=group.time,
        last_known=gpu.last_known,
        tray=gpu.tray,
        slot=gpu.slot,
        module=gpu.module,
        pci_bus_id=gpu.pci_bus_id,
    )


def _add(view: LookupView, hunt: Hunt, kind: Kind, row: PastPlacement) -> None:
    now = tuple(one.place for one in view.inventory.find(uuid=row.uuid))
    hunt.add(row.uuid, Match(kind=kind, former_gpu=row, now=now))


async def _spellings(hunts: Iterable[Hunt]) -> list[str]:
    """Return possible spellings of the terms in the history, which is queried for exact text."""
    found: dict[str, None] = {}
    async for hunt in yielding(hunts):
        for name in hunt.term.readings:
            if " " not in name:
                found |= dict.fromkeys((canonical_uuid(name), name, name.lower(), name.upper()))
    return list(found)


async def _numbered(history: History, ids: Iterable[int]) -> dict[int, PastPlacement]:
    return {row.id: row async for row in history.numbered(set(ids))}
