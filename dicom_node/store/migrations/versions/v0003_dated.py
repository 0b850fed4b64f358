"""When a time in the future was written: a clock that was set back shows by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("jobs", "deliveries"):
        op.add_column(
            table,
            sa.Column("dated_at", sa.Float(precision=53), server_default="0", nullable=False),
        )


def downgrade() -> None:
    for table in ("jobs", "deliveries"):
        op.drop_column(table, "dated_at")
