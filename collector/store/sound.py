"""Reads values that a damaged row may hold in place of what was written: nothing that is beside them gets lost.

SQLite keeps a value of any type in any column, and a page whose bytes have changed may still be a page.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from collector.model import NodeState

__all__ = ["MAX_TIME", "is_sound", "moment", "sound", "text"]

MAX_TIME = 253_402_300_799.0  # Unix seconds: the end of the year 9999, the last that can be written as a date

_Row = TypeVar("_Row", bound=msgspec.Struct)


def moment(value: object) -> float:
    """Return a time as it is; 0 for what is none."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= MAX_TIME else 0.0


def text(value: object) -> str:
    """Return a text as it is, and anything else as text; None is empty."""
    if isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)


def sound(kind: type[_Row], fields: Mapping[str, Any]) -> _Row:
    """Return a row of a kind; what is no text or time becomes one where it should be."""
    fields = {str(name): value for name, value in fields.items()}  # SQLAlchemy's are a kind of their own
    try:
        row = msgspec.convert(fields, kind)
    except msgspec.ValidationError:
        return msgspec.convert({name: _repaired(kind, name, value) for name, value in fields.items()}, kind)
    times = [getattr(row, name) for name in _TIMES.intersection(fields)]
    if all(time is None or 0 <= time <= MAX_TIME for time in times):
        return row
    return msgspec.convert({name: _repaired(kind, name, value) for name, value in fields.items()}, kind)


def is_sound(node: NodeState) -> bool:
    """Return whether all times of a decoded node are times."""
    times = node.since if node.time is None else (*node.since, node.time)
    return all(0 <= time <= MAX_TIME for time in times)


_TIMES = frozenset({"time", "since", "until", "confirmed"})
_KEPT = frozenset({"id", "previous"})


def _repaired(kind: type[msgspec.Struct], name: str, value: object) -> object:
    if name in _KEPT or (value is None and type(None) in _types(kind, name)):
        return value
    if name in _TIMES:
        return moment(value)
    return text(value)


def _types(kind: type[msgspec.Struct], name: str) -> tuple[object, ...]:
    (field,) = (field for field in msgspec.structs.fields(kind) if field.name == name)
    return getattr(field.type, "__args__", (field.type,))
