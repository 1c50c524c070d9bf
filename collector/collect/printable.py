"""Removes unprintable characters from a report: a node's output may contain any of them."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import msgspec

from collector.collect.nvidia_smi import Report
from collector.health import Health, shared
from collector.model import Gpu, UnidentifiedGpu
from collector.redaction import Secrets
from collector.text import printable

__all__ = ["printable_report"]

_HEALTH_TEXTS = ("recovery_action", "fabric_state", "fabric_status", "fabric_health", "inforom")
_GPU_TEXTS = tuple(field.name for field in msgspec.structs.fields(Gpu) if field.type in (str, str | None))
_texts_of_gpu, _texts_of_health = operator.attrgetter(*_GPU_TEXTS), operator.attrgetter(*_HEALTH_TEXTS)


def printable_report(report: Report, secrets: Secrets | None = None) -> Report:
    """Return a report with printable values only; unchanged if all are printable.

    A value that repeats one of the `secrets` is dropped: the pod may know it. A GPU whose UUID becomes empty counts as
    one without a UUID, and of two with the same UUID the first is kept.
    """
    if _is_clean(report, secrets):
        return report
    clean = printable if secrets is None else functools.partial(_published, secrets)
    cleaned: Report = _cleaned(report, clean)
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


def _is_clean(report: Report, secrets: Secrets | None) -> bool:
    """Return whether a report of GPUs alone, as most are, has nothing to remove.

    Most texts are the same in all GPUs of a node, and each is examined once.
    """
    if report.unidentified or report.lost or report.unread:
        return False
    found: set[str | None] = {report.driver_version, report.cuda_version}
    for gpu in report.gpus:
        if gpu.last_known:
            return False
        found.update(_texts_of_gpu(gpu))
        if gpu.health is not None:
            found.update(_texts_of_health(gpu.health))
    texts = [text for text in found if text]
    return "".join(texts).isprintable() and (secrets is None or not any(map(secrets.repeated_in, texts)))


def _published(secrets: Secrets, text: str) -> str:
    return "" if secrets.repeated_in(text) else printable(text)


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    """Return a value, a struct or a tuple with every text in it cleaned; the same object if nothing changed."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, tuple):
        items = tuple(_cleaned(item, clean) for item in value)
        if all(map(_same, items, value)):
            return value
        return value._make(items) if hasattr(value, "_make") else items
    if isinstance(value, msgspec.Struct):
        changed = {}
        for field in _HEALTH_TEXTS if isinstance(value, Health) else value.__struct_fields__:
            before = getattr(value, field)
            if (after := _cleaned(before, clean)) is not before:
                changed[field] = after or (None if field != "uuid" else "")
        if not changed:
            return value
        replaced = msgspec.structs.replace(value, **changed)
        return shared(replaced) if isinstance(replaced, Health) else replaced
    return value


def _same(one: object, other: object) -> bool:
    return one is other
