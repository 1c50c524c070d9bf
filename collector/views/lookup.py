"""Looks up ids in the present and the history; one search for the page, the API and the commands."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from collector.model import UNREAD_REASONS, ClusterState
from collector.store import History, StoreError
from collector.text import counted, natural_key
from collector.views.cooperative import yielding
from collector.views.lookup_marks import find_marked
from collector.views.lookup_past import MAX_SCANS, find_past, find_past_parts, find_remembered
from collector.views.lookup_present import (
    MIN_PART_LENGTH,
    find_exact,
    find_indexed,
    find_parts,
    find_within,
    parts_of,
)
from collector.views.lookup_view import LookupView
from collector.views.matches import Hunt, Lookup, LookupResult, Searched
from collector.views.terms import Term

__all__ = ["MAX_MATCHES", "lookup"]

MAX_MATCHES = 1000  # of one id
MAX_ALL_MATCHES = 20_000  # of all ids together; beyond that, each keeps only its first
MAX_CONTAINED = 20  # most ids for which substrings are searched; for more, only ends of serials
MAX_NAMED_CLUSTERS = 20


async def lookup(view: LookupView, terms: Sequence[Term], *, most: int = MAX_MATCHES) -> Lookup:
    """Return the matches of the terms, in order, with at most `most` for each.

    Exact matches take precedence over partial ones. A term of several words without a match as a whole has one result
    per word.
    """
    known = {term: (Hunt(term, most), [Hunt(word, most) for word in term.words]) async for term in yielding(terms)}
    groups = list(known.values())  # a repeated id is looked up once
    hunts = [hunt for whole, words in groups for hunt in (whole, *words)]
    async for hunt in yielding(hunts):
        find_indexed(view.inventory, hunt)
    await find_exact(view, hunts)
    history = view.history  # whose deadline, shared by all queries, starts here
    since, error = await _ask_history(view, history, hunts)
    if history is None or error:
        await find_remembered(view, hunts)
    await find_marked(view, None if error else history, hunts)
    rest = [hunt for hunt in _undecided(groups) if not hunt.found]
    if len(rest) <= MAX_CONTAINED:
        await find_within(view.inventory, rest)
    else:
        await find_parts(view.inventory, rest)
    scanned = history is not None and not error and len(rest) <= MAX_SCANS
    if history is not None and scanned:
        try:
            for hunt in rest:
                await find_past_parts(view, history, hunt, most)
        except StoreError as late:
            error = str(late)
    scanned = scanned or history is None or bool(error)
    told = {
        term: [hunt.result(_why_whole(hunt, len(rest), scanned=scanned)) for hunt in _chosen(*group)]
        async for term, group in yielding(known.items())
    }
    results = tuple(_cut([one async for term in yielding(terms) for one in told[term]]))
    searched = _searched(view, history, since, error)
    limit = _why_limited(len(rest), scanned=scanned)
    return Lookup(results=results, searched=msgspec.structs.replace(searched, limit=limit))


def _cut(results: Iterable[LookupResult]) -> Iterator[LookupResult]:
    """Yield the results; beyond MAX_ALL_MATCHES they keep one match, so that small requests stay cheap."""
    room = MAX_ALL_MATCHES
    for one in results:
        room -= len(one.matches)
        yield msgspec.structs.replace(one, matches=one.matches[:1]) if room < 0 and len(one.matches) > 1 else one


async def _ask_history(view: LookupView, history: History | None, hunts: Sequence[Hunt]) -> tuple[float | None, str]:
    """Search the history for the terms; return how far back it goes and why it could not answer."""
    if history is None:
        return None, ""
    await view.wait_committed()  # or what is shown as present would not be in it yet
    try:
        since = await history.begins()
        await find_past(view, history, hunts)
    except StoreError as error:
        return None, str(error)
    return since, ""


def _undecided(groups: Iterable[tuple[Hunt, list[Hunt]]]) -> list[Hunt]:
    """Return the terms to search for as substrings: those without an exact match."""
    found: list[Hunt] = []
    for whole, words in groups:
        if whole.found:
            continue
        if not words:
            found.append(whole)
        elif whole.term.grouped and not any(word.found for word in words):
            found += [whole, *words]
        else:
            found += words
    return found


def _chosen(whole: Hunt, words: Sequence[Hunt]) -> Sequence[Hunt]:
    """Return the results of a term, as one name or several."""
    if not words or (whole.found and not whole.partial):
        return [whole]
    if any(word.found and not word.partial for word in words):
        return words
    if whole.found:
        return [whole]
    return words if not whole.term.grouped or any(word.found for word in words) else [whole]


def _why_whole(hunt: Hunt, asked: int, *, scanned: bool) -> str:
    """Return why substrings of a term were not searched everywhere; empty if they were."""
    if not parts_of(hunt):
        return f"partial matches need at least {MIN_PART_LENGTH} characters"
    return _why_limited(asked, scanned=scanned)


def _why_limited(asked: int, *, scanned: bool) -> str:
    if asked > MAX_CONTAINED:
        return (
            f"for more than {counted(MAX_CONTAINED, 'id')} without an exact match, only the ends of serials and the "
            "beginnings of UUIDs are searched, in the present fleet"
        )
    return (
        "" if scanned else f"for more than {counted(MAX_SCANS, 'id')}, partial matches come from the present fleet only"
    )


def _searched(view: LookupView, history: History | None, since: float | None, error: str) -> Searched:
    inventory = view.inventory
    clusters = sorted(view.clusters(), key=natural_key)
    statuses = [view.statuses.get(name) for name in clusters]
    down = [
        one.cluster for one in statuses if one is not None and not one.up and one.state is not ClusterState.STARTING
    ]
    return Searched(
        clusters=len(clusters),
        nodes=sum(len(inventory.nodes(name)) for name in clusters),
        gpus=sum(inventory.count(name) for name in clusters),
        down=tuple(name for name in down if inventory.nodes(name)),
        never=tuple(name for name in down if not inventory.nodes(name)),
        recorded=bool(clusters) and not view.statuses,
        unread=sum(inventory.unread(name, reason) for name in clusters for reason in UNREAD_REASONS),
        history=history is not None,
        history_since=since,
        history_error=error,
    )
