"""The tables of the store, as they are after all migrations."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    false,
    text,
)

from collector.store.identifiers import Uuid

__all__ = [
    "ACROSS",
    "ALTERED",
    "APPLICATION_ID",
    "COMPACT_PARTS",
    "FIRST_SIGHT",
    "HEAD",
    "HEALTH",
    "METADATA",
    "NO_FIRST_SIGHT",
    "VERSION_TABLE",
    "absent",
    "changes",
    "checkpoints",
    "clusters",
    "dead_letters",
    "first_sights",
    "leases",
    "marks",
    "meta",
    "nodes",
    "placements",
    "readings",
    "sinks",
    "verifications",
]

HEAD = "0011"  # the newest migration; a test compares it with migrations/versions
VERSION_TABLE = "gpuid_schema"
APPLICATION_ID = 0x67707569  # "gpui", in the header of an SQLite file

# In an SQLite file, the placements and changes are views of other tables, and triggers write there.
COMPACT_PARTS = (
    *(("table", f"gpuid_{name}") for name in ("texts", "places", "gpus", "seats", "placement_rows", "change_rows")),
    *(("view", f"gpuid_{name}") for name in ("placements", "changes")),
    *(("trigger", f"gpuid_placements_{name}") for name in ("insert", "end", "seat", "gpu", "begin", "delete")),
    *(("trigger", f"gpuid_changes_{name}") for name in ("insert", "update", "delete")),
)

METADATA = MetaData()

# Also written literally in queries: with a parameter no engine uses the partial index.
ALTERED = text("event = 'altered'")
HEALTH = text("event = 'health'")
FIRST_SIGHT = text("first_sight")
NO_FIRST_SIGHT = text("NOT first_sight")
ACROSS = text("previous_cluster <> cluster")  # it led from one cluster to another

_VERSIONED = text("version > 0")
_ENDED = text("until IS NOT NULL")
_HAS_PREVIOUS = text("previous_node IS NOT NULL")

_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite assigns ids automatically in a column of exactly this type


meta = Table(
    "gpuid_facts",  # about the store itself: `id`, random, distinguishes this store's batches from another's
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

leases = Table(
    "gpuid_leases",  # on PostgreSQL: which of the collectors sharing the store leads
    METADATA,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),  # for users: host name and process
    Column("token", Text, nullable=False),  # random; a new one each time another collector takes the lease
    Column("expires", Double, nullable=False),  # by the server's clock
    Column("recording", Boolean, nullable=False),  # whether the holder has caught up and so leads
)

nodes = Table(
    "gpuid_nodes",  # the current inventory: one row per node, so that a fleet loads quickly
    METADATA,
    Column("cluster", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("read_at", Double),  # Unix seconds, as all times here; NULL before the first reading
    Column("snapshot", LargeBinary, nullable=False),
    # Only in a sharded installation: the number of the commit that last wrote it, and why it cannot be read.
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    Column("unread", LargeBinary),
    PrimaryKeyConstraint("cluster", "node", name="gpuid_nodes_key"),
    Index("gpuid_nodes_version", "version", sqlite_where=_VERSIONED, postgresql_where=_VERSIONED),
)

clusters = Table(
    "gpuid_clusters",  # in a sharded installation: which shard reads each cluster, and its status
    METADATA,
    Column("cluster", Text, primary_key=True),
    Column("lease", Text, nullable=False),  # the owner's
    Column("token", Text, nullable=False),  # the lease's when the owner took the cluster; otherwise it is free
    Column("report", LargeBinary),  # the owner's report
    Column("removed", BigInteger, nullable=False),  # the number of the last commit that removed nodes of the cluster
    Column("removed_at", Double, nullable=False),  # and its time
    Column("version", BigInteger, nullable=False),  # the number of the last commit that changed this row
)

verifications = Table(
    "gpuid_verifications",  # in a sharded installation: nodes that another cluster's owner asks to have read
    METADATA,
    Column("cluster", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("asked", BigInteger, nullable=False),  # the number of the last commit that asked
    Column("answered", BigInteger, nullable=False),  # the last question answered by a reading
    Column("version", BigInteger, nullable=False),  # the number of the last commit that changed this row
    PrimaryKeyConstraint("cluster", "node", name="gpuid_verifications_key"),
)

placements = Table(
    "gpuid_placements",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("uuid", Uuid, nullable=False),
    Column("serial", Text),
    Column("chassis", Text),
    Column("model", Text),
    Column("cluster", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("since", Double, nullable=False),
    Column("until", Double),  # NULL while the GPU is there
    Column("confirmed", Double),  # when its node was last read with it; while it is there, its node's read_at applies
    Column("last_known", Text),  # JSON: the fields that are only last known, each with when it was last reported
    # Its current or last position in its machine, if reported by the hardware; NULL in records of older versions.
    Column("tray", Text),
    Column("slot", Text),
    Column("module", Text),
    Column("pci_bus_id", Text),
    Index("gpuid_placements_uuid", "uuid"),
    Index("gpuid_placements_serial", "serial"),
    Index("gpuid_placements_chassis", "chassis"),
    Index("gpuid_placements_node", "node", "cluster"),
    # For the fleet at a time: pages by place without scanning other times, and placements by begin and end.
    Index("gpuid_placements_place", "cluster", "node", "uuid", "since", "until"),
    Index("gpuid_placements_since", "since"),
    Index("gpuid_placements_until", "until", sqlite_where=_ENDED, postgresql_where=_ENDED),
)

checkpoints = Table(
    "gpuid_checkpoints",  # counts of GPUs by place at some times; derived from the placements
    METADATA,
    Column("time", Double, primary_key=True),
    Column("counts", LargeBinary, nullable=False),
)

changes = Table(
    "gpuid_changes",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("time", Double, nullable=False),
    Column("event", Text, nullable=False),
    Column("uuid", Uuid, nullable=False),
    Column("serial", Text),
    Column("model", Text),
    Column("chassis", Text),
    Column("cluster", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("previous_cluster", Text),
    Column("previous_node", Text),
    Column("changes", Text),  # JSON: each altered field of the GPU or its health, with before and after
    Column("last_known", Text),  # as in gpuid_placements
    Column("mark", Text),  # the kind of the GPU's mark when this was recorded
    Column("first_sight", Boolean, nullable=False, server_default=false()),  # its node was unknown before
    Index("gpuid_changes_time", "time", "id"),
    Index("gpuid_changes_uuid", "uuid", "time", "id"),
    Index("gpuid_changes_node", "node", "cluster", "time", "id"),
    Index(
        "gpuid_changes_previous",
        "previous_node",
        "previous_cluster",
        "time",
        "id",
        sqlite_where=_HAS_PREVIOUS,
        postgresql_where=_HAS_PREVIOUS,
    ),
    # When a fleet is first read there are many at once, which pages summarise by cluster and day.
    Index("gpuid_changes_other", "time", "id", sqlite_where=NO_FIRST_SIGHT, postgresql_where=NO_FIRST_SIGHT),
    Index(
        "gpuid_changes_cluster",
        "cluster",
        "time",
        "id",
        sqlite_where=NO_FIRST_SIGHT,
        postgresql_where=NO_FIRST_SIGHT,
    ),
    Index("gpuid_changes_across", "previous_cluster", "time", "id", sqlite_where=ACROSS, postgresql_where=ACROSS),
    sqlite_autoincrement=True,  # an id is never reused, or a cursor would skip a change
)

first_sights = Table(
    "gpuid_first_sights",  # counts of first sights by cluster and day; derived from the changes
    METADATA,
    Column("day", Integer, nullable=False),  # in UTC, counted from 1970
    Column("cluster", Text, nullable=False),
    Column("node", Text, nullable=False),  # one of them
    Column("nodes", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("since", Double, nullable=False),  # time of the first sight
    Column("until", Double, nullable=False),  # time of the last sight
    Column("last", BigInteger, nullable=False),  # the id of its change
    PrimaryKeyConstraint("day", "cluster", name="gpuid_first_sights_key"),
)

_NOT_REMOVED = text("removed_at IS NULL")
_NOT_REMOVED_UNKNOWN = text("removed_at IS NULL AND uuid IS NULL")

marks = Table(
    "gpuid_marks",  # users' marks on GPUs; a row is only updated when the mark ends
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("uuid", Text),  # NULL for an unknown GPU, marked by its serial
    Column("serial", Text),
    Column("kind", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("ticket", Text, nullable=False),
    Column("set_at", Double, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("until", Double),  # when it expires
    Column("removed_at", Double),
    Column("removed_by", Text),
    Index("gpuid_marks_uuid", "uuid"),
    Index("gpuid_marks_serial", "serial"),
    # At most one active mark per GPU, even with several writers.
    Index("gpuid_marks_one", "uuid", unique=True, sqlite_where=_NOT_REMOVED, postgresql_where=_NOT_REMOVED),
    Index(
        "gpuid_marks_one_unknown",
        "serial",
        unique=True,
        sqlite_where=_NOT_REMOVED_UNKNOWN,
        postgresql_where=_NOT_REMOVED_UNKNOWN,
    ),
    sqlite_autoincrement=True,
)

absent = Table(
    "gpuid_ghosts",  # GPUs that are in no node, with their last places
    METADATA,
    Column("uuid", Uuid, primary_key=True),
    Column("cluster", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("facts", Text),  # JSON: its last known values, each with when it was last reported
)

sinks = Table(
    "gpuid_sinks",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("emit", Text, nullable=False),  # which table the cursor is in: changes or readings
    Column("cursor", BigInteger, nullable=False),  # the last delivered id
    Column("upto", BigInteger),  # the last id of the batch in flight, so that it is the same after a crash
    Column("first_seen", Double, nullable=False),
    Column("gone", Double),  # since when it has not been configured; NULL while it is
)

readings = Table(
    "gpuid_readings",  # written only while some sink gets readings
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("time", Double, nullable=False),
    Column("count", Integer, nullable=False),
    Column("records", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

dead_letters = Table(
    "gpuid_dead_letters",
    METADATA,
    Column("id", _ID, primary_key=True),
    Column("sink", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("records", LargeBinary, nullable=False),
    Column("replay", Boolean, nullable=False),  # queued for redelivery
    Column("half", Boolean, nullable=False, server_default=false()),  # half of a batch that was too large; not rejected
    Index("gpuid_dead_letters_sink", "sink", "id"),
    sqlite_autoincrement=True,
)
