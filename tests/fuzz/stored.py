"""What the store's rows hold, which other versions, other shards, damage and restored backups may have written."""

import contextlib
import functools
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from collector.marks import Mark, MarkKind, Marks, NewMark
from collector.model import NodeInfo, NodeState, Place, SinkRecord
from collector.store import (
    OpenMode,
    RefusedMarkError,
    Store,
    StoreError,
    StoreSettings,
    checkpoints,
    codec,
    outbox_records,
    schema,
    shards,
    sound,
)
from collector.store.check import check
from collector.store.history import PastPlacement
from collector.store.snapshots import deflated
from collector.timestamps import MAX_TIME
from tests.fuzz.documents import any_text, damaged, json_documents
from tests.fuzz.target import FOLDER, RESOURCES, Target, Targets, bytes_target, check_message, refusing
from tests.store.test_codec import snapshots
from tests.support.recorded_fleet import collecting

__all__ = ["TARGETS"]

PLACE = Place("prod", "n1")


def _node(written: bytes) -> None:
    """What can be read can be written, and is read the same again."""
    node = codec.decode_node(PLACE, 1.0, written)
    sound.is_sound(node)
    again = codec.decode_node(PLACE, 1.0, codec.encode_node(node))
    assert _comparable(again) == _comparable(node)
    shards.with_unread(node, written)


def _comparable(node: NodeState) -> bytes:
    """Return a node in a form in which NaN equals itself; which pods it was read from may have been forgotten."""
    return msgspec.msgpack.encode(msgspec.structs.replace(node, fingerprint=None), order="deterministic")


def _records(written: bytes) -> None:
    found = codec.decode_records(written)
    assert codec.encode_records(codec.decode_records(codec.encode_records(found))) == codec.encode_records(found)


def _columns(value: Any) -> None:
    """No value of a row stops the rest of it from being read."""
    if isinstance(value, str):
        value = value.encode(errors="replace").decode()  # as text comes from a database
    for change in sound.sound_changes(value):
        assert isinstance(change.field, str)
    reports = sound.sound_last_known(value)
    assert all(0 <= report.time <= MAX_TIME for report in reports)
    sound.sound_facts("GPU-1", value)
    assert sound.sound_count(value) >= 1
    assert 0 <= sound.moment(value) <= MAX_TIME
    assert isinstance(sound.text(value), str)
    checkpoints._decoded(value)
    row = shards._cluster_row(("prod", value, value, value, 1, value))
    assert 0 <= row.removed_at <= MAX_TIME
    state = NodeState(place=PLACE, node=NodeInfo(name="n1"))
    shards.with_unread(state, value)
    times = dict.fromkeys(("since", "until", "confirmed"), value)
    names = ("uuid", "serial", "model", "chassis", "cluster", "node", "machine", "tray", "slot", "module", "pci_bus_id")
    placement = sound.sound(PastPlacement, {**dict.fromkeys(names, value), **times, "id": 1})
    assert all(0 <= time <= MAX_TIME for time in (placement.since, placement.until or 0.0, placement.confirmed))


deep = st.sampled_from([b"\x81\xa1x" + b"\x91" * 100_000, b"\x91" * 100_000, b"\x81\xa1x" + b"\x91" * 5000 + b"\x01"])
records = st.builds(
    SinkRecord,
    **{
        field: {"changes": st.just({}), "last_known": st.none() | st.just({})}.get(field, st.text(max_size=5))
        for field in SinkRecord.__struct_fields__
    },
)
values = st.one_of(
    st.none(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    any_text,
    st.binary(max_size=40),
    json_documents("serial", "model", "before", "after", "health", "last_known", "lost", "tray", "minor_number"),
    json_documents("serial", "model", "before", "after").map(lambda body: body.decode("utf-8", "surrogateescape")),
)

changes = st.lists(
    st.tuples(
        st.floats() | st.integers() | st.sampled_from([1764000000.0, 1764000000.9999995, 0.1, 253402300799.9]) | values,
        *[any_text | values] * 8,
        *[st.sampled_from(["moved", "added", "altered"])],
        st.none() | st.just('{"serial":["1","2"]}') | values,
        st.none() | st.just('[["serial",1764000000.0]]') | values,
        st.none() | st.just("rma"),
    ),
    max_size=3,
)


class _File:
    """A store's file, parts of which are overwritten before it is opened."""

    def __init__(self) -> None:
        self._file = Path(FOLDER / "damaged.db")
        self._settings = StoreSettings(url=f"sqlite://{self._file}")
        self._whole = b""

    def open(self, patches: list[tuple[int, bytes]]) -> None:
        """Check a store and read all of it, as a collector does when it starts, and as people ask for it."""
        if not self._whole:
            anyio.run(self._make)
        content = bytearray(self._whole)
        for at, patch in patches:
            place = at % len(content)
            content[place : place + len(patch)] = patch
        for side in ("-wal", "-shm"):
            Path(f"{self._file}{side}").unlink(missing_ok=True)
        self._file.write_bytes(content)
        anyio.run(self._check)
        anyio.run(self._read)

    async def _make(self) -> None:
        """Record GPUs that move, fall ill, leave and return, and marks."""
        async with collecting(self._settings) as fleet:
            for number in range(6):
                moving = "5" if number % 2 else "6"
                fleet.read("a", 10.0 + number, *"1234"[: 2 + number % 3], moving)
                fleet.read("b", 10.5 + number, "7", "5" if moving == "6" else "6", cluster="lab")
            fleet.remove("b", 20.0, cluster="lab")
            new = NewMark(kind=MarkKind.RMA, note="sent in", ticket="OPS-1")
            await fleet.store.marks.set(["GPU-1", "serial-9"], new, by="ops")
            assert await fleet.store.history_writer.flushed(60)
        self._whole = self._file.read_bytes()

    async def _check(self) -> None:
        with refusing(StoreError):
            await check(self._settings)

    async def _read(self) -> None:
        async with Store.open(self._settings, OpenMode.READER) as store:
            for ask in (
                store.load,
                store.marks.in_force,
                partial(store.history.changes, after=0),
                partial(store.history.where, "GPU-5"),
            ):
                with refusing(StoreError):
                    await ask()


class _Marks:
    """A store in which rows of marks have any values, as a damaged file may."""

    def __init__(self) -> None:
        self._file = Path(FOLDER / "marks.db")

    def read(self, rows: list[tuple[Any, ...]]) -> None:
        """Every mark is found, and can be removed."""
        anyio.run(self._read, rows)

    async def _read(self, rows: list[tuple[Any, ...]]) -> None:
        async with Store.open(StoreSettings(url=f"sqlite://{self._file}")) as store:
            with contextlib.closing(sqlite3.connect(self._file)) as connection, connection:
                connection.execute("DELETE FROM gpuid_marks")
                insert = f"INSERT OR IGNORE INTO gpuid_marks VALUES ({', '.join('?' * len(MARK_COLUMNS))})"
                for number, row in enumerate(rows, 1):
                    with contextlib.suppress(sqlite3.IntegrityError):  # it is refused when it is written
                        connection.execute(insert, (number, *map(_storable, row)))
                (number,) = connection.execute("SELECT count(*) FROM gpuid_marks").fetchone()
            marks = await store.marks.page(ended=True)
            assert len(marks) == number
            for mark in marks:
                assert 0 <= mark.set_at <= MAX_TIME
                assert msgspec.json.decode(msgspec.json.encode(mark), type=Mark) == mark
            _, active = await store.marks.in_force()
            for name in filter(None, (mark.uuid or mark.serial for mark in Marks(active))):
                try:
                    await store.marks.remove([name], by="ops")
                except RefusedMarkError as error:
                    check_message(str(error))
                    assert sum(mark.serial == name for mark in active) > 1  # the GPUs have to be named
                else:
                    assert all(name != (one.uuid or one.serial) for one in (await store.marks.in_force())[1])


MARK_COLUMNS = [column.name for column in schema.marks.columns]
COLUMNS = [column.name for column in outbox_records._CHANGES.selected_columns]


@functools.cache
def _changes() -> Connection:
    """Return a database whose table of changes has any value in any column, as a damaged file may."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    connection = engine.connect()
    RESOURCES.callback(_changes.cache_clear)
    RESOURCES.callback(engine.dispose)
    RESOURCES.callback(connection.close)
    connection.exec_driver_sql(f"CREATE TABLE gpuid_changes (id INTEGER PRIMARY KEY, {', '.join(COLUMNS[1:])})")
    return connection


def _outbox(rows: list[tuple[Any, ...]]) -> None:
    """What SQLite writes as one text has the same records as the rows, or is refused."""
    connection = _changes()
    connection.exec_driver_sql("DELETE FROM gpuid_changes")
    insert = f"INSERT INTO gpuid_changes VALUES ({', '.join('?' * len(COLUMNS))})"
    for number, row in enumerate(rows, 1):
        values = [_storable(value) for value in (*row, *[None] * len(COLUMNS))][: len(COLUMNS) - 1]
        connection.exec_driver_sql(insert, (number, *values))
    asked = {"b_cursor": 0, "b_upto": len(rows), "b_limit": len(rows)}
    found = connection.execute(outbox_records._CHANGES, asked).all()
    records = [outbox_records._record(*row[1:]) for row in found]
    assert len(msgspec.json.decode(msgspec.json.encode(records))) == len(rows)
    try:
        written = connection.execute(outbox_records._CHANGES_AS_JSON, asked).scalar_one()
        ids, same = outbox_records._from_json(written)
    except (DBAPIError, msgspec.MsgspecError):  # then the rows are read
        return
    assert ids == [row[0] for row in found]
    for row, read, expected in zip(found, same, records, strict=True):
        if (
            isinstance(row[1], float) and MAX_TIME < row[1] < MAX_TIME + 1
        ):  # no time, of which SQLite makes the last one
            read = msgspec.structs.replace(read, time=expected.time)
        assert read == expected


def _storable(value: Any) -> Any:
    """Return a value as a driver can store it."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, int):
        return max(-(1 << 63), min(value, (1 << 63) - 1))
    return value if isinstance(value, float | bytes) else None


times = st.none() | st.floats() | st.sampled_from([0.0, 1764000000.0, 4e9]) | values
mark_rows = st.lists(
    st.tuples(
        st.none() | st.sampled_from(["GPU-1", b"GPU-1", "GPU-2"]) | values,
        st.none() | st.sampled_from(["1", b"1", "2"]) | values,
        st.sampled_from(["rma", "watch"]) | values,
        values,
        values,
        times,
        values,
        *[times] * 2,
        st.none() | values,
    ),
    max_size=4,
)

patches = st.lists(
    st.tuples(st.integers(0, 200) | st.integers(0, 1 << 20), st.binary(min_size=1, max_size=40)), max_size=4
)

encoded = snapshots().map(codec.encode_node)

TARGETS: Targets = {
    "stored-node": bytes_target(
        _node, (encoded | encoded.map(deflated)).flatmap(damaged) | deep, msgspec.MsgspecError, TypeError, ValueError
    ),
    "stored-records": bytes_target(
        _records,
        st.lists(records, max_size=3).map(codec.encode_records).flatmap(damaged) | deep,
        msgspec.MsgspecError,
        TypeError,
        ValueError,
    ),
    "outbox": Target(_outbox, changes),
    "stored-columns": Target(_columns, values),
    "stored-marks": Target(_Marks().read, mark_rows),
    "store-file": Target(_File().open, patches, (StoreError,)),
}
