"""The lease of the collector that leads."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LOST = ""  # by a downgrade: nothing


def upgrade() -> None:
    """Create the table of leases, and end the lead of a collector that knows only the lock from before."""
    op.create_table(
        "gpuid_leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("recording", sa.Boolean, nullable=False),
    )
    # Such a collector records nothing once its token is gone, as long as it keeps its lock.
    op.execute("DELETE FROM gpuid_facts WHERE name = 'leader'")


def downgrade() -> None:
    """Drop the table: a collector of that version leads by a lock of its session."""
    op.drop_table("gpuid_leases")
