"""What answers where every GPU was at a time: indexes by place and by time, and counts at some times."""

import time

import sqlalchemy as sa
from alembic import op

from collector.store.migrations import online

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

LOST = ""  # by a downgrade: nothing


def upgrade() -> None:
    """Create the indexes and the table, which a collector fills; note since when an existing history is complete."""
    online.create_index("gpuid_placements_place", "gpuid_placements", ["cluster", "node", "uuid", "since", "until"])
    online.create_index("gpuid_placements_since", "gpuid_placements", ["since"])
    online.create_index("gpuid_placements_until", "gpuid_placements", ["until"], sa.text("until IS NOT NULL"))
    op.create_table(
        "gpuid_checkpoints",
        sa.Column("time", sa.Double, primary_key=True),
        sa.Column("counts", sa.LargeBinary, nullable=False),
    )
    connection = op.get_bind()
    # What is older may have been forgotten already; and nobody knows since when readings had a GPU's health.
    begins = connection.scalar(sa.text("SELECT min(time) FROM gpuid_changes"))
    facts = {} if begins is None else {"history_begins": begins, "health_begins": time.time()}
    for name, value in facts.items():
        connection.execute(
            sa.text("INSERT INTO gpuid_facts (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING"),
            {"name": name, "value": repr(value)},
        )


def downgrade() -> None:
    """Drop what can be worked out again, since when the history is complete included."""
    op.drop_table("gpuid_checkpoints")
    for name in ("place", "since", "until"):
        op.drop_index(f"gpuid_placements_{name}", "gpuid_placements")
    op.execute("DELETE FROM gpuid_facts WHERE name IN ('history_begins', 'health_begins', 'last_altered')")
