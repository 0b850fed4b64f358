"""What happens to an Instance: kinds of events, their typed details, and how people read them.

An event of the ledger holds its details as values; the sentence is made when somebody looks, and
nothing is ever read back out of one. Events of versions before 0.2.0 are sentences and stay so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self, TypedDict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.base.local_time import local_time
from dicom_node.base.plurals import counted
from dicom_node.store.actor import Actor
from dicom_node.store.ledger.database import write
from dicom_node.store.schema import events, instances


class Stage(StrEnum):
    """What happened; the name is what traces, metrics and the audit trail show."""

    RECEIVED = "received"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    ROUTED = "routed"
    QUEUED = "queued"
    CLAIMED = "claimed"
    RELEASED = "released"
    EXPIRED = "expired"
    FAILED = "failed"
    REPORTED = "reported"
    REJECTED = "rejected"
    PENDING = "pending"
    WITHHELD = "withheld"
    RETRYING = "retrying"
    SENT = "sent"
    ASKED = "asked"
    UNCOMMITTED = "uncommitted"
    COMMITTED = "committed"
    PURGED = "purged"
    RETRY = "retry"
    RESEND = "resend"
    REPLAY = "replay"
    RELEASE = "release"
    SETTLED = "settled"
    GIVEN_UP = "given up"
    ADOPTED = "adopted"
    AGREE = "agree"
    DISAGREE = "disagree"


class Signature(TypedDict):
    """The details of an event that say who did it."""

    by: str
    address: str


def signed(by: str | Actor) -> Signature:
    """Return the details of an event that say who did it."""
    actor = by if isinstance(by, Actor) else Actor(by)
    return {"by": actor.name, "address": actor.address}


@dataclass(frozen=True, slots=True)
class Details:
    """What an event says beside its kind, time and job; only what applies is kept.

    ``sentence`` is what an event of a version before 0.2.0 said, or free text of an act. An event
    with a ``count`` stands for so many alike, the first of which was ``since`` (`purge.condense`).
    """

    calling_ae: str = ""
    calling_host: str = ""
    association: str = ""
    rule: str = ""
    model: str = ""
    mode: str = ""
    attempt: int = 0
    worker: str = ""
    kind: str = ""
    destination: str = ""
    status: int | None = None
    reason: str = ""
    code: str = ""
    version: str = ""
    by: str = ""
    address: str = ""
    generation: int = 0
    sentence: str = ""
    count: int = 0
    since: float = 0.0

    def dump(self) -> str:
        """Return it as JSON without what is not said; empty for nothing."""
        said = {
            _SHORT.get(name, name): value
            for name in _NAMES
            if (value := getattr(self, name)) not in ("", None, 0)
        }
        if self.status is not None:
            said[_SHORT["status"]] = self.status
        return json.dumps(said, ensure_ascii=False, separators=(",", ":")) if said else ""

    @classmethod
    def load(cls, text: str, is_typed: bool) -> Self:
        """Return the details of a row; an old row is its sentence."""
        if not is_typed:
            return cls(sentence=text)
        said: dict[str, Any] = json.loads(text) if text else {}
        whole = {_LONG.get(name, name): value for name, value in said.items()}
        return cls(**{name: whole[name] for name in _NAMES if name in whole})


_SHORT = {
    "kind": "k",
    "destination": "d",
    "status": "s",
    "worker": "w",
    "attempt": "n",
    "reason": "r",
}
"""What nearly every event says has short names in the ledger: a tenth of its events' bytes."""

_LONG = {short: name for name, short in _SHORT.items()}
_NAMES = tuple(field.name for field in fields(Details))
NOTHING = Details()


def sentence(stage: str, details: Details) -> str:
    """Return an event's details as people read them."""
    said = _sentence(stage, details)
    if not details.count:
        return said
    first = local_time(details.since).strftime("%Y-%m-%d %H:%M:%S")
    return f"{said} ({counted(details.count, 'time')}, first {first})".lstrip()


def _sentence(stage: str, d: Details) -> str:
    if d.sentence:
        return d.sentence
    by = f"by {d.by}" if d.by else "by the operator"
    match stage:
        case Stage.RECEIVED if d.calling_ae or d.calling_host:
            return f"from {d.calling_ae}@{d.calling_host}"
        case Stage.DUPLICATE:
            sender = f" from {d.calling_ae}@{d.calling_host}" if d.calling_ae else ""
            by_which = f", association {d.association}" if d.association else ""
            return f"{d.reason or 'same bytes again'}{sender}{by_which}"
        case Stage.CONFLICT if d.calling_ae:
            return f"{d.reason}; from {d.calling_ae}@{d.calling_host}"
        case Stage.ROUTED if d.rule or d.model:
            anyway = f", analysed anyway {by}" if d.by else ""
            return f"rule {d.rule!r}: {d.model}, {d.mode}{anyway}"
        case Stage.CLAIMED:
            return f"attempt {d.attempt} by {d.worker}"
        case Stage.EXPIRED:
            return (
                f"{d.worker or 'the worker'} fell silent"
                if d.attempt
                else ("nobody claimed it in time")
            )
        case Stage.REPORTED | Stage.REJECTED:
            return f"{d.code}: {d.reason}" if d.code else f"{d.model} {d.version}".strip()
        case Stage.SENT:
            return f"{d.kind} to {d.destination}: 0x{d.status or 0:04X}"
        case Stage.COMMITTED:
            return f"{d.kind} by {d.destination}"
        case Stage.ASKED:
            return f"storage commitment of {d.kind} by {d.destination}"
        case Stage.UNCOMMITTED:
            return f"{d.kind} by {d.destination}: {d.reason}"
        case Stage.ADOPTED:
            return f"{d.reason}, {by}"
        case Stage.RELEASE:
            return by
        case Stage.SETTLED:
            return f"{d.kind} to {d.destination}: {d.reason}, {by}"
        case Stage.GIVEN_UP if d.by:
            return f"{d.kind} to {d.destination}: {by}"
        case Stage.PENDING | Stage.RETRYING | Stage.WITHHELD | Stage.GIVEN_UP:
            return f"{d.kind or 'report'} to {d.destination}: {d.reason}"
        case Stage.PURGED:
            return d.reason or "image file removed"
        case Stage.RETRY | Stage.RESEND:
            return by
        case Stage.REPLAY:
            why = f"{d.reason}, " if d.reason else ""
            return f"generation {d.generation}, {why}{by}"
        case Stage.AGREE | Stage.DISAGREE:
            return f"{d.by}: {d.reason}" if d.reason else d.by
        case _:
            return d.reason


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is to be kept; `job` is the whole id."""

    sop_instance_uid: str
    stage: str
    at: float
    job: str = ""
    details: Details = NOTHING
    ms: float | None = None


JOB_DIGITS, OLD_JOB_DIGITS = 20, 32
"""How many digits the id of a job has, of 5 bits each, and had before 0011, of 4 bits: half a
million million jobs share none by chance, and three indexes and three tables hold it."""

JOB_PREFIX = 8
"""Digits of a job's id that an event keeps: they tell the jobs of one Instance apart."""

_named: sa.BindParameter[str] = sa.bindparam("uid")
_number = (
    sa.select(instances.c.number).where(instances.c.sop_instance_uid == _named).scalar_subquery()
)

ADD_EVENT = events.insert().values(
    instance=_number,
    sop_instance_uid=sa.case((_number.is_(None), _named), else_=sa.literal_column("''")),
    job=sa.bindparam("job_prefix"),
    stage=sa.bindparam("what"),
    at=sa.bindparam("moment"),
    ms=sa.bindparam("took"),
    detail=sa.bindparam("said"),
    is_typed=sa.literal_column("1"),
)
"""An event names its Instance by number, which is short; by UID while that has none."""


def event_row(new: NewEvent) -> dict[str, Any]:
    """Return the parameters of `ADD_EVENT`."""
    return {
        "uid": new.sop_instance_uid,
        "job_prefix": new.job[:JOB_PREFIX],
        "what": str(new.stage),
        "moment": new.at,
        "took": new.ms,
        "said": new.details.dump(),
    }


def insert_events(
    of: sa.CTE,
    stage: Stage,
    said: sa.ColumnElement[str] | None = None,
    took: sa.ColumnElement[float] | None = None,
) -> sa.Insert:
    """Return the INSERT of an event for each row of a part of a statement (PostgreSQL).

    Parameters
    ----------
    of : CTE
        With ``job`` and ``sop_instance_uid``; the statement has a parameter ``now``.
    said : column, optional
        See `said_of`.
    """
    number = instances.c.number
    none: sa.ColumnElement[Any] = sa.literal_column("''")
    rows = sa.select(
        number,
        sa.case((number.is_(None), of.c.sop_instance_uid), else_=none),
        sa.func.substr(of.c.job, 1, JOB_PREFIX),
        sa.literal_column(f"'{stage}'"),
        sa.cast(sa.bindparam("now"), events.c.at.type),
        sa.cast(sa.null() if took is None else took, events.c.ms.type),
        none if said is None else said,
        sa.literal_column("1"),
    ).join_from(of, instances, instances.c.sop_instance_uid == of.c.sop_instance_uid)
    columns = (events.c.instance, events.c.sop_instance_uid, events.c.job, events.c.stage)
    rest = (events.c.at, events.c.ms, events.c.detail, events.c.is_typed)
    return events.insert().from_select([*columns, *rest], rows)


def said_of(**details: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """Return what `Details.dump` gives for these, in the words of PostgreSQL; none is empty."""
    pieces: list[sa.ColumnElement[Any]] = []
    for name in (name for name in _NAMES if name in details):
        begin = "," if pieces else "{"
        pieces.append(sa.literal_column(f"""'{begin}"{_SHORT.get(name, name)}":'"""))
        pieces.append(sa.cast(sa.func.to_json(details[name]), sa.Text))
    return sa.func.concat(*pieces, sa.literal_column("'}'"))


def append(connection: Connection, stages: list[NewEvent]) -> None:
    """Append events; every transition does so in its own transaction."""
    if stages:
        write(connection, ADD_EVENT, [event_row(stage) for stage in stages])


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it was kept, with the facts of its Instance; ``is_old``: only a sentence."""

    id: int
    sop_instance_uid: str
    job: str
    stage: str
    at: float
    ms: float | None
    details: Details
    is_old: bool
    patient_id: str
    study_instance_uid: str
    sop_class_uid: str
    calling_ae: str
    calling_host: str

    @property
    def detail(self) -> str:
        """The details as people read them."""
        return sentence(self.stage, self.details)
