"""What a report takes from the header of the Instance it describes, in legal form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from dicom_node.base.errors import NotUnderstood

# pydicom's complaints about a value print the value: patient data would reach the log.
config.settings.reading_validation_mode = config.IGNORE
config.settings.writing_validation_mode = config.IGNORE

CHARACTER_SET = "ISO_IR 192"
"""Specific Character Set (0008,0005) of every object that is written: UTF-8."""

IDENTIFIERS = ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName")
"""Type 2 attributes that are copied as they are, or empty."""

OPTIONAL = ("IssuerOfPatientID", "StudyDescription", "TimezoneOffsetFromUTC")
"""Type 3 attributes that are copied where they are legal."""

ISSUER = ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
REQUEST = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)

# What is left of an ISO 2022 escape sequence: pydicom 3.0.2 keeps that of ISO 2022 IR 58.
ESCAPE = re.compile(r"\x1b[\x20-\x2f]+[\x30-\x7e]")
TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII)
OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The Instance that a report describes."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    modality: str
    common: Dataset
    """Patient and Study attributes, decoded and legal, for each object made from this Instance."""
    requests: tuple[Dataset, ...]
    """Items of the Referenced Request Sequence (0040,A370)."""
    rows: int
    columns: int
    display: Dataset
    """How the stored values become gray: the LUT modules of a GSPS (PS3.3 A.33.1)."""

    @property
    def is_grayscale(self) -> bool:
        """Whether a grayscale presentation state may lie on this Instance."""
        return self.is_image and "PresentationLUTShape" in self.display

    @property
    def is_image(self) -> bool:
        """Whether an IMAGE content item may refer to this Instance."""
        return "Image Storage" in UID(self.sop_class_uid).name


def read(source: Dataset) -> Evidence:
    """Return what a report takes from `source`, which is left as it is.

    Parameters
    ----------
    source : Dataset
        A header as read from bytes, in any Specific Character Set; pixels are not needed.

    Raises
    ------
    NotUnderstood
        One of the four UIDs that place an Instance is missing.
    """
    study = _uid(source, "StudyInstanceUID")
    return Evidence(
        study_instance_uid=study,
        series_instance_uid=_uid(source, "SeriesInstanceUID"),
        sop_class_uid=_uid(source, "SOPClassUID"),
        sop_instance_uid=_uid(source, "SOPInstanceUID"),
        modality=text(source, "Modality"),
        common=_common(source),
        requests=tuple(_requests(source, study)),
        rows=_number(source, "Rows"),
        columns=_number(source, "Columns"),
        display=_display(source),
    )


def text(ds: Dataset, keyword: str) -> str:
    """Return the value of one element as decoded text, empty when absent.

    Values are joined as they stood in the file; escape sequences that pydicom leaves are removed.
    """
    value = _value(ds, keyword)
    values = value if isinstance(value, MultiValue) else [value]
    joined = "\\".join("" if part is None else str(part) for part in values)
    return ESCAPE.sub("", joined).replace("\x1b", "")


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        return ds.get(keyword)
    except (ValueError, TypeError, AttributeError, OverflowError, NotImplementedError):
        return None  # bytes that are no value of this VR


def _uid(source: Dataset, keyword: str) -> str:
    value = text(source, keyword).strip(" \0")
    if not value:
        raise NotUnderstood(f"the Instance has no {keyword}; a report needs it")
    return value


def _number(source: Dataset, keyword: str) -> int:
    value = _value(source, keyword)
    return value if isinstance(value, int) else 0


def _common(source: Dataset) -> Dataset:
    common = Dataset()
    put(common, "SpecificCharacterSet", CHARACTER_SET)
    put(common, "StudyInstanceUID", _uid(source, "StudyInstanceUID"))
    for keyword in IDENTIFIERS:
        put(common, keyword, text(source, keyword))
    for keyword in ("StudyDate", "PatientBirthDate"):
        put(common, keyword, _legal_date(text(source, keyword)))
    put(common, "StudyTime", _legal_time(text(source, "StudyTime")))
    sex = text(source, "PatientSex")
    put(common, "PatientSex", sex if sex in {"M", "F", "O"} else "")
    _put_optional(common, source, OPTIONAL)
    if not OFFSET.fullmatch(text(common, "TimezoneOffsetFromUTC")):
        common.pop("TimezoneOffsetFromUTC", None)
    _put_issuers(common, source)
    return common


def put(ds: Dataset, keyword: str, value: Any) -> None:
    """Set one element without pydicom's checks, which would log the value."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    ds[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE)


def _put_optional(ds: Dataset, source: Dataset, keywords: Iterable[str]) -> None:
    for keyword in keywords:
        value = text(source, keyword)
        if value and _is_legal(keyword, value):
            put(ds, keyword, value)


def _is_legal(keyword: str, value: str) -> bool:
    try:
        validate_value(dictionary_VR(keyword), value, config.RAISE)
    except ValueError:
        return False
    return "\\" not in value


def _put_issuers(common: Dataset, source: Dataset) -> None:
    for keyword in ("IssuerOfPatientIDQualifiersSequence", "IssuerOfAccessionNumberSequence"):
        issuers = [issuer for item in _items(source, keyword) if (issuer := _issuer(item))]
        if issuers:
            put(common, keyword, issuers[:1])
    others = [
        other for item in _items(source, "OtherPatientIDsSequence") if (other := _other(item))
    ]
    if others:
        put(common, "OtherPatientIDsSequence", others)


def _issuer(item: Dataset) -> Dataset | None:
    """Return a legal item of the HL7v2 Hierarchic Designator Macro (PS3.3 Table 10-17)."""
    issuer = Dataset()
    _put_optional(issuer, item, ISSUER)
    kinds = {"DNS", "EUI64", "ISO", "URI", "UUID", "X400", "X500"}
    if text(issuer, "UniversalEntityIDType") not in kinds or "UniversalEntityID" not in issuer:
        issuer.pop("UniversalEntityID", None)
        issuer.pop("UniversalEntityIDType", None)
    return issuer if len(issuer) else None


def _other(item: Dataset) -> Dataset | None:
    """Return a legal item of the Other Patient IDs Sequence, or None."""
    other = Dataset()
    _put_optional(other, item, ("PatientID", "IssuerOfPatientID", "TypeOfPatientID"))
    is_typed = text(other, "TypeOfPatientID") in {"TEXT", "RFID", "BARCODE"}
    return other if is_typed and "PatientID" in other else None


def _items(source: Dataset, keyword: str) -> list[Dataset]:
    value = _value(source, keyword)
    return [item for item in value or () if isinstance(item, Dataset)]


def _requests(source: Dataset, study_instance_uid: str) -> Iterable[Dataset]:
    """Yield the requests that the image answers, or one made from its accession number."""
    items = _items(source, "RequestAttributesSequence")
    if not items and text(source, "AccessionNumber"):
        items = [Dataset()]
    for item in items:
        request = Dataset()
        stated = text(item, "StudyInstanceUID")
        is_usable = bool(stated) and _is_legal("StudyInstanceUID", stated)
        put(request, "StudyInstanceUID", stated if is_usable else study_instance_uid)
        put(request, "ReferencedStudySequence", [])
        for keyword in REQUEST:
            value = text(item, keyword) or text(source, keyword)
            is_copied = keyword == "AccessionNumber" or _is_legal(keyword, value)
            put(request, keyword, value if is_copied else "")
        put(request, "RequestedProcedureCodeSequence", [])
        yield request


def _legal_date(value: str) -> str:
    """Return a DA value, repaired where its meaning is plain, else empty (PS3.5 6.2)."""
    digits = re.sub(r"[.\-/]", "", value.strip())
    if not re.fullmatch(r"[0-9]{8}", digits):
        return ""
    try:
        date.fromisoformat(digits)
    except ValueError:
        return ""
    return digits


def _legal_time(value: str) -> str:
    """Return a TM value, repaired where its meaning is plain, else empty (PS3.5 6.2)."""
    digits = value.strip().replace(":", "")
    return digits if TIME.fullmatch(digits) else ""


def _display(source: Dataset) -> Dataset:
    """Return the image's own LUTs; empty where it is no single grayscale frame.

    A presentation state overrides the image's polarity, so that it must repeat it (PS3.3 C.11.6).
    """
    display = Dataset()
    polarity = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
    shape = polarity.get(text(source, "PhotometricInterpretation"))
    frames = text(source, "NumberOfFrames").strip() or "1"
    if (
        shape is None
        or frames != "1"
        or not (_number(source, "Rows") and _number(source, "Columns"))
    ):
        return display
    put(display, "PresentationLUTShape", shape)
    _put_optional(display, source, ("RescaleIntercept", "RescaleSlope"))
    if "RescaleIntercept" in display and "RescaleSlope" in display:
        put(display, "RescaleType", text(source, "RescaleType").strip() or "US")
    else:
        display.pop("RescaleIntercept", None)
        display.pop("RescaleSlope", None)
        _put_tables(display, source, "ModalityLUTSequence")
    window = Dataset()
    _put_window(window, source)
    if len(window):
        put(display, "SoftcopyVOILUTSequence", [window])
    return display


def _put_window(window: Dataset, source: Dataset) -> None:
    """Put the first window of the image, or its VOI LUTs."""
    for keyword in ("WindowCenter", "WindowWidth"):
        value = text(source, keyword).split("\\")[0].strip()
        if value and _is_legal(keyword, value):
            put(window, keyword, value)
    # PS3.3 C.11.2.1.2: Window Width is at least 1.
    if "WindowCenter" in window and float(window.get("WindowWidth", 0)) >= 1:
        _put_optional(window, source, ("VOILUTFunction",))
        return
    window.clear()
    _put_tables(window, source, "VOILUTSequence")


def _put_tables(ds: Dataset, source: Dataset, keyword: str) -> None:
    """Put look-up tables; their numbers are copied as they are."""
    tables = []
    for item in _items(source, keyword)[:1]:
        table = Dataset()
        for name in ("LUTDescriptor", "LUTData"):
            if name in item:
                table[name] = item[name]
        if keyword == "ModalityLUTSequence":
            put(table, "ModalityLUTType", text(item, "ModalityLUTType").strip() or "US")
        if "LUTDescriptor" in table and "LUTData" in table:
            tables.append(table)
    if tables:
        put(ds, keyword, tables)
