"""A result as a DICOM Structured Report by TID 1500 (DICOM PS3.16), built with highdicom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    Comprehensive3DSR,
    ComprehensiveSR,
    ContainerContentItem,
    ContentSequence,
    EnhancedSR,
    ImageContentItem,
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
from dicom_node.base.job import Predecessor, ReportOrder
from dicom_node.standard.uids import derived_uid
from worker.report import boxes, codes, header, reading
from worker.report.boxes import Marked
from worker.report.document import (
    LONG_STRING,
    Document,
    bare,
    device_uid,
    fix,
    instance_uid,
    model_name,
    moment,
    series_description,
    series_uid,
    version,
    written,
)
from worker.report.header import Evidence, put
from worker.report.reading import Algorithm, Case, Outcome, Reading
from worker.text.findings import Fracture

__all__ = ["SOP_CLASSES", "Algorithm", "Document", "Outcome", "build", "build_each", "device_uid"]

SOP_CLASSES: Final = {
    "comprehensive3d": ("1.2.840.10008.5.1.4.1.1.88.34", Comprehensive3DSR),
    "comprehensive": ("1.2.840.10008.5.1.4.1.1.88.33", ComprehensiveSR),
    "enhanced": ("1.2.840.10008.5.1.4.1.1.88.22", EnhancedSR),
}
"""Name of an SR SOP class -> its UID and highdicom's class; the tree is legal in all three."""

SUMMARIES: Final = {
    Case.FRACTURE: (codes.SUCCEEDED_WITH_FINDINGS, codes.PRESENT),
    Case.NO_FRACTURE: (codes.SUCCEEDED_WITHOUT_FINDINGS, codes.ABSENT),
    Case.UNCLEAR: (codes.NOT_ALL_SUCCEEDED, codes.UNDETERMINED),
    Case.NOT_ANALYSED: (codes.NONE_SUCCEEDED, None),
}
"""Case -> processing summary and presence of a fracture; not analysed never claims absence."""

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

    The tree uses nothing that only one of the classes has, so it is built once, and the others
    differ from it in their UIDs alone.

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
        The model's version is no Software Versions value.

    References
    ----------
    DICOM PS3.3 A.35.13 (Comprehensive 3D SR IOD), PS3.16 TID 1500, IHE AIR 6.5.3.
    """
    for name in sop_classes:
        if name not in SOP_CLASSES:
            raise ConfigurationError(f"SR SOP class {name!r} is none of {', '.join(SOP_CLASSES)}")
    evidence = header.read(source)
    said, found = _marked(outcome, reading.read(outcome, algorithm), evidence)
    report = _report(evidence, said, found, algorithm, order, sop_classes[0])
    fix(report, evidence, algorithm, order)
    unname(report)
    if said.reason is not None:
        flag = f"Not analysed: {said.reason.code}"[:LONG_STRING]
        put(report, "CompletionFlagDescription", flag)
    documents = []
    for name in sop_classes:
        uid = UID(SOP_CLASSES[name][0])
        report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = uid
        own = UID(instance_uid("sr", uid, evidence, algorithm, order))
        report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = own
        documents.append(written("sr", report, said.text))
    return tuple(documents)


def _marked(
    outcome: Outcome, said: Reading, evidence: Evidence
) -> tuple[Reading, Sequence[Marked]]:
    """Return the fractures with their regions, and the reading with notes on boxes left out."""
    if not outcome.boxes:
        return said, [Marked(fracture) for fracture in said.fractures]
    kept, notes = boxes.sound(outcome.boxes, evidence.rows, evidence.columns)
    if said.case is not Case.FRACTURE or not evidence.is_image:
        kept, notes = (), [boxes.note(boxes.UNSURE, len(outcome.boxes))]
    told = replace(said, warnings=(*said.warnings, *notes))
    return told, boxes.marked(said.fractures, kept)


def _report(
    evidence: Evidence,
    said: Reading,
    found: Sequence[Marked],
    algorithm: Algorithm,
    order: ReportOrder,
    sop_class: str,
) -> Dataset:
    sop_class_uid, make = SOP_CLASSES[sop_class]
    try:
        report: Dataset = make(
            evidence=[bare(evidence)],
            content=_root(evidence, said, found, algorithm, order),
            series_instance_uid=series_uid("sr", evidence, algorithm),
            series_number=order.series_number,
            series_description=series_description(algorithm, order.series_description),
            sop_instance_uid=instance_uid("sr", sop_class_uid, evidence, algorithm, order),
            instance_number=order.instance_number,
            **document_arguments(evidence, said, algorithm, order),
        )
    except KeyError as exc:
        raise NotUnderstood(f"SOP class {evidence.sop_class_uid} is not in the Standard") from exc
    return report


def document_arguments(
    evidence: Evidence, said: Reading, algorithm: Algorithm, order: ReportOrder
) -> dict[str, Any]:
    """Return the arguments that each of highdicom's SR classes takes from a job."""
    when = moment(evidence, order)
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": model_name(algorithm),
        "software_versions": version(algorithm),
        "device_serial_number": order.serial_number or None,
        "content_date": when.date(),
        "content_time": when.time(),
        "is_complete": said.case is not Case.NOT_ANALYSED,
        "is_final": False,
        "requested_procedures": list(evidence.requests) or None,
        "previous_versions": _previous(order.predecessor),
        "specific_character_set": header.CHARACTER_SET,
    }


def _previous(predecessor: Predecessor | None) -> list[Dataset] | None:
    if predecessor is None:
        return None
    previous = Dataset()
    put(previous, "StudyInstanceUID", predecessor.study_instance_uid)
    put(previous, "SeriesInstanceUID", predecessor.series_instance_uid)
    put(previous, "SOPClassUID", predecessor.sop_class_uid)
    put(previous, "SOPInstanceUID", predecessor.sop_instance_uid)
    return [previous]


def _root(
    evidence: Evidence,
    said: Reading,
    found: Sequence[Marked],
    algorithm: Algorithm,
    order: ReportOrder,
) -> ContainerContentItem:
    children = head(algorithm, order)
    if evidence.is_image:
        children.append(_library(evidence))
    if found:
        groups = _groups(evidence, found, algorithm)
        children.append(container(codes.IMAGING_MEASUREMENTS, groups))
    children.append(container(codes.QUALITATIVE_EVALUATIONS, _evaluations(said)))
    root = ContainerContentItem(
        codes.IMAGING_MEASUREMENT_REPORT, is_content_continuous=False, template_id="1500"
    )
    root.ContentSequence = ContentSequence(children)
    return root


def head(algorithm: Algorithm, order: ReportOrder) -> list[ContentItem]:
    """Return what stands first in each report: language, observer, procedure (TID 1204, 1001)."""
    procedure = code(codes.PROCEDURE_REPORTED, codes.IMAGING_PROCEDURE, CONCEPT_MOD)
    return [*observer(algorithm, order), procedure]


def observer(algorithm: Algorithm, order: ReportOrder) -> list[ContentItem]:
    """Return the language and the observing device (TID 1204, 1004)."""
    if algorithm.language not in codes.LANGUAGES:
        raise ConfigurationError(f"model {algorithm.name}: no code for {algorithm.language!r}")
    named = [
        (codes.DEVICE_OBSERVER_NAME, order.station_name),
        (codes.DEVICE_OBSERVER_MANUFACTURER, MANUFACTURER),
        (codes.DEVICE_OBSERVER_MODEL_NAME, model_name(algorithm)),
        (codes.DEVICE_OBSERVER_SERIAL_NUMBER, order.serial_number),
    ]
    return [
        code(codes.LANGUAGE, codes.LANGUAGES[algorithm.language], CONCEPT_MOD),
        code(codes.OBSERVER_TYPE, codes.DEVICE, OBS_CONTEXT),
        UIDRefContentItem(codes.DEVICE_OBSERVER_UID, device_uid(algorithm), OBS_CONTEXT),
        *(words(name, value, OBS_CONTEXT) for name, value in named if value),
    ]


def code(name: Code, value: Code, relationship: str = CONTAINS) -> CodeContentItem:
    """Return a CODE content item (PS3.3 C.17.3)."""
    return CodeContentItem(name, value, relationship)


def words(name: Code, value: str, relationship: str = CONTAINS) -> TextContentItem:
    """Return a TEXT content item (PS3.3 C.17.3)."""
    return TextContentItem(name, value, relationship)


def container(name: Code, items: Sequence[ContentItem]) -> ContainerContentItem:
    """Return a CONTAINER of separate content items (PS3.3 C.17.3)."""
    holder = ContainerContentItem(name, is_content_continuous=False, relationship_type=CONTAINS)
    holder.ContentSequence = ContentSequence(items)
    return holder


def image(name: Code, evidence: Evidence, relationship: str = CONTAINS) -> ImageContentItem:
    """Return an IMAGE content item that refers to the source (PS3.3 C.17.3)."""
    return ImageContentItem(
        name,
        evidence.sop_class_uid,
        evidence.sop_instance_uid,
        relationship_type=relationship,
    )


def _library(evidence: Evidence) -> ContainerContentItem:
    """Return the Image Library (TID 1600) of the one image."""
    picture = image(codes.SOURCE_IMAGE, evidence)
    if evidence.modality in codes.MODALITIES:
        modality = code(codes.MODALITY, codes.MODALITIES[evidence.modality], ACQ_CONTEXT)
        picture.ContentSequence = ContentSequence([modality])
    group = container(codes.IMAGE_LIBRARY_GROUP, [picture])
    return container(codes.IMAGE_LIBRARY, [group])


def unname(item: Dataset) -> None:
    """Remove the name that highdicom demands of an IMAGE and templates forbid.

    These are TID 1601 (library), 2010 (key objects) and 1410 (regions).
    """
    for child in item.get("ContentSequence") or ():
        if child.ValueType == "IMAGE" and item.ValueType in ("CONTAINER", "SCOORD"):
            name = child.ConceptNameCodeSequence[0]
            if name.CodeValue == codes.SOURCE_IMAGE.value:
                del child.ConceptNameCodeSequence
        unname(child)


def _groups(evidence: Evidence, found: Iterable[Marked], algorithm: Algorithm) -> list[ContentItem]:
    """Return one Measurement Group per fracture: TID 1410 where it has a region, else TID 1501."""
    seen: Counter[tuple[str, str]] = Counter()
    groups: list[ContentItem] = []
    for number, (fracture, box) in enumerate(((m.fracture, m.box) for m in found), start=1):
        site = codes.site(fracture.bone, fracture.number)
        side = codes.laterality(fracture.bone, fracture.side)
        place = (site.value if site else "", side.value if side else "")
        seen[place] += 1
        parts = (evidence.sop_instance_uid, device_uid(algorithm), *place, str(seen[place]))
        items = [
            words(codes.TRACKING_IDENTIFIER, f"Fracture {number}", OBS_CONTEXT),
            UIDRefContentItem(codes.TRACKING_UNIQUE_IDENTIFIER, derived_uid(*parts), OBS_CONTEXT),
            code(codes.FINDING, codes.FRACTURE_OF_BONE),
            *_site(fracture),
            *_algorithm(algorithm),
            image(codes.SOURCE_OF_MEASUREMENT, evidence),
        ]
        if box is not None:
            items.append(_region(box, evidence))
        sentence, _ = reading.storable(fracture.sentence)
        if sentence:
            items.append(words(codes.COMMENT, sentence))
        groups.append(container(codes.MEASUREMENT_GROUP, items))
    return groups


def _region(box: boxes.Box, evidence: Evidence) -> ScoordContentItem:
    """Return an Image Region: a closed polyline on the source image (PS3.3 C.18.6, TID 1410)."""
    outline = np.array(box.outline, np.float32)
    region = ScoordContentItem(codes.IMAGE_REGION, "POLYLINE", outline, relationship_type=CONTAINS)
    source = image(codes.SOURCE_IMAGE, evidence, "SELECTED FROM")
    region.ContentSequence = ContentSequence([source])
    return region


def _site(fracture: Fracture) -> list[ContentItem]:
    """Return the Finding Site with its side and segment, where a bone is named."""
    place = codes.site(fracture.bone, fracture.number)
    if place is None:
        return []
    item = code(codes.FINDING_SITE, place, CONCEPT_MOD)
    modifiers = [
        (codes.LATERALITY, codes.laterality(fracture.bone, fracture.side)),
        (codes.TOPOGRAPHICAL_MODIFIER, codes.modifier(fracture.bone, fracture.segment)),
    ]
    known = [code(name, value, CONCEPT_MOD) for name, value in modifiers if value is not None]
    if known:
        item.ContentSequence = ContentSequence(known)
    return [item]


def _algorithm(algorithm: Algorithm) -> list[ContentItem]:
    """Return the algorithm's identification (TID 4019)."""
    lines = [line for raw in algorithm.parameters if (line := reading.storable(raw)[0])]
    return [
        words(codes.ALGORITHM_NAME, model_name(algorithm), CONCEPT_MOD),
        words(codes.ALGORITHM_VERSION, version(algorithm), CONCEPT_MOD),
        *(words(codes.ALGORITHM_PARAMETERS, line, CONCEPT_MOD) for line in lines),
        code(codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE, CONCEPT_MOD),
    ]


def _evaluations(said: Reading) -> list[ContentItem]:
    """Return the Qualitative Evaluations: summary, presence, the model's words, disclaimer."""
    summary, presence = SUMMARIES[said.case]
    items: list[ContentItem] = [code(codes.SUMMARY, summary)]
    if presence is not None:
        items.append(code(codes.FRACTURE_OF_BONE, presence))
    if said.reason is not None:
        items.append(code(codes.IMAGE_QUALITY, codes.quality(said.reason.code)))
    if said.text:
        items.append(words(codes.FINDING, said.text))
    items += [words(codes.COMMENT, line) for line in (said.comment, *said.warnings)]
    return items
