"""What was altered, and what is merely last known."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LOST = "which fields of a GPU changed, and which are only last known"  # by a downgrade; empty: nothing


def upgrade() -> None:
    """Add the columns, which are empty for what was recorded before."""
    op.add_column("gpuid_placements", sa.Column("last_known", sa.Text))
    op.add_column("gpuid_changes", sa.Column("changes", sa.Text))
    op.add_column("gpuid_changes", sa.Column("last_known", sa.Text))
    op.add_column("gpuid_ghosts", sa.Column("facts", sa.Text))
    altered = sa.text("event = 'altered'")
    op.create_index(
        "gpuid_changes_altered", "gpuid_changes", ["uuid", "time"], sqlite_where=altered, postgresql_where=altered
    )


def downgrade() -> None:
    """Drop the columns."""
    op.drop_index("gpuid_changes_altered", "gpuid_changes")
    for table, column in (
        ("gpuid_placements", "last_known"),
        ("gpuid_changes", "changes"),
        ("gpuid_changes", "last_known"),
        ("gpuid_ghosts", "facts"),
    ):
        op.drop_column(table, column)
