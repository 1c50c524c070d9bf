"""What the shards of an installation share: who owns each cluster, how it is, and which nodes were written when."""

import sqlalchemy as sa
from alembic import op

from collector.store.migrations import online

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
LOST = ""  # by a downgrade: nothing


def upgrade() -> None:
    """Create the tables, which stay empty until shards run, and the columns of nodes."""
    online.add_column("gpuid_nodes", sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    online.add_column("gpuid_nodes", sa.Column("unread", sa.LargeBinary))
    online.create_index("gpuid_nodes_version", "gpuid_nodes", ["version"], sa.text("version > 0"))
    op.create_table(
        "gpuid_clusters",
        sa.Column("cluster", sa.Text, primary_key=True),
        sa.Column("lease", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("report", sa.LargeBinary),
        sa.Column("removed", sa.BigInteger, nullable=False),
        sa.Column("removed_at", sa.Double, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "gpuid_verifications",
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("asked", sa.BigInteger, nullable=False),
        sa.Column("answered", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "node", name="gpuid_verifications_key"),
    )


def downgrade() -> None:
    """Drop what shards say again when they start; without them it is empty."""
    op.drop_table("gpuid_verifications")
    op.drop_table("gpuid_clusters")
    op.drop_index("gpuid_nodes_version", "gpuid_nodes")
    op.drop_column("gpuid_nodes", "unread")
    op.drop_column("gpuid_nodes", "version")
    op.execute("DELETE FROM gpuid_facts WHERE name = 'version' OR name LIKE 'commit %'")
    op.execute("DELETE FROM gpuid_leases WHERE name <> 'leader'")
