"""What changed of the health of one GPU, found without a scan."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

LOST = "changes of GPU health"  # by a downgrade; empty: nothing


def upgrade() -> None:
    """Create the index, which is empty for what was recorded before."""
    health = sa.text("event = 'health'")
    op.create_index(
        "gpuid_changes_health", "gpuid_changes", ["uuid", "time"], sqlite_where=health, postgresql_where=health
    )


def downgrade() -> None:
    """Drop the index, and the changes that a collector of that version cannot read."""
    op.drop_index("gpuid_changes_health", "gpuid_changes")
    op.execute("DELETE FROM gpuid_changes WHERE event = 'health'")
