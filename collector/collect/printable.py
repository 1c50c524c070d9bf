"""Takes what does not print out of a report: a node's output may hold any character, and everybody reads its values."""

from typing import Any

import msgspec

from collector.collect.nvidia_smi import Report
from collector.model import Gpu, UnidentifiedGpu
from collector.text import printable

__all__ = ["printable_report"]


def printable_report(report: Report) -> Report:
    """Return a report whose values all print; one whose values do is returned as it is.

    A GPU whose UUID is nothing else counts as one without a UUID, and of two with the same the first remains.
    """
    cleaned: Report = _printable(report)
    if cleaned is report:
        return report
    gpus: dict[str, Gpu] = {}
    unidentified = list(cleaned.unidentified)
    for gpu in cleaned.gpus:
        if gpu.uuid:
            gpus.setdefault(gpu.uuid, gpu)
        else:
            unidentified.append(
                UnidentifiedGpu(**{field: getattr(gpu, field) for field in UnidentifiedGpu.__struct_fields__})
            )
    return msgspec.structs.replace(cleaned, gpus=tuple(gpus.values()), unidentified=tuple(unidentified))


def _printable(value: Any) -> Any:
    """Return a value, a struct or a tuple with every text in it cleaned; the same object where nothing was to be."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, tuple):
        items = tuple(map(_printable, value))
        if all(map(_same, items, value)):
            return value
        return value._make(items) if hasattr(value, "_make") else items
    if isinstance(value, msgspec.Struct):
        changed = {}
        for field in value.__struct_fields__:
            before = getattr(value, field)
            if (after := _printable(before)) is not before:
                changed[field] = after or (None if field != "uuid" else "")
        return msgspec.structs.replace(value, **changed) if changed else value
    return value


def _same(one: object, other: object) -> bool:
    return one is other
