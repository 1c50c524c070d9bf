"""Encodes nodes and records as compact bytes that later versions of gpuid can still read."""

import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from collector.model import (
    NO_UUIDS,
    Change,
    Event,
    Fingerprint,
    Gpu,
    NodeInfo,
    NodeState,
    Place,
    Reading,
    Sharing,
    SilentGpu,
    SinkRecord,
    UnidentifiedGpu,
    Unseen,
)
from collector.timestamps import rfc3339

__all__ = ["decode_node", "decode_records", "encode_node", "encode_records", "readings_records"]


def encode_node(state: NodeState) -> bytes:
    """Return a node as bytes; a column whose GPUs all agree is written once."""
    columns: dict[str, Any] = {}
    for field in _FIELDS:
        values = [getattr(gpu, field) for gpu in state.gpus]
        if values and values.count(values[0]) == len(values) and field not in _UNIQUE:
            if values[0] is not None and values[0] is not _DEFAULTS.get(field):
                columns[field] = values[0]
        elif values:
            columns[field] = values
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
        )
    )


def decode_node(place: Place, time: float | None, written: bytes) -> NodeState:
    """Return the node that `encode_node` wrote; texts that many GPUs have in common are held once."""
    stored = _decode(written)
    since, fingerprint = stored.since, stored.fingerprint
    if since.count(since[0] if since else 0.0) == (count := len(since)):
        since = since[:1] * count  # one number instead of equal ones
    if fingerprint is not None and fingerprint.boot_id == stored.node.boot_id:
        fingerprint = msgspec.structs.replace(fingerprint, boot_id=stored.node.boot_id)
    if count and stored.gpus.uuid is None:
        raise ValueError("uuid: missing")
    columns = [_column(getattr(stored.gpus, field), field, count) for field in _FIELDS]
    return NodeState(
        place=Place(*map(sys.intern, place)),
        node=stored.node,
        time=time,
        driver_version=_interned(stored.driver_version),
        cuda_version=_interned(stored.cuda_version),
        source=stored.source,
        fingerprint=fingerprint,
        sharing=None if stored.sharing is None else _one_for_all(stored.sharing),
        gpus=tuple(map(_gpu, *columns)),
        since=since,
        claims=frozenset(stored.claims) if stored.claims else NO_UUIDS,
        unseen=stored.unseen,
        silent=stored.silent,
    )


def encode_records(records: Sequence[SinkRecord]) -> bytes:
    """Return records as bytes."""
    return _encode(records)


def decode_records(written: bytes) -> list[SinkRecord]:
    """Return the records that `encode_records` wrote."""
    return _decode_records(written)


def readings_records(reading: Reading, changes: Sequence[Change]) -> list[SinkRecord]:
    """Return a record of each GPU of a reading: what happened to it, else that it was confirmed."""
    place = Place(reading.cluster, reading.node.name)
    time = rfc3339(reading.time, "seconds")
    events = {change.gpu.uuid: change.event for change in changes if change.place == place}

    def record(gpu: Gpu | UnidentifiedGpu, uuid: str) -> SinkRecord:
        return SinkRecord.of(
            place=place,
            machine=reading.node.machine,
            source=reading.source,
            time=time,
            event=events.get(uuid, Event.CONFIRMED),
            uuid=uuid,
            serial=gpu.serial,
            model=gpu.model,
            chassis=gpu.chassis,
        )

    return [record(gpu, gpu.uuid) for gpu in reading.gpus] + [
        record(gpu, "") for gpu in reading.unidentified if gpu.serial
    ]


if TYPE_CHECKING:
    _Columns = Any
else:  # a column is a value that all GPUs have, or a list of one for each
    _Columns = msgspec.defstruct(
        "_Columns",
        [(field.name, field.type | list[field.type] | None, None) for field in msgspec.structs.fields(Gpu)],
        kw_only=True,
        frozen=True,
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


_FIELDS: tuple[str, ...] = Gpu.__struct_fields__
_DEFAULTS = {"virtual": False, "multi_gpu_board": False}  # what a column that is not written stands for, if not None
_UNIQUE = frozenset({"uuid", "serial", "pci_bus_id", "minor_number"})
_FEW = frozenset(_FIELDS) - {
    "uuid",
    "serial",
    "minor_number",
    "mig",
    "virtual",
    "multi_gpu_board",
}  # texts that repeat all over a fleet
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_decode_records = msgspec.msgpack.Decoder(list[SinkRecord]).decode


@functools.lru_cache(maxsize=4096)
def _one_for_all(sharing: Sharing) -> Sharing:
    """Return one object for all equal ones: a fleet has few kinds of nodes."""
    return sharing


def _interned(text: str | None) -> str | None:
    return None if text is None else sys.intern(text)


def _column(value: Any, field: str, count: int) -> list[Any]:
    if value is None:
        return [None] * count
    if type(value) is list:
        if len(value) != count:
            raise ValueError(f"{field}: expected {count} values")
        return [None if text is None else sys.intern(text) for text in value] if field in _FEW else value
    return [sys.intern(value) if type(value) is str else value] * count


def _gpu(  # in the order of the fields; spelled out, because this is four times as fast as any loop
    uuid: str,
    serial: str | None,
    model: str | None,
    architecture: str | None,
    chassis: str | None,
    slot: str | None,
    tray: str | None,
    host: str | None,
    module: str | None,
    pci_bus_id: str | None,
    board_part_number: str | None,
    gpu_part_number: str | None,
    minor_number: int | None,
    vbios: str | None,
    mig: bool | None,
    virtual: bool | None,
    multi_gpu_board: bool | None,
    last_known: str | None,
) -> Gpu:
    return Gpu(
        uuid=uuid,
        serial=serial,
        model=model,
        architecture=architecture,
        chassis=chassis,
        slot=slot,
        tray=tray,
        host=host,
        module=module,
        pci_bus_id=pci_bus_id,
        board_part_number=board_part_number,
        gpu_part_number=gpu_part_number,
        minor_number=minor_number,
        vbios=vbios,
        mig=mig,
        virtual=bool(virtual),
        multi_gpu_board=bool(multi_gpu_board),
        last_known=last_known,
    )
