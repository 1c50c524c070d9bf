"""The records that sinks write."""

from collections.abc import Iterable, Mapping

import msgspec

from collector.model.differences import FieldChange
from collector.model.gpu import LastReport
from collector.model.node import Place
from collector.timestamps import rfc3339

__all__ = [
    "SinkRecord",
    "changes_object",
    "last_known_object",
]


class SinkRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One GPU on one node as written by sinks; absent text is the empty string.

    The names and order of the first seven fields are those of the Go program's records.
    """

    cluster: str
    node: str
    machine: str
    source: str  # `namespace/pod` that was read
    chassis: str
    gpu: str  # the serial
    time: str  # RFC 3339, UTC
    uuid: str
    model: str
    event: str  # an Event's value
    changes: Mapping[str, Mapping[str, str | int | bool | None]] | None = None  # see `changes_object`
    last_known: Mapping[str, str] | None = None  # see `last_known_object`
    mark: str | None = None  # the kind of its mark when this was recorded

    @classmethod
    def of(
        cls,
        *,
        place: Place,
        machine: str,
        source: str,
        time: str,
        event: str,
        uuid: str,
        serial: str | None,
        model: str | None,
        chassis: str | None,
        changes: Iterable[FieldChange] = (),
        last_known: Iterable[LastReport] = (),
        mark: str | None = None,
    ) -> "SinkRecord":
        """Return the record of a GPU's event at `time` (RFC 3339); absent text is None."""
        return cls(
            cluster=place.cluster,
            node=place.node,
            machine=machine,
            source=source,
            chassis=chassis or "",
            gpu=serial or "",
            time=time,
            uuid=uuid,
            model=model or "",
            event=str(event),
            changes=changes_object(changes),
            last_known=last_known_object(last_known),
            mark=mark,
        )


def changes_object(changes: Iterable[FieldChange]) -> dict[str, dict[str, str | int | bool | None]] | None:
    """Return alterations as a JSON object: by field, with `before` and `after`; None if there are none.

    A counter that decreased also has `went_back`.
    """
    return {
        one.field: {"before": one.before, "after": one.after} | ({"went_back": True} if one.went_back else {})
        for one in changes
    } or None


def last_known_object(last_known: Iterable[LastReport]) -> dict[str, str] | None:
    """Return the last known fields as a JSON object with the time of each; None if there are none."""
    return {one.field: rfc3339(one.time) for one in last_known} or None
