"""The list of changes, newest first, in parts: from the history, or else from memory.

A replacement is one row, and so are the first sights of a cluster's nodes on one day. Parts never end within a row:
each row is complete and listed at its newest change.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from collector.model import CHANGE_EVENTS, Event, Gpu, Place
from collector.store import ChangeFilter, ChangePosition, FirstSights, HistoricChange, History
from collector.views.collector_view import CollectorView
from collector.views.history_query import HistoryAnswer, query_history
from collector.views.recent_changes import ChangeGroup, Folded, as_change, grouped
from collector.views.replacements import REPLACED_WITHIN_SECONDS, replaced

__all__ = ["EVENTS", "ChangeList", "fold_first_sights", "list_changes"]

EVENTS: tuple[str, ...] = (Folded.REPLACED, *CHANGE_EVENTS, Folded.FIRST_SEEN)

ROWS_PER_QUERY = 500  # changes
MAX_QUERIES = 20  # for one part; then it ends early
DAY_SECONDS = 86400.0

_EVENT_OF: Mapping[str, str] = {Folded.FIRST_SEEN: Event.APPEARED}  # its name in the history
_ARRIVING = (Event.APPEARED, Event.MOVED)
_EXCHANGING = (*_ARRIVING, Event.VANISHED)


class ChangeList(NamedTuple):
    """A part of the list."""

    groups: list[ChangeGroup]  # newest first
    older: ChangePosition | None  # where the next part begins; None at the end
    history: HistoryAnswer[ChangeGroup]  # whether the list is complete


class _Item(NamedTuple):
    """One row, with the position of the next part in case it is the last one."""

    position: ChangePosition
    group: ChangeGroup


async def list_changes(
    view: CollectorView,
    wanted: ChangeFilter,
    event: str = "",
    *,
    before: ChangePosition | None = None,
    limit: int,
) -> ChangeList:
    """Return a part of the changes, newest first; `event` is one of EVENTS, or empty for all."""
    older: ChangePosition | None = None

    async def read(history: History) -> list[ChangeGroup]:
        nonlocal older
        groups, older = await _from_history(history, wanted, event, before, limit)
        return groups

    answer = await query_history(view, read)
    if answer.available:
        return ChangeList(answer.rows, older, answer)
    groups, older = _from_memory(view, wanted, event, before, limit)
    return ChangeList(groups, older, answer)


def _is_chosen(wanted: ChangeFilter) -> bool:
    """Return whether single GPUs are selected, so that changes of other GPUs on their nodes are not listed."""
    return bool(wanted.uuid or wanted.serial or wanted.text)


def _folds(wanted: ChangeFilter, event: str) -> bool:
    return event in ("", Folded.FIRST_SEEN) and not _is_chosen(wanted) and wanted.node is None


# From the history


async def _from_history(
    history: History, wanted: ChangeFilter, event: str, before: ChangePosition | None, limit: int
) -> tuple[list[ChangeGroup], ChangePosition | None]:
    folds = _folds(wanted, event)
    events: Sequence[str] = ()
    if event == Folded.REPLACED:
        events = _EXCHANGING
    elif event:
        events = (Event.APPEARED if event == Folded.FIRST_SEEN else event,)
    narrowed = msgspec.structs.replace(wanted, events=events, first_sights=False if folds else None)
    if event == Folded.FIRST_SEEN and not folds:
        narrowed = msgspec.structs.replace(narrowed, first_sights=True)
    items: list[_Item] = []
    at, more = before, event != Folded.FIRST_SEEN or not folds
    for _ in range(MAX_QUERIES):
        if not more or len(items) > limit:
            break
        rows = await history.latest_changes(narrowed, before=at, limit=ROWS_PER_QUERY)
        readings = _readings(rows)
        more = len(rows) == ROWS_PER_QUERY
        if more and len(readings) > 1:
            del readings[-1]  # some of it may be missing
        if readings:
            items += await _items(history, readings, wanted, event)
            at = _end_of(readings[-1])
    if folds:
        since = at.time if more and at is not None else 0.0
        sights = await history.latest_first_sights(wanted, before=before, since=since, limit=limit + 1)
        # Changes before the part that was read are still missing.
        items += [_first_seen(one) for one in sights if not more or at is None or one.position >= at]
        items.sort(key=lambda item: item.position, reverse=True)
    shown = _whole_part(items, limit)
    if len(shown) < len(items):
        return [item.group for item in shown], shown[-1].position
    return [item.group for item in shown], at if more else None


def _readings(rows: Sequence[HistoricChange]) -> list[list[HistoricChange]]:
    """Return the changes of each reading: adjacent changes on one node at one time."""
    return [list(ones) for _, ones in itertools.groupby(rows, key=lambda row: (row.time, row.cluster, row.node))]


def _end_of(reading: Sequence[HistoricChange]) -> ChangePosition:
    return ChangePosition(reading[-1].time, reading[-1].id)


async def _items(
    history: History, readings: Sequence[list[HistoricChange]], wanted: ChangeFilter, event: str
) -> list[_Item]:
    positions: dict[int, ChangePosition] = {}
    groups: list[ChangeGroup] = []
    for reading in readings:
        for group in _groups(reading):
            positions[group.id] = _end_of(reading)
            groups.append(group)
    if event in ("", Folded.REPLACED):
        groups = replaced(groups, await _around(history, groups), chosen=_is_chosen(wanted))
        groups = await _seated(history, groups)
    if event == Folded.REPLACED:
        groups = [group for group in groups if group.event == event]
    return [_Item(positions[group.id], group) for group in groups]


def _groups(reading: Sequence[HistoricChange]) -> list[ChangeGroup]:
    """Return the groups of one reading, with a node's first sight named as such."""
    ordered = sorted(reading, key=lambda row: (row.event, row.previous or Place("", ""), row.id))
    ids = iter(sorted((row.id for row in reading), reverse=True))
    seen = [row for row in ordered if row.first_sight]
    found = list(grouped([as_change(row) for row in ordered if not row.first_sight], ids))
    found += [
        msgspec.structs.replace(one, event=Folded.FIRST_SEEN) for one in grouped([as_change(row) for row in seen], ids)
    ]
    return sorted(found, key=lambda group: group.id, reverse=True)


async def _around(history: History, groups: Sequence[ChangeGroup]) -> list[ChangeGroup]:
    """Return further arrivals and departures within the hour on the nodes of the groups."""
    concerned = [group for group in groups if group.event in _EXCHANGING]
    if not concerned:
        return []
    rows = await history.changes_of_places(
        {group.place for group in concerned},
        _EXCHANGING,
        # Before a GPU that came, others may have come after the same one had left.
        since=min(group.time for group in concerned) - REPLACED_WITHIN_SECONDS,
        until=max(group.time for group in concerned) + REPLACED_WITHIN_SECONDS,
    )
    return [group for reading in _readings(rows) for group in _groups(reading)]


async def _seated(history: History, groups: Sequence[ChangeGroup]) -> list[ChangeGroup]:
    """Return groups with the positions of replaced GPUs, as far as they are recorded."""
    uuids = {gpu.uuid for group in groups if group.event == Folded.REPLACED for gpu in (*group.gpus, *group.left)}
    if not uuids:
        return list(groups)
    seats = await history.seats(uuids)

    def seated(gpu: Gpu, place: Place, time: float) -> Gpu:
        known = [one for one in seats if one.uuid == gpu.uuid and one.place == place and one.since <= time]
        return msgspec.structs.replace(gpu, **max(known, key=lambda one: one.since).facts) if known else gpu

    return [
        group
        if group.event != Folded.REPLACED
        else msgspec.structs.replace(
            group,
            gpus=tuple(seated(gpu, group.place, group.time) for gpu in group.gpus),
            left=tuple(seated(gpu, group.place, group.time) for gpu in group.left),
        )
        for group in groups
    ]


def _first_seen(sights: FirstSights) -> _Item:
    group = ChangeGroup(
        id=sights.position.id,
        event=Folded.FIRST_SEEN,
        time=sights.position.time,
        place=Place(sights.cluster, sights.node),
        previous=None,
        gpus=(),
        nodes=sights.nodes,
        counted=sights.gpus,
        began=sights.since,
    )
    return _Item(sights.position, group)


def _whole_part(items: Sequence[_Item], limit: int) -> list[_Item]:
    """Return the first rows, extended to the end of the last one's reading."""
    if len(items) <= limit:
        return list(items)
    last = items[limit - 1].position
    return [item for number, item in enumerate(items) if number < limit or item.position == last]


# From memory


def _from_memory(
    view: CollectorView, wanted: ChangeFilter, event: str, before: ChangePosition | None, limit: int
) -> tuple[list[ChangeGroup], ChangePosition | None]:
    groups = list(view.recent_changes.newest())
    if event in ("", Folded.REPLACED):
        groups = replaced(groups)
    groups = list(_with_first_sights(view, groups))
    groups = [one for one in groups if _admits(wanted, one) and event in ("", one.event, _EVENT_OF.get(one.event))]
    if _folds(wanted, event):
        groups = fold_first_sights(groups)
    shown = [one for one in groups if before is None or one.id < before.id]
    if len(shown) <= limit:
        return shown, None
    return shown[:limit], ChangePosition(shown[limit - 1].time, shown[limit - 1].id)


def _with_first_sights(view: CollectorView, groups: Sequence[ChangeGroup]) -> Iterator[ChangeGroup]:
    """Yield the groups; the oldest GPUs in memory that appeared on a node are its first sight."""
    oldest = {place: group.id for group in groups for place in (group.place, group.previous) if place is not None}
    for group in groups:
        first = group.event is Event.APPEARED and oldest[group.place] == group.id
        entry = view.inventory.node(group.place) if first else None
        if first and (entry is None or all(since >= group.time for since in entry.since)):
            yield msgspec.structs.replace(group, event=Folded.FIRST_SEEN)
        else:
            yield group


def fold_first_sights(groups: Sequence[ChangeGroup]) -> list[ChangeGroup]:
    """Return groups, newest first, with the first sights of a cluster's nodes on one day (in UTC) merged."""
    found: dict[object, ChangeGroup] = {}
    places: dict[object, set[Place]] = {}
    for group in groups:
        if group.event is not Folded.FIRST_SEEN:
            found[group.id] = group
            continue
        key = (group.place.cluster, group.time // DAY_SECONDS)
        places.setdefault(key, set()).add(group.place)
        newest = found.get(key)
        found[key] = msgspec.structs.replace(
            newest or group,
            gpus=(),
            nodes=len(places[key]),
            counted=group.size + (newest.size if newest else 0),
            began=min(group.time, newest.began or newest.time) if newest else group.time,
        )
    return list(found.values())


def _admits(wanted: ChangeFilter, group: ChangeGroup) -> bool:
    """Return whether a group matches; a part of a name or identifier suffices."""
    if (wanted.since is not None and group.time < wanted.since) or (
        wanted.until is not None and group.time >= wanted.until
    ):
        return False
    places = [place for place in (group.place, group.previous, *group.origins) if place is not None]
    gpus = (*group.gpus, *group.left)
    if wanted.cluster is not None or wanted.node is not None:
        asked = (wanted.cluster, wanted.node)
        if not any(all(one in (None, name) for one, name in zip(asked, place, strict=True)) for place in places):
            return False
    if wanted.uuid is not None and wanted.uuid.lower() not in {gpu.uuid.lower() for gpu in gpus}:
        return False
    if wanted.serial is not None and wanted.serial not in {gpu.serial for gpu in gpus}:
        return False
    if wanted.text is None:
        return True
    texts = [group.summary, *itertools.chain.from_iterable(places)]
    texts += [text for gpu in gpus for text in (gpu.uuid, gpu.serial, gpu.model, gpu.chassis) if text]
    return any(wanted.text.casefold() in text.casefold() for text in texts)
