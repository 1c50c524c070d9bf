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
    moved, first = sa.text("previous_node IS NOT NULL"), sa.text("first_sight")
    op.create_index(
        "gpuid_changes_previous",
        "gpuid_changes",
        ["previous_node", "previous_cluster", "time", "id"],
        sqlite_where=moved,
        postgresql_where=moved,
    )
    op.create_index("gpuid_changes_first", "gpuid_changes", ["time", "id"], sqlite_where=first, postgresql_where=first)
    op.drop_index("gpuid_changes_altered", "gpuid_changes")
    op.drop_index("gpuid_changes_health", "gpuid_changes")
