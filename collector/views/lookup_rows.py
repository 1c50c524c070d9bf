"""The rows of a look-up for the API, CSV files and the command line, and what a "no" says."""

from collections.abc import Iterator
from typing import Any

import msgspec

from collector.marks import Mark
from collector.model import Gpu, Place
from collector.store import PastPlacement
from collector.text import counted, enumerated
from collector.timestamps import rfc3339
from collector.views.collector_view import CollectorView
from collector.views.humanize import utc
from collector.views.matches import Kind, Lookup, LookupResult, Match, Searched

__all__ = [
    "LOOKUP_COLUMNS",
    "LookupRow",
    "describe_no",
    "describe_searched",
    "lookup_rows",
    "match_row",
    "result_object",
]

MAX_NAMED_CLUSTERS = 5  # in a sentence
MAX_NAMED_PLACES = 3

NOT_FOUND = "not_found"


class LookupRow(msgspec.Struct, frozen=True, kw_only=True):
    """One match of an id, or that it has none; times are RFC 3339 in UTC, what is unknown is None."""

    id: str  # as it was given
    kind: Kind | None = None  # as what it was found
    state: str = NOT_FOUND  # found, lost, gone, elsewhere (it was known by this id there), never_seen, not_found
    cluster: str | None = None
    node: str | None = None
    machine: str | None = None
    serial: str | None = None
    uuid: str | None = None
    model: str | None = None
    chassis: str | None = None
    tray: str | None = None
    slot: str | None = None
    module: str | None = None
    pci_bus_id: str | None = None
    since: str | None = None
    until: str | None = None  # None while it is there
    confirmed_at: str | None = None
    claim: bool | None = None  # another node had it first and has not let go of it yet
    mark: str | None = None
    ticket: str | None = None
    note: str = ""


LOOKUP_COLUMNS = LookupRow.__struct_fields__


def lookup_rows(view: CollectorView, answer: Lookup) -> Iterator[LookupRow]:
    """Yield the rows of a look-up, in the order of the ids; an id that was not found has a row as well."""
    for result in answer.results:
        if not result.matches:
            yield LookupRow(id=result.term.text, note=describe_no(result, answer.searched))
        for number, match in enumerate(result.matches, 1):
            more = result.cut and number == len(result.matches)
            note = f"and {counted(result.total - number, 'match')} more" if more and result.total > number else ""
            yield match_row(view, result.term.text, match, note)


def match_row(view: CollectorView, text: str, match: Match, note: str = "") -> LookupRow:
    """Return the row of one match; `note` is what is to be said besides what the match itself says."""
    if match.gpu is not None:
        return _present(view, text, match, note)
    if match.former_gpu is not None:
        return _former(view, text, match, match.former_gpu, note)
    if match.node is not None:
        (cluster, node), machine = match.node.place, match.node.node.machine or None
        known = counted(len(match.node.gpus), "GPU")
        return LookupRow(
            id=text, kind=match.kind, state="found", cluster=cluster, node=node, machine=machine,
            chassis=match.node.chassis or None, confirmed_at=rfc3339(match.node.time), note=_joined(known, note),
        )  # fmt: skip
    if (told := match.former_node) is not None:
        return LookupRow(
            id=text, kind=match.kind, state="gone", cluster=told.cluster, node=told.node, machine=told.machine or None,
            until=rfc3339(told.until), confirmed_at=rfc3339(told.confirmed), note=note,
        )  # fmt: skip
    if match.cluster:
        known = counted(view.inventory.count(match.cluster), "GPU")
        return LookupRow(id=text, kind=match.kind, state="found", cluster=match.cluster, note=_joined(known, note))
    mark = match.mark
    return LookupRow(
        id=text, kind=match.kind, state="never_seen", serial=mark.serial if mark else None,
        uuid=mark.uuid if mark else None, note=_joined("no place of it is recorded", note), **_marked(mark),
    )  # fmt: skip


def _present(view: CollectorView, text: str, match: Match, note: str) -> LookupRow:
    placement = match.gpu
    assert placement is not None  # noqa: S101  as the caller has seen
    gpu, place, entry = placement.gpu, placement.place, view.inventory.node(placement.place)
    return LookupRow(
        id=text,
        kind=match.kind,
        state="lost" if placement.lost else "found",
        cluster=place.cluster,
        node=place.node,
        machine=(entry.node.machine if entry else "") or None,
        **_facts(gpu),
        since=rfc3339(placement.since),
        confirmed_at=rfc3339(placement.confirmed),
        claim=placement.claim,
        **_marked(view.marks.of(gpu.uuid, gpu.serial, view.now())),
        note=_joined(_claim_words(view, gpu.uuid, placement.place) if placement.claim else "", note),
    )


def _former(view: CollectorView, text: str, match: Match, row: PastPlacement, note: str) -> LookupRow:
    now = enumerated([f"{place.node} ({place.cluster})" for place in match.now], MAX_NAMED_PLACES)
    until = row.confirmed if row.until is None and not match.now else row.until
    return LookupRow(
        id=text,
        kind=match.kind,
        state="elsewhere" if match.now else "gone",
        cluster=row.cluster,
        node=row.node,
        machine=row.machine or None,
        **_facts(row),
        since=rfc3339(row.since or None),
        until=rfc3339(until),
        confirmed_at=rfc3339(row.confirmed),
        **_marked(match.mark or view.marks.of(row.uuid, row.serial, view.now())),
        note=_joined(f"now on {now}" if now else "", note),
    )


def _facts(gpu: Gpu | PastPlacement) -> dict[str, Any]:
    names = ("serial", "uuid", "model", "chassis", "tray", "slot", "module", "pci_bus_id")
    return {name: getattr(gpu, name) for name in names}


def _marked(mark: Mark | None) -> dict[str, Any]:
    return {} if mark is None else {"mark": mark.kind.value, "ticket": mark.ticket or None}


def _claim_words(view: CollectorView, uuid: str, place: Place) -> str:
    homes = [one.place for one in view.inventory.find(uuid=uuid) if not one.claim and one.place != place]
    named = enumerated([f"{one.node} ({one.cluster})" for one in homes], MAX_NAMED_PLACES)
    return f"being verified: {named or 'another node'} had it first, and has not let go of it yet"


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def describe_no(result: LookupResult, searched: Searched) -> str:
    """Return why an id was not found: exactly what was searched, as sentences."""
    own = [f"{one[:1].upper()}{one[1:]}." for one in (result.term.note, result.whole) if one]
    return " ".join([*describe_searched(searched), *own])


def describe_searched(searched: Searched) -> list[str]:
    """Return where a look-up that found nothing has looked, as sentences."""
    fleet = (
        f"{counted(searched.gpus, 'GPU')} on {counted(searched.nodes, 'node')} across "
        f"{counted(searched.clusters, 'cluster')}"
    )
    if searched.history_error:
        said = [
            f"Not among the {fleet} that are known now.",
            f"The history could not be searched: {searched.history_error.rstrip('.')}.",
        ]
    elif not searched.history:
        said = [
            f"Not among the {fleet} that are known now.",
            "This collector keeps no history: its configuration has no [store], so what is gone is unknown.",
        ]
    elif searched.history_since is None:
        said = [f"Not among the {fleet} that are known now, nor in the history, which is empty."]
    else:
        since = utc(searched.history_since)
        said = [f"Not among the {fleet} that are known now, nor in the history, which goes back to {since}."]
    if searched.down:
        down = enumerated(searched.down, MAX_NAMED_CLUSTERS)
        said.append(
            f"{counted(len(searched.down), 'cluster')} cannot be reached ({down}): what was last known of "
            f"{'it' if len(searched.down) == 1 else 'them'} was searched."
        )
    if searched.unread:
        one = searched.unread == 1
        said.append(
            f"{counted(searched.unread, 'node')} cannot be read or {'has' if one else 'have'} not been read yet: GPUs "
            f"on {'it' if one else 'them'} may be unknown."
        )
    return said


def result_object(view: CollectorView, result: LookupResult, searched: Searched) -> dict[str, object]:
    """Return the result of one id as JSON has it."""
    return {
        "id": result.term.text,
        "found": bool(result.matches),
        "kind": result.kind,
        "total": result.total,
        "matches": [_without_id(match_row(view, result.term.text, match)) for match in result.matches],
        "note": "" if result.matches else describe_no(result, searched),
    }


def _without_id(row: LookupRow) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(row).items() if name != "id"}
