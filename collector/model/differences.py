"""What differs between two states of one GPU."""

import functools
from typing import NamedTuple

from collector.health import COUNTERS, HEALTH_FIELDS, ONLY_GROWING, Condition, Health, degradations
from collector.model.gpu import Gpu

__all__ = [
    "FieldChange",
    "field_changes",
    "health_changes",
]


_ALTERABLE = tuple(name for name in Gpu.__struct_fields__ if name not in ("uuid", "last_known", "health", "ecc_growth"))


class FieldChange(NamedTuple):
    """One altered field of a GPU or its health, with the same name and type; None: not reported.

    The field `lost` is whether it did not respond.
    """

    field: str
    before: str | int | bool | None
    after: str | int | bool | None

    @property
    def went_back(self) -> bool:
        """Whether a monotonic counter decreased, which a different InfoROM or driver causes, not a repair."""
        if self.field not in ONLY_GROWING or not isinstance(self.before, int) or not isinstance(self.after, int):
            return False
        return self.after < self.before


def field_changes(before: Gpu, after: Gpu) -> tuple[FieldChange, ...]:
    """Return the differences between two states of one GPU.

    A value that is only last known is not reported: losing it is a change to None, and regaining it one from None.
    """
    found = []
    for field in _ALTERABLE:
        old, new = getattr(before, field), getattr(after, field)
        if old == new and not before.last_known and not after.last_known:
            continue
        was = old if old != new or before.reports(field) else None
        now = new if after.reports(field) else None
        if was != now:
            found.append(FieldChange(field, was, now))
    return tuple(found)


@functools.lru_cache(maxsize=1024)  # a new fleet, or one that gets another driver, has few distinct ones
def health_changes(before: Health | None, after: Health | None) -> tuple[FieldChange, ...]:
    """Return the differences between two states of one GPU's health; its fields are HEALTH_FIELDS.

    A field that one of them does not report is a difference only if the other's value is significant: a non-zero
    counter, or a reason to be degraded. A driver that starts to report more thus changes nothing for a healthy GPU.
    """
    if before == after:
        return ()
    old, new = before or Health(), after or Health()
    found = (FieldChange(field, getattr(old, field), getattr(new, field)) for field in HEALTH_FIELDS)
    return tuple(
        one
        for one in found
        if one.before != one.after
        and (None not in (one.before, one.after) or _tells(one.field, old) or _tells(one.field, new))
    )


def _tells(field: str, health: Health) -> bool:
    """Return whether the value of a health field is significant by itself."""
    value = getattr(health, field)
    if value is None or field in COUNTERS or isinstance(value, bool):
        return bool(value)
    return bool(degradations(Condition(Health(**{field: value}))))
