"""Keeps what a GPU once said of itself and no longer says, as last known, with when it was reported last."""

import sys

import msgspec

from collector.health import HEALTH_FIELDS, Health, shared
from collector.model import KEPT_FIELDS, Gpu, LastReport

__all__ = ["facts_of", "newest_marks", "settled", "with_growth", "with_last_known"]

_UNCORRECTABLE = ("ecc_sram_uncorrectable", "ecc_dram_uncorrectable")
_OWN_FIELDS = tuple(field for field in KEPT_FIELDS if field != "chassis")  # that a GPU has in any node


def with_last_known(gpu: Gpu, known: Gpu, time: float, *, same_node: bool) -> Gpu:
    """Return a GPU with the values that only an earlier reading of it has, marked as such.

    `time` (Unix seconds) is when what is `known` was read, as far as it is not marked with an earlier one itself.
    """
    if gpu.virtual:
        return gpu
    kept = {
        name: value
        for name in (KEPT_FIELDS if same_node else _OWN_FIELDS)
        if getattr(gpu, name) is None and (value := getattr(known, name)) is not None
    }
    health, unsaid = _with_last_health(gpu.health, known)
    growth = gpu.ecc_growth if gpu.ecc_growth is not None else known.ecc_growth
    if not kept and not unsaid:
        return gpu if growth == gpu.ecc_growth else msgspec.structs.replace(gpu, ecc_growth=growth)
    marks = known.last_known
    if [field for field, _ in marks] != [*kept, *unsaid]:  # else nothing but what was missing already is missing
        times = dict(marks)
        whole = times.get("health", time)
        marks = tuple(LastReport(name, times.get(name, time)) for name in kept)
        marks += tuple(LastReport(name, times.get(name, whole)) for name in unsaid)
    return msgspec.structs.replace(gpu, **kept, last_known=gpu.last_known + marks, health=health, ecc_growth=growth)


def _with_last_health(health: Health | None, known: Gpu) -> tuple[Health | None, tuple[str, ...]]:
    """Return a health with the values that only an earlier reading has, and the names by which these are marked."""
    if known.health is None or health is known.health:
        return health, ()
    if health is None:
        return known.health, (*(field for field, _ in known.last_known if field in HEALTH_FIELDS), "health")
    kept = {
        name: value
        for name in HEALTH_FIELDS
        if getattr(health, name) is None and (value := getattr(known.health, name)) is not None
    }
    return (shared(msgspec.structs.replace(health, **kept)), tuple(kept)) if kept else (health, ())


def with_growth(gpu: Gpu, known: Gpu, time: float) -> Gpu:
    """Return a GPU as a reading at `time` (Unix seconds) found it, with that its uncorrectable ECC errors have grown.

    `known` is what its own cluster knew of it before: another one may say anything.
    """
    before, after = known.health, gpu.health
    if after is before or before is None or after is None or gpu.virtual or gpu.ecc_growth is not None:
        return gpu
    grew = any(
        (old := getattr(before, name)) is not None and (new := getattr(after, name)) is not None and new > old
        for name in _UNCORRECTABLE
    )
    return msgspec.structs.replace(gpu, ecc_growth=time) if grew else gpu


def settled(gpu: Gpu, known: Gpu, time: float) -> Gpu:
    """Return a GPU that has moved within its cluster, with what its old place knew of its health until then.

    What it was claimed with was known when the claim was opened. `time` is when it was last read at its old place.
    """
    if known.health is not None and gpu.last_known and gpu.health is not None:
        whole = any(field == "health" for field, _ in gpu.last_known)
        unsaid = {field for field, _ in gpu.last_known if field in HEALTH_FIELDS}
        names = [name for name in HEALTH_FIELDS if getattr(known.health, name) is not None]
        said = {name: None for name in names if whole or name in unsaid}
        if said:
            health = None if whole else msgspec.structs.replace(gpu.health, **said)
            marks = tuple(one for one in gpu.last_known if one.field not in said and (one.field != "health"))
            gpu = msgspec.structs.replace(gpu, health=health, last_known=marks)
    newest = max((one.ecc_growth for one in (gpu, known) if one.ecc_growth is not None), default=None)
    gpu = with_last_known(gpu, known, time, same_node=False)
    return gpu if gpu.ecc_growth == newest else msgspec.structs.replace(gpu, ecc_growth=newest)


def facts_of(gpu: Gpu, time: float) -> Gpu | None:
    """Return what stays known of a GPU while it is in no node, all of it marked; None if that is nothing.

    `time` (Unix seconds) is when it was last read.
    """
    if gpu.virtual:
        return None
    nothing = Gpu(uuid=gpu.uuid)
    facts = with_last_known(nothing, gpu, time, same_node=True)
    if facts is nothing:
        return None
    texts = {name: sys.intern(value) for name in KEPT_FIELDS if name != "serial" and (value := getattr(facts, name))}
    return msgspec.structs.replace(facts, **texts)  # of all absent GPUs: those that are alike are held once


def newest_marks(gpu: Gpu, recorded: Gpu) -> Gpu:
    """Return a GPU whose last known values are marked with the times that another inventory recorded for them."""
    theirs = dict(recorded.last_known)
    marks = tuple(
        LastReport(field, theirs[field])
        if field in theirs and _value(gpu, field) == _value(recorded, field)
        else LastReport(field, time)
        for field, time in gpu.last_known
    )
    return gpu if marks == gpu.last_known else msgspec.structs.replace(gpu, last_known=marks)


def _value(gpu: Gpu, field: str) -> object:
    return getattr(gpu.health, field, None) if field in HEALTH_FIELDS else getattr(gpu, field)
