"""The wire between node and worker: what Celery carries and what the job API carries.

A hand-out holds ids and tokens only; patient data travels in the job API alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

TASK = "worker.describe"
"""Name of the Celery task that takes one `Handout`."""

ObjectKind = Literal["sr", "sc", "gsps", "ko", "pdf", "basic-text"]
"""What a destination may ask for; ``sr`` is the report itself."""

MadeKind = Literal[ObjectKind, "rejection-note"]
"""What a result may hold: a rejection note goes with a report that replaces another."""

WIRE_VERSION = 2
"""Version 1 is that of 0.1.0, whose messages refuse every field that they do not know. A worker
says its own version with each claim; one that says none has version 1."""

WIRE_HEADER = "X-Wire-Version"
"""Of a claim, and of its answer: nodes that say none have version 1."""
INSTANCE_HEADER = "X-With-Instance"
"""A claim that bears it, with any value, may be answered with the Instance behind the message."""
MESSAGE_HEADER = "X-Message-Length"
"""Bytes of the message in such an answer; all that follows is the Instance."""

Uid = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$", max_length=64)]


Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=128)]
"""An id or a token: it stands in paths, so it may hold nothing that leads elsewhere."""


def without_nul(text: str) -> str:
    """Return a text that PostgreSQL takes; where it held NUL it is equal to none that is kept."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


Text = Annotated[str, AfterValidator(without_nul)]
"""What may come into a row of the ledger as it is."""

Words = Annotated[str, AfterValidator(lambda text: text.replace("\0", ""))]
"""What people read, of which NUL is none."""

Count = Annotated[int, Field(ge=0, le=1 << 62)]
"""A number, or bytes, that pages and gauges can show: a float holds it."""

Milliseconds = Annotated[float, Field(le=1e12, allow_inf_nan=False)]
"""A time that can be added to others; JSON has no word for NaN, and would keep it as null."""


def queue(model: str) -> str:
    """Return the name of the Celery queue of `model`."""
    return f"model.{model}"


class Message(BaseModel):
    """A frozen, strict value; its errors never show the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Ticket(Message):
    """The right to work on one job, until its token is replaced."""

    job: Word
    token: Word


class Handout(Message):
    """What the broker carries: tickets and where to redeem them."""

    node: str = Field(max_length=2048)
    """Base URL of the node's job API."""
    model: str = Field(max_length=64)
    tickets: tuple[Ticket, ...] = Field(max_length=4096)
    alone: bool = Field(default=False, exclude=True)
    """An earlier worker may have died of it: it goes into an empty worker. A header of the message
    carries it, which workers of 0.1.0 pass over; they refuse a field that they do not know."""


class ReportOrder(Message):
    """All that a report takes from the node; kept with the job, so that a rebuild is the same."""

    instance_number: int = 1
    content_datetime: AwareDatetime
    series_number: int = 9001
    series_description: str = "AI fracture description (ChexFract)"
    station_name: str = ""
    """AE title of the node: Device Observer Name (121013, DCM)."""
    serial_number: str = ""
    """Serial number of the site's installation; empty leaves it out."""
    generation: int = 1
    """1, and one more for each re-run that an operator asks for."""
    predecessor: Predecessor | None = None
    objects: tuple[ObjectKind, ...] = ("sr",)
    sop_classes: tuple[str, ...] = ("comprehensive3d",)
    """SR SOP classes to build: comprehensive3d, comprehensive, enhanced. A node asks for one and
    makes the others of it; nodes of 0.1.0 ask for each that a destination may want."""
    series_datetime: AwareDatetime | None = None
    """When the first report of the Study and model was made; None where that is not known."""
    procedure: tuple[str, str, str] | None = None
    """Code value, scheme and meaning of Procedure Reported; None is "Imaging procedure"."""
    text_series: Literal["study", "report"] = "study"
    """Whether text SRs share a series of the Study; OHIF shows one SR of a series only."""
    not_analysed: bool = True
    """Whether a rejected image is answered with a "not analysed" report."""
    judgement: Judgement | None = None
    """What a reader thinks of the report that this one replaces; then no model reads the image."""
    rejection_notes: tuple[RejectionNote, ...] = ()
    """What archives are asked to hide when the new report is there."""


_SINCE_WIRE_2 = ("series_datetime", "procedure", "text_series", "judgement", "rejection_notes")


def order_for_wire(order: ReportOrder, version: int) -> ReportOrder | None:
    """Return an order as workers of a wire version understand it; None where they cannot do it.

    Dates, words and places of series fall back to what 0.1.0 made. A judgement, or a note that
    hides an older report, is work that such a worker would leave out: it waits for a newer one.
    """
    if version >= WIRE_VERSION:
        return order
    if order.judgement is not None or order.rejection_notes:
        return None
    plain = {name: ReportOrder.model_fields[name].default for name in _SINCE_WIRE_2}
    return order.model_copy(update=plain)


def result_for_wire(result: Result, version: int) -> bytes:
    """Return the JSON of a result as a node of a wire version takes it."""
    newer = {"options", "batch"} if version < WIRE_VERSION else None
    return result.model_dump_json(exclude=newer).encode()


def heartbeat_for_wire(presence: WorkerHeartbeat, version: int) -> bytes:
    """Return the JSON of a heartbeat as a node of a wire version takes it."""
    newer: dict[str, Any] = {"batches": True, "card": {"files"}} if version < WIRE_VERSION else {}
    return presence.model_dump_json(exclude=newer).encode()


class Predecessor(Message):
    """An object that was sent: the report that a re-run replaces, or what went with it.

    DICOM PS3.3 C.17.2, Predecessor Documents Sequence.
    """

    study_instance_uid: Uid
    series_instance_uid: Uid
    sop_class_uid: Uid
    sop_instance_uid: Uid


class RejectionNote(Message):
    """Objects that some destinations have and shall hide (IHE RAD, Imaging Object Change)."""

    destinations: tuple[str, ...] = Field(max_length=256)
    objects: tuple[Predecessor, ...] = Field(min_length=1, max_length=64)


class JudgedFinding(Message):
    """What a reader thinks of one fracture of a report."""

    finding: str = Field(max_length=256)
    """One of `finding_names`."""
    verdict: Literal["agree", "disagree"]


class JudgedReport(Message):
    """What a model's report said and who made it: a judgement is about that, and repeats it."""

    text: str | None = None
    presence: Literal["present", "absent", "undetermined"] | None = None
    warnings: tuple[str, ...] = ()
    reason: Reason | None = None
    model_version: str
    device_uid: Uid
    options: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    demonstration: bool = False


class Judgement(Message):
    """What a reader thinks of a model's report."""

    reader: str = Field(max_length=256)
    verdict: Literal["agree", "disagree"]
    comment: str = ""
    corrected_text: str = ""
    findings: tuple[JudgedFinding, ...] = Field(default=(), max_length=256)
    report: JudgedReport


class ClaimRequest(Message):
    """Body of ``POST /jobs/{id}/claim``."""

    token: Text
    worker: Text
    """Host name and process id of the worker; for people."""


class Claim(Message):
    """Answer to a claim: the lease and what to build."""

    job: str
    attempt: int
    lease_s: float
    size: int
    """Bytes of the Part 10 file behind ``GET /jobs/{id}/instance``."""
    order: ReportOrder


class LeaseRequest(Message):
    """Body of ``POST /jobs/{id}/lease``: work on the job has made progress."""

    token: Text


class ReleaseRequest(Message):
    """Body of ``POST /jobs/{id}/release``: the job goes back to the node."""

    token: Text
    reason: Words
    counts: bool = True
    """Whether this was an attempt at the Instance (false: the worker's own trouble)."""
    delay_s: float = Field(default=0.0, ge=0, le=3600)


class Measured(Message):
    """How well a model read some set of pictures; shares from 0 to 1 by what they are of."""

    on: str = Field(max_length=128)
    count: Count
    shares: dict[str, float] = Field(max_length=16)


class Card(Message):
    """What people should know of a model."""

    name: str = Field(max_length=64)
    version: str = Field(max_length=64)
    licence: str = Field(default="", max_length=256)
    licence_accepted_by: str = Field(default="", max_length=256)
    demonstration: bool = False
    language: str = Field(default="", max_length=16)
    prompt: str = Field(default="", max_length=1024)
    parameters: dict[str, str] = Field(default_factory=dict, max_length=64)
    """Algorithm Parameters (111002, DCM) as its reports name them."""
    files: str = Field(default="", max_length=256)
    """What the sums of its files were compared with."""
    measured: tuple[Measured, ...] = Field(default=(), max_length=16)


class Device(Message):
    """What a worker computes on, and how much of it is in use; 0 is not known."""

    name: str = Field(max_length=128)
    memory: Count = 0
    """Bytes."""
    used: Count = 0
    load: float | None = Field(default=None, ge=0, le=1)
    """Share of the time in which it computes."""


class Batches(Message):
    """What a worker's model was given since the worker's start."""

    limit: int = Field(ge=1, le=1 << 62)
    """Pictures that it gets at a time now; fewer than ``worker.batch`` where memory is short."""
    count: Count = 0
    pictures: Count = 0
    last: tuple[int, ...] = Field(default=(), max_length=16)
    """Pictures of each of the last batches."""
    fill: float | None = Field(default=None, ge=0, le=1)
    """How full those batches were for which enough pictures were in the worker; None: none yet."""
    busy: float | None = Field(default=None, ge=0, le=1)
    """Share of the time with work in the worker in which the model computed."""


class WorkerHeartbeat(Message):
    """Body of ``POST /workers``: a worker is there; sent again and again, for people."""

    worker: str = Field(max_length=128)
    """As in `ClaimRequest`."""
    card: Card
    device: Device
    busy: Count = 0
    """Jobs in work."""
    done: Count = 0
    """Results since it started."""
    batches: Batches | None = None
    """None: a worker that does not tell."""


class Reason(Message):
    """Why an Instance was not analysed."""

    code: Text = Field(max_length=64)
    text: Words = Field(max_length=1024)


class FractureFound(Message):
    """One fracture as parsed from the model's text."""

    bone: str
    number: str | None = None
    side: str | None = None
    certainty: str = "definite"
    age: str | None = None


class Placed(Protocol):
    """A fracture at a place."""

    @property
    def bone(self) -> str:
        """The bone, for example ``rib``; ``other`` where it has no word of its own."""

    @property
    def number(self) -> str | None:
        """Number of a rib, or level of a vertebra."""

    @property
    def side(self) -> str | None:
        """``left``, ``right``, ``bilateral`` or None."""


def finding_names(fractures: Sequence[Placed]) -> tuple[str, ...]:
    """Return how readers and judgements name each fracture: ``left rib 7``, ``left rib 7 (2)``.

    The names differ from one another and are in the order of the fractures.
    """
    seen: Counter[str] = Counter()
    names = []
    for fracture in fractures:
        bone = "bone not named" if fracture.bone == "other" else fracture.bone
        place = " ".join(part for part in (fracture.side, bone, fracture.number) if part)
        seen[place] += 1
        names.append(place if seen[place] == 1 else f"{place} ({seen[place]})")
    return tuple(names)


ReportOrder.model_rebuild()


class ReportObject(Message):
    """One DICOM object of a result; its bytes are the multipart file named `part`."""

    kind: MadeKind
    part: str
    sop_class_uid: Uid
    sop_instance_uid: Uid
    series_instance_uid: Uid


class Result(Message):
    """Part ``result`` (JSON) of ``POST /jobs/{id}/result``; the objects follow as files."""

    token: Text
    outcome: Literal["reported", "rejected"]
    model: Text
    model_version: Text
    device_uid: Uid
    options: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """`standard.uids.options_digest` of the model's parameters, of which UIDs are made; workers of
    0.1.0 leave it out."""
    demonstration: bool = False
    text: str | None = None
    presence: Literal["present", "absent", "undetermined"] | None = None
    fractures: tuple[FractureFound, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: Reason | None = None
    stages_ms: dict[str, Milliseconds] = Field(default_factory=dict)
    """Milliseconds the worker spent per stage: fetch, decode, model, report."""
    batch: int = Field(default=1, ge=1, le=100_000)
    """Pictures that shared the model's time, this one among them; workers of 0.1.0 do not say."""
    objects: tuple[ReportObject, ...] = ()
