"""The rows of a look-up for the API, CSV files and the command line, and the text of a negative result."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

from collector.marks import Mark, MarkKind
from collector.model import Gpu, Place, last_known_object
from collector.store import PastPlacement
from collector.text import counted, enumerated
from collector.timestamps import rfc3339
from collector.views.columns import Numbered, Row, Time, rest, table, wide
from collector.views.cooperative import yielding
from collector.views.lookup_view import LookupView
from collector.views.matches import Kind, Lookup, LookupResult, Match, Searched
from collector.views.rows import numbered

__all__ = [
    "FoundState",
    "LookupAnswer",
    "LookupResultRow",
    "LookupRow",
    "SearchedRow",
    "describe_no",
    "describe_searched",
    "lookup_answer",
    "lookup_rows",
    "match_row",
]

MAX_NAMED_CLUSTERS = 5  # in a sentence
MAX_NAMED_PLACES = 3


class FoundState(StrEnum):
    """The state of a match, or that nothing was found."""

    FOUND = "found"
    LOST = "lost"  # it does not respond
    GONE = "gone"
    ELSEWHERE = "elsewhere"  # the GPU had this id there and is somewhere else now
    NEVER_SEEN = "never_seen"  # only a mark of it is known
    PAST = "past"  # an earlier place of a GPU
    NOT_FOUND = "not_found"


class LookupRow(Row, frozen=True, kw_only=True):
    """One match of an id, or the note that it has none."""

    id: Annotated[str, table("The id as given.")]
    kind: Annotated[Kind | None, wide("Kind of match.")] = None
    state: Annotated[FoundState, table("found, lost, gone, elsewhere, never_seen, past or not_found.")]
    cluster: Annotated[str | None, table("Cluster.")] = None
    node: Annotated[str | None, table("Node.")] = None
    machine: Annotated[str | None, wide("The cloud's or machine's own name for the node.")] = None
    serial: Annotated[str | None, table("Serial of the board.")] = None
    uuid: Annotated[str | None, wide("UUID of the GPU.")] = None
    model: Annotated[str | None, wide("Product name.")] = None
    chassis: Annotated[str | None, wide("Serial of the chassis.")] = None
    tray: Annotated[Numbered | None, wide("Tray of the chassis.")] = None
    slot: Annotated[Numbered | None, wide("Slot of the chassis.")] = None
    module: Annotated[Numbered | None, wide("Module on the board.")] = None
    pci_bus_id: Annotated[str | None, wide("PCI bus address.")] = None
    since: Annotated[Time | None, table("Since when it has been, or was, on the node.")] = None
    until: Annotated[Time | None, table("When it left; null while it is there.")] = None
    confirmed_at: Annotated[Time | None, wide("When it was last read there.")] = None
    last_known: Annotated[dict[str, Time] | None, rest("Fields no longer reported, and when each last was.")] = None
    claim: Annotated[bool | None, rest("Whether another node had it first and has not been verified yet.")] = None
    mark: Annotated[MarkKind | None, wide("Its current mark.")] = None
    ticket: Annotated[str | None, wide("Ticket of the mark.")] = None
    note: Annotated[str, table("Further notes; for an id that was not found, what was searched.")] = ""


class LookupResultRow(Row, frozen=True, kw_only=True):
    """The matches of one id."""

    id: Annotated[str, rest("The id as given.")]
    found: Annotated[bool, rest("Whether there is any match.")]
    kind: Annotated[Kind | None, rest("Kind of the first match.")]
    total: Annotated[int, rest("Number of matches, including those beyond the first 100.")]
    matches: Annotated[list[LookupRow], rest("The matches.")]
    note: Annotated[str, rest("What was searched, if nothing was found.")] = ""


class SearchedRow(Row, frozen=True, kw_only=True):
    """Where a look-up searched."""

    clusters: Annotated[int, rest("Clusters whose present state was searched.")]
    nodes: Annotated[int, rest("Nodes in them.")]
    gpus: Annotated[int, rest("GPUs on them.")]
    clusters_down: Annotated[list[str], rest("Unreachable clusters, whose last known state was searched.")]
    nodes_unread: Annotated[int, rest("Nodes whose GPUs cannot be read, or have not been read yet.")]
    history: Annotated[bool, rest("Whether the history was searched.")]
    history_since: Annotated[Time | None, rest("How far it goes back.")]
    history_error: Annotated[str | None, rest("Why it could not be searched.")]
    text: Annotated[str, rest("All of this as sentences.")]


class LookupAnswer(Row, frozen=True, kw_only=True):
    """The answer to a look-up of many ids."""

    results: Annotated[list[LookupResultRow], rest("One for each id, in the given order.")]
    found: Annotated[int, rest("Ids that were found.")]
    not_found: Annotated[int, rest("Ids that were not.")]
    searched: Annotated[SearchedRow, rest("Where the look-up searched.")]


def lookup_rows(view: LookupView, answer: Lookup) -> Iterator[LookupRow]:
    """Yield the rows of a look-up, in the order of the ids; an id that was not found also has a row."""
    for result in answer.results:
        if not result.matches:
            note = describe_no(result, answer.searched)
            yield LookupRow(id=result.term.text, state=FoundState.NOT_FOUND, note=note)
        for number, match in enumerate(result.matches, 1):
            more = result.cut and number == len(result.matches)
            note = f"and {counted(result.total - number, 'match')} more" if more and result.total > number else ""
            yield match_row(view, result.term.text, match, note)


def match_row(view: LookupView, text: str, match: Match, note: str = "") -> LookupRow:
    """Return the row of one match, with an additional `note`."""
    if match.gpu is not None:
        return _present(view, text, match, note)
    if match.former_gpu is not None:
        return _former(view, text, match, match.former_gpu, note)
    if match.node is not None:
        (cluster, node), machine = match.node.place, match.node.node.machine
        return LookupRow(
            id=text,
            kind=match.kind,
            state=FoundState.FOUND,
            cluster=cluster,
            node=node,
            machine=machine or None,
            chassis=match.node.chassis or None,
            confirmed_at=rfc3339(match.node.time),
            note=_joined(counted(len(match.node.gpus), "GPU"), note),
        )
    if (told := match.former_node) is not None:
        return LookupRow(
            id=text,
            kind=match.kind,
            state=FoundState.GONE,
            cluster=told.cluster,
            node=told.node,
            machine=told.machine or None,
            until=rfc3339(told.until),
            confirmed_at=rfc3339(told.confirmed),
            note=note,
        )
    if match.cluster:
        known = counted(view.inventory.count(match.cluster), "GPU")
        return LookupRow(
            id=text, kind=match.kind, state=FoundState.FOUND, cluster=match.cluster, note=_joined(known, note)
        )
    mark = match.mark
    return LookupRow(
        id=text,
        kind=match.kind,
        state=FoundState.NEVER_SEEN,
        serial=mark.serial if mark else None,
        uuid=mark.uuid if mark else None,
        note=_joined("no place of it is recorded", note),
        **_marked(mark),
    )


def _present(view: LookupView, text: str, match: Match, note: str) -> LookupRow:
    placement = match.gpu
    assert placement is not None  # noqa: S101  as the caller has seen
    gpu, place, entry = placement.gpu, placement.place, view.inventory.node(placement.place)
    return LookupRow(
        id=text,
        kind=match.kind,
        state=FoundState.LOST if placement.lost else FoundState.FOUND,
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


def _former(view: LookupView, text: str, match: Match, row: PastPlacement, note: str) -> LookupRow:
    now = enumerated([f"{place.node} ({place.cluster})" for place in match.now], MAX_NAMED_PLACES)
    until = row.confirmed if row.until is None and not match.now else row.until
    return LookupRow(
        id=text,
        kind=match.kind,
        state=FoundState.ELSEWHERE if match.now else FoundState.GONE,
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
    told = {name: getattr(gpu, name) for name in ("serial", "uuid", "model", "chassis", "pci_bus_id")}
    told["last_known"] = last_known_object(gpu.last_known)
    return told | {name: numbered(getattr(gpu, name)) for name in ("tray", "slot", "module")}


def _marked(mark: Mark | None) -> dict[str, Any]:
    return {} if mark is None else {"mark": mark.kind, "ticket": mark.ticket or None}


def _claim_words(view: LookupView, uuid: str, place: Place) -> str:
    homes = [one.place for one in view.inventory.find(uuid=uuid) if not one.claim and one.place != place]
    named = enumerated([f"{one.node} ({one.cluster})" for one in homes], MAX_NAMED_PLACES)
    return f"being verified: {named or 'another node'} had it first and has not been verified yet"


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def describe_no(result: LookupResult, searched: Searched) -> str:
    """Return why an id was not found, with what exactly was searched, as sentences."""
    whole = "" if result.whole == searched.limit else result.whole  # included in what was searched
    own = [_sentence(one) for one in (result.term.note, whole) if one]
    return " ".join([*describe_searched(searched), *own])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def describe_searched(searched: Searched) -> list[str]:
    """Return where an unsuccessful look-up searched, as sentences."""
    fleet = (
        f"{counted(searched.gpus, 'GPU')} on {counted(searched.nodes, 'node')} across "
        f"{counted(searched.clusters, 'cluster')}"
    )
    known = "in the last recorded state" if searched.recorded else "currently known"
    if searched.history_error:
        said = [
            f"Not among the {fleet} {known}.",
            f"The history could not be searched: {searched.history_error.rstrip('.')}.",
        ]
    elif not searched.history:
        said = [
            f"Not among the {fleet} {known}.",
            "This collector keeps no history: its configuration has no [store], so former GPUs are unknown.",
        ]
    elif searched.history_since is None:
        said = [f"Not among the {fleet} {known} or in the history, which is empty."]
    else:
        since = rfc3339(searched.history_since, "seconds")
        said = [f"Not among the {fleet} {known} or in the history, which goes back to {since}."]
    if searched.limit:
        said.append(_sentence(searched.limit))
    if searched.recorded:
        said.append(
            "This is the state in the store: only a running collector knows which clusters cannot be reached and which "
            "nodes cannot be read now; query it with --url."
        )
        return said
    if searched.down:
        down = enumerated(searched.down, MAX_NAMED_CLUSTERS)
        said.append(
            f"{counted(len(searched.down), 'cluster')} cannot be reached ({down}): "
            f"{'its' if len(searched.down) == 1 else 'their'} last known state was searched."
        )
    if searched.never:
        never = enumerated(searched.never, MAX_NAMED_CLUSTERS)
        one = len(searched.never) == 1
        said.append(
            f"{counted(len(searched.never), 'cluster')} cannot be reached and {'has' if one else 'have'} never been "
            f"read ({never}): {'its' if one else 'their'} GPUs are unknown."
        )
    if searched.unread:
        one = searched.unread == 1
        said.append(
            f"{counted(searched.unread, 'node')} cannot be read or {'has' if one else 'have'} not been read yet: GPUs "
            f"on {'it' if one else 'them'} may be unknown."
        )
    return said


async def lookup_answer(view: LookupView, answer: Lookup) -> LookupAnswer:
    """Return a look-up as decoded JSON, letting other tasks run."""
    results = [_result(view, one, answer.searched) async for one in yielding(answer.results)]
    searched = answer.searched
    found = sum(one.found for one in results)
    return LookupAnswer(
        results=results,
        found=found,
        not_found=len(results) - found,
        searched=SearchedRow(
            clusters=searched.clusters,
            nodes=searched.nodes,
            gpus=searched.gpus,
            clusters_down=[*searched.down, *searched.never],
            nodes_unread=searched.unread,
            history=searched.history and not searched.history_error,
            history_since=rfc3339(searched.history_since),
            history_error=searched.history_error or None,
            text=" ".join(describe_searched(searched)),
        ),
    )


def _result(view: LookupView, result: LookupResult, searched: Searched) -> LookupResultRow:
    return LookupResultRow(
        id=result.term.text,
        found=bool(result.matches),
        kind=result.kind,
        total=result.total,
        matches=[match_row(view, result.term.text, match) for match in result.matches],
        note="" if result.matches else describe_no(result, searched),
    )
