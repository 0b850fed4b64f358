"""Instance bytes and a model to a report Instance, in three steps: prepare, describe, build."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from dicom_node.base.errors import (
    ChexFractError,
    ModelFault,
    OutOfResources,
    Permanent,
    Rejected,
    Transient,
)
from dicom_node.base.job import (
    FractureFound,
    JudgedReport,
    Reason,
    ReportObject,
    ReportOrder,
    Result,
)
from dicom_node.base.logs import Sparse
from dicom_node.base.plurals import counted
from dicom_node.base.version import __version__
from dicom_node.standard.uids import options_digest
from worker.image import files
from worker.image.pixels import Radiograph, preprocessing_name, radiograph, read
from worker.models import (
    BrokenAccelerator,
    Description,
    ModelInfo,
    Prepared,
    Prepares,
    Progress,
    VisionModel,
    is_away,
)
from worker.models.fitting import BatchLimit
from worker.report.boxes import Box, in_image
from worker.report.document import LONG_STRING, Document, device_uid, options_of_model
from worker.report.header import Grey
from worker.report.reading import Algorithm, Outcome
from worker.report.renderings import rejection_notes, render
from worker.report.sr import build_each
from worker.text.findings import Findings, Presence, parse

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from worker.image.decode import Decoder
    from worker.image.luts import Lut
    from worker.settings import Pixels

logger = logging.getLogger(__name__)

CUT_OFF = {
    "length": "The model's answer was cut off at its longest: what was to follow is not known.",
    "time": "The model's answer was cut off when its time was up: what was to follow is not known.",
}
"""Why an answer has no end of its own -> what its report says of that."""
CONTRADICTED = "The model's text says that there is no fracture, and it draws a box around one."
_shown = Sparse(logging.getLogger(__name__), per_minute=12)

UNLIMITED = 1 << 20
MEMORY_FULL = "this worker's memory is full"


@dataclass(slots=True)
class Case:
    """One Instance on its way through the pipeline."""

    source: Dataset | None = None
    """Header and pixels as read; None when the bytes are not DICOM, or were read elsewhere."""
    kept: Any = None
    """What `MakesReports` wants back of a case that it has read."""
    radiograph: Radiograph | None = None
    prepared: Prepared | None = None
    """What the model made of the picture in advance, for models that do so."""
    reason: Reason | None = None
    """Why the Instance is not analysed; None while it may be."""
    trouble: Transient | None = None
    """Why it was not described this time; another time it may be."""
    description: Description | None = None
    judged: JudgedReport | None = None
    """The report whose judgement is to be sent: no model reads the image again."""
    stages_ms: dict[str, float] = field(default_factory=dict)
    batch: int = 1
    """Pictures that the model described at the same time: they share its time."""

    @property
    def is_waiting(self) -> bool:
        """Whether the model is to describe it."""
        is_open = self.reason is None and self.trouble is None and self.judged is None
        return self.radiograph is not None and is_open

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the source, or an empty text."""
        return str(self.source.get("SOPInstanceUID", "")) if self.source is not None else ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the milliseconds of a block to stage `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = (time.perf_counter() - started) * 1000
            self.stages_ms[name] = round(self.stages_ms.get(name, 0.0) + spent, 1)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What is known at the end: the result for the node and the DICOM objects of it."""

    result: Result
    documents: tuple[Document, ...]


class MakesReports(Protocol):
    """Does in other processes what a case needs before its model and behind it.

    Its methods leave in a case what those of `Pipeline` and `ReportBuilder` leave there, but for
    ``source``.
    """

    def make_picture(self, case: Case, content: bytes) -> None:
        """Read and gate an Instance, and make its picture; a refusal becomes the case's reason."""

    def build(self, case: Case, order: ReportOrder, token: str) -> Conclusion:
        """Build the objects of a case whose picture was made by `make_picture`."""


class Pipeline:
    """The way from bytes to report with one model.

    `prepare` and `build` may run in many threads at a time, `describe` in one: the model has one
    accelerator, and what does not need it waits for nobody.

    Parameters
    ----------
    model : VisionModel
        A loaded engine.
    decoder : Decoder
        Decodes Pixel Data in a process that may die.
    options : Pixels
        ``[pixels]`` of worker.toml.
    limit : BatchLimit, optional
        Pictures that the model gets at a time, as far as they fit into its memory.
    elsewhere : MakesReports, optional
        Makes pictures and reports instead of this process.
    """

    def __init__(
        self,
        model: VisionModel,
        decoder: Decoder,
        options: Pixels,
        limit: BatchLimit | None = None,
        elsewhere: MakesReports | None = None,
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._options = options
        self._elsewhere = elsewhere
        self.builder = ReportBuilder(model.info, options)
        self.algorithm = self.builder.algorithm
        self.info = model.info
        self.limit = limit or BatchLimit(UNLIMITED)

    def prepare(self, content: bytes) -> Case:
        """Read and gate an Instance, make its picture and the model's inputs of it.

        A refusal becomes the case's reason.
        """
        case = Case()
        self._make_picture(case, content)
        self._prepare_inputs(case)
        return case

    def prepare_judged(self, content: bytes, judged: JudgedReport) -> Case:
        """Read an Instance whose report was judged, and make its picture; the words are known."""
        case = Case(judged=judged)
        self._make_picture(case, content)
        if case.reason is not None:  # as it was when the report was made: it has no picture
            logger.info("a judged report has no picture: %s", case.reason.code)
            case.reason = None
        return case

    def _make_picture(self, case: Case, content: bytes) -> None:
        if self._elsewhere is not None:
            self._elsewhere.make_picture(case, content)
        else:
            make_picture(case, content, self._decoder, self._options, self.info)

    def prepare_file(self, content: bytes) -> Case:
        """Make the picture of a file that is not an Instance, and the model's inputs of it.

        A refusal becomes the case's reason.
        """
        case = Case()
        with case.stage("decode"):
            try:
                case.radiograph = files.picture(content, self._options)
            except Rejected as exc:
                case.reason = Reason(code=exc.code, text=exc.text[:1024])
        look_before_it_leaves(case, self.info)
        self._prepare_inputs(case)
        return case

    def _prepare_inputs(self, case: Case) -> None:
        if case.radiograph is None or not isinstance(self._model, Prepares):
            return
        with case.stage("inputs"):
            try:
                case.prepared = self._model.prepare(case.radiograph)
            except MemoryError:
                case.trouble = OutOfResources(MEMORY_FULL)
            except Transient as exc:
                case.trouble = exc
            except ChexFractError as exc:
                case.reason = _model_failed(exc)

    def describe(self, cases: Sequence[Case], progress: Progress | None = None) -> None:
        """Let the model describe those cases that have a picture, halving on lack of memory.

        What fitted is learned: later batches are no larger. A single picture that still does not
        fit leaves its case with ``trouble``, and an engine that is away leaves all of them so: no
        picture is to blame.
        """
        waiting = [case for case in cases if case.is_waiting]
        if not waiting:
            return
        started = time.perf_counter()
        fitted = self.limit.most
        for case, said in zip(waiting, self._describe_parts(waiting, progress), strict=True):
            if _is_full(said):  # alone, so the picture is to blame and not the batch's size
                self.limit.restore(fitted)
            _note_outcome(case, said)
        spent = (time.perf_counter() - started) * 1000
        for case in waiting:
            case.stages_ms.setdefault("model", round(spent, 1))

    def _describe_parts(
        self, cases: Sequence[Case], progress: Progress | None
    ) -> list[Description | Reason | Transient]:
        """Describe as many at a time as fit, which may become fewer on the way."""
        answers: list[Description | Reason | Transient] = []
        while len(answers) < len(cases):
            answers += self._describe_batch(
                cases[len(answers) : len(answers) + self.limit.most], progress
            )
        return answers

    def _describe_batch(
        self, cases: Sequence[Case], progress: Progress | None
    ) -> list[Description | Reason | Transient]:
        pictures = [
            case.prepared or case.radiograph for case in cases if case.radiograph is not None
        ]
        try:
            described = [*self._model.describe(pictures, progress)]
            if len(described) != len(cases):  # whose each of them is, nobody can say
                answers = counted(len(described), "answer")
                raise ModelFault(f"{answers} to {counted(len(cases), 'picture')}")
        except MemoryError:
            fault: Transient = OutOfResources(MEMORY_FULL)
        except Transient as exc:
            # An engine that is away would fail at each half as well, and cost its time-out each
            # time.
            if len(cases) == 1 or is_away(exc):
                return [exc] * len(cases)
            fault = exc
        except ChexFractError as exc:
            if len(cases) == 1:
                return [_model_failed(exc)]
            # One picture must not spoil its neighbours: each half is tried on its own.
            middle = len(cases) // 2
            return self._describe_batch(cases[:middle], progress) + self._describe_batch(
                cases[middle:], progress
            )
        else:
            self.limit.passed(len(cases))
            for case in cases:
                case.batch = len(cases)
            return [*described]
        if len(cases) == 1:
            return [fault]
        if isinstance(fault, OutOfResources):
            # The limit is lower from here on, and the same cases are cut by it.
            self.limit.filled(len(cases))
            return self._describe_parts(cases, progress)
        middle = len(cases) // 2
        return self._describe_batch(cases[:middle], progress) + self._describe_batch(
            cases[middle:], progress
        )

    def build(self, case: Case, order: ReportOrder, token: str = "") -> Conclusion:
        """Build the objects that `order` asks for, as `ReportBuilder.build` does."""
        # What was not read there (an invented picture, the case of a test) is built here.
        if self._elsewhere is not None and case.kept is not None:
            return self._elsewhere.build(case, order, token)
        return self.builder.build(case, order, token)


def make_picture(
    case: Case, content: bytes, decoder: Decoder, options: Pixels, info: ModelInfo
) -> None:
    """Read and gate an Instance, and make its picture; a refusal becomes the case's reason."""
    with case.stage("decode"):
        try:
            case.source = read(content)
            case.radiograph = radiograph(case.source, decoder, options)
        except Rejected as exc:
            case.reason = Reason(code=exc.code, text=exc.text[:1024])
    if case.judged is None:
        look_before_it_leaves(case, info)


def look_before_it_leaves(case: Case, info: ModelInfo) -> None:
    """Refuse a picture that may name the patient to a server, or leave a warning with it."""
    if case.radiograph is None or case.reason is not None or not info.outside:
        return
    from worker.image import leaving

    with case.stage("decode"):
        why = leaving.find_text_in(case.source, case.radiograph.pixels)
    if not why:
        return
    if info.outside == "refuse":
        text = f"{why}, and pictures with text are not sent to the server of this model"
        case.reason = Reason(code=leaving.CODE, text=text)
        return
    warning = f"{why}; the picture was sent to a server all the same"
    case.radiograph = replace(
        case.radiograph,
        warnings=(*case.radiograph.warnings, f"{warning[:1].upper()}{warning[1:]}."),
    )
    # Without a UID: which picture it was stands in its report.
    _shown.warning("model %s: %s", info.name, warning)


class ReportBuilder:
    """The way from a described case to its report; knows the model's name and not the model.

    Parameters
    ----------
    info : ModelInfo
        What reports say of the model.
    options : Pixels
        ``[pixels]`` of worker.toml.
    """

    def __init__(self, info: ModelInfo, options: Pixels) -> None:
        self._info = info
        self.algorithm = algorithm(info, options)

    def build(self, case: Case, order: ReportOrder, token: str = "") -> Conclusion:
        """Build the objects that `order` asks for and the result that goes with them.

        A source to which no report can refer (no DICOM, no Study Instance UID) gives a rejected
        result without objects.
        """
        made_by = self.algorithm
        if case.judged is not None:
            made_by = judged_algorithm(case.judged, self.algorithm)
        with case.stage("report"):
            outcome = self._case_outcome(case)
            documents: tuple[Document, ...] = ()
            try:
                documents = tuple(self._make_documents(case, outcome, made_by, order))
            except Permanent as exc:
                # Without objects the result still reaches the node, with the reason: nothing ends
                # silently.
                case.reason = case.reason or Reason(code="no-report", text=str(exc)[:1024])
                outcome = self._case_outcome(case)
        return Conclusion(self._make_result(case, outcome, made_by, documents, token), documents)

    def _case_outcome(self, case: Case) -> Outcome:
        if case.judged is not None:
            return self._judged_outcome(case, case.judged)
        text = case.description.text if case.description else None
        warnings = case.radiograph.warnings if case.radiograph else ()
        if case.reason is not None:
            return Outcome(findings=None, text=None, reason=case.reason, warnings=warnings)
        findings = parse(text or "", self._info.language)
        if case.description is not None and case.description.finish_reason in CUT_OFF:
            # A text that was cut off may have gone on to name a fracture: it can be positive, and
            # never negative.
            warnings += (CUT_OFF[case.description.finish_reason],)
            if findings.presence is Presence.ABSENT:
                findings = Findings(Presence.UNDETERMINED, ())
        if findings.presence is Presence.ABSENT and _has_fracture_box(case):
            warnings += (CONTRADICTED,)
            findings = Findings(Presence.UNDETERMINED, ())
        boxes = tuple(self._image_boxes(case)) if self._info.has_regions else ()
        return Outcome(findings=findings, text=text, reason=None, warnings=warnings, boxes=boxes)

    def _judged_outcome(self, case: Case, judged: JudgedReport) -> Outcome:
        """Return what a judged report said; never more than the node has kept of it."""
        reason, text = case.reason or judged.reason, judged.text
        if reason is not None or text is None:
            return Outcome(text=None, reason=reason, warnings=judged.warnings)
        findings = parse(text, self._info.language)
        if str(findings.presence) != judged.presence:  # its text was cut off, or is read otherwise
            findings = Findings(Presence.UNDETERMINED, ())
        return Outcome(text=text, findings=findings, warnings=judged.warnings)

    def _image_boxes(self, case: Case) -> Iterator[Box]:
        """Yield the model's boxes in pixels of the image as it is stored."""
        if case.description is None or case.radiograph is None or case.source is None:
            return
        rows, columns = int(case.source.Rows), int(case.source.Columns)
        for region in case.description.regions:
            box = Box(region.label, region.left, region.top, region.right, region.bottom)
            yield in_image(box, case.radiograph.steps, rows, columns)

    def _make_documents(
        self, case: Case, outcome: Outcome, made_by: Algorithm, order: ReportOrder
    ) -> Iterator[Document]:
        if case.source is None or (outcome.reason is not None and not order.not_analysed):
            return
        yield from build_each(case.source, outcome, made_by, order, order.sop_classes)
        for kind in order.objects:
            if kind == "sr":
                continue
            pixels = case.radiograph.pixels if case.radiograph is not None else None
            grey = _report_grey(case.radiograph)
            document = render(kind, case.source, pixels, outcome, made_by, order, grey)
            if document is not None:
                yield document
        yield from rejection_notes(case.source, outcome, made_by, order)

    def _make_result(
        self,
        case: Case,
        outcome: Outcome,
        made_by: Algorithm,
        documents: Sequence[Document],
        token: str,
    ) -> Result:
        found = outcome.findings
        return Result(
            token=token,
            outcome="rejected" if outcome.reason else "reported",
            model=self._info.name,
            model_version=made_by.version,
            device_uid=device_uid(made_by),
            options=options_of_model(made_by),
            demonstration=made_by.demonstration,
            text=outcome.text,
            presence=found.presence.value if found else None,
            fractures=tuple(_fractures_found(found)) if found else (),
            warnings=tuple(outcome.warnings),
            reason=outcome.reason,
            stages_ms=dict(case.stages_ms),
            batch=case.batch,
            objects=tuple(
                ReportObject(
                    kind=document.kind,
                    part=f"object{i}",
                    sop_class_uid=document.sop_class_uid,
                    sop_instance_uid=document.sop_instance_uid,
                    series_instance_uid=document.series_instance_uid,
                )
                for i, document in enumerate(documents)
            ),
        )


def _has_fracture_box(case: Case) -> bool:
    """Whether the model draws a box around a fracture, shown in the report or not."""
    regions = case.description.regions if case.description is not None else ()
    labels = {region.label for region in regions}
    return any(parse(label).presence is Presence.PRESENT for label in labels)


def _is_full(said: Description | Reason | Transient) -> bool:
    return isinstance(said, OutOfResources) and not isinstance(said, BrokenAccelerator)


def _model_failed(exc: ChexFractError) -> Reason:
    return Reason(code="model-failed", text=f"The model failed: {exc}"[:1024])


def _report_grey(radiograph: Radiograph | None) -> Grey | None:
    """Return how a picture's grey came about, in the words of a report."""
    display = radiograph.display if radiograph is not None else None
    if display is None:
        return None
    window, rescale = display.window, (display.slope, display.intercept)
    return Grey(
        is_inverted=display.is_inverted,
        rescale=rescale if display.modality == "rescale" else None,
        modality_lut=_table_numbers(display.modality_lut),
        window=None if window is None else (window.center, window.width, window.function),
        voi_lut=_table_numbers(display.voi_lut),
    )


def _table_numbers(lut: Lut | None) -> tuple[int, tuple[int, ...]] | None:
    return None if lut is None else (lut.first, tuple(int(entry) for entry in lut.entries))


def _note_outcome(case: Case, said: Description | Reason | Transient) -> None:
    """Write down at its case what came of a picture."""
    case.prepared = None  # as large as the picture, and not needed again
    if isinstance(said, Transient):
        case.trouble = said
    elif isinstance(said, Reason):
        case.reason = said
    else:
        case.description = said
        case.stages_ms["model"] = round(said.seconds * 1000, 1)
        if not said.text.strip():
            case.reason = Reason(code="empty-output", text="The model gave an empty text.")


def judged_algorithm(judged: JudgedReport, today: Algorithm) -> Algorithm:
    """Return who made a judged report; its parameters are known where it is the model of today."""
    is_same = judged.device_uid == device_uid(today)
    return replace(
        today,
        version=judged.model_version,
        demonstration=judged.demonstration,
        parameters=today.parameters if is_same else (),
        device=judged.device_uid,
        options=judged.options,
    )


def algorithm(info: ModelInfo, options: Pixels) -> Algorithm:
    """Return how reports name a model: software, weights and options in 64 characters.

    IHE AIR wants the same text in Contributing Equipment and in the algorithm items. It ends with
    a digest of all that makes the model's answers, so that no two devices share a version; where
    there is no room, the model's name is cut and never the digest.
    """
    parameters = {
        "weights": "unknown",
        **info.parameters,
        "preproc": preprocessing_name(options),
        "prompt": info.prompt,
    }
    lines = tuple(f"{key}={value}" for key, value in sorted(parameters.items()))
    digest = options_digest((__version__, info.name, info.version, *lines))[:8]
    rest = f"{info.version.removeprefix(info.name)}.{digest}"
    is_named = info.version.startswith(info.name)
    room = LONG_STRING - len(f"{__version__}+") - len(rest)
    name = info.name[: max(room, 0)] if is_named else ""
    return Algorithm(
        name=info.name,
        version=f"{__version__}+{name}{rest[-(LONG_STRING - len(__version__) - 1) :]}",
        parameters=lines,
        language=info.language,
        demonstration=info.demonstration,
        licence=info.licence,
    )


def _fractures_found(findings: Findings) -> Iterator[FractureFound]:
    for fracture in findings.fractures:
        yield FractureFound(
            bone=fracture.bone,
            number=fracture.number,
            side=fracture.side,
            certainty=fracture.certainty,
            age=fracture.age,
        )
