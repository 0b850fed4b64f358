"""The tables of the ledger, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
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
    text,
)

VERSIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""Every schema version there was; the last one is that of this software."""

READABLE_BY = "0007"
"""The oldest software, by its schema version, that may go on working on a ledger of this schema.

It stays while migrations only add: tables, columns with a default, indexes. A migration after which
older statements would fail or do harm raises it to its own number. 0.1.0 (0003) knows no such mark.
"""


def readable_mark(version: str) -> str:
    """Return the name of the mark that says who may use a ledger of a schema version."""
    return f"{version} readable by"


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


def _part(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index of those rows only that are looked for by it."""
    condition = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


_UNFINISHED = "state IN ('received', 'queued', 'running', 'failed')"
_UNSENT = "state IN ('pending', 'retrying')"

SUPERSEDED = (
    "ix_instances_folded_name",
    "ix_jobs_state_model_priority_received_at",
    "ix_jobs_received_at",
    "ix_jobs_kept",
    "ix_deliveries_state_destination_next_at",
    "ix_deliveries_ask_at",
    "ix_events_sop_instance_uid_id",
    "ix_events_instance",
)
"""Indexes of earlier schemas; they go when those that replace them are built."""

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
    # since 0004; a row without a number waits for `ledger.filling`
    Column("number", Integer),
    _text("folded_name"),  # not written since 0006: the words are searched
    _text("issuer_of_patient_id"),
    _text("study_id"),
    _text("referring_physician"),
    Column("is_filled", Integer, nullable=False, server_default="0"),
    _text("association"),  # since 0005
    Index(None, "study_instance_uid"),
    Index(None, "accession_number"),
    Index(None, "patient_id"),
    Index(None, "received_at"),
    _part("ix_instances_number", "number", where="number IS NOT NULL", unique=True),
    _part("ix_instances_unnumbered", "received_at", where="number IS NULL"),
    _part("ix_instances_study_date", "study_date", "number", where="study_date <> ''"),
    _part("ix_instances_ignored", "received_at", where="state = 'ignored'"),
    _part("ix_instances_kept", "kept_at", where="file <> ''"),
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
    Index("ix_conflicts_purged", "purged_at", "received_at"),
)

senders = Table(
    "senders",
    metadata,
    Column(
        "sop_instance_uid",
        String(64),
        ForeignKey("instances.sop_instance_uid"),
        primary_key=True,
    ),
    Column("calling_ae", String(64), primary_key=True),
    Column("calling_host", String(64), primary_key=True),
    _text("called_ae"),
    _text("association"),
    _count("received"),
    _time("first_at"),
    _time("last_at"),
)
"""Who sent an Instance again, and how often."""

likenesses = Table(
    "likenesses",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "sop_instance_uid", String(64), ForeignKey("instances.sop_instance_uid"), nullable=False
    ),
    _uid("transfer_syntax_uid"),
    Column("sha256", String(64), nullable=False),
    _count("size"),
    _text("file"),
    Column("state", String(16), nullable=False),
    _text("calling_ae"),
    _text("calling_host"),
    _text("called_ae"),
    _text("association"),
    _count("priority"),
    _time("received_at"),
    UniqueConstraint("sop_instance_uid", "sha256", "transfer_syntax_uid"),
    Index("ix_likenesses_state", "state", "received_at"),
)
"""What came under a known UID with other bytes, and may be the same image."""

refused_callers = Table(
    "refused_callers",
    metadata,
    Column("ae_title", String(64), primary_key=True),
    Column("address", String(64), primary_key=True),
    Column("called_ae", String(64), primary_key=True),
    Column("reason", String(256), primary_key=True),
    _count("count"),
    _time("first_at"),
    _time("last_at"),
)

counters = Table(
    "counters",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("last", Integer, nullable=False),
)
"""The last Instance Number of studies of before 0006; `study_numbers` goes on behind it."""

study_numbers = Table(
    "study_numbers",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("last", Integer, nullable=False),
    sqlite_with_rowid=False,  # half the size: the key is the row
)
"""The last Instance Number (0020,0013) given out for a model's reports in a study."""

makers = Table(
    "makers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", String(64), nullable=False),
    Column("model_version", Text, nullable=False),
    Column("device_uid", String(64), nullable=False),
    Column("demonstration", Boolean, nullable=False),
    Column("options", Text, nullable=False),
    _time("last_at"),
    UniqueConstraint("model", "model_version", "device_uid", "demonstration", "options"),
)
"""Who made results, each kept once; ``last_at`` is at most a minute old, `totals` has how many."""

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    _time("claimed_at"),
)
"""When each worker last claimed a job, to the minute."""

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
    # since 0004
    _text("standing"),
    Column("is_kept", Integer, nullable=False, server_default="1"),
    Column("order_id", Integer),
    Column("maker_id", Integer),  # since 0006; a row without has its maker in its own columns
    UniqueConstraint("sop_instance_uid", "model", "generation"),
    _part("ix_jobs_unfinished", "state", "model", "priority", "received_at", where=_UNFINISHED),
    _part("ix_jobs_standing", "standing", "received_at", where="standing <> ''"),
    _part("ix_jobs_ended", "is_kept", "ended_at", where="ended_at > 0"),
)

IS_UNFINISHED = text(f"jobs.{_UNFINISHED}")
"""To be said by every statement that looks for jobs by their state, which alone finds its index:
finished jobs are all but a few."""

orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("content", Text, nullable=False, unique=True),
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
    _text("modality"),
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
    _count("unanswered"),  # since 0005: attempts whose answer is not known
    UniqueConstraint("job", "destination", "part"),
    _part("ix_deliveries_unsent", "state", "destination", "next_at", where=_UNSENT),
    _part("ix_deliveries_asked", "ask_at", where="ask_at > 0"),
)

IS_UNSENT = text(f"deliveries.{_UNSENT}")
"""As `IS_UNFINISHED`, of deliveries."""

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
    # since 0004: an event of an Instance that has a number names it by that
    Column("instance", Integer),
    Column("is_typed", Integer, nullable=False, server_default="0"),
    _part("ix_events_uid", "sop_instance_uid", where="sop_instance_uid <> ''"),
    _part("ix_events_of_instance", "instance", where="instance IS NOT NULL"),
)

judgements = Table(
    "judgements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String(32), ForeignKey("jobs.id"), nullable=False),
    Column("at", Float(53), nullable=False),
    _text("reader"),
    Column("verdict", String(16), nullable=False),
    _text("comment"),
    _text("corrected_text"),
    _text("findings"),
    Index("ix_judgements_job", "job"),
)

totals = Table(
    "totals",
    metadata,
    Column("what", String(16), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("state", String(16), primary_key=True),
    Column("shard", Integer, primary_key=True),
    Column("n", BigInteger, nullable=False, server_default="0"),
)
"""Kept by triggers: how many Instances, jobs, deliveries and conflicts are in which state, and
``results`` by the number of their maker."""

web_sessions = Table(
    "web_sessions",
    metadata,
    Column("key", Text, primary_key=True),
    Column("user_name", Text, nullable=False),
    Column("mark", Text, nullable=False),
    _text("address"),
    _time("created_at"),
    _time("seen_at"),
    _time("until"),
)

holds = Table(
    "holds",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("name", String(128), primary_key=True),
    _text("reason"),
    _text("held_by"),
    _text("address"),
    _time("since"),
)
"""What people hold back until they let it go: destinations, models, rules, workers. Since 0007."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("ident", String(16), nullable=False, unique=True),
    Column("user_name", String(64), nullable=False),
    _text("label"),
    _text("made_by"),
    _time("created_at"),
    _time("used_at"),
)
"""Keys by which programs act for a person, hashed. Since 0007."""

marks = Table(
    "marks",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False, server_default="0"),
)
"""How far work has come that goes on in the background."""
