"""What the worklist is sorted by: a patient's name as it is compared, and what a report says.

The columns are filled for old rows while the node runs (`ledger.upgrading`), and so are those that
a node of an older version writes meanwhile on the same ledger.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    name = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    op.add_column("instances", sa.Column("sort_name", name, server_default="", nullable=False))
    op.add_column("jobs", sa.Column("finding", sa.String(length=1)))


def downgrade() -> None:
    raise NotImplementedError("restore a backup of the older version instead")
