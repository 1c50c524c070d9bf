"""Encodes nodes, GPUs' facts and records so that later versions of gpuid can still read them."""

import functools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from collector.health import HEALTH_FIELDS, Health, shared
from collector.marks import NO_MARKS, Marks
from collector.model import (
    KEPT_FIELDS,
    NO_UUIDS,
    SEAT_FIELDS,
    Change,
    Event,
    FieldChange,
    Fingerprint,
    Gpu,
    LastReport,
    NodeInfo,
    NodeState,
    Place,
    Reading,
    Sharing,
    SilentGpu,
    SinkRecord,
    UnidentifiedGpu,
    Unseen,
    changes_object,
)
from collector.store.snapshots import inflated
from collector.timestamps import rfc3339

__all__ = [
    "decode_changes",
    "decode_facts",
    "decode_last_known",
    "decode_node",
    "decode_records",
    "encode_changes",
    "encode_facts",
    "encode_last_known",
    "encode_node",
    "encode_records",
    "readings_records",
]

TOO_DEEP = "nested too deeply"  # for the decoder, in a field that no version of gpuid writes


def encode_node(state: NodeState) -> bytes:
    """Return a node as bytes; a value shared by all its GPUs is written once."""
    columns: dict[str, Any] = {}
    for field in _COLUMNS:
        values = [getattr(gpu, field) for gpu in state.gpus]
        if values and values.count(values[0]) == len(values) and field not in _UNIQUE:
            if values[0] is not None and values[0] is not _DEFAULTS.get(field):
                columns[field] = values[0]
        elif values:
            columns[field] = values
    health, other_health = _encoded_health(state.gpus)
    return _encode(
        _Stored(
            node=state.node,
            driver_version=state.driver_version,
            cuda_version=state.cuda_version,
            source=state.source,
            fingerprint=state.fingerprint,
            sharing=state.sharing,
            gpus=_Columns(**columns),
            since=state.since,
            claims=tuple(sorted(state.claims)),
            unseen=state.unseen,
            silent=state.silent,
            partial=state.partial,
            last_known={index: gpu.last_known for index, gpu in enumerate(state.gpus) if gpu.last_known},
            health_read=True,
            health=health,
            other_health=other_health,
            ecc_growth={index: gpu.ecc_growth for index, gpu in enumerate(state.gpus) if gpu.ecc_growth is not None},
        )
    )


def decode_node(place: Place, time: float | None, written: bytes) -> NodeState:
    """Return the node written by `encode_node`; strings shared by many GPUs are stored once.

    Raises MsgspecError, TypeError and ValueError.
    """
    try:
        stored = _decode(inflated(written))
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    since, fingerprint = stored.since, stored.fingerprint
    if since.count(since[0] if since else 0.0) == (count := len(since)):
        since = since[:1] * count  # one number instead of many equal ones
    if fingerprint is not None and fingerprint.boot_id == stored.node.boot_id:
        fingerprint = msgspec.structs.replace(fingerprint, boot_id=stored.node.boot_id)
    if fingerprint is not None and not stored.health_read:
        # Matches no pod, so that the node is read again; otherwise its GPUs would seem healthy until the next refresh.
        fingerprint = msgspec.structs.replace(fingerprint, restarts=-1)
    return NodeState(
        place=Place(*map(sys.intern, place)),
        node=stored.node,
        time=time,
        driver_version=_interned(stored.driver_version),
        cuda_version=_interned(stored.cuda_version),
        source=stored.source,
        fingerprint=fingerprint,
        sharing=None if stored.sharing is None else _one_for_all(stored.sharing),
        gpus=tuple(_decoded_gpus(stored, count, time)),
        since=since,
        claims=frozenset(stored.claims) if stored.claims else NO_UUIDS,
        unseen=stored.unseen,
        silent=stored.silent,
        partial=stored.partial,
    )


def encode_records(records: Sequence[SinkRecord]) -> bytes:
    """Return records as bytes."""
    return _encode(records)


def decode_records(written: bytes) -> list[SinkRecord]:
    """Return the records written by `encode_records`; raises MsgspecError, TypeError and ValueError."""
    try:
        return _decode_records(written)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def encode_changes(changes: Sequence[FieldChange]) -> str | None:
    """Return a GPU's altered fields as JSON text; None if there are none."""
    return _to_json(changes_object(changes)).decode() if changes else None


def decode_changes(written: str | None) -> tuple[FieldChange, ...]:
    """Return the alterations written by `encode_changes`."""
    if written is None:
        return ()
    return tuple(FieldChange(field, one.before, one.after) for field, one in _decode_changes(written).items())


def encode_last_known(last_known: Sequence[LastReport]) -> str | None:
    """Return the fields that are only last known, with their times, as JSON text; None if there are none."""
    return _to_json(dict(last_known)).decode() if last_known else None


def decode_last_known(written: str | None) -> tuple[LastReport, ...]:
    """Return the fields written by `encode_last_known`."""
    return () if written is None else tuple(LastReport(*item) for item in _decode_times(written).items())


def encode_facts(gpu: Gpu, time: float, *, lost: bool = False) -> str | None:
    """Return the last known values and position of a GPU that has left, as JSON; None if there are none.

    It was last read at `time` (Unix seconds). `lost` means that it had stopped responding.
    """
    times = dict(gpu.last_known)
    facts: dict[str, Any] = {} if not lost else {"lost": True}
    if not gpu.virtual:
        facts |= {
            field: (value, times.get(field, time))
            for field in KEPT_FIELDS
            if (value := getattr(gpu, field)) is not None
        }
        if gpu.health is not None:
            facts["health"] = (gpu.health, times.get("health", time))
            if marks := {field: at for field, at in gpu.last_known if field in HEALTH_FIELDS}:
                facts["last_known"] = marks
        if gpu.ecc_growth is not None:
            facts["ecc_growth"] = gpu.ecc_growth
        if facts:  # the rest of the row has its departure and last place
            facts |= {field: value for field in SEAT_FIELDS if (value := getattr(gpu, field)) is not None}
    return _to_json(facts).decode() if facts else None


def decode_facts(uuid: str, written: str | None) -> tuple[Gpu | None, bool]:
    """Return the values written by `encode_facts`, and whether the GPU had stopped responding."""
    if written is None:
        return None, False
    facts = _decode_facts(written)
    found = {field: fact for field in KEPT_FIELDS if (fact := getattr(facts, field)) is not None}
    values: dict[str, Any] = {
        field: value if field == "serial" else sys.intern(value) for field, (value, _) in found.items()
    }
    marks = tuple(LastReport(field, time) for field, (_, time) in found.items())
    if facts.health is not None:
        values["health"] = shared(facts.health[0])
        marks += tuple(LastReport(*item) for item in facts.last_known.items() if item[0] in HEALTH_FIELDS)
        marks += (LastReport("health", facts.health[1]),)
    if not values and facts.ecc_growth is None:
        return None, facts.lost
    seat = {field: getattr(facts, field) for field in SEAT_FIELDS}
    values |= {field: sys.intern(value) if isinstance(value, str) else value for field, value in seat.items()}
    return Gpu(uuid=uuid, **values, last_known=marks, ecc_growth=facts.ecc_growth), facts.lost


def readings_records(
    reading: Reading, changes: Sequence[Change], node: NodeState | None, marks: Marks = NO_MARKS
) -> list[SinkRecord]:
    """Return a record for each GPU of a reading: its change, or else that it was confirmed.

    A GPU that arrived or was altered and whose health changed as well gets one record with all changes. `node` is the
    state after the reading, which adds the GPUs' last known values. `marks` are the active ones.
    """
    place = Place(reading.cluster, reading.node.name)
    time = rfc3339(reading.time, "seconds")
    happened: dict[str, Change] = {}
    altered: dict[str, tuple[FieldChange, ...]] = {}  # of the GPU's facts and its health
    for change in changes:
        if change.place == place:
            uuid = change.gpu.uuid
            happened.setdefault(uuid, change)  # changes of health come last
            altered[uuid] = altered.get(uuid, ()) + change.changes
    known: Mapping[str, Gpu] = {} if node is None else {gpu.uuid: gpu for gpu in node.gpus}

    def record(gpu: Gpu | UnidentifiedGpu, uuid: str) -> SinkRecord:
        change, mark = happened.get(uuid), marks.of(uuid, gpu.serial, reading.time)
        return SinkRecord.of(
            place=place,
            machine=reading.node.machine,
            source=reading.source,
            time=time,
            event=Event.CONFIRMED if change is None else change.event,
            uuid=uuid,
            serial=gpu.serial,
            model=gpu.model,
            chassis=gpu.chassis,
            changes=altered.get(uuid, ()),
            last_known=gpu.last_known_facts if isinstance(gpu, Gpu) else (),
            mark=None if mark is None else mark.kind.value,
        )

    return [record(known.get(gpu.uuid, gpu), gpu.uuid) for gpu in reading.gpus] + [
        record(gpu, "") for gpu in reading.unidentified if gpu.serial
    ]


_COLUMNS = tuple(field for field in Gpu.__struct_fields__ if field not in ("last_known", "health", "ecc_growth"))

if TYPE_CHECKING:
    _Columns = Any
else:  # a column is one value shared by all GPUs, or a list with one for each
    _Columns = msgspec.defstruct(
        "_Columns",
        [
            (field.name, field.type | list[field.type] | None, None)
            for field in msgspec.structs.fields(Gpu)
            if field.name in _COLUMNS
        ]
        + [("last_known", str | list[str | None] | None, None)],  # from an earlier version: only names
        kw_only=True,
        frozen=True,
        omit_defaults=True,
    )


class _Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    node: NodeInfo
    driver_version: str | None = None
    cuda_version: str | None = None
    source: str = ""
    fingerprint: Fingerprint | None = None
    sharing: Sharing | None = None
    gpus: _Columns = _Columns()
    since: tuple[float, ...] = ()
    claims: tuple[str, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    silent: tuple[SilentGpu, ...] = ()
    partial: bool = False
    last_known: dict[int, tuple[LastReport, ...]] = {}  # by the position of the GPU
    health_read: bool = False  # readings of earlier versions had none
    health: Health | None = None  # of all GPUs except those with a different one
    other_health: dict[int, dict[str, str | int | bool | None] | None] = {}  # by position: the differing fields
    ecc_growth: dict[int, float] = {}  # by position


class _StoredFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The known values of a GPU that is in no node, each with when it was last reported."""

    serial: tuple[str, float] | None = None
    model: tuple[str, float] | None = None
    architecture: tuple[str, float] | None = None
    board_part_number: tuple[str, float] | None = None
    gpu_part_number: tuple[str, float] | None = None
    chassis: tuple[str, float] | None = None
    health: tuple[Health, float] | None = None
    last_known: dict[str, float] = {}  # the fields of health that were last reported before that
    ecc_growth: float | None = None
    lost: bool = False
    tray: str | None = None  # its position: this field and the next ones
    slot: str | None = None
    host: str | None = None
    module: str | None = None
    pci_bus_id: str | None = None
    minor_number: int | None = None


class _StoredChange(msgspec.Struct, frozen=True):
    before: str | int | bool | None = None
    after: str | int | bool | None = None


_DEFAULTS = {"virtual": False, "multi_gpu_board": False}  # the values of columns that are not written, if not None
_UNIQUE = ("uuid", "serial", "pci_bus_id", "minor_number")  # a value for each GPU
_FEW = frozenset(_COLUMNS) - {
    "uuid",
    "serial",
    "minor_number",
    "mig",
    "virtual",
    "multi_gpu_board",
}  # strings that repeat all over a fleet
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_to_json = msgspec.json.Encoder().encode
_decode_changes = msgspec.json.Decoder(dict[str, _StoredChange]).decode
_decode_times = msgspec.json.Decoder(dict[str, float]).decode
_decode_facts = msgspec.json.Decoder(_StoredFacts).decode
_decode_records = msgspec.msgpack.Decoder(list[SinkRecord]).decode


@functools.lru_cache(maxsize=4096)
def _one_for_all(sharing: Sharing) -> Sharing:
    """Return a shared object for all equal ones: a fleet has few kinds of nodes."""
    return sharing


def _interned(text: str | None) -> str | None:
    return None if text is None else sys.intern(text)


def _marks_without_times(written: Any, count: int, time: float | None) -> list[tuple[LastReport, ...]]:
    """Return the marks that an earlier version wrote as names only: these fields were not reported at `time`."""
    texts = _column(written, "last_known", count)
    return [tuple(LastReport(field, time or 0.0) for field in text.split(",")) if text else () for text in texts]


def _encoded_health(
    gpus: Sequence[Gpu],
) -> tuple[Health | None, dict[int, dict[str, str | int | bool | None] | None]]:
    """Return the health of most GPUs, and the differences of the others by position; None: no health."""
    found = [gpu.health for gpu in gpus]
    common = found[0] if found else None
    if all(health is common for health in found):  # nearly always
        return common, {}
    kinds = Counter(health for health in found if health is not None)
    common = kinds.most_common(1)[0][0]
    others = {
        index: None
        if health is None
        else {name: value for name in HEALTH_FIELDS if (value := getattr(health, name)) != getattr(common, name)}
        for index, health in enumerate(found)
        if health != common
    }
    return common, others


def _decoded_gpus(stored: _Stored, count: int, time: float | None) -> list[Gpu]:
    """Return the GPUs of a node; equal strings and healths are one object."""
    columns = stored.gpus
    if count and columns.uuid is None:
        raise ValueError("uuid: missing")
    alike: dict[str, Any] = {}
    own: dict[str, list[Any]] = {}
    for field, value in zip(columns.__struct_fields__, msgspec.structs.astuple(columns), strict=True):
        if value is None or field in _UNIQUE or field == "last_known":
            continue
        if type(value) is list:
            own[field] = _column(value, field, count)
        else:
            alike[field] = sys.intern(value) if type(value) is str else value
    health = None if stored.health is None else shared(stored.health)
    # Copies of one, because Python passes more than 15 keywords ten times as slowly.
    model = Gpu(uuid="", health=health, **alike)
    unique = [_column(getattr(columns, field), field, count) for field in _UNIQUE]
    gpus = [
        msgspec.structs.replace(model, uuid=uuid, serial=serial, pci_bus_id=pci_bus_id, minor_number=minor_number)
        for uuid, serial, pci_bus_id, minor_number in zip(*unique, strict=True)
    ]
    for field, values in own.items():
        gpus = [msgspec.structs.replace(gpu, **{field: value}) for gpu, value in zip(gpus, values, strict=True)]
    for index, fields in _decoded_rest(stored, count, time, health).items():
        if fields:
            gpus[index] = msgspec.structs.replace(gpus[index], **fields)
    return gpus


def _decoded_rest(stored: _Stored, count: int, time: float | None, common: Health | None) -> dict[int, dict[str, Any]]:
    """Return the fields that few GPUs have, by position."""
    if not (stored.last_known or stored.gpus.last_known or stored.other_health or stored.ecc_growth):
        return {}  # nearly always
    found: dict[int, dict[str, Any]] = {index: {} for index in range(count)}
    marks = stored.last_known or dict(enumerate(_marks_without_times(stored.gpus.last_known, count, time)))
    for index in found.keys() & marks.keys():
        found[index]["last_known"] = marks[index]
    for index in found.keys() & stored.ecc_growth.keys():
        found[index]["ecc_growth"] = stored.ecc_growth[index]
    for index in found.keys() & stored.other_health.keys():
        fields = stored.other_health[index]
        found[index]["health"] = None if fields is None else shared(_with_fields(common, fields))
    return found


def _with_fields(health: Health | None, fields: Mapping[str, Any]) -> Health:
    """Return a health with some fields replaced, if the values are valid for them; raises ValidationError."""
    known = {} if health is None else {name: getattr(health, name) for name in HEALTH_FIELDS}
    return msgspec.convert({**known, **fields}, Health)


def _column(value: Any, field: str, count: int) -> list[Any]:
    if value is None:
        return [None] * count
    if type(value) is list:
        if len(value) != count:
            raise ValueError(f"{field}: expected {count} values")
        return [None if text is None else sys.intern(text) for text in value] if field in _FEW else value
    return [sys.intern(value) if type(value) is str else value] * count
