"""The tables of the ledger, as the newest migration leaves them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

VERSIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011")
"""Every schema version there was; the last is that of this software."""

READABLE_BY = "0011"
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


def _text_column(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _uid_column(name: str) -> Column[str]:
    return Column(name, String(64), nullable=False, server_default="")


def _time_column(name: str) -> Column[float]:
    """Seconds since the epoch, UTC; 0 is never."""
    return Column(name, Float(53), nullable=False, server_default="0")


def _count_column(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def _partial_index(
    name: str,
    *columns: str | ColumnElement[Any],
    where: str,
    unique: bool = False,
    only: str = "",
) -> Index:
    """Return an index of those rows only that are looked for by it."""
    condition = text(where)
    # PostgreSQL's argument is added by `know_postgresql`: said here, it would load that dialect.
    info = {_WHERE: condition} | ({_ONLY: only} if only else {})
    return Index(name, *columns, unique=unique, sqlite_where=condition, info=info)


def _uid_indexes(name: str, column: str) -> tuple[Index, Index]:
    """Return an index of UIDs for SQLite, and one for PostgreSQL that holds their hashes.

    Nobody asks for UIDs in order, and PostgreSQL keeps each whole: 86 bytes a row and not 27.
    """
    return (
        Index(None, column, info={_ONLY: "sqlite"}),
        Index(name, column, info={_ONLY: "postgresql", _HASHED: True}),
    )


_WHERE, _ONLY, _HASHED = "where", "only", "hashed"


def know_postgresql() -> None:
    """Let partial indexes be partial in PostgreSQL, too, and its own hold hashes.

    A node on SQLite does without that dialect, which is a tenth of a command's time and 5 MB.
    """
    for table in metadata.tables.values():
        for index in table.indexes:
            if _WHERE in index.info:
                index.dialect_kwargs["postgresql_where"] = index.info[_WHERE]
            if _HASHED in index.info:
                index.dialect_kwargs["postgresql_using"] = "hash"


def is_index_of(index: Index | UniqueConstraint, dialect: str) -> bool:
    """Return whether a database of this kind has an index, or that of a constraint."""
    return bool(index.info.get(_ONLY, dialect) == dialect)


_UNFINISHED = "state IN ('received', 'queued', 'running', 'failed')"
_UNSENT = "state IN ('pending', 'retrying')"
_ASKED = "ask_at > 0"
_UNSORTED = "sort_name = ''"
_LATER = "generation > 1"
_UNFOUND = "finding IS NULL AND state IN ('reported', 'rejected')"

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

SUPERSEDED_POSTGRESQL = (
    "ix_instances_study_instance_uid",
    "ix_objects_sop_instance_uid",
    "ix_jobs_standing",
)
"""Those that go in PostgreSQL only."""

SUPERSEDED_CONSTRAINTS = {"uq_jobs_sop_instance_uid_model_generation": "jobs"}
"""Constraints that go in PostgreSQL with their indexes, and their tables.

A job's id is made of what this one held unique, and is unique itself.
"""

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
    _uid_column("sop_class_uid"),
    _uid_column("transfer_syntax_uid"),
    _uid_column("study_instance_uid"),
    _uid_column("series_instance_uid"),
    *(_text_column(name) for name in FACTS),
    _count_column("priority"),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    _text_column("file"),
    _text_column("state"),
    _text_column("reason"),
    _count_column("resends"),
    _time_column("received_at"),
    _time_column("kept_at"),
    _time_column("purged_at"),
    # since 0004; a row without a number waits for `ledger.filling`
    Column("number", Integer),
    _text_column("folded_name"),  # not written since 0006: the words are searched
    _text_column("issuer_of_patient_id"),
    _text_column("study_id"),
    _text_column("referring_physician"),
    Column("is_filled", Integer, nullable=False, server_default="0"),
    _text_column("association"),  # since 0005
    # since 0008, see `ledger.search.sort_name`; empty in rows that wait for `ledger.upgrading`
    Column(
        "sort_name",
        Text().with_variant(Text(collation="C"), "postgresql"),
        nullable=False,
        server_default="",
    ),
    Index(None, "sort_name", "received_at"),
    _partial_index("ix_instances_unsorted", "received_at", where=_UNSORTED),
    *_uid_indexes("ix_instances_study", "study_instance_uid"),
    Index(None, "accession_number"),
    Index(None, "patient_id"),
    Index(None, "received_at"),
    _partial_index("ix_instances_number", "number", where="number IS NOT NULL", unique=True),
    _partial_index("ix_instances_unnumbered", "received_at", where="number IS NULL"),
    _partial_index("ix_instances_study_date", "study_date", "number", where="study_date <> ''"),
    _partial_index("ix_instances_ignored", "received_at", where="state = 'ignored'"),
    _partial_index("ix_instances_kept", "kept_at", where="file <> ''"),
)

conflicts = Table(
    "conflicts",
    metadata,
    Column("id", Integer, primary_key=True),
    _uid_column("sop_instance_uid"),
    _uid_column("transfer_syntax_uid"),
    Column("sha256", String(64), nullable=False),
    Column("size", Integer, nullable=False),
    _text_column("file"),
    _text_column("calling_ae"),
    _text_column("calling_host"),
    _time_column("received_at"),
    _time_column("purged_at"),
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
    _text_column("called_ae"),
    _text_column("association"),
    _count_column("received"),
    _time_column("first_at"),
    _time_column("last_at"),
)
"""Who sent an Instance again, and how often."""

likenesses = Table(
    "likenesses",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "sop_instance_uid", String(64), ForeignKey("instances.sop_instance_uid"), nullable=False
    ),
    _uid_column("transfer_syntax_uid"),
    Column("sha256", String(64), nullable=False),
    _count_column("size"),
    _text_column("file"),
    Column("state", String(16), nullable=False),
    _text_column("calling_ae"),
    _text_column("calling_host"),
    _text_column("called_ae"),
    _text_column("association"),
    _count_column("priority"),
    _time_column("received_at"),
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
    _count_column("count"),
    _time_column("first_at"),
    _time_column("last_at"),
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
"""The last Instance Number (0020,0013) given out for a model's reports in a study.

In PostgreSQL, since 0009, of studies with a second one only: `study_number` there gives them out.
"""

makers = Table(
    "makers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", String(64), nullable=False),
    Column("model_version", Text, nullable=False),
    Column("device_uid", String(64), nullable=False),
    Column("demonstration", Boolean, nullable=False),
    Column("options", Text, nullable=False),
    _time_column("last_at"),
    UniqueConstraint("model", "model_version", "device_uid", "demonstration", "options"),
)
"""Who made results, each kept once; ``last_at`` is at most a minute old, `totals` has how many."""

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    _time_column("claimed_at"),
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
    _text_column("rule"),
    _text_column("mode"),
    Column("allow_demonstration", Boolean, nullable=False),
    _count_column("priority"),
    _text_column("send_to"),
    _text_column("report_order"),
    _text_column("state"),
    _text_column("token"),
    _text_column("worker"),
    _time_column("until"),
    _time_column("dated_at"),
    _count_column("attempts"),
    _count_column("handouts"),
    _time_column("next_at"),
    _text_column("reason"),
    _time_column("received_at"),
    _time_column("started_at"),
    _time_column("ended_at"),
    _text_column("model_version"),
    _uid_column("device_uid"),
    Column("demonstration", Boolean, nullable=False, server_default="0"),
    _text_column("result"),
    # since 0004
    _text_column("standing"),
    Column("is_kept", Integer, nullable=False, server_default="1"),
    Column("order_id", Integer),
    Column("maker_id", Integer),  # since 0006; a row without has its maker in its own columns
    # since 0008: p(resent), u(ndetermined), a(bsent), n(one), once there is a result
    Column("finding", String(1)),
    _partial_index("ix_jobs_finding", "finding", "received_at", where="finding <> ''"),
    _partial_index("ix_jobs_unfound", "ended_at", where=_UNFOUND),
    _partial_index("ix_jobs_later", "standing", "received_at", where=_LATER),
    # the jobs of an Instance are found by these
    UniqueConstraint("sop_instance_uid", "model", "generation", info={_ONLY: "sqlite"}),
    Index("ix_jobs_instance", "sop_instance_uid", info={_ONLY: "postgresql", _HASHED: True}),
    _partial_index(
        "ix_jobs_unfinished", "state", "model", "priority", "received_at", where=_UNFINISHED
    ),
    _partial_index(
        "ix_jobs_standing", "standing", "received_at", where="standing <> ''", only="sqlite"
    ),
    _partial_index("ix_jobs_ended", "is_kept", "ended_at", where="ended_at > 0"),
)

_partial_index(
    "ix_jobs_stand",
    jobs.c.standing.desc(),
    jobs.c.received_at,
    where="standing <> ''",
    only="postgresql",
)
# Most jobs end as delivered or committed: what is written last stands last, and PostgreSQL fills
# the pages of an index there; in the middle it leaves half of each free.

IS_UNFINISHED = text(f"jobs.{_UNFINISHED}")
"""To be said by every statement that looks for jobs by their state, which alone finds its index:
finished jobs are all but a few."""

IS_UNFOUND = text(f"jobs.{_UNFOUND.replace('state', 'jobs.state')}")
IS_LATER = text(f"jobs.{_LATER}")
HAS_FINDING = text("jobs.finding <> ''")
IS_UNSORTED = text(f"instances.{_UNSORTED}")
"""As `IS_UNFINISHED`, of rows that an older version wrote."""

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
    _uid_column("sop_class_uid"),
    _uid_column("sop_instance_uid"),
    _uid_column("series_instance_uid"),
    _text_column("file"),
    _time_column("purged_at"),
    _text_column("modality"),
    *_uid_indexes("ix_objects_uid", "sop_instance_uid"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String(32), ForeignKey("jobs.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("part", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    _text_column("state"),
    _text_column("reason"),
    _uid_column("sop_instance_uid"),
    Column("status", Integer),
    _count_column("attempts"),
    _time_column("next_at"),
    _time_column("dated_at"),
    _time_column("created_at"),
    _time_column("ended_at"),
    _count_column("asks"),
    _time_column("ask_at"),
    _count_column("unanswered"),  # since 0005: attempts whose answer is not known
    UniqueConstraint("job", "destination", "part"),
    _partial_index("ix_deliveries_unsent", "state", "destination", "next_at", where=_UNSENT),
    _partial_index("ix_deliveries_asked", "ask_at", where=_ASKED),
)

IS_UNSENT = text(f"deliveries.{_UNSENT}")
IS_ASKED = text(f"deliveries.{_ASKED}")
"""As `IS_UNFINISHED`, of deliveries. In words, without a parameter: for one that decides whether an
index can be used, SQLite parses and plans the statement again at each execution."""

commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", String(64), primary_key=True),
    Column("delivery", Integer, ForeignKey("deliveries.id"), primary_key=True),
    _count_column("attempts"),
    _time_column("asked_at"),
    _time_column("ended_at"),
)

destinations = Table(
    "destinations",
    metadata,
    Column("name", String(64), primary_key=True),
    _count_column("failures"),
    _time_column("held_until"),
    _time_column("changed_at"),
    _text_column("reason"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    _uid_column("sop_instance_uid"),
    Column("job", String(32), nullable=False, server_default=""),
    Column("at", Float(53), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("ms", Float(53)),
    _text_column("detail"),
    # since 0004: an event of an Instance that has a number names it by that
    Column("instance", Integer),
    Column("is_typed", Integer, nullable=False, server_default="0"),
    _partial_index("ix_events_uid", "sop_instance_uid", where="sop_instance_uid <> ''"),
    _partial_index("ix_events_of_instance", "instance", where="instance IS NOT NULL"),
)

past_events = Table(
    "past_events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    # SQLite keeps bytes in a column of text as they are
    Column("content", LargeBinary().with_variant(Text, "sqlite"), nullable=False),
)
"""The events of Instances that are over, by number: all of one in one row. Since 0009, as bytes
since 0011, see `ledger.past`."""

judgements = Table(
    "judgements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", String(32), ForeignKey("jobs.id"), nullable=False),
    Column("at", Float(53), nullable=False),
    _text_column("reader"),
    Column("verdict", String(16), nullable=False),
    _text_column("comment"),
    _text_column("corrected_text"),
    _text_column("findings"),
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
    _text_column("address"),
    _time_column("created_at"),
    _time_column("seen_at"),
    _time_column("until"),
)

holds = Table(
    "holds",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("name", String(128), primary_key=True),
    _text_column("reason"),
    _text_column("held_by"),
    _text_column("address"),
    _time_column("since"),
)
"""What people hold back until they let it go: destinations, models, rules, workers. Since 0007."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("ident", String(16), nullable=False, unique=True),
    Column("user_name", String(64), nullable=False),
    _text_column("label"),
    _text_column("made_by"),
    _time_column("created_at"),
    _time_column("used_at"),
)
"""Keys by which programs act for a person, hashed. Since 0007."""

marks = Table(
    "marks",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False, server_default="0"),
)
"""How far work has come that goes on in the background."""
