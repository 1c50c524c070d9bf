"""Reads values that may be damaged without losing the rest of the row.

SQLite stores values of any type in any column, and a page with corrupted bytes may still be a valid page.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from collector.model import FieldChange, Gpu, LastReport, NodeState
from collector.store.codec import decode_changes, decode_facts, decode_last_known
from collector.timestamps import MAX_TIME

__all__ = [
    "is_sound",
    "moment",
    "optional_text",
    "sound",
    "sound_changes",
    "sound_count",
    "sound_facts",
    "sound_last_known",
    "text",
]

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Row = TypeVar("_Row", bound=msgspec.Struct)


def moment(value: object) -> float:
    """Return a time unchanged; 0 if it is not one."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= MAX_TIME else 0.0


def text(value: object) -> str:
    """Return a string unchanged, and anything else as a string; None is empty."""
    if isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)


def optional_text(value: object) -> str | None:
    """Return the same as `text`, except that None stays None."""
    return None if value is None else text(value)


def sound_count(value: object) -> int:
    """Return the number of records in a row; 1 if the value is invalid."""
    return value if isinstance(value, int) and value > 0 else 1


def sound_changes(written: object) -> tuple[FieldChange, ...]:
    """Return a GPU's alterations; empty if they cannot be decoded."""
    return _decoded(decode_changes, written, ())


def sound_last_known(written: object) -> tuple[LastReport, ...]:
    """Return the fields that are only last known, with their times; empty if they cannot be decoded."""
    return _moments(_decoded(decode_last_known, written, ()))


def sound_facts(uuid: str, written: object) -> tuple[Gpu | None, bool]:
    """Return a GPU's last known values, and whether it had stopped responding; None if missing or not decodable."""
    nothing: tuple[Gpu | None, bool] = (None, False)
    gpu, lost = _decoded(lambda facts: decode_facts(uuid, facts), written, nothing)
    if gpu is None:
        return None, lost
    growth = None if gpu.ecc_growth is None else moment(gpu.ecc_growth)
    return msgspec.structs.replace(gpu, last_known=_moments(gpu.last_known), ecc_growth=growth), lost


def _decoded(decode: Callable[[str], _T], written: object, nothing: _T) -> _T:
    if written is None:
        return nothing
    try:
        return decode(text(written))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        log.debug("cannot decode altered or last known values", exc_info=True)
        return nothing


def _moments(reports: Iterable[LastReport]) -> tuple[LastReport, ...]:
    return tuple(LastReport(field, moment(time)) for field, time in reports)


def sound(kind: type[_Row], fields: Mapping[str, Any]) -> _Row:
    """Return a row as the given type; invalid texts and times are replaced with valid ones."""
    if set(map(type, fields)) != {str}:  # SQLAlchemy has its own type of names
        fields = {str(name): value for name, value in fields.items()}
    try:
        row = msgspec.convert(fields, kind)
    except msgspec.ValidationError:
        return msgspec.convert({name: _repaired(kind, name, value) for name, value in fields.items()}, kind)
    times = [getattr(row, name) for name in _TIMES.intersection(fields)]
    if all(time is None or 0 <= time <= MAX_TIME for time in times):
        return row
    return msgspec.convert({name: _repaired(kind, name, value) for name, value in fields.items()}, kind)


def is_sound(node: NodeState) -> bool:
    """Return whether all times of a decoded node are valid."""
    times = [time for time in {*node.since, node.time} if time is not None]
    for gpu in node.gpus:
        if gpu.last_known:
            times += [report.time for report in gpu.last_known]
        if gpu.ecc_growth is not None:
            times.append(gpu.ecc_growth)
    return all(0 <= time <= MAX_TIME for time in times)


_TIMES = frozenset({"time", "since", "until", "confirmed"})
_KEPT = frozenset(  # numbers, or already checked
    {"id", "previous", "changes", "last_known", "altered", "health_changes", "first_sight"}
)


def _repaired(kind: type[msgspec.Struct], name: str, value: object) -> object:
    if name in _KEPT or (value is None and type(None) in _types(kind, name)):
        return value
    if name in _TIMES:
        return moment(value)
    return text(value)


def _types(kind: type[msgspec.Struct], name: str) -> tuple[object, ...]:
    (field,) = (field for field in msgspec.structs.fields(kind) if field.name == name)
    return getattr(field.type, "__args__", (field.type,))
