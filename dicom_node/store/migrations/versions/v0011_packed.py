"""What is kept of each Instance in fewer bytes: packed events are bytes.

Results, orders, ids of jobs, tokens and chosen objects have shorter forms from here on, see
`ledger.kept_results`, `ledger.orders`, `ledger.instances`, `ledger.jobs` and `ledger.variants`;
rows of before stay as they are. No released version has the table that is written again.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE past_events ALTER COLUMN content TYPE bytea "
            "USING convert_to(content, 'UTF8')"
        )


def downgrade() -> None:
    raise NotImplementedError("restore a backup of the older version instead")
