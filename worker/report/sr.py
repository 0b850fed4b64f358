"""A result as a DICOM Structured Report by TID 1500 (DICOM PS3.16), built with highdicom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    EnhancedSR,
    ImageContentItem,
    NumContentItem,
    PnameContentItem,
    ScoordContentItem,
    TextContentItem,
    UIDRefContentItem,
)
from highdicom.sr.value_types import ContentItem
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicom_node.base.errors import ConfigurationError, NotUnderstood
from dicom_node.base.identity import MANUFACTURER
from dicom_node.base.job import Judgement, Predecessor, ReportOrder
from dicom_node.standard.legal import legal_text
from dicom_node.standard.part10 import recast
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.uids import derived_uid
from worker.report import boxes, codes, encode, header, reading
from worker.report.boxes import Marked
from worker.report.concept import concept
from worker.report.document import (
    LONG_STRING,
    Document,
    device_uid,
    instance_uid,
    model_name,
    options_of_model,
    put_common,
    reading_time,
    series_description,
    series_uid,
    version,
    write_document,
)
from worker.report.header import Evidence, put
from worker.report.reading import Algorithm, Outcome, Reading, ReportKind
from worker.text.findings import Absence, Fracture, Place

__all__ = ["SOP_CLASSES", "Algorithm", "Document", "Outcome", "build", "build_each", "device_uid"]

SOP_CLASSES: Final = {
    "comprehensive3d": (SR_CLASSES["comprehensive3d"], Comprehensive3DSR),
    "comprehensive": (SR_CLASSES["comprehensive"], ComprehensiveSR),
    "enhanced": (SR_CLASSES["enhanced"], EnhancedSR),
}
"""Name of an SR SOP class -> its UID and highdicom's class; the tree is legal in all three."""

SUMMARIES: Final = {
    ReportKind.FRACTURE: (codes.SUCCEEDED_WITH_FINDINGS, codes.PRESENT),
    ReportKind.NO_FRACTURE: (codes.SUCCEEDED_WITHOUT_FINDINGS, codes.ABSENT),
    ReportKind.UNCLEAR: (codes.NOT_ALL_SUCCEEDED, codes.UNDETERMINED),
    ReportKind.NOT_ANALYSED: (codes.NONE_SUCCEEDED, codes.UNDETERMINED),
}
"""Processing summary and presence of each kind; not analysed never claims absence."""

BONE_WORDS: Final = {"other": "Bone not named"}
WHOLE_IMAGE = "Bones of the image"
"""Tracking Identifier of the group that speaks of the image as a whole."""

Item = TypeVar("Item", bound=ContentItem)

CONTAINS = "CONTAINS"
CONCEPT_MOD = "HAS CONCEPT MOD"
OBS_CONTEXT = "HAS OBS CONTEXT"
ACQ_CONTEXT = "HAS ACQ CONTEXT"


def build(
    source: Dataset,
    outcome: Outcome,
    algorithm: Algorithm,
    order: ReportOrder,
    sop_class: str = "comprehensive3d",
) -> Document:
    """Return the report of one Instance as one SR SOP class; see `build_each`."""
    return build_each(source, outcome, algorithm, order, (sop_class,))[0]


def build_each(
    source: Dataset,
    outcome: Outcome,
    algorithm: Algorithm,
    order: ReportOrder,
    sop_classes: Sequence[str],
) -> tuple[Document, ...]:
    """Return the report of one Instance once per SOP class; same arguments, same bytes.

    The tree uses nothing that only one of the classes has, so it is built and written once, and
    recast for the others.

    Parameters
    ----------
    source : Dataset
        Header of the Instance as read from bytes; it is left as it is.
    outcome : Outcome
        The model's text and its findings, or the reason why there is none.
    algorithm : Algorithm
        The model.
    order : ReportOrder
        Number, time, station and predecessor, which the node fixed when it made the job.
    sop_classes : sequence of str
        Of ``comprehensive3d``, ``comprehensive`` and ``enhanced``.

    Raises
    ------
    ConfigurationError
        There is no such SOP class, or no code for the model's language.
    NotUnderstood
        The Instance lacks a UID, is of no SOP class of the Standard, or its names and
        identifiers do not read back from the report.
    ModelFault
        The model's version is not a Software Versions value.

    References
    ----------
    DICOM PS3.3 A.35.13 (Comprehensive 3D SR IOD), PS3.16 TID 1500, IHE AIR 6.5.3.
    """
    for name in sop_classes:
        if name not in SOP_CLASSES:
            raise ConfigurationError(f"SR SOP class {name!r} is none of {', '.join(SOP_CLASSES)}")
    evidence = header.read(source)
    said, found = _read_outcome(outcome, algorithm, order, evidence)
    report = document(evidence, said, algorithm, order)
    for element in root(evidence, said, found, algorithm, order):
        report[element.tag] = element
    put(report, "SeriesInstanceUID", series_uid("sr", evidence, algorithm))
    put(report, "SeriesNumber", order.series_number)
    put(report, "SeriesDescription", series_description(algorithm, order.series_description))
    finish_report(report, evidence, said, algorithm, order)
    uids = [SOP_CLASSES[name][0] for name in sop_classes]
    variants = [(uid, instance_uid("sr", uid, evidence, algorithm, order)) for uid in uids]
    if not variants:
        return ()
    # Building and writing the tree is what a report costs; to recast it changes two UIDs.
    report.SOPClassUID, report.SOPInstanceUID = map(UID, variants[0])
    first = write_document("sr", report, said.text)
    return tuple(
        replace(
            first,
            sop_class_uid=sop_class,
            sop_instance_uid=instance,
            content=recast(first.content, sop_class, instance),
        )
        for sop_class, instance in variants
    )


def finish_report(
    report: Dataset, evidence: Evidence, said: Reading, algorithm: Algorithm, order: ReportOrder
) -> None:
    """Put what highdicom has no arguments for into an SR document (PS3.3 C.17.2)."""
    put_common(report, evidence, algorithm, order)
    author = _device_observer(algorithm, order, evidence)
    put(author, "ObserverType", "DEV")
    reader = [_person_observer(said.judgement)] if said.judgement is not None else []
    put(report, "AuthorObserverSequence", [*reader, author])
    participant = _device_observer(algorithm, order, evidence)
    put(participant, "ParticipationType", "SOURCE")
    put(participant, "ParticipationDateTime", reading_stamp(evidence, order))
    put(participant, "ObserverType", "DEV")
    put(report, "ParticipantSequence", [participant])
    if "ProcedureCodeSequence" in evidence.common:
        put(report, "PerformedProcedureCodeSequence", evidence.common.ProcedureCodeSequence)
    flags = [f"Not analysed: {said.reason.code}"] if said.reason is not None else []
    if said.judgement is not None:
        flags.append(f"reader {said.judgement.verdict}s")
    if order.predecessor is not None:
        flags.append("replaces an earlier report")
    if flags:
        flag = "; ".join(flags)
        put(report, "CompletionFlagDescription", f"{flag[:1].upper()}{flag[1:]}"[:LONG_STRING])


def _person_observer(judgement: Judgement) -> Dataset:
    """Return a reader as an observer (PS3.3 Table C.17-3b)."""
    item = Dataset()
    put(item, "PersonName", _reader_name(judgement))
    put(item, "PersonIdentificationCodeSequence", [])
    put(item, "InstitutionName", "")
    put(item, "InstitutionCodeSequence", [])
    put(item, "ObserverType", "PSN")
    return item


def _reader_name(judgement: Judgement) -> str:
    """Return a reader's name as a PN value: the name by which one signs in, as a family name.

    With the caret nobody takes it for a name of before 1993, which had blanks between its parts.
    """
    name = legal_text("PN", judgement.reader.replace("=", " ").replace("^", " ")).strip()
    return f"{name[: LONG_STRING - 1] or 'A reader'}^"


def _device_observer(algorithm: Algorithm, order: ReportOrder, evidence: Evidence) -> Dataset:
    """Return this software as an observer (PS3.3 Table C.17-3b)."""
    item = Dataset()
    put(item, "Manufacturer", MANUFACTURER)
    put(item, "ManufacturerModelName", model_name(algorithm))
    put(item, "StationName", legal_text("SH", order.station_name))
    put(item, "DeviceUID", device_uid(algorithm))
    put(item, "InstitutionName", evidence.institution)
    put(item, "InstitutionCodeSequence", [])
    return item


def reading_stamp(evidence: Evidence, order: ReportOrder) -> str:
    """Return the time of the reading as a DT value, in the zone of (0008,0201).

    DCMTK 3.6.7 takes an offset in a DT value of a content item for a fault.
    """
    return f"{reading_time(evidence, order):%Y%m%d%H%M%S.%f}"


def _read_outcome(
    outcome: Outcome, algorithm: Algorithm, order: ReportOrder, evidence: Evidence
) -> tuple[Reading, Sequence[Marked]]:
    """Return the fractures with their regions, and the reading with notes on what was changed."""
    said = reading.read(outcome, algorithm, order)
    said = replace(said, warnings=(*said.warnings, *evidence.changes))
    if not outcome.boxes:
        return said, [Marked(fracture) for fracture in said.fractures]
    kept, notes = boxes.keep_sound(outcome.boxes, evidence.rows, evidence.columns)
    if said.case is not ReportKind.FRACTURE or not evidence.is_image:
        kept, notes = (), [boxes.omission_note(boxes.UNSURE, len(outcome.boxes))]
    noted = replace(said, warnings=(*said.warnings, *notes))
    return noted, boxes.mark_fractures(said.fractures, kept)


def document(
    evidence: Evidence, said: Reading, algorithm: Algorithm, order: ReportOrder
) -> Dataset:
    """Return an SR document without content, series or UIDs of its own.

    highdicom makes the document of a model once, of an empty tree about an image of nobody; what
    differs from image to image is put over it.
    """
    # pydicom names the UIDs of the Standard; of any other it returns the UID itself.
    if UID(evidence.sop_class_uid).name == evidence.sop_class_uid:
        raise NotUnderstood(f"SOP class {evidence.sop_class_uid} is not in the Standard")
    frame = _empty_document(model_name(algorithm), version(algorithm))
    # Its elements are shared by all reports of the model: they are replaced here and never changed.
    report = Dataset()
    report.update(frame)
    if order.serial_number:
        put(report, "DeviceSerialNumber", order.serial_number)
    is_complete = said.case is not ReportKind.NOT_ANALYSED
    put(report, "CompletionFlag", "COMPLETE" if is_complete else "PARTIAL")
    put(report, "InstanceNumber", order.instance_number)
    put(report, "CurrentRequestedProcedureEvidenceSequence", [_evidence_item(evidence)])
    if evidence.requests:
        put(report, "ReferencedRequestSequence", list(evidence.requests))
    if order.predecessor is not None:
        put(report, "PredecessorDocumentsSequence", [_predecessor_item(order.predecessor)])
    return report


def _evidence_item(evidence: Evidence) -> Dataset:
    """Return the image as evidence (PS3.3 C.17.2.3)."""
    item = Dataset()
    put(item, "ReferencedSOPClassUID", evidence.sop_class_uid)
    put(item, "ReferencedSOPInstanceUID", evidence.sop_instance_uid)
    return _in_study(evidence.study_instance_uid, evidence.series_instance_uid, item)


def _predecessor_item(predecessor: Predecessor) -> Dataset:
    """Return the report that this one replaces."""
    item = Dataset()
    put(item, "ReferencedSOPClassUID", predecessor.sop_class_uid)
    put(item, "ReferencedSOPInstanceUID", predecessor.sop_instance_uid)
    return _in_study(predecessor.study_instance_uid, predecessor.series_instance_uid, item)


def _in_study(study_instance_uid: str, series_instance_uid: str, item: Dataset) -> Dataset:
    series = Dataset()
    put(series, "SeriesInstanceUID", series_instance_uid)
    put(series, "ReferencedSOPSequence", [item])
    study = Dataset()
    put(study, "StudyInstanceUID", study_instance_uid)
    put(study, "ReferencedSeriesSequence", [series])
    return study


@lru_cache(maxsize=16)
def _empty_document(model: str, software: str) -> Dataset:
    """Return the SR document that highdicom makes of an empty tree, with a model's names."""
    empty = ContainerContentItem(
        codes.IMAGING_MEASUREMENT_REPORT, is_content_continuous=False, template_id="1500"
    )
    empty.ContentSequence = ContentSequence([code(codes.OBSERVER_TYPE, codes.DEVICE, OBS_CONTEXT)])
    # highdicom logs and alters values of patients, so it never sees any.
    nobody = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        put(nobody, keyword, "")
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "StudyID"):
        put(nobody, keyword, "")
    put(nobody, "ReferringPhysicianName", "")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        put(nobody, keyword, "2.25.1")
    put(nobody, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.1")
    put(nobody, "Modality", "CR")
    frame: Dataset = Comprehensive3DSR(
        evidence=[nobody],
        content=empty,
        series_instance_uid="2.25.2",
        series_number=1,
        sop_instance_uid="2.25.3",
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model,
        software_versions=software,
        is_complete=True,
        is_final=False,
        specific_character_set=header.CHARACTER_SET,
    )
    return frame


def root(
    evidence: Evidence,
    said: Reading,
    found: Sequence[Marked],
    algorithm: Algorithm,
    order: ReportOrder,
) -> ContainerContentItem:
    """Return the content tree of a report (PS3.16 TID 1500)."""
    children = head(algorithm, order)
    if evidence.is_image:
        children.append(_image_library(evidence))
    groups = _measurement_groups(evidence, said, found, algorithm, order)
    children.append(container(codes.IMAGING_MEASUREMENTS, groups))
    children.append(container(codes.QUALITATIVE_EVALUATIONS, _qualitative_items(said)))
    return content_root(codes.IMAGING_MEASUREMENT_REPORT, "1500", children)


def content_root(
    title: Code, template: str, children: Sequence[ContentItem]
) -> ContainerContentItem:
    """Return the root of a content tree."""
    top = ContainerContentItem(concept(title), is_content_continuous=False, template_id=template)
    _put_items(top, children)
    return top


def head(algorithm: Algorithm, order: ReportOrder) -> list[ContentItem]:
    """Return what stands first in each report: language, observer, procedure (TID 1204, 1001)."""
    named = order.procedure
    value = Code(named[0], named[1], named[2]) if named else codes.IMAGING_PROCEDURE
    procedure = code(codes.PROCEDURE_REPORTED, value, CONCEPT_MOD)
    reader: list[ContentItem] = []
    if order.judgement is not None:
        reader = [
            code(codes.OBSERVER_TYPE, codes.PERSON, OBS_CONTEXT),
            PnameContentItem(
                codes.PERSON_OBSERVER_NAME, _reader_name(order.judgement), OBS_CONTEXT
            ),
        ]
    return [*observer(algorithm, order), *reader, procedure]


def observer(algorithm: Algorithm, order: ReportOrder) -> list[ContentItem]:
    """Return the language and the observing device (TID 1204, 1004)."""
    return list(
        _observer_items(
            algorithm.name,
            algorithm.language,
            device_uid(algorithm),
            model_name(algorithm),
            order.station_name,
            order.serial_number,
        )
    )


@lru_cache(maxsize=64)
def _observer_items(
    name: str, language: str, device: str, model: str, station: str, serial: str
) -> tuple[ContentItem, ...]:
    if language not in codes.LANGUAGES:
        raise ConfigurationError(f"model {name}: no code for {language!r}")
    named = [
        (codes.DEVICE_OBSERVER_NAME, station),
        (codes.DEVICE_OBSERVER_MANUFACTURER, MANUFACTURER),
        (codes.DEVICE_OBSERVER_MODEL_NAME, model),
        (codes.DEVICE_OBSERVER_SERIAL_NUMBER, serial),
    ]
    return (
        code(codes.LANGUAGE, codes.LANGUAGES[language], CONCEPT_MOD),
        code(codes.OBSERVER_TYPE, codes.DEVICE, OBS_CONTEXT),
        _kept(UIDRefContentItem(codes.DEVICE_OBSERVER_UID, device, OBS_CONTEXT)),
        *(_kept(words(name, value, OBS_CONTEXT)) for name, value in named if value),
    )


def code(name: Code, value: Code, relationship: str = CONTAINS) -> CodeContentItem:
    """Return a CODE content item (PS3.3 C.17.3); it may stand in many trees and is not changed."""
    return _code_item(tuple(name), tuple(value), relationship)


# By plain tuples: a Code equals each of the same value and scheme, whatever its meaning is.
@lru_cache(maxsize=512)
def _code_item(name: tuple[Any, ...], value: tuple[Any, ...], relationship: str) -> CodeContentItem:
    return _kept(CodeContentItem(concept(Code(*name)), concept(Code(*value)), relationship))


def words(name: Code, value: str, relationship: str = CONTAINS) -> TextContentItem:
    """Return a TEXT content item (PS3.3 C.17.3)."""
    return TextContentItem(concept(name), value, relationship)


def _usual_words(name: Code, value: str, relationship: str = CONTAINS) -> TextContentItem:
    """Return a TEXT content item of words of our own, which many reports have; as `code`."""
    return _words_item(tuple(name), value, relationship)


@lru_cache(maxsize=512)
def _words_item(name: tuple[Any, ...], value: str, relationship: str) -> TextContentItem:
    return _kept(words(Code(*name), value, relationship))


def _kept(item: Item) -> Item:
    """Return an item that is not changed from here on, with its bytes."""
    encode.keep_bytes(item)
    return item


def container(name: Code, items: Sequence[ContentItem]) -> ContainerContentItem:
    """Return a CONTAINER of separate content items (PS3.3 C.17.3)."""
    holder = ContainerContentItem(
        concept(name), is_content_continuous=False, relationship_type=CONTAINS
    )
    _put_items(holder, items)
    return holder


def _put_items(holder: ContentItem, items: Sequence[ContentItem]) -> None:
    """Put content items into another, which makes a ContentSequence of them itself."""
    holder.ContentSequence = cast("Any", items)


def image(name: Code, evidence: Evidence, relationship: str = CONTAINS) -> ImageContentItem:
    """Return an IMAGE content item that refers to the source (PS3.3 C.17.3)."""
    return ImageContentItem(
        concept(name),
        evidence.sop_class_uid,
        evidence.sop_instance_uid,
        relationship_type=relationship,
    )


def remove_name(item: Dataset) -> None:
    """Remove the name that highdicom demands of an IMAGE and templates forbid.

    These are TID 1601 (library), 2010 (key objects) and 1410 (regions).
    """
    for child in item.get("ContentSequence") or ():
        if child.ValueType == "IMAGE" and item.ValueType in ("CONTAINER", "SCOORD"):
            child.pop("ConceptNameCodeSequence", None)


def _image_library(evidence: Evidence) -> ContainerContentItem:
    """Return the Image Library (TID 1600) of the one image, as its header describes it."""
    picture = image(codes.SOURCE_IMAGE, evidence)
    described = _image_descriptors(evidence)
    if described:
        _put_items(picture, described)
    group = container(codes.IMAGE_LIBRARY_GROUP, [picture])
    remove_name(group)
    return container(codes.IMAGE_LIBRARY, [group])


def _image_descriptors(evidence: Evidence) -> list[ContentItem]:
    """Return what is known of the image (TID 1602, TID 1603)."""
    items: list[ContentItem] = []
    if evidence.modality in codes.MODALITIES:
        items.append(code(codes.MODALITY, codes.MODALITIES[evidence.modality], ACQ_CONTEXT))
    side = {"L": "left", "R": "right", "B": "bilateral"}.get(evidence.laterality)
    if side:
        items.append(code(codes.IMAGE_LATERALITY, codes.SIDES[side], ACQ_CONTEXT))
    if evidence.view in codes.VIEWS:
        items.append(code(codes.IMAGE_VIEW, codes.VIEWS[evidence.view], ACQ_CONTEXT))
    if len(evidence.orientation) == 2:
        row, column = evidence.orientation
        items += [
            _usual_words(codes.PATIENT_ORIENTATION_ROW, row, ACQ_CONTEXT),
            _usual_words(codes.PATIENT_ORIENTATION_COLUMN, column, ACQ_CONTEXT),
        ]
    numbers: list[tuple[Code, float, Code]] = []
    if len(evidence.spacing) == 2:
        # Between rows comes first (PS3.3 10.7.1.3), and is the vertical one.
        down, across = evidence.spacing
        numbers += [
            (codes.HORIZONTAL_SPACING, across, codes.MILLIMETER),
            (codes.VERTICAL_SPACING, down, codes.MILLIMETER),
        ]
    if evidence.rows and evidence.columns:
        numbers += [
            (codes.PIXEL_ROWS, evidence.rows, codes.PIXELS),
            (codes.PIXEL_COLUMNS, evidence.columns, codes.PIXELS),
        ]
    items += [_number_item(tuple(name), value, tuple(unit)) for name, value, unit in numbers]
    return items


# The images of a device have the same sizes and distances, most of them.
@lru_cache(maxsize=512)
def _number_item(name: tuple[Any, ...], value: float, unit: tuple[Any, ...]) -> NumContentItem:
    item = NumContentItem(Code(*name), value, Code(*unit), None, ACQ_CONTEXT)
    # highdicom writes all digits of a float, which may be more than the 16 of a DS value.
    put(item.MeasuredValueSequence[0], "NumericValue", f"{value:.12g}")
    return _kept(item)


class _Tracking:
    """Names the groups of one report by their places, each name with one UID for ever.

    Two reports of one image by one device give the same place the same name and the same UID.
    """

    def __init__(self, evidence: Evidence, algorithm: Algorithm, order: ReportOrder) -> None:
        self._evidence, self._order = evidence, order
        self._device = device_uid(algorithm)
        self._options = options_of_model(algorithm)
        self._seen: Counter[str] = Counter()

    def group(self, place: str, items: Sequence[ContentItem]) -> ContainerContentItem:
        """Return a Measurement Group (TID 1501, or 1410 with a region) that is tracked."""
        self._seen[place] += 1
        name = place if self._seen[place] == 1 else f"{place} ({self._seen[place]})"
        source = self._evidence.sop_instance_uid
        # Not of the generation: a place keeps its UID in every report that speaks of it, so that
        # readers see what became of it (PS3.16 TID 1501, Tracking Unique Identifier).
        uid = derived_uid("tracking", source, self._device, name)
        group = container(
            codes.MEASUREMENT_GROUP,
            [
                _usual_words(codes.TRACKING_IDENTIFIER, name, OBS_CONTEXT),
                UIDRefContentItem(codes.TRACKING_UNIQUE_IDENTIFIER, uid, OBS_CONTEXT),
                *items,
            ],
        )
        generation = str(self._order.generation)
        observation = derived_uid("observation", uid, self._options, generation)
        put(group, "ObservationDateTime", reading_stamp(self._evidence, self._order))
        put(group, "ObservationUID", observation)
        return group


def _measurement_groups(
    evidence: Evidence,
    said: Reading,
    found: Iterable[Marked],
    algorithm: Algorithm,
    order: ReportOrder,
) -> list[ContentItem]:
    """Return one group of the whole image, then one of each fracture or limited absence."""
    tracking = _Tracking(evidence, algorithm, order)
    made_by = _algorithm_items(algorithm)
    source = [image(codes.SOURCE_OF_MEASUREMENT, evidence)] if evidence.is_image else []
    everywhere = [
        code(codes.FINDING_SITE, codes.BONE_OF_THORAX, CONCEPT_MOD),
        *made_by,
        *source,
        code(codes.FRACTURE_OF_BONE, _presence_code(said)),
        *_assessment_items(said.judgement.verdict if said.judgement is not None else ""),
    ]
    if said.is_only_possible:
        everywhere.append(code(codes.FINDING_CONTEXT, codes.CERTAINTIES["possible"]))
    groups: list[ContentItem] = [tracking.group(WHOLE_IMAGE, everywhere)]
    # Fractures of the text come first and in order, as do the verdicts; boxes without a fracture of
    # the text follow.
    judged = (*said.verdicts, *("" for _ in found))  # of fractures that only a box shows: none
    for mark, verdict in zip(found, judged, strict=False):
        fracture, box = mark.fracture, mark.box
        if verdict == "disagree":
            denied = [
                *_finding_sites(fracture),
                *made_by,
                *source,
                code(codes.FRACTURE_OF_BONE, codes.UNDETERMINED),
                *_assessment_items(verdict),
                *_sentence_comment(fracture.sentence),
            ]
            groups.append(tracking.group(place_words(fracture), denied))
            continue
        items = [
            code(codes.FINDING, codes.FRACTURE_OF_BONE),
            *_finding_sites(fracture),
            *made_by,
            *source,
            code(codes.FINDING_CONTEXT, codes.CERTAINTIES[fracture.certainty]),
            *_assessment_items(verdict),
        ]
        if fracture.age in codes.AGES:
            items.append(code(codes.COURSE, codes.AGES[fracture.age]))
        if box is not None:
            items.append(_image_region(box, evidence))
        items += _sentence_comment(fracture.sentence)
        groups.append(tracking.group(place_words(fracture), items))
    for absence in (*said.absences, *said.beside):
        for place in absence.places or (Place("", side=absence.side),):
            items = [*_absent_site(place), *made_by, *source, *_absence_items(absence, said)]
            groups.append(tracking.group(f"{_absent_words(place)}, denied", items))
    return groups


def _presence_code(said: Reading) -> Code:
    """Return whether there is a fracture, as far as the text goes and no further.

    A fracture that is only suspected, and an absence that is said of some fractures only ("no
    displaced fracture"), leave it undetermined, as does a reader who disagrees.
    """
    if said.is_only_possible or said.is_limited or said.is_disputed:
        return codes.UNDETERMINED
    return SUMMARIES[said.case][1]


def _summary_code(said: Reading) -> Code:
    """Return the summary code; what a reader disputes is never summed up as found or not found."""
    is_open = said.is_disputed and said.case is not ReportKind.NOT_ANALYSED
    return codes.NOT_ALL_SUCCEEDED if is_open else SUMMARIES[said.case][0]


def _assessment_items(verdict: str) -> list[ContentItem]:
    """Return what a reader thinks of what was found, where a reader has said so."""
    return [code(codes.ASSESSMENT, codes.ASSESSMENTS[verdict])] if verdict else []


def _absence_items(absence: Absence, said: Reading) -> list[ContentItem]:
    """Return what is denied: absent where all its limits have a code, else undetermined."""
    # "No displaced fracture" coded as ABSENT would deny the others as well.
    is_coded = set(absence.qualifiers) <= reading.CODED_QUALIFIERS and not said.is_disputed
    value = codes.ABSENT if is_coded else codes.UNDETERMINED
    ages = [codes.AGES[age] for age in absence.qualifiers if age in codes.AGES]
    return [
        code(codes.FRACTURE_OF_BONE, value),
        *(code(codes.COURSE, age) for age in ages),
        *_sentence_comment(absence.sentence),
    ]


def _sentence_comment(raw: str) -> list[ContentItem]:
    sentence, _ = reading.storable(raw)
    return [words(codes.COMMENT, sentence)] if sentence else []


def _image_region(box: boxes.Box, evidence: Evidence) -> ScoordContentItem:
    """Return an Image Region: a closed polyline on the source image (PS3.3 C.18.6, TID 1410)."""
    # Graphic Data is FL: rounded here, the bytes are the same on every machine.
    outline = np.array(box.outline, np.float32)
    region = ScoordContentItem(
        concept(codes.IMAGE_REGION), "POLYLINE", outline, relationship_type=CONTAINS
    )
    source = image(codes.SOURCE_IMAGE, evidence, "SELECTED FROM")
    _put_items(region, [source])
    remove_name(region)
    return region


def place_words(fracture: Fracture) -> str:
    """Return where a fracture is, for its Tracking Identifier: "Left rib 5", "Vertebra T8"."""
    return _words_of(fracture.bone, fracture.number, fracture.side, fracture.part)


def _absent_words(place: Place) -> str:
    if not place.bone:
        return f"{place.side.capitalize()} side" if place.side else "All bones"
    return _words_of(place.bone, place.number, place.side, place.part)


def _words_of(bone: str, number: str | None, side: str | None, part: str | None) -> str:
    name = (part or BONE_WORDS["other"]) if bone == "other" else bone
    sided = side if side and bone not in codes.UNSIDED else ""
    joined = " ".join(word for word in (sided, name, number) if word)
    return reading.storable(joined[:1].upper() + joined[1:])[0][:LONG_STRING]


def _finding_sites(fracture: Fracture) -> list[ContentItem]:
    """Return the Finding Sites with side and modifiers, where a bone is named."""
    return list(
        _coded_site(fracture.bone, fracture.number, fracture.side, fracture.segment, fracture.part)
    )


def _absent_site(place: Place) -> list[ContentItem]:
    if not place.bone:
        side = codes.SIDES.get(place.side or "")
        return [_placed_site(codes.BONE_OF_THORAX, side)]
    return list(_coded_site(place.bone, place.number, place.side, None, place.part))


@lru_cache(maxsize=1024)
def _coded_site(
    bone: str, number: str | None, side: str | None, segment: str | None, part: str | None
) -> tuple[ContentItem, ...]:
    modifiers = codes.modifiers(bone, segment, part)
    sided = codes.laterality(bone, side)
    return tuple(_placed_site(site, sided, modifiers) for site in codes.sites(bone, number, part))


def _placed_site(site: Code, side: Code | None, modifiers: Sequence[Code] = ()) -> ContentItem:
    item = CodeContentItem(concept(codes.FINDING_SITE), concept(site), CONCEPT_MOD)
    known = [code(codes.LATERALITY, side, CONCEPT_MOD)] if side is not None else []
    known += [code(codes.TOPOGRAPHICAL_MODIFIER, value, CONCEPT_MOD) for value in modifiers]
    if known:
        _put_items(item, known)
    return _kept(item)


def _algorithm_items(algorithm: Algorithm) -> tuple[ContentItem, ...]:
    """Return the algorithm's identification (TID 4019)."""
    return _identification(model_name(algorithm), version(algorithm), algorithm.parameters)


@lru_cache(maxsize=16)
def _identification(
    name: str, software: str, parameters: tuple[str, ...]
) -> tuple[ContentItem, ...]:
    lines = [line for raw in parameters if (line := reading.storable(raw)[0])]
    return (
        _kept(words(codes.ALGORITHM_NAME, name, CONCEPT_MOD)),
        _kept(words(codes.ALGORITHM_VERSION, software, CONCEPT_MOD)),
        *(_kept(words(codes.ALGORITHM_PARAMETERS, line, CONCEPT_MOD)) for line in lines),
        code(codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE, CONCEPT_MOD),
    )


def _qualitative_items(said: Reading) -> list[ContentItem]:
    """Return the Qualitative Evaluations: the model's words and the cautions, then the codes."""
    items: list[ContentItem] = []
    if said.judgement is not None:
        items += [words(codes.COMMENT, line) for line in said.judgement_lines]
        items += [words(codes.CONCLUSION, said.corrected_text)] if said.corrected_text else []
        comment = reading.storable(said.judgement.comment)[0]
        items += [words(codes.COMMENT, f"The reader's comment: {comment}")] if comment else []
        items += _assessment_items(said.judgement.verdict)
    if said.text:
        items.append(words(codes.FINDING, said.text))
    items += [_usual_words(codes.COMMENT, line) for line in (said.comment, *said.warnings)]
    items.append(code(codes.SUMMARY, _summary_code(said)))
    if said.case is not ReportKind.NOT_ANALYSED:
        items.append(code(codes.FRACTURE_OF_BONE, _presence_code(said)))
    if said.is_only_possible:
        items.append(code(codes.FINDING_CONTEXT, codes.CERTAINTIES["possible"]))
    if said.reason is not None:
        items.append(code(codes.IMAGE_QUALITY, codes.quality(said.reason.code)))
    return items
