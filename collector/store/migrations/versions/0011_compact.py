"""In an SQLite file, what repeats is stored once: GPUs, nodes and texts by number, and the snapshots of nodes deflated.

The tables of placements and changes become views, which also take what is written.
"""

# ruff: noqa: S608

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op

from collector.store.files import TO_BE_SHRUNK
from collector.store.identifiers import packed
from collector.store.snapshots import deflated, inflated

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

LOST = ""  # by a downgrade: nothing

ROWS_PER_STATEMENT = 5000

_TABLES = (
    "CREATE TABLE gpuid_texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)",
    "CREATE TABLE gpuid_places (id INTEGER PRIMARY KEY, cluster TEXT, node TEXT, UNIQUE (node, cluster))",
    # A UUID has no type: it is 16 bytes, or a text where it is not in the tool's form. The model is a text's id.
    "CREATE TABLE gpuid_gpus (id INTEGER PRIMARY KEY, uuid NOT NULL, serial TEXT, chassis TEXT, model INTEGER)",
    "CREATE TABLE gpuid_seats (id INTEGER PRIMARY KEY, tray TEXT, slot TEXT, module TEXT, pci_bus_id TEXT)",
    "CREATE TABLE gpuid_placement_rows (id INTEGER PRIMARY KEY, gpu INTEGER NOT NULL, place INTEGER NOT NULL,"
    # `confirmed` is the empty text, which takes no room, while it is the same as `since`.
    " machine INTEGER, since DOUBLE NOT NULL, until DOUBLE, confirmed DOUBLE, last_known TEXT, seat INTEGER)",
    "CREATE TABLE gpuid_change_rows (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, time DOUBLE NOT NULL,"
    " event NOT NULL, gpu INTEGER NOT NULL, place INTEGER NOT NULL, cluster INTEGER, machine INTEGER, source INTEGER,"
    " previous INTEGER, previous_cluster INTEGER, changes TEXT, last_known TEXT, mark TEXT,"
    " first_sight BOOLEAN NOT NULL)",
)
_INDEXES = (
    "CREATE INDEX gpuid_places_cluster ON gpuid_places (cluster, node)",
    "CREATE INDEX gpuid_gpus_uuid ON gpuid_gpus (uuid)",
    "CREATE INDEX gpuid_gpus_serial ON gpuid_gpus (serial) WHERE serial IS NOT NULL",
    "CREATE INDEX gpuid_gpus_chassis ON gpuid_gpus (chassis) WHERE chassis IS NOT NULL",
    "CREATE INDEX gpuid_seats_seat ON gpuid_seats (pci_bus_id, module, slot, tray)",
    "CREATE INDEX gpuid_placements_gpu ON gpuid_placement_rows (gpu)",
    "CREATE INDEX gpuid_placements_place ON gpuid_placement_rows (place, since, until)",
    "CREATE INDEX gpuid_placements_since ON gpuid_placement_rows (since)",
    "CREATE INDEX gpuid_placements_until ON gpuid_placement_rows (until) WHERE until IS NOT NULL",
    # Rows with the same values are in the order of id. A GPU has few changes: their time is not in the index.
    "CREATE INDEX gpuid_changes_time ON gpuid_change_rows (time)",
    "CREATE INDEX gpuid_changes_gpu ON gpuid_change_rows (gpu)",
    "CREATE INDEX gpuid_changes_place ON gpuid_change_rows (place, time)",
    "CREATE INDEX gpuid_changes_previous ON gpuid_change_rows (previous, time) WHERE previous IS NOT NULL",
    "CREATE INDEX gpuid_changes_other ON gpuid_change_rows (time) WHERE NOT first_sight",
    "CREATE INDEX gpuid_changes_cluster ON gpuid_change_rows (cluster, time) WHERE NOT first_sight",
    "CREATE INDEX gpuid_changes_across ON gpuid_change_rows (previous_cluster, time) WHERE previous_cluster <> cluster",
)
_EVENTS = ("appeared", "moved", "vanished", "altered", "health")
_EVENT = "CASE r.event {} ELSE r.event END".format(
    " ".join(f"WHEN {number} THEN '{event}'" for number, event in enumerate(_EVENTS, 1))
)
_EVENT_NUMBER = "CASE {{0}}event {} ELSE {{0}}event END".format(
    " ".join(f"WHEN '{event}' THEN {number}" for number, event in enumerate(_EVENTS, 1))
)
# The outer joins are of tables that SQLite leaves out of a query that asks for none of their columns.
_VIEWS = (
    "CREATE VIEW gpuid_placements AS SELECT r.id, g.uuid, g.serial, g.chassis, model.text AS model,"
    " p.cluster, p.node, machine.text AS machine, r.since, r.until,"
    " CASE r.confirmed WHEN '' THEN r.since ELSE r.confirmed END AS confirmed, r.last_known,"
    " s.tray, s.slot, s.module, s.pci_bus_id, r.place FROM gpuid_placement_rows r"
    " JOIN gpuid_gpus g ON g.id = r.gpu JOIN gpuid_places p ON p.id = r.place"
    " LEFT JOIN gpuid_texts model ON model.id = g.model LEFT JOIN gpuid_texts machine ON machine.id = r.machine"
    " LEFT JOIN gpuid_seats s ON s.id = r.seat",
    f"CREATE VIEW gpuid_changes AS SELECT r.id, r.time, {_EVENT} AS event, g.uuid, g.serial, model.text AS model,"
    " g.chassis, cluster.text AS cluster, p.node, machine.text AS machine, source.text AS source,"
    " previous_cluster.text AS previous_cluster, previous.node AS previous_node, r.changes, r.last_known, r.mark,"
    " r.first_sight, r.previous_cluster <> r.cluster AS across, r.gpu, r.place, r.previous, r.machine AS machine_text"
    " FROM gpuid_change_rows r"
    " JOIN gpuid_gpus g ON g.id = r.gpu JOIN gpuid_places p ON p.id = r.place"
    " LEFT JOIN gpuid_texts cluster ON cluster.id = r.cluster LEFT JOIN gpuid_texts model ON model.id = g.model"
    " LEFT JOIN gpuid_texts machine ON machine.id = r.machine LEFT JOIN gpuid_texts source ON source.id = r.source"
    " LEFT JOIN gpuid_texts previous_cluster ON previous_cluster.id = r.previous_cluster"
    " LEFT JOIN gpuid_places previous ON previous.id = r.previous",
)


def _text(value: str) -> str:
    return f"(SELECT id FROM gpuid_texts WHERE text = {value})"


def _place(cluster: str, node: str) -> str:
    return f"(SELECT id FROM gpuid_places WHERE node IS {node} AND cluster IS {cluster})"


def _gpu(row: str) -> str:
    return (
        f"(SELECT id FROM gpuid_gpus WHERE uuid = {row}uuid AND +serial IS {row}serial"
        f" AND +chassis IS {row}chassis AND model IS {_text(f'{row}model')})"
    )


def _seat(row: str) -> str:
    return (
        f"(SELECT id FROM gpuid_seats WHERE pci_bus_id IS {row}pci_bus_id AND module IS {row}module"
        f" AND slot IS {row}slot AND tray IS {row}tray)"
    )


def _add_texts(*columns: str) -> str:
    values = ", ".join(f"(NEW.{column})" for column in columns)
    return f"INSERT OR IGNORE INTO gpuid_texts (text) VALUES {values}; "  # neither NULL nor what is there


def _add_place(cluster: str = "cluster", node: str = "node") -> str:
    return (
        f"INSERT INTO gpuid_places (cluster, node) SELECT NEW.{cluster}, NEW.{node}"
        f" WHERE coalesce(NEW.{cluster}, NEW.{node}) IS NOT NULL"
        f" AND NOT EXISTS {_place(f'NEW.{cluster}', f'NEW.{node}')}; "
    )


_ADD_GPU = (
    "INSERT INTO gpuid_gpus (uuid, serial, chassis, model)"
    f" SELECT NEW.uuid, NEW.serial, NEW.chassis, {_text('NEW.model')} WHERE NOT EXISTS {_gpu('NEW.')}; "
)
_HAS_SEAT = "coalesce(NEW.tray, NEW.slot, NEW.module, NEW.pci_bus_id) IS NOT NULL"
_ADD_SEAT = (
    "INSERT INTO gpuid_seats (tray, slot, module, pci_bus_id) SELECT NEW.tray, NEW.slot, NEW.module, NEW.pci_bus_id"
    f" WHERE {_HAS_SEAT} AND NOT EXISTS {_seat('NEW.')}; "
)
_ADD_CHANGE = (
    _add_texts("cluster", "machine", "source", "previous_cluster", "model")
    + _add_place()
    + _add_place("previous_cluster", "previous_node")
    + _ADD_GPU
)
_CHANGE = (
    f"NEW.time, {_EVENT_NUMBER.format('NEW.')}, {_gpu('NEW.')}, {_place('NEW.cluster', 'NEW.node')},"
    f" {_text('NEW.cluster')}, {_text('NEW.machine')}, {_text('NEW.source')},"
    f" {_place('NEW.previous_cluster', 'NEW.previous_node')}, {_text('NEW.previous_cluster')},"
    " NEW.changes, NEW.last_known, NEW.mark, coalesce(NEW.first_sight, 0)"
)
_CHANGE_COLUMNS = (
    "time, event, gpu, place, cluster, machine, source, previous, previous_cluster, changes, last_known, mark,"
    " first_sight"
)
_PLACEMENT_COLUMNS = "gpu, place, machine, since, until, confirmed, last_known, seat"


def _confirmed(row: str) -> str:
    return f"CASE WHEN {row}confirmed = {row}since THEN '' ELSE {row}confirmed END"


def _trigger(name: str, event: str, view: str, body: str, when: str = "") -> str:
    return f"CREATE TRIGGER gpuid_{view}_{name} INSTEAD OF {event} ON gpuid_{view}{when} BEGIN {body} END"


def _update(*, of: str, name: str, before: str, values: str) -> str:
    body = f"{before}UPDATE gpuid_placement_rows SET {values} WHERE id = OLD.id;"
    differs = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in of.split(", "))
    return _trigger(name, f"UPDATE OF {of}", "placements", body, f" WHEN {differs}")


_TRIGGERS = (
    _trigger(
        "insert",
        "INSERT",
        "placements",
        _add_texts("machine", "model")
        + _add_place()
        + _ADD_GPU
        + _ADD_SEAT
        # An id that is not given is assigned by the table.
        + f"INSERT INTO gpuid_placement_rows (id, {_PLACEMENT_COLUMNS})"
        f" VALUES (NEW.id, {_gpu('NEW.')}, {_place('NEW.cluster', 'NEW.node')}, {_text('NEW.machine')},"
        f" NEW.since, NEW.until, {_confirmed('NEW.')}, NEW.last_known, {_seat('NEW.')});",
    ),
    # Each writes the columns that it is for, and no index of the others.
    _update(
        of="until, confirmed, last_known",
        name="end",
        before="",
        values=f"until = NEW.until, confirmed = {_confirmed('NEW.')}, last_known = NEW.last_known",
    ),
    _update(of="tray, slot, module, pci_bus_id", name="seat", before=_ADD_SEAT, values=f"seat = {_seat('NEW.')}"),
    _update(
        of="uuid, serial, model, chassis",
        name="gpu",
        before=_add_texts("model") + _ADD_GPU,
        values=f"gpu = {_gpu('NEW.')}",
    ),
    _update(
        of="id, cluster, node, machine, since",
        name="begin",
        before=_add_texts("machine") + _add_place(),
        values=f"id = NEW.id, place = {_place('NEW.cluster', 'NEW.node')}, machine = {_text('NEW.machine')},"
        f" since = NEW.since, confirmed = {_confirmed('NEW.')}",
    ),
    _trigger("delete", "DELETE", "placements", "DELETE FROM gpuid_placement_rows WHERE id = OLD.id;"),
    _trigger(
        "insert",
        "INSERT",
        "changes",
        f"{_ADD_CHANGE}INSERT INTO gpuid_change_rows (id, {_CHANGE_COLUMNS}) VALUES (NEW.id, {_CHANGE});",
    ),
    _trigger(
        "update",
        "UPDATE",
        "changes",
        f"{_ADD_CHANGE}UPDATE gpuid_change_rows SET (id, {_CHANGE_COLUMNS}) = (NEW.id, {_CHANGE}) WHERE id = OLD.id;",
    ),
    _trigger("delete", "DELETE", "changes", "DELETE FROM gpuid_change_rows WHERE id = OLD.id;"),
)

# An existing file. A row's texts are there, or it would be lost: they are taken from the same columns.
_FILL = (
    *(
        f"INSERT OR IGNORE INTO gpuid_texts (text) SELECT {column} FROM {table} WHERE {column} IS NOT NULL"
        for table, columns in (
            ("gpuid_placements", ("model", "machine")),
            ("gpuid_changes", ("model", "machine", "cluster", "source", "previous_cluster")),
        )
        for column in columns
    ),
    "INSERT INTO gpuid_places (cluster, node) SELECT cluster, node FROM gpuid_placements"
    " UNION SELECT cluster, node FROM gpuid_changes UNION SELECT previous_cluster, previous_node FROM gpuid_changes"
    " WHERE coalesce(previous_cluster, previous_node) IS NOT NULL",
    "INSERT INTO gpuid_seats (tray, slot, module, pci_bus_id) SELECT DISTINCT tray, slot, module, pci_bus_id"
    " FROM gpuid_placements WHERE coalesce(tray, slot, module, pci_bus_id) IS NOT NULL",
    "INSERT INTO gpuid_gpus (uuid, serial, chassis, model)"
    f" SELECT uuid, serial, chassis, {_text('model')} FROM"
    " (SELECT uuid, serial, chassis, model FROM gpuid_placements"
    " UNION SELECT uuid, serial, chassis, model FROM gpuid_changes)",
    "CREATE INDEX gpuid_gpus_uuid ON gpuid_gpus (uuid)",
    "CREATE INDEX gpuid_seats_seat ON gpuid_seats (pci_bus_id, module, slot, tray)",
    f"INSERT INTO gpuid_placement_rows (id, {_PLACEMENT_COLUMNS})"
    f" SELECT id, {_gpu('r.')}, {_place('r.cluster', 'r.node')}, {_text('r.machine')}, since, until,"
    f" {_confirmed('r.')}, last_known, {_seat('r.')} FROM gpuid_placements r ORDER BY id",
    f"INSERT INTO gpuid_change_rows (id, {_CHANGE_COLUMNS})"
    f" SELECT id, time, {_EVENT_NUMBER.format('r.')}, {_gpu('r.')}, {_place('r.cluster', 'r.node')},"
    f" {_text('r.cluster')}, {_text('r.machine')}, {_text('r.source')},"
    f" {_place('r.previous_cluster', 'r.previous_node')}, {_text('r.previous_cluster')}, changes, last_known, mark,"
    " first_sight FROM gpuid_changes r ORDER BY id",
    "DROP INDEX gpuid_seats_seat",
    "DROP INDEX gpuid_gpus_uuid",
)
# Ids of deleted changes are not assigned again.
_SEQUENCE = (
    "INSERT INTO sqlite_sequence (name, seq) SELECT '{to}', seq FROM sqlite_sequence WHERE name = '{of}'"
    " AND NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = '{to}')",
    "UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = '{of}')"
    " WHERE name = '{to}' AND EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = '{of}')",
)
_OLD_TABLES = (
    "CREATE TABLE old_placements (id INTEGER NOT NULL, uuid TEXT NOT NULL, serial TEXT, chassis TEXT, model TEXT,"
    " cluster TEXT NOT NULL, node TEXT NOT NULL, machine TEXT NOT NULL, since DOUBLE NOT NULL, until DOUBLE,"
    " confirmed DOUBLE, last_known TEXT, tray TEXT, slot TEXT, module TEXT, pci_bus_id TEXT, PRIMARY KEY (id))",
    "CREATE TABLE old_changes (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, time DOUBLE NOT NULL,"
    " event TEXT NOT NULL, uuid TEXT NOT NULL, serial TEXT, model TEXT, chassis TEXT, cluster TEXT NOT NULL,"
    " node TEXT NOT NULL, machine TEXT NOT NULL, source TEXT NOT NULL, previous_cluster TEXT, previous_node TEXT,"
    " changes TEXT, last_known TEXT, mark TEXT, first_sight BOOLEAN DEFAULT 0 NOT NULL)",
)
_OLD_COLUMNS = {
    "placements": (
        "serial, chassis, model, cluster, node, machine, since, until, confirmed, last_known, tray, slot, module,"
        " pci_bus_id"
    ),
    "changes": (
        "time, event, serial, model, chassis, cluster, node, machine, source, previous_cluster, previous_node,"
        " changes, last_known, mark, first_sight"
    ),
}
_OLD_INDEXES = (
    "CREATE INDEX gpuid_placements_uuid ON gpuid_placements (uuid)",
    "CREATE INDEX gpuid_placements_serial ON gpuid_placements (serial)",
    "CREATE INDEX gpuid_placements_chassis ON gpuid_placements (chassis)",
    "CREATE INDEX gpuid_placements_node ON gpuid_placements (node, cluster)",
    "CREATE INDEX gpuid_placements_place ON gpuid_placements (cluster, node, uuid, since, until)",
    "CREATE INDEX gpuid_placements_since ON gpuid_placements (since)",
    "CREATE INDEX gpuid_placements_until ON gpuid_placements (until) WHERE until IS NOT NULL",
    "CREATE INDEX gpuid_changes_time ON gpuid_changes (time, id)",
    "CREATE INDEX gpuid_changes_uuid ON gpuid_changes (uuid, time, id)",
    "CREATE INDEX gpuid_changes_node ON gpuid_changes (node, cluster, time, id)",
    "CREATE INDEX gpuid_changes_previous ON gpuid_changes (previous_node, previous_cluster, time, id)"
    " WHERE previous_node IS NOT NULL",
    "CREATE INDEX gpuid_changes_other ON gpuid_changes (time, id) WHERE NOT first_sight",
    "CREATE INDEX gpuid_changes_cluster ON gpuid_changes (cluster, time, id) WHERE NOT first_sight",
    "CREATE INDEX gpuid_changes_across ON gpuid_changes (previous_cluster, time, id) WHERE previous_cluster <> cluster",
)
_DIGITS = "lower(hex(uuid))"
_UUID_TEXT = (
    "CASE WHEN typeof(uuid) = 'blob' AND length(uuid) = 16 THEN 'GPU-'"
    + " || '-' ".join(f" || substr({_DIGITS}, {start}, {count})" for start, count in ((1, 8), (9, 4), (13, 4), (17, 4)))
    + f" || '-' || substr({_DIGITS}, 21) ELSE uuid END"
)


def upgrade() -> None:
    """Write an SQLite file's placements and changes into the new tables; PostgreSQL's stay."""
    if op.get_bind().dialect.name != "sqlite":
        return
    with _freeing_pages_as_they_are():
        _upgrade()


def _upgrade() -> None:
    _run(_TABLES)
    _run(_FILL)
    _run(statement.format(of="gpuid_changes", to="gpuid_change_rows") for statement in _SEQUENCE)
    _run(
        [
            f"INSERT OR REPLACE INTO gpuid_facts (name, value) SELECT '{TO_BE_SHRUNK}', ''"
            " WHERE EXISTS (SELECT 1 FROM gpuid_placements) OR EXISTS (SELECT 1 FROM gpuid_changes)"
        ]
    )
    _run(f"DROP TABLE gpuid_{name}" for name in ("placements", "changes"))
    _rewrite("gpuid_gpus", "uuid", packed)
    _rewrite("gpuid_ghosts", "uuid", packed)
    _rewrite("gpuid_nodes", "snapshot", deflated)
    _run(_INDEXES)
    _run(_VIEWS)
    _run(_TRIGGERS)


def downgrade() -> None:
    """Write the tables of before from the views of an SQLite file; PostgreSQL's are still there."""
    if op.get_bind().dialect.name != "sqlite":
        return
    with _freeing_pages_as_they_are():
        _downgrade()


def _downgrade() -> None:
    _rewrite("gpuid_nodes", "snapshot", inflated)
    _run([f"DELETE FROM gpuid_facts WHERE name = '{TO_BE_SHRUNK}'"])
    _run(_OLD_TABLES)
    for name, columns in _OLD_COLUMNS.items():
        _run(
            [
                f"INSERT INTO old_{name} (id, uuid, {columns}) SELECT id, {_UUID_TEXT}, {columns}"
                f" FROM gpuid_{name} ORDER BY id"
            ]
        )
    _run(statement.format(of="gpuid_change_rows", to="old_changes") for statement in _SEQUENCE)
    _run(f"DROP VIEW gpuid_{name}" for name in _OLD_COLUMNS)
    tables = ("placement_rows", "change_rows", "gpus", "seats", "places", "texts")
    _run(f"DROP TABLE gpuid_{name}" for name in tables)
    _run(f"ALTER TABLE old_{name} RENAME TO gpuid_{name}" for name in _OLD_COLUMNS)
    _run(_OLD_INDEXES)
    _run([f"UPDATE gpuid_ghosts SET uuid = {_UUID_TEXT} WHERE typeof(uuid) = 'blob'"])


@contextmanager
def _freeing_pages_as_they_are() -> Iterator[None]:
    """Keep SQLite from overwriting the pages of dropped tables, as many builds do: all of them would be in the log."""
    connection = op.get_bind()
    before = connection.exec_driver_sql("PRAGMA secure_delete").scalar_one()
    connection.exec_driver_sql("PRAGMA secure_delete = FAST")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA secure_delete = {before}")


def _run(statements: Iterable[str]) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


def _rewrite(table: str, column: str, encode: Callable[[Any], Any]) -> None:
    """Encode a column's values in another way, some rows at a time; a damaged one stays as it is."""
    connection = op.get_bind()
    page = sa.text(f"SELECT rowid, {column} FROM {table} WHERE rowid > :row ORDER BY rowid LIMIT {ROWS_PER_STATEMENT}")
    update = sa.text(f"UPDATE {table} SET {column} = :value WHERE rowid = :row")
    last = -1 << 63
    while rows := connection.execute(page, {"row": last}).all():
        encoded = [{"row": row, "value": _encoded(value, encode)} for row, value in rows]
        changed = [one for one, (_, value) in zip(encoded, rows, strict=True) if one["value"] is not value]
        if changed:  # a text that cannot be decoded is not written, or it would lose its bytes
            connection.execute(update, changed)
        last = rows[-1][0]


def _encoded(value: Any, encode: Callable[[Any], Any]) -> Any:
    try:
        return encode(value)
    except (TypeError, ValueError):
        return value
