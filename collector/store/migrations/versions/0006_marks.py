"""What people note of GPUs, and what was noted of a GPU when it changed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

LOST = "marks"  # by a downgrade; empty: nothing


def upgrade() -> None:
    """Create the table of marks; of earlier changes no mark is known."""
    op.create_table(
        "gpuid_marks",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("uuid", sa.Text),
        sa.Column("serial", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("ticket", sa.Text, nullable=False),
        sa.Column("set_at", sa.Double, nullable=False),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.Column("until", sa.Double),
        sa.Column("removed_at", sa.Double),
        sa.Column("removed_by", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("gpuid_marks_uuid", "gpuid_marks", ["uuid"])
    op.create_index("gpuid_marks_serial", "gpuid_marks", ["serial"])
    for name, column, condition in (
        ("gpuid_marks_one", "uuid", sa.text("removed_at IS NULL")),
        ("gpuid_marks_one_unknown", "serial", sa.text("removed_at IS NULL AND uuid IS NULL")),
    ):
        op.create_index(name, "gpuid_marks", [column], unique=True, sqlite_where=condition, postgresql_where=condition)
    op.add_column("gpuid_changes", sa.Column("mark", sa.Text))


def downgrade() -> None:
    """Drop the table and the column."""
    op.drop_column("gpuid_changes", "mark")
    op.drop_table("gpuid_marks")
    op.execute("DELETE FROM gpuid_facts WHERE name = 'marks'")
