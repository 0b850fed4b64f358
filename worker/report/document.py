"""What every result object has in common: its identity, its times, its equipment, its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_node.base.errors import ModelFault, NotUnderstood
from dicom_node.base.identity import MANUFACTURER, MODEL_NAME
from dicom_node.base.job import MadeKind, ObjectKind, ReportOrder
from dicom_node.standard.legal import legal_text
from dicom_node.standard.uids import derived_uid, object_series_uid, object_uid, options_digest
from worker.report import codes, encode
from worker.report.header import Evidence, put, text
from worker.report.reading import Algorithm

LONG_STRING = 64
"""Characters of an LO value (PS3.5 6.2)."""


@dataclass(frozen=True, slots=True)
class Document:
    """One DICOM object of a result, as Part 10 bytes."""

    kind: MadeKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    content: bytes


def device_uid(algorithm: Algorithm) -> str:
    """Return the Device UID (0018,1002): other weights, code or options are another device."""
    derived = derived_uid("device", algorithm.version, algorithm.name, *algorithm.parameters)
    return algorithm.device or derived


def options_of_model(algorithm: Algorithm) -> str:
    """Return the digest of a model's parameters that stands in its objects' UIDs."""
    if algorithm.options is not None:
        return algorithm.options
    return options_digest(algorithm.parameters)


def instance_uid(
    kind: ObjectKind,
    sop_class_uid: str,
    evidence: Evidence,
    algorithm: Algorithm,
    order: ReportOrder,
) -> str:
    """Return the SOP Instance UID of a result object: one per image, model, options, generation."""
    return object_uid(
        kind,
        sop_class_uid,
        evidence.sop_instance_uid,
        device_uid(algorithm),
        options_of_model(algorithm),
        order.generation,
    )


def series_uid(kind: MadeKind, evidence: Evidence, algorithm: Algorithm) -> str:
    """Return the Series Instance UID of a kind of object: one per Study and device."""
    return object_series_uid(kind, evidence.study_instance_uid, device_uid(algorithm))


def model_name(algorithm: Algorithm) -> str:
    """Return Manufacturer's Model Name, which is Algorithm Name too (IHE AIR 6.5.3.1)."""
    if algorithm.demonstration:
        return f"DEMONSTRATION MODEL {algorithm.name} ({MODEL_NAME})"[:LONG_STRING]
    return f"{MODEL_NAME} ({algorithm.name})"[:LONG_STRING]


def version(algorithm: Algorithm) -> str:
    """Return Software Versions (0018,1020), which is Algorithm Version too.

    Raises
    ------
    ModelFault
        It is empty or longer than an LO value.
    """
    if not 0 < len(algorithm.version) <= LONG_STRING:
        raise ModelFault(f"model {algorithm.name}: version must have 1 to {LONG_STRING} characters")
    return algorithm.version


def series_description(algorithm: Algorithm, description: str, label: str = "") -> str:
    """Return a Series Description (0008,103E) that says so where the model is a demonstration.

    `label` comes first, because lists cut a description after some 25 characters. What does not
    fit ends at a word and an ellipsis.
    """
    demonstration = "DEMONSTRATION MODEL: " if algorithm.demonstration else ""
    whole = f"{label}{demonstration}{description}".rstrip()
    if len(whole) <= LONG_STRING:
        return whole
    return f"{whole[: LONG_STRING - 1].rpartition(' ')[0] or whole[: LONG_STRING - 1]}\u2026"


def reading_time(evidence: Evidence, order: ReportOrder) -> datetime:
    """Return the time of the reading in the time zone that the image's own times have."""
    offset = text(evidence.common, "TimezoneOffsetFromUTC")
    if not offset:
        return order.content_datetime
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    # Times are compared as they stand: a report in another zone than its image would seem to be
    # earlier or later than it is.
    zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    return order.content_datetime.astimezone(zone)


def bare_header(evidence: Evidence) -> Dataset:
    """Return a header for highdicom: it logs and alters patients' values, so it sees none."""
    ds = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        put(ds, keyword, "")
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "StudyID"):
        put(ds, keyword, "")
    put(ds, "ReferringPhysicianName", "")
    put(ds, "StudyInstanceUID", evidence.study_instance_uid)
    put(ds, "SeriesInstanceUID", evidence.series_instance_uid)
    put(ds, "SOPClassUID", evidence.sop_class_uid)
    put(ds, "SOPInstanceUID", evidence.sop_instance_uid)
    put(ds, "Modality", evidence.modality)
    put(ds, "Rows", evidence.rows)
    put(ds, "Columns", evidence.columns)
    return ds


def put_common(ds: Dataset, evidence: Evidence, algorithm: Algorithm, order: ReportOrder) -> None:
    """Put the image's Patient and Study, the job's times and one equipment item into `ds`."""
    for element in evidence.common:
        ds[element.tag] = element
    when = reading_time(evidence, order)
    for keyword in ("InstanceCreationDate", "ContentDate"):
        put(ds, keyword, when.strftime("%Y%m%d"))
    for keyword in ("InstanceCreationTime", "ContentTime"):
        put(ds, keyword, when.strftime("%H%M%S.%f"))
    begun = order.series_datetime
    # Series Date and Time are of the Series: all its objects must agree (PS3.3 C.7.3.1).
    if begun is None and order.instance_number == 1:
        begun = order.content_datetime  # later reports of the series would contradict the first
    if begun is not None:
        begun = begun.astimezone(when.tzinfo)
        put(ds, "SeriesDate", begun.strftime("%Y%m%d"))
        put(ds, "SeriesTime", begun.strftime("%H%M%S.%f"))
    if "TimezoneOffsetFromUTC" not in ds:
        put(ds, "TimezoneOffsetFromUTC", f"{when:%z}"[:5])
    if order.station_name:
        put(ds, "StationName", legal_text("SH", order.station_name))
    if evidence.institution:
        put(ds, "InstitutionName", evidence.institution)
    put(ds, "ContributingEquipmentSequence", [_contributing_equipment(algorithm, order, when)])


def _contributing_equipment(algorithm: Algorithm, order: ReportOrder, when: datetime) -> Dataset:
    """Return the one Contributing Equipment item that IHE AIR asks for."""
    item = Dataset()
    put(item, "PurposeOfReferenceCodeSequence", [code_item(codes.PROCESSING_EQUIPMENT)])
    put(item, "Manufacturer", MANUFACTURER)
    put(item, "ManufacturerModelName", model_name(algorithm))
    if order.serial_number:
        put(item, "DeviceSerialNumber", order.serial_number)
    put(item, "SoftwareVersions", version(algorithm))
    put(item, "DeviceUID", device_uid(algorithm))
    put(item, "ContributionDateTime", when.strftime("%Y%m%d%H%M%S.%f%z"))
    put(item, "ContributionDescription", "Description of fractures by AI")
    return item


def code_item(concept: Code) -> Dataset:
    """Return `concept` as an item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    put(item, "CodeValue", concept.value)
    put(item, "CodingSchemeDesignator", concept.scheme_designator)
    put(item, "CodeMeaning", concept.meaning)
    return item


def write_document(kind: MadeKind, ds: Dataset, words: str = "") -> Document:
    """Return `ds` as Part 10 bytes that read back as what was meant.

    Parameters
    ----------
    kind : str
        What a destination calls this object.
    ds : Dataset
    words : str
        The model's text, where the object holds it as a Text Value.

    Raises
    ------
    NotUnderstood
        A name, an identifier or the text reads back differently: the object must not be sent.
    """
    content = encode.part10(ds)
    _check_written(ds, content, words)
    return Document(
        kind=kind,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        content=content,
    )


def _check_written(meant: Dataset, content: bytes, words: str) -> None:
    """Compare what was written with what was meant."""
    # Read by pydicom and not by our own reader: a fault that writer and reader share would pass.
    again = dcmread(BytesIO(content), stop_before_pixels=True)
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID"):
        if text(again, keyword).rstrip(" \0") != text(meant, keyword).rstrip(" \0"):
            raise NotUnderstood(f"{keyword} does not read back from the report as it was meant")
    if words and not _holds_words(content, words):
        raise NotUnderstood("the model's text does not read back from the report as it was meant")


def _holds_words(content: bytes, words: str) -> bool:
    """Tell whether a Text Value (0040,A160) of the file is `words`, byte for byte."""
    value = words.encode()
    value += b" " * (len(value) % 2)
    # Group, element, VR and two reserved bytes, then length and value (PS3.5 7.1.2).
    return b"\x40\x00\x60\xa1UT\0\0" + len(value).to_bytes(4, "little") + value in content
