"""Storage commitment: when it is asked for, and which transaction asks for what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("asks", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "deliveries",
        sa.Column("ask_at", sa.Float(precision=53), server_default="0", nullable=False),
    )
    op.create_index("ix_deliveries_ask_at", "deliveries", ["ask_at"], unique=False)
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("delivery", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("asked_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["delivery"], ["deliveries.id"], name="fk_commitments_delivery"),
        sa.PrimaryKeyConstraint("transaction_uid", "delivery", name="pk_commitments"),
    )


def downgrade() -> None:
    op.drop_table("commitments")
    op.drop_index("ix_deliveries_ask_at", table_name="deliveries")
    op.drop_column("deliveries", "ask_at")
    op.drop_column("deliveries", "asks")
