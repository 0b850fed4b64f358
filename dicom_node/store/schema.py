"""The tables of the ledger, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

VERSIONS = ("0001", "0002", "0003")
"""Every schema version there was; the last one is that of this software."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _uid(name: str) -> Column[str]:
    return Column(name, String(64), nullable=False, server_default="")


def _time(name: str) -> Column[float]:
    """Seconds since the epoch, UTC; 0 is never."""
    return Column(name, Float(53), nullable=False, server_default="0")


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


FACTS = (
    "patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_date",
    "study_time",
    "modality",
    "body_part",
    "view",
    "manufacturer",
    "station_name",
    "institution",
    "study_description",
    "series_description",
    "presentation_intent",
    "calling_ae",
    "calling_host",
    "called_ae",
)
"""Columns of text that rules, searches and people look at."""

instances = Table(
    "instances",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    _uid("sop_class_uid"),
    _uid("transfer_syntax_uid"),
    _uid("study_instance_uid"),
    _uid("series_instance_uid"),
    *(_text(name) for name in FACTS),
    _count("priority"),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    _text("file"),
    _text("state"),
    _text("reason"),
    _count("resends"),
    _time("received_at"),
    _time("kept_at"),
    _time("purged_at"),
    Index(None, "study_instance_uid"),
    Index(None, "accession_number"),
    Index(None, "patient_id"),
    Index(None, "received_at"),
)

conflicts = Table(
    "conflicts",
    metadata,
    Column("id", Integer, primary_key=True),
    _uid("sop_instance_uid"),
    _uid("transfer_syntax_uid"),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    _text("file"),
    _text("calling_ae"),
    _text("calling_host"),
    _time("received_at"),
    _time("purged_at"),
    UniqueConstraint("sop_instance_uid", "sha256", "transfer_syntax_uid"),
)

counters = Table(
    "counters",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("last", Integer, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column(
        "sop_instance_uid",
        String(64),
        ForeignKey("instances.sop_instance_uid"),
        nullable=False,
    ),
    Column("model", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    _text("rule"),
    _text("mode"),
    Column("allow_demonstration", Boolean, nullable=False),
    _count("priority"),
    _text("send_to"),
    _text("report_order"),
    _text("state"),
    _text("token"),
    _text("worker"),
    _time("until"),
    _time("dated_at"),
    _count("attempts"),
    _count("handouts"),
    _time("next_at"),
    _text("reason"),
    _time("received_at"),
    _time("started_at"),
    _time("ended_at"),
    _text("model_version"),
    _uid("device_uid"),
    Column("demonstration", Boolean, nullable=False, server_default="0"),
    _text("result"),
    UniqueConstraint("sop_instance_uid", "model", "generation"),
    Index(None, "state", "model", "priority", "received_at"),
    Index(None, "received_at"),
)

objects = Table(
    "objects",
    metadata,
    Column("job", String(32), ForeignKey("jobs.id"), primary_key=True),
    Column("part", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    _uid("sop_class_uid"),
    _uid("sop_instance_uid"),
    _uid("series_instance_uid"),
    _text("file"),
    _time("purged_at"),
    Index(None, "sop_instance_uid"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String(32), ForeignKey("jobs.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("part", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    _text("state"),
    _text("reason"),
    _uid("sop_instance_uid"),
    Column("status", Integer),
    _count("attempts"),
    _time("next_at"),
    _time("dated_at"),
    _time("created_at"),
    _time("ended_at"),
    _count("asks"),
    _time("ask_at"),
    UniqueConstraint("job", "destination", "part"),
    Index(None, "state", "destination", "next_at"),
    Index(None, "ask_at"),
)

commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", String(64), primary_key=True),
    Column("delivery", Integer, ForeignKey("deliveries.id"), primary_key=True),
    _count("attempts"),
    _time("asked_at"),
    _time("ended_at"),
)

destinations = Table(
    "destinations",
    metadata,
    Column("name", String(64), primary_key=True),
    _count("failures"),
    _time("held_until"),
    _time("changed_at"),
    _text("reason"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    _uid("sop_instance_uid"),
    Column("job", String(32), nullable=False, server_default=""),
    Column("at", Float(53), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("ms", Float(53)),
    _text("detail"),
    Index(None, "sop_instance_uid", "id"),
)
