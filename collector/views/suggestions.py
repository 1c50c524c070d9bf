"""Completions of a partially typed id: names that begin with it first, then those that contain it."""

import time
from collections.abc import Iterator

import msgspec

from collector.model import Gpu, NodeState, Place
from collector.views.collector_view import CollectorView
from collector.views.fleet import walk_nodes
from collector.views.matches import Kind
from collector.views.terms import parse_term

__all__ = ["MAX_SUGGESTIONS", "Suggestion", "suggest"]

MAX_SUGGESTIONS = 10
MAX_SECONDS = 0.3  # spent searching the fleet; nobody waits longer while typing
MIN_NAME_LENGTH = 2  # fewest characters for which clusters, nodes and models are suggested
MIN_GPU_LENGTH = 3


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """One suggestion."""

    text: str  # to look up instead of the typed text
    kind: Kind
    detail: str  # distinguishes it from others, such as its place
    uuid: str | None = None  # of a GPU
    place: Place | None = None  # of a node, or where a GPU is
    cluster: str | None = None


async def suggest(view: CollectorView, text: str, *, most: int = MAX_SUGGESTIONS) -> list[Suggestion]:
    """Return at most `most` names that begin with or contain a text, case-insensitively; the former first."""
    parts = [reading.lower() for reading in parse_term(text).readings] if text.strip() else []
    parts = sorted(dict.fromkeys(part for part in parts if len(part) >= MIN_NAME_LENGTH), key=len)[:2]
    if not parts:
        return []
    best: list[Suggestion] = []
    others: list[Suggestion] = []
    seen: set[tuple[str, str]] = set()

    def add(one: Suggestion, name: str) -> None:
        if (key := (one.kind, one.uuid or str(one.place or one.text))) not in seen:
            starts = any(name.lower().startswith(part) for part in parts)
            if starts or len(others) < most:
                seen.add(key)
                (best if starts else others).append(one)

    for cluster in sorted(view.clusters()):
        if _within(parts, cluster):
            add(Suggestion(text=cluster, kind=Kind.CLUSTER, detail="cluster", cluster=cluster), cluster)
    deadline = time.perf_counter() + MAX_SECONDS
    async for entry in walk_nodes(view.inventory):
        for one, name in _of_node(entry, parts):
            add(one, name)
        if len(best) >= most or time.perf_counter() > deadline:
            break
    return [*best, *others][:most]


def _within(parts: list[str], name: str | None) -> bool:
    return name is not None and any(part in name.lower() for part in parts)


def _of_node(entry: NodeState, parts: list[str]) -> Iterator[tuple[Suggestion, str]]:
    """Yield suggestions from a node and its GPUs, each with the name that matched."""
    place, machine = entry.place, entry.node.machine
    whole = f"{place.cluster}/{place.node}"
    slashed = [part for part in parts if "/" in part]
    for name, wanted in ((place.node, parts), (machine, parts), (whole, slashed)):
        if _within(wanted, name):
            detail = f"node in {place.cluster}" + (f", machine {machine}" if machine not in ("", place.node) else "")
            one = Suggestion(text=whole, kind=Kind.NODE, detail=detail, place=place)
            yield one, name
            break
    models: set[str] = set()
    long = [part for part in parts if len(part) >= MIN_GPU_LENGTH]
    for gpu in entry.gpus:
        if gpu.model is not None and gpu.model not in models and _within(parts, gpu.model):
            models.add(gpu.model)
            yield Suggestion(text=gpu.model, kind=Kind.MODEL, detail="model"), gpu.model
        if long:
            yield from _of_gpu(place, gpu, long)


def _of_gpu(place: Place, gpu: Gpu, parts: list[str]) -> Iterator[tuple[Suggestion, str]]:
    where = f"{gpu.model or 'GPU'} on {place.node} ({place.cluster})"
    if gpu.serial is not None and _within(parts, gpu.serial):
        yield Suggestion(text=gpu.serial, kind=Kind.SERIAL, detail=where, uuid=gpu.uuid, place=place), gpu.serial
    elif _within(parts, gpu.uuid) and parts[0] != "gpu":
        name = gpu.uuid if parts[0].startswith("gpu") else gpu.uuid[4:]
        yield Suggestion(text=gpu.uuid, kind=Kind.UUID, detail=where, uuid=gpu.uuid, place=place), name
    if gpu.chassis is not None and _within(parts, gpu.chassis):
        yield Suggestion(text=gpu.chassis, kind=Kind.CHASSIS, detail="chassis"), gpu.chassis
