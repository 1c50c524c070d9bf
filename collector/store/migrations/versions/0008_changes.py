"""The changes of one node or GPU found without a scan, and which of them were the first of a node."""

import sqlalchemy as sa
from alembic import op

from collector.store.migrations import online

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LOST = ""  # by a downgrade: nothing

IDS_PER_STATEMENT = 10_000
_FIRST_SIGHTS = sa.text(
    "UPDATE gpuid_changes SET first_sight = true WHERE event = 'appeared' AND NOT first_sight AND NOT EXISTS"
    " (SELECT 1 FROM gpuid_placements p WHERE p.node = gpuid_changes.node AND p.cluster = gpuid_changes.cluster"
    " AND p.since < gpuid_changes.time) AND id >= :first AND id < :end"
)


def upgrade() -> None:
    """Add the column, which is worked out for what was recorded before, and the indexes; count the first sights."""
    online.add_column("gpuid_changes", sa.Column("first_sight", sa.Boolean, nullable=False, server_default=sa.false()))
    with online.committed_one_by_one("gpuid_changes"):
        _note_first_sights()
    moved, other = sa.text("previous_node IS NOT NULL"), sa.text("NOT first_sight")
    across = sa.text("previous_cluster <> cluster")
    for name, columns, condition in (
        ("gpuid_changes_uuid", ["uuid", "time", "id"], None),
        ("gpuid_changes_node", ["node", "cluster", "time", "id"], None),
        ("gpuid_changes_previous", ["previous_node", "previous_cluster", "time", "id"], moved),
        ("gpuid_changes_other", ["time", "id"], other),
        ("gpuid_changes_cluster", ["cluster", "time", "id"], other),
        ("gpuid_changes_across", ["previous_cluster", "time", "id"], across),
    ):
        online.create_index(name, "gpuid_changes", columns, condition)
    for name in ("gpuid_changes_altered", "gpuid_changes_health"):
        online.drop_index(name, "gpuid_changes")
    # Last, in the transaction that notes the new version: so an interrupted update has not counted anything yet.
    op.create_table(
        "gpuid_first_sights",
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("nodes", sa.Integer, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "cluster", name="gpuid_first_sights_key"),
    )
    # A cast cuts in SQLite, which may lack floor, and rounds in PostgreSQL.
    day = "time / 86400" if op.get_bind().dialect.name == "sqlite" else "floor(time / 86400)"
    op.execute(
        "INSERT INTO gpuid_first_sights (day, cluster, node, nodes, gpus, since, until, last)"  # noqa: S608
        " SELECT day, cluster, min(node), count(DISTINCT node), count(*), min(time), max(time), max(id)"
        f" FROM (SELECT CAST({day} AS INTEGER) AS day, cluster, node, time, id FROM gpuid_changes WHERE first_sight)"
        " AS seen GROUP BY day, cluster"
    )


def downgrade() -> None:
    """Drop what can be worked out again, and bring back the indexes of before."""
    op.drop_table("gpuid_first_sights")
    for event in ("altered", "health"):
        condition = sa.text(f"event = '{event}'")
        op.create_index(
            f"gpuid_changes_{event}",
            "gpuid_changes",
            ["uuid", "time"],
            sqlite_where=condition,
            postgresql_where=condition,
        )
    for name in ("uuid", "node", "previous", "other", "cluster", "across"):
        op.drop_index(f"gpuid_changes_{name}", "gpuid_changes")
    op.drop_column("gpuid_changes", "first_sight")


def _note_first_sights() -> None:
    """Work out which changes of before were first sights, some at a time."""
    connection = op.get_bind()
    first, last = connection.execute(sa.text("SELECT min(id), max(id) FROM gpuid_changes")).one()
    if first is None:
        return
    for start in range(first, last + 1, IDS_PER_STATEMENT):
        connection.execute(_FIRST_SIGHTS, {"first": start, "end": start + IDS_PER_STATEMENT})
