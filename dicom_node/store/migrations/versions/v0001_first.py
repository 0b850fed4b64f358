"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "conflicts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("file", sa.Text(), server_default="", nullable=False),
        sa.Column("calling_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("calling_host", sa.Text(), server_default="", nullable=False),
        sa.Column("received_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("purged_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conflicts"),
        sa.UniqueConstraint(
            "sop_instance_uid",
            "sha256",
            "transfer_syntax_uid",
            name="uq_conflicts_sop_instance_uid_sha256_transfer_syntax_uid",
        ),
    )
    op.create_table(
        "counters",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", "model", name="pk_counters"),
    )
    op.create_table(
        "destinations",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("held_until", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("changed_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_destinations"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("job", sa.String(length=32), server_default="", nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("ms", sa.Float(precision=53), nullable=True),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index(
        "ix_events_sop_instance_uid_id", "events", ["sop_instance_uid", "id"], unique=False
    )
    op.create_table(
        "instances",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("patient_id", sa.Text(), server_default="", nullable=False),
        sa.Column("patient_name", sa.Text(), server_default="", nullable=False),
        sa.Column("patient_birth_date", sa.Text(), server_default="", nullable=False),
        sa.Column("patient_sex", sa.Text(), server_default="", nullable=False),
        sa.Column("accession_number", sa.Text(), server_default="", nullable=False),
        sa.Column("study_date", sa.Text(), server_default="", nullable=False),
        sa.Column("study_time", sa.Text(), server_default="", nullable=False),
        sa.Column("modality", sa.Text(), server_default="", nullable=False),
        sa.Column("body_part", sa.Text(), server_default="", nullable=False),
        sa.Column("view", sa.Text(), server_default="", nullable=False),
        sa.Column("manufacturer", sa.Text(), server_default="", nullable=False),
        sa.Column("station_name", sa.Text(), server_default="", nullable=False),
        sa.Column("institution", sa.Text(), server_default="", nullable=False),
        sa.Column("study_description", sa.Text(), server_default="", nullable=False),
        sa.Column("series_description", sa.Text(), server_default="", nullable=False),
        sa.Column("presentation_intent", sa.Text(), server_default="", nullable=False),
        sa.Column("calling_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("calling_host", sa.Text(), server_default="", nullable=False),
        sa.Column("called_ae", sa.Text(), server_default="", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("file", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("resends", sa.Integer(), server_default="0", nullable=False),
        sa.Column("received_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("kept_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("purged_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", name="pk_instances"),
    )
    op.create_index(
        "ix_instances_accession_number", "instances", ["accession_number"], unique=False
    )
    op.create_index("ix_instances_patient_id", "instances", ["patient_id"], unique=False)
    op.create_index("ix_instances_received_at", "instances", ["received_at"], unique=False)
    op.create_index(
        "ix_instances_study_instance_uid", "instances", ["study_instance_uid"], unique=False
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("rule", sa.Text(), server_default="", nullable=False),
        sa.Column("mode", sa.Text(), server_default="", nullable=False),
        sa.Column("allow_demonstration", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("send_to", sa.Text(), server_default="", nullable=False),
        sa.Column("report_order", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), server_default="", nullable=False),
        sa.Column("token", sa.Text(), server_default="", nullable=False),
        sa.Column("worker", sa.Text(), server_default="", nullable=False),
        sa.Column("until", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("handouts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("received_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("started_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("model_version", sa.Text(), server_default="", nullable=False),
        sa.Column("device_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("demonstration", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("result", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"], ["instances.sop_instance_uid"], name="fk_jobs_sop_instance_uid"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint(
            "sop_instance_uid",
            "model",
            "generation",
            name="uq_jobs_sop_instance_uid_model_generation",
        ),
    )
    op.create_index("ix_jobs_received_at", "jobs", ["received_at"], unique=False)
    op.create_index(
        "ix_jobs_state_model_priority_received_at",
        "jobs",
        ["state", "model", "priority", "received_at"],
        unique=False,
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("part", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.Text(), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name="fk_deliveries_job"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint(
            "job", "destination", "part", name="uq_deliveries_job_destination_part"
        ),
    )
    op.create_index(
        "ix_deliveries_state_destination_next_at",
        "deliveries",
        ["state", "destination", "next_at"],
        unique=False,
    )
    op.create_table(
        "objects",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("part", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("file", sa.Text(), server_default="", nullable=False),
        sa.Column("purged_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name="fk_objects_job"),
        sa.PrimaryKeyConstraint("job", "part", name="pk_objects"),
    )
    op.create_index("ix_objects_sop_instance_uid", "objects", ["sop_instance_uid"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_objects_sop_instance_uid", table_name="objects")
    op.drop_table("objects")
    op.drop_index("ix_deliveries_state_destination_next_at", table_name="deliveries")
    op.drop_table("deliveries")
    op.drop_index("ix_jobs_state_model_priority_received_at", table_name="jobs")
    op.drop_index("ix_jobs_received_at", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("ix_instances_study_instance_uid", table_name="instances")
    op.drop_index("ix_instances_received_at", table_name="instances")
    op.drop_index("ix_instances_patient_id", table_name="instances")
    op.drop_index("ix_instances_accession_number", table_name="instances")
    op.drop_table("instances")
    op.drop_index("ix_events_sop_instance_uid_id", table_name="events")
    op.drop_table("events")
    op.drop_table("destinations")
    op.drop_table("counters")
    op.drop_table("conflicts")
