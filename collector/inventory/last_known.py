"""Keeps what a GPU once said of itself and no longer says, as last known, with when it was reported last."""

import sys

import msgspec

from collector.model import KEPT_FIELDS, Gpu, LastReport

__all__ = ["facts_of", "newest_marks", "with_last_known"]

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
    if not kept:
        return gpu
    marks = known.last_known
    if [field for field, _ in marks] != [*kept]:  # else nothing but what was missing already is missing
        times = dict(marks)
        marks = tuple(LastReport(name, times.get(name, time)) for name in kept)
    return msgspec.structs.replace(gpu, **kept, last_known=gpu.last_known + marks)


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
        if field in theirs and getattr(gpu, field) == getattr(recorded, field)
        else LastReport(field, time)
        for field, time in gpu.last_known
    )
    return gpu if marks == gpu.last_known else msgspec.structs.replace(gpu, last_known=marks)
