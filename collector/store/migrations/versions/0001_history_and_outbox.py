"""The history and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "gpuid_facts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "gpuid_nodes",
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("read_at", sa.Double),
        sa.Column("snapshot", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "node", name="gpuid_nodes_key"),
    )
    op.create_table(
        "gpuid_placements",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("uuid", sa.Text, nullable=False),
        sa.Column("serial", sa.Text),
        sa.Column("chassis", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double),
        sa.Column("confirmed", sa.Double),
    )
    op.create_index("gpuid_placements_uuid", "gpuid_placements", ["uuid"])
    op.create_index("gpuid_placements_serial", "gpuid_placements", ["serial"])
    op.create_index("gpuid_placements_chassis", "gpuid_placements", ["chassis"])
    op.create_index("gpuid_placements_node", "gpuid_placements", ["node", "cluster"])
    op.create_table(
        "gpuid_changes",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("uuid", sa.Text, nullable=False),
        sa.Column("serial", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("chassis", sa.Text),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("previous_cluster", sa.Text),
        sa.Column("previous_node", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("gpuid_changes_time", "gpuid_changes", ["time", "id"])
    op.create_table(
        "gpuid_ghosts",
        sa.Column("uuid", sa.Text, primary_key=True),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("node", sa.Text, nullable=False),
    )
    op.create_table(
        "gpuid_sinks",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("emit", sa.Text, nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("upto", sa.BigInteger),
        sa.Column("first_seen", sa.Double, nullable=False),
        sa.Column("gone", sa.Double),
    )
    op.create_table(
        "gpuid_readings",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("records", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "gpuid_dead_letters",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("sink", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("records", sa.LargeBinary, nullable=False),
        sa.Column("replay", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("gpuid_dead_letters_sink", "gpuid_dead_letters", ["sink", "id"])
