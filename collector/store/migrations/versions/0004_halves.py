"""What waits to be sent as a half of what was too large, among the dead letters."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LOST = ""  # by a downgrade: nothing


def upgrade() -> None:
    """Add the column; what was kept before counts as rejected."""
    op.add_column("gpuid_dead_letters", sa.Column("half", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop the column; what was kept to be sent as a half is sent again as a dead letter that is to be replayed."""
    op.drop_column("gpuid_dead_letters", "half")
