"""What people hold back until they let it go, and keys by which programs act for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _text_column(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), server_default="", nullable=False)


def _time_column(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(precision=53), server_default="0", nullable=False)


def upgrade() -> None:
    op.create_table(
        "holds",
        sa.Column("kind", sa.String(length=16), primary_key=True),
        sa.Column("name", sa.String(length=128), primary_key=True),
        _text_column("reason"),
        _text_column("held_by"),
        _text_column("address"),
        _time_column("since"),
    )
    op.create_table(
        "api_keys",
        sa.Column("key", sa.String(length=64), primary_key=True),
        sa.Column("ident", sa.String(length=16), nullable=False, unique=True),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        _text_column("label"),
        _text_column("made_by"),
        _time_column("created_at"),
        _time_column("used_at"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # SQLite's readers see every write; these wait to be rung for (0004).
        op.execute(
            "CREATE TRIGGER holds_rings AFTER INSERT OR DELETE ON holds "
            "FOR EACH STATEMENT EXECUTE FUNCTION ledger_changed()"
        )


def downgrade() -> None:
    raise NotImplementedError("restore a backup of the older version instead")
