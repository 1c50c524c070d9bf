"""Where in its machine each GPU was: tray, slot, module and bus address."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

LOST = "seats of GPUs: tray, slot, module and bus address"  # by a downgrade; empty: nothing


def upgrade() -> None:
    """Add the columns; of earlier placements that is not known."""
    for name in ("tray", "slot", "module", "pci_bus_id"):
        op.add_column("gpuid_placements", sa.Column(name, sa.Text))


def downgrade() -> None:
    """Drop the columns."""
    for name in ("tray", "slot", "module", "pci_bus_id"):
        op.drop_column("gpuid_placements", name)
