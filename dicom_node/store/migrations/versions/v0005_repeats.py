"""What came again and from whom, answers that are not known, callers that were refused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STANDING = """
CASE WHEN jobs.state NOT IN ('reported', 'rejected') THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'pending')
         THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.job = jobs.id AND d.state || '' IN ('sent', 'settled'))
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'committed')
         THEN 'committed'
     ELSE jobs.state END
"""
"""As in 0004; what a person has settled as sent is delivered."""


def upgrade() -> None:
    unanswered = sa.Column("unanswered", sa.Integer(), server_default="0", nullable=False)
    op.add_column("deliveries", unanswered)
    op.add_column(
        "instances", sa.Column("association", sa.Text(), server_default="", nullable=False)
    )
    op.create_table(
        "senders",
        sa.Column(
            "sop_instance_uid",
            sa.String(length=64),
            sa.ForeignKey("instances.sop_instance_uid"),
            primary_key=True,
        ),
        sa.Column("calling_ae", sa.String(length=64), primary_key=True),
        sa.Column("calling_host", sa.String(length=64), primary_key=True),
        sa.Column("called_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("association", sa.Text(), server_default="", nullable=False),
        sa.Column("received", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("last_at", sa.Float(precision=53), server_default="0", nullable=False),
    )
    op.create_table(
        "likenesses",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "sop_instance_uid",
            sa.String(length=64),
            sa.ForeignKey("instances.sop_instance_uid"),
            nullable=False,
        ),
        sa.Column("transfer_syntax_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), server_default="0", nullable=False),
        sa.Column("file", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("calling_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("calling_host", sa.Text(), server_default="", nullable=False),
        sa.Column("called_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("association", sa.Text(), server_default="", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("received_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.UniqueConstraint("sop_instance_uid", "sha256", "transfer_syntax_uid"),
    )
    op.create_index("ix_likenesses_state", "likenesses", ["state", "received_at"])
    op.create_table(
        "refused_callers",
        sa.Column("ae_title", sa.String(length=64), primary_key=True),
        sa.Column("address", sa.String(length=64), primary_key=True),
        sa.Column("called_ae", sa.String(length=64), primary_key=True),
        sa.Column("reason", sa.String(length=256), primary_key=True),
        sa.Column("count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("last_at", sa.Float(precision=53), server_default="0", nullable=False),
    )
    (_upgrade_sqlite if op.get_bind().dialect.name == "sqlite" else _upgrade_postgresql)()


def _upgrade_sqlite() -> None:
    for name, (event, condition, job) in {
        "jobs_standing_first": ("INSERT ON jobs", "", "NEW.id"),
        "jobs_standing": ("UPDATE OF state ON jobs", "WHEN OLD.state <> NEW.state", "NEW.id"),
        "deliveries_standing_first": ("INSERT ON deliveries", "", "NEW.job"),
        "deliveries_standing": (
            "UPDATE OF state ON deliveries",
            "WHEN OLD.state <> NEW.state",
            "NEW.job",
        ),
        "deliveries_standing_last": ("DELETE ON deliveries", "", "OLD.job"),
    }.items():
        op.execute(f"DROP TRIGGER IF EXISTS {name}")
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} {condition} "  # noqa: S608 - names from above
            f"BEGIN UPDATE jobs SET standing = {STANDING} WHERE id = {job}; END"
        )


def _upgrade_postgresql() -> None:
    for table, (new, old) in {
        "jobs": ("NEW.id", "NEW.id"),
        "deliveries": ("NEW.job", "OLD.job"),
    }.items():
        update = f"UPDATE jobs SET standing = {STANDING} WHERE id = "  # noqa: S608
        op.execute(
            f"CREATE OR REPLACE FUNCTION {table}_stand() RETURNS trigger LANGUAGE plpgsql AS $$ "
            f"BEGIN IF TG_OP = 'DELETE' THEN {update} {old}; ELSE {update} {new}; END IF; "
            "RETURN NULL; END $$"
        )


def downgrade() -> None:
    raise NotImplementedError("restore a backup of the older version instead")
