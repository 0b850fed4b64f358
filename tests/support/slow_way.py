"""Reports built the slow way: by highdicom, of the whole tree, and written by pydicom."""

from __future__ import annotations

from io import BytesIO

import reports
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.base.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.base.job import ReportOrder
from worker.report import header, sr
from worker.report.sr import SOP_CLASSES, Algorithm, Outcome


def slowly(
    source: Dataset, outcome: Outcome, algorithm: Algorithm, order: ReportOrder, kind: str
) -> bytes:
    """Return a report as highdicom makes it of the whole tree, as pydicom writes it."""
    evidence = header.read(source)
    said, found = sr._read_outcome(outcome, algorithm, order, evidence)
    tree = sr.root(evidence, said, found, algorithm, order)
    uid, make = SOP_CLASSES[kind]
    image = Dataset()
    for keyword in (*header.IDENTIFIERS, "PatientBirthDate", "PatientSex", "StudyDate"):
        header.put(image, keyword, "")
    header.put(image, "StudyTime", "")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
        header.put(image, keyword, source[keyword].value)
    header.put(image, "Modality", evidence.modality)
    before = order.predecessor
    previous = None
    if before is not None:
        previous = Dataset()
        for keyword, value in (
            ("StudyInstanceUID", before.study_instance_uid),
            ("SeriesInstanceUID", before.series_instance_uid),
            ("SOPClassUID", before.sop_class_uid),
            ("SOPInstanceUID", before.sop_instance_uid),
        ):
            header.put(previous, keyword, value)
    for item in reports.items(tree):  # highdicom demands names that templates forbid
        if item.ValueType == "IMAGE" and "ConceptNameCodeSequence" not in item:
            item.ConceptNameCodeSequence = [sr.code(sr.codes.SOURCE_IMAGE, sr.codes.SOURCE_IMAGE)
                                            .ConceptNameCodeSequence[0]]  # fmt: skip
    made: Dataset = make(
        evidence=[image],
        content=tree,
        series_instance_uid=sr.series_uid("sr", evidence, algorithm),
        series_number=order.series_number,
        series_description=sr.series_description(algorithm, order.series_description),
        sop_instance_uid=sr.instance_uid("sr", uid, evidence, algorithm, order),
        instance_number=order.instance_number,
        manufacturer=sr.MANUFACTURER,
        manufacturer_model_name=sr.model_name(algorithm),
        software_versions=sr.version(algorithm),
        device_serial_number=order.serial_number or None,
        is_complete=said.reason is None,
        is_final=False,
        requested_procedures=list(evidence.requests) or None,
        previous_versions=[previous] if previous is not None else None,
        specific_character_set=header.CHARACTER_SET,
    )
    sr.finish_report(made, evidence, said, algorithm, order)
    _unname(made)
    made.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    made.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def _unname(item: Dataset) -> None:
    sr.remove_name(item) if item.get("ValueType") == "SCOORD" else None
    names = [reports.name(item)]
    if names == [sr.codes.IMAGE_LIBRARY_GROUP.value]:
        sr.remove_name(item)
    for child in item.get("ContentSequence") or ():
        _unname(child)
