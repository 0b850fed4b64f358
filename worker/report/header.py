"""What a report takes from the header of the Instance it describes, in legal form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom import config
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from dicom_node.base.errors import NotUnderstood
from dicom_node.standard.legal import legal_date, legal_text, legal_time

# pydicom's complaints about a value print the value: patient data would reach the log.
config.settings.reading_validation_mode = config.IGNORE
config.settings.writing_validation_mode = config.IGNORE

CHARACTER_SET = "ISO_IR 192"
"""Specific Character Set (0008,0005) of every object that is written: UTF-8."""

IDENTIFIERS = ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName")
"""Type 2 attributes that are copied in legal form, or empty."""

OPTIONAL = ("IssuerOfPatientID", "StudyDescription")
"""Type 3 attributes that are copied in legal form."""

TRIAL_SUBJECT = (
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
)
"""Type 2 attributes of the Clinical Trial Subject Module (PS3.3 C.7.1.3)."""

ISSUER = ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
REQUEST = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)
COPIED_CODES: Final = frozenset(
    {
        "DeidentificationMethodCodeSequence",
        "PerformedProcedureCodeSequence",
        "ProcedureCodeSequence",
        "RequestedProcedureCodeSequence",
    }
)
"""Sequences whose codes are the source's own."""

# What is left of an ISO 2022 escape sequence: pydicom 3.0.2 keeps that of ISO 2022 IR 58.
ESCAPE = re.compile(r"\x1b[\x20-\x2f]+[\x30-\x7e]")
OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)

NOT_STATED = "Not stated by the source"


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
    view: str = ""
    """View Position (0018,5101) in capitals, for example ``PA``."""
    laterality: str = ""
    """Image Laterality (0020,0062): ``L``, ``R``, ``B`` or ``U``."""
    orientation: tuple[str, ...] = ()
    """Patient Orientation (0020,0020): directions of a row and of a column."""
    spacing: tuple[float, ...] = ()
    """Imager or Pixel Spacing in mm: between rows, between columns."""
    institution: str = ""
    changes: tuple[str, ...] = field(default=())
    """What of the header had to be made legal, in words without the values."""

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
    changes: dict[str, None] = {}
    return Evidence(
        study_instance_uid=study,
        series_instance_uid=_uid(source, "SeriesInstanceUID"),
        sop_class_uid=_uid(source, "SOPClassUID"),
        sop_instance_uid=_uid(source, "SOPInstanceUID"),
        modality=text(source, "Modality"),
        common=_common(source, changes),
        requests=tuple(_requests(source, study, changes)),
        rows=_number(source, "Rows"),
        columns=_number(source, "Columns"),
        display=_display(source),
        view=text(source, "ViewPosition").strip(" \0").upper(),
        laterality=_laterality(source),
        orientation=_orientation(source),
        spacing=_spacing(source),
        institution=_legal(source, "InstitutionName", {}),
        changes=tuple(changes),
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


def _laterality(source: Dataset) -> str:
    found = (text(source, name).strip(" \0") for name in ("ImageLaterality", "Laterality"))
    return next((side for side in found if side in {"L", "R", "B", "U"}), "")


def _orientation(source: Dataset) -> tuple[str, ...]:
    values = tuple(part.strip(" \0") for part in text(source, "PatientOrientation").split("\\"))
    is_legal = len(values) == 2 and all(re.fullmatch("[ALRPFH]{1,3}", v) for v in values)
    return values if is_legal else ()


def _spacing(source: Dataset) -> tuple[float, ...]:
    """Return the distances in the order of `worker.image`: Pixel Spacing, then Imager."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        values = text(source, keyword).split("\\")
        try:
            numbers = tuple(float(value) for value in values)
        except ValueError:
            continue
        if len(numbers) == 2 and all(0 < number < 1000 for number in numbers):
            return numbers
    return ()


def _legal(source: Dataset, keyword: str, changes: dict[str, None]) -> str:
    """Return one element as legal text; a change of its meaning is noted in `changes`."""
    value = text(source, keyword)
    vr = dictionary_VR(keyword)
    legal = {"DA": legal_date, "TM": legal_time}.get(vr, lambda raw: legal_text(vr, raw))(value)
    if legal.strip() != value.strip(" \0"):
        name = dictionary_description(keyword)
        made = "made legal" if legal.strip() else "left out"
        changes[f"The image's {name} is not legal and was {made}."] = None
    return legal


def _common(source: Dataset, changes: dict[str, None]) -> Dataset:
    common = Dataset()
    put(common, "SpecificCharacterSet", CHARACTER_SET)
    put(common, "StudyInstanceUID", _uid(source, "StudyInstanceUID"))
    for keyword in (*IDENTIFIERS, "StudyDate", "PatientBirthDate", "StudyTime"):
        put(common, keyword, _legal(source, keyword, changes))
    sex = text(source, "PatientSex").strip(" \0")
    put(common, "PatientSex", sex if sex in {"M", "F", "O"} else "")
    if sex and not text(common, "PatientSex"):
        changes["The image's Patient's Sex is not legal and was left out."] = None
    for keyword in OPTIONAL:
        _put_legal(common, source, keyword, changes)
    offset = text(source, "TimezoneOffsetFromUTC").strip(" \0")
    if OFFSET.fullmatch(offset):
        put(common, "TimezoneOffsetFromUTC", offset)
    _put_codes(common, source, "ProcedureCodeSequence")
    _put_issuers(common, source)
    _put_identity(common, source, changes)
    _put_trial(common, source, changes)
    return common


def _put_legal(ds: Dataset, source: Dataset, keyword: str, changes: dict[str, None]) -> None:
    value = _legal(source, keyword, changes)
    if value.strip():
        put(ds, keyword, value)


def _put_codes(ds: Dataset, source: Dataset, keyword: str) -> None:
    """Put those items of a code sequence that are legal: a code that is cut is another code."""
    found = [code for item in _items(source, keyword) if (code := _code(item)) is not None]
    if found:
        put(ds, keyword, found)


def _code(item: Dataset) -> Dataset | None:
    """Return a legal item of the Code Sequence Macro (PS3.3 Table 8.8-1), or None."""
    code = Dataset()
    _put_optional(
        code, item, ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")
    )
    needed = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    return code if all(keyword in code for keyword in needed) else None


def _put_identity(common: Dataset, source: Dataset, changes: dict[str, None]) -> None:
    """Put whether and how the image was de-identified (PS3.3 C.7.1.1)."""
    removed = text(source, "PatientIdentityRemoved").strip(" \0").upper()
    if removed not in {"YES", "NO"}:
        return
    put(common, "PatientIdentityRemoved", removed)
    if removed == "NO":
        return
    _put_codes(common, source, "DeidentificationMethodCodeSequence")
    methods = [
        method
        for raw in text(source, "DeidentificationMethod").split("\\")
        if (method := legal_text("LO", raw.strip(" \0")))
    ]
    if not methods and "DeidentificationMethodCodeSequence" not in common:
        methods = [NOT_STATED]
        changes["The image does not say how it was de-identified."] = None
    if methods:
        put(common, "DeidentificationMethod", methods)


def _put_trial(common: Dataset, source: Dataset, changes: dict[str, None]) -> None:
    """Put the clinical trial, as far as its modules are whole (PS3.3 C.7.1.3, C.7.2.3)."""
    needed = {name: text(source, f"ClinicalTrial{name}").strip(" \0") for name in
              ("SponsorName", "ProtocolID", "SubjectID", "SubjectReadingID")}  # fmt: skip
    if needed["SponsorName"] and needed["ProtocolID"] and (
        needed["SubjectID"] or needed["SubjectReadingID"]
    ):  # fmt: skip
        for name in needed:
            _put_legal(common, source, f"ClinicalTrial{name}", changes)
        for keyword in TRIAL_SUBJECT:
            put(common, keyword, _legal(source, keyword, changes))
    if text(source, "ClinicalTrialTimePointID").strip(" \0"):
        _put_legal(common, source, "ClinicalTrialTimePointID", changes)
        _put_legal(common, source, "ClinicalTrialTimePointDescription", changes)


def put(ds: Dataset, keyword: str, value: Any, vr: str = "") -> None:
    """Set one element without pydicom's checks, which would log the value."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    ds[tag] = DataElement(tag, vr or dictionary_VR(tag), value, validation_mode=config.IGNORE)


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
        _put_issuer(common, source, keyword)
    others = [
        other for item in _items(source, "OtherPatientIDsSequence") if (other := _other(item))
    ]
    if others:
        put(common, "OtherPatientIDsSequence", others)


def _put_issuer(ds: Dataset, source: Dataset, keyword: str) -> None:
    issuers = [issuer for item in _items(source, keyword) if (issuer := _issuer(item))]
    if issuers:
        put(ds, keyword, issuers[:1])


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


def _requests(
    source: Dataset, study_instance_uid: str, changes: dict[str, None]
) -> Iterable[Dataset]:
    """Yield the requests that the image answers, or one made from its accession number."""
    items = _items(source, "RequestAttributesSequence")
    if not items and text(source, "AccessionNumber").strip(" \0"):
        items = [Dataset()]
    for item in items:
        request = Dataset()
        stated = text(item, "StudyInstanceUID")
        is_usable = bool(stated) and _is_legal("StudyInstanceUID", stated)
        put(request, "StudyInstanceUID", stated if is_usable else study_instance_uid)
        put(request, "ReferencedStudySequence", [])
        for keyword in REQUEST:
            holder = item if text(item, keyword) else source
            put(request, keyword, _legal(holder, keyword, changes))
        for holder in (source, item):
            _put_codes(request, holder, "RequestedProcedureCodeSequence")
            _put_issuer(request, holder, "IssuerOfAccessionNumberSequence")
        if "RequestedProcedureCodeSequence" not in request:
            put(request, "RequestedProcedureCodeSequence", [])
        yield request


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
    # As `worker.image.grey` does: a table comes before a window.
    voi = Dataset()
    _put_tables(voi, source, "VOILUTSequence")
    if not len(voi):
        _put_window(voi, source)
    if len(voi):
        put(display, "SoftcopyVOILUTSequence", [voi])
    return display


def _put_window(window: Dataset, source: Dataset) -> None:
    """Put the first window of the image, where it is one."""
    for keyword in ("WindowCenter", "WindowWidth"):
        value = text(source, keyword).split("\\")[0].strip()
        if value and _is_legal(keyword, value):
            put(window, keyword, value)
    # PS3.3 C.11.2.1.2: Window Width is at least 1.
    if "WindowCenter" in window and float(window.get("WindowWidth", 0)) >= 1:
        _put_optional(window, source, ("VOILUTFunction",))
        return
    window.clear()


def _put_tables(ds: Dataset, source: Dataset, keyword: str) -> None:
    """Put the first look-up table of a sequence, with a descriptor that is true of its data."""
    for item in _items(source, keyword)[:1]:
        table = _table(item)
        if table is None:
            return
        if keyword == "ModalityLUTSequence":
            kind = legal_text("LO", text(item, "ModalityLUTType")).strip()
            put(table, "ModalityLUTType", kind or "US")
        put(ds, keyword, [table])


def _table(item: Dataset) -> Dataset | None:
    """Return Descriptor and Data of a look-up table, or None where they do not fit each other.

    The bits of a Descriptor (PS3.3 C.11.1.1.1) are those that the entries use: vendors declare
    others, and a picture that is made by what they declare is half dark.
    """
    descriptor, data = _words(item, "LUTDescriptor"), _words(item, "LUTData")
    if len(descriptor) != 3 or not data:
        return None
    entries, first, bits = descriptor
    count = entries % 2**16 or 2**16
    if len(data) * 2 == count and max(data) > 255:  # two entries of 8 bits in each word
        data = [byte for word in data for byte in (word & 255, word >> 8)]
    if len(data) != count or not 1 <= bits <= 16:
        return None
    used = min(max(max(data).bit_length(), 8), 16)
    table = Dataset()
    lowest = -(2**15) if first < 0 else 0
    if not lowest <= first < (2**15 if first < 0 else 2**16):
        return None
    vr = "SS" if first < 0 else "US"
    numbers = [entries % 2**16, first, used]
    if first < 0 and numbers[0] >= 2**15:
        numbers[0] -= 2**16  # the same 16 bits in the other sign
    put(table, "LUTDescriptor", numbers, vr)
    content = b"".join(word.to_bytes(2, "little") for word in data)
    put(table, "LUTData", content, "OW")
    return table


def _words(item: Dataset, keyword: str) -> list[int]:
    """Return the numbers of a US, SS or OW element; those of a Descriptor keep their sign."""
    value = _value(item, keyword)
    if isinstance(value, bytes):
        raw = value[: len(value) // 2 * 2]
        return [int.from_bytes(raw[i : i + 2], "little") for i in range(0, len(raw), 2)]
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    if not all(isinstance(number, int) for number in values):
        return []
    return values if keyword == "LUTDescriptor" else [number % 2**16 for number in values]
