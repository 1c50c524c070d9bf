"""The changes of one node or GPU found without a scan, and which of them were the first of a node."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, which is worked out for what was recorded before, and the indexes."""
    op.add_column("gpuid_changes", sa.Column("first_sight", sa.Boolean, nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE gpuid_changes SET first_sight = true WHERE event = 'appeared' AND NOT EXISTS (SELECT 1 FROM"
        " gpuid_placements p WHERE p.node = gpuid_changes.node AND p.cluster = gpuid_changes.cluster"
        " AND p.since < gpuid_changes.time)"
    )
    op.create_index("gpuid_changes_uuid", "gpuid_changes", ["uuid", "time", "id"])
    op.create_index("gpuid_changes_node", "gpuid_changes", ["node", "cluster", "time", "id"])
    moved, other = sa.text("previous_node IS NOT NULL"), sa.text("NOT first_sight")
    across = sa.text("previous_cluster <> cluster")
    op.create_index(
        "gpuid_changes_previous",
        "gpuid_changes",
        ["previous_node", "previous_cluster", "time", "id"],
        sqlite_where=moved,
        postgresql_where=moved,
    )
    for name, columns, condition in (
        ("gpuid_changes_other", ["time", "id"], other),
        ("gpuid_changes_cluster", ["cluster", "time", "id"], other),
        ("gpuid_changes_across", ["previous_cluster", "time", "id"], across),
    ):
        op.create_index(name, "gpuid_changes", columns, sqlite_where=condition, postgresql_where=condition)
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
    op.drop_index("gpuid_changes_altered", "gpuid_changes")
    op.drop_index("gpuid_changes_health", "gpuid_changes")
