"""What the ledger shows: frozen views of its rows, and the JSON that commands print of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from pydantic import BaseModel

from dicom_node.base.job import FractureFound, Reason, ReportOrder
from dicom_node.store.ledger.events import Details, sentence
from dicom_node.store.ledger.kept_results import load_result
from dicom_node.store.ledger.wanted import Wish


class View:
    """A frozen picture of rows; its attributes are typed, `as_json` prints it."""

    __slots__ = ()


@cache
def _json_names(kind: type) -> tuple[str, ...]:
    return tuple(column.name for column in fields(kind) if column.metadata.get("json", True))


def as_json(value: Any) -> Any:
    """Return a view, or anything made of views, as what `json.dumps` takes."""
    if isinstance(value, Wish):
        return value.as_kept()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: as_json(getattr(value, name)) for name in _json_names(type(value))}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in value]
    return value.value if isinstance(value, Enum) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView(View):
    """A received Instance."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_time: str
    modality: str
    body_part: str
    view: str
    manufacturer: str
    station_name: str
    institution: str
    study_description: str
    series_description: str
    presentation_intent: str
    calling_ae: str
    calling_host: str
    called_ae: str
    priority: int
    sha256: str
    size: int
    file: str
    state: str
    reason: str
    resends: int
    received_at: float
    kept_at: float
    purged_at: float
    number: int | None
    issuer_of_patient_id: str
    study_id: str
    referring_physician: str
    association: str = ""


def kept_times(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the milliseconds of the stages of a result as the ledger keeps it.

    An older version kept what was not a number as null.
    """
    took = result.get("stages_ms") or {}
    return {str(stage): float(ms) for stage, ms in took.items() if ms is not None}


@dataclass(frozen=True, slots=True)
class ResultView(View):
    """The one result of a job: what the model said, and how long it took."""

    outcome: str
    model: str
    model_version: str
    device_uid: str
    demonstration: bool
    text: str | None = None
    presence: str | None = None
    fractures: tuple[FractureFound, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: Reason | None = None
    stages_ms: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Any) -> ResultView | None:
        """Return the result of a row of jobs; None while there is none."""
        if not row.result:
            return None
        content = load_result(row.result)
        return cls(
            outcome=str(content.get("outcome") or row.state),
            model=row.model,
            model_version=row.model_version,
            device_uid=row.device_uid,
            demonstration=bool(row.demonstration),
            text=content.get("text"),
            presence=content.get("presence"),
            fractures=tuple(
                FractureFound.model_validate(f) for f in content.get("fractures") or ()
            ),
            warnings=tuple(content.get("warnings") or ()),
            reason=Reason.model_validate(content["reason"]) if content.get("reason") else None,
            stages_ms=kept_times(content),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView(View):
    """One Instance for one model; the token is not shown: it is the right to the job."""

    job: str
    sop_instance_uid: str
    model: str
    generation: int
    rule: str
    mode: str
    allow_demonstration: bool
    priority: int
    send_to: Mapping[str, Wish]
    report_order: ReportOrder
    state: str
    standing: str
    worker: str
    until: float
    dated_at: float
    attempts: int
    handouts: int
    next_at: float
    reason: str
    received_at: float
    started_at: float
    ended_at: float
    model_version: str
    device_uid: str
    demonstration: bool
    result: ResultView | None
    is_judgement: bool = False
    """Whether its report tells what a reader thinks of an earlier one, whose text it repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectView(View):
    """One object of a result and its file; purged files have none."""

    job: str
    part: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    file: str
    purged_at: float
    modality: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView(View):
    """One thing on its way to one destination."""

    id: int
    job: str
    destination: str
    part: str
    kind: str
    state: str
    reason: str
    sop_instance_uid: str
    status: int | None
    attempts: int
    next_at: float
    dated_at: float
    created_at: float
    ended_at: float
    asks: int
    ask_at: float
    unanswered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictView(View):
    """Other content that came under a known UID."""

    id: int
    sop_instance_uid: str
    transfer_syntax_uid: str
    sha256: str
    size: int
    file: str
    calling_ae: str
    calling_host: str
    received_at: float
    purged_at: float


@dataclass(frozen=True, slots=True)
class FindingJudgement(View):
    """What a reader thinks of one coded finding of a report."""

    finding: str
    """The finding in words, as the page showed it: ``left rib 7``."""
    verdict: str


@dataclass(frozen=True, slots=True)
class JudgementView(View):
    """What a reader thinks of a report."""

    id: int
    job: str
    at: float
    reader: str
    verdict: str
    comment: str
    corrected_text: str
    findings: tuple[FindingJudgement, ...] = ()


@dataclass(frozen=True, slots=True)
class TraceStep(View):
    """A step of an Instance: when it ended, how long it took in milliseconds, what it says."""

    stage: str
    at: float
    ms: float
    job: str
    detail: str
    details: Details = field(default_factory=Details, metadata={"json": False})

    @classmethod
    def of(cls, stage: str, at: float, ms: float, job: str, details: Details) -> TraceStep:
        """Return a stage with its details put into words."""
        return cls(str(stage), at, round(ms, 3), job, sentence(stage, details), details)


@dataclass(frozen=True, slots=True)
class Trace(View):
    """All that happened to an Instance, in order."""

    sop_instance_uid: str
    state: str
    instance: InstanceView
    jobs: tuple[JobView, ...]
    objects: tuple[ObjectView, ...]
    deliveries: tuple[DeliveryView, ...]
    conflicts: tuple[ConflictView, ...]
    stages: tuple[TraceStep, ...]
    judgements: tuple[JudgementView, ...] = ()
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent(View):
    """A delivery in short, for lists."""

    destination: str
    kind: str
    state: str
    reason: str
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival(InstanceView):
    """A row of the worklist: an Instance and one of its jobs; ``state`` and ``reason`` of both."""

    job: str | None
    model: str | None
    generation: int | None
    job_at: float | None
    """When the job began: with its image, or later by a re-run."""
    rule: str | None
    mode: str | None
    job_state: str | None
    job_reason: str | None
    attempts: int | None
    ended_at: float | None
    demonstration: bool | None
    text: str | None
    presence: str | None
    because: str
    ms: float | None
    deliveries: tuple[Sent, ...]


@dataclass(frozen=True, slots=True)
class DestinationState(View):
    """How a destination is doing: what waits, ``failures`` in a row, held until, and why."""

    name: str
    waiting: int = 0
    oldest_s: float = 0.0
    uncommitted: int = 0
    failures: int = 0
    held_until: float = 0.0
    reason: str = ""
    is_held: bool = False
    """Whether a person holds it until they let it go."""


@dataclass(frozen=True, slots=True)
class Totals(View):
    """Counts by state, what waits and since when, and how destinations do."""

    at: float
    instances: Mapping[str, int]
    jobs: Mapping[str, int]
    deliveries: Mapping[str, int]
    conflicts: int
    comparing: int
    oldest_open_s: float
    models: Mapping[str, Mapping[str, int]]
    destinations: tuple[DestinationState, ...]


@dataclass(frozen=True, slots=True)
class Pulse(View):
    """What ended lately, seconds from receipt to result ascending, and who took work."""

    ended: Mapping[str, int]
    seconds: tuple[float, ...]
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerClaim(View):
    """A worker and the time of its last claim."""

    worker: str
    claimed_at: float


@dataclass(frozen=True, slots=True)
class ModelVersion(View):
    """A version of a model that made results, how many, and when last."""

    model: str
    model_version: str
    demonstration: bool
    device_uid: str
    results: int
    last_at: float


@dataclass(frozen=True, slots=True)
class Agreement(View):
    """How many results of a model's version readers agree with, by their last judgement of each."""

    model: str
    model_version: str
    agree: int
    disagree: int

    @property
    def share(self) -> float:
        """Share of the judged results that readers agree with."""
        return self.agree / (self.agree + self.disagree)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow(View):
    """A job with its Instance, its result, deliveries and judgements: one row of an export."""

    job: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    patient_name: str
    accession_number: str
    calling_ae: str
    worker: str
    modality: str
    body_part: str
    view: str
    received_at: float
    started_at: float
    ended_at: float
    rule: str
    mode: str
    model: str
    model_version: str
    demonstration: bool
    generation: int
    attempts: int
    job_state: str
    job_reason: str
    result: ResultView | None
    deliveries: tuple[Sent, ...]
    judgements: tuple[JudgementView, ...]
    is_judgement: bool = False
    """Whether its report repeats an earlier one's text with what a reader thinks of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView(View):
    """An object of a result with the facts of its study, as Query/Retrieve shows it."""

    job: str
    part: str
    kind: str
    file: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    source_instance_uid: str
    study_instance_uid: str
    patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_time: str
    study_description: str
    issuer_of_patient_id: str
    study_id: str
    referring_physician: str
    is_filled: bool
    """Whether issuer, study id and referring physician are those of the file."""
    made_at: float
    took: str | None = field(default=None, metadata={"json": False})
