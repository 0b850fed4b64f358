"""What a report takes from the header of the Instance it describes, in legal form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
from pydicom import charset, config
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from dicom_node.base.errors import NotUnderstood
from dicom_node.standard.header import without_escapes
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

_TEXTS = frozenset({"AE", "CS", "DA", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"})
"""Value representations of text that is copied; as such it is read, whatever the file calls it."""

_READ_AS_TEXT = _TEXTS | {"AS", "DS", "DT", "IS", "UN", "UR"}

OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)

STUDY = re.compile(r"[0-2](?=.*[1-9])(\.(0|[1-9][0-9]*))+")
"""A UID with a root that there is (PS3.5 9.1), for a request that may name any."""

UNREADABLE = "\ufffd"
"""Stands for bytes that are not a character of the set that the source names."""

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
    source: Dataset
    """The header itself, for what a second object alone asks."""
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
        return self.is_image and _gray_polarity(self.source) is not None

    @property
    def display(self) -> Dataset:
        """How the stored values become gray: the LUT modules of a GSPS (PS3.3 A.33.1).

        Made when it is asked for: a table may have 65536 entries, of which no report speaks.
        """
        return _read_display(self.source)

    @property
    def is_image(self) -> bool:
        """Whether an IMAGE content item may refer to this Instance."""
        return "Image Storage" in UID(self.sop_class_uid).name


Window = tuple[float, float, str]
"""Center, width and function."""


@dataclass(frozen=True, slots=True)
class Grey:
    """How a picture's grey came about, in numbers: what a presentation state repeats."""

    is_inverted: bool
    rescale: tuple[float, float] | None = None
    """Slope and intercept, where they were applied."""
    modality_lut: tuple[int, tuple[int, ...]] | None = None
    """First value mapped, unsigned, and the entries."""
    window: Window | None = None
    """Center, width and function (PS3.3 C.11.2.1.2)."""
    voi_lut: tuple[int, tuple[int, ...]] | None = None


def as_display(grey: Grey, is_signed: bool) -> Dataset:
    """Return the LUT modules of a GSPS that shows what the model saw (PS3.3 A.33.1).

    Parameters
    ----------
    grey : Grey
        What the picture followed.
    is_signed : bool
        Whether the image's stored values have a sign.
    """
    display = Dataset()
    put(display, "PresentationLUTShape", "INVERSE" if grey.is_inverted else "IDENTITY")
    voi_lut, window = grey.voi_lut, grey.window
    if grey.rescale is not None:
        slope, intercept = grey.rescale
        put(display, "RescaleSlope", _write_decimal(slope))
        put(display, "RescaleIntercept", _write_decimal(intercept))
        put(display, "RescaleType", "US")
    elif grey.modality_lut is not None and voi_lut is not None:
        voi_lut = _compose_tables(grey.modality_lut, voi_lut)
    elif grey.modality_lut is not None:
        table, factor = _as_table(*grey.modality_lut, is_signed)
        put(table, "ModalityLUTType", "US")
        put(display, "ModalityLUTSequence", [table])
        window = _scale_window(window, factor)
    voi = Dataset()
    if voi_lut is not None:
        put(voi, "VOILUTSequence", [_as_table(*voi_lut, is_signed)[0]])
    elif window is not None:
        center, width, function = window
        put(voi, "WindowCenter", _write_decimal(center))
        put(voi, "WindowWidth", _write_decimal(width))
        if function != "LINEAR":
            put(voi, "VOILUTFunction", function)
    if len(voi):
        put(display, "SoftcopyVOILUTSequence", [voi])
    return display


def _compose_tables(
    modality: tuple[int, tuple[int, ...]], voi: tuple[int, tuple[int, ...]]
) -> tuple[int, tuple[int, ...]]:
    """Return the table that does what two in a row do."""
    first, entries = voi
    last = len(entries) - 1
    return modality[0], tuple(entries[min(max(value - first, 0), last)] for value in modality[1])


def _scale_window(window: Window | None, factor: float) -> Window | None:
    """Return the window that does to values times `factor` what `window` does to them."""
    if window is None or factor == 1:
        return window
    center, width, function = window
    if function == "LINEAR":  # its limits are half a value off (PS3.3 C.11.2.1.2.1)
        return (center - 0.5) * factor + 0.5, (width - 1) * factor + 1, function
    return center * factor, width * factor, function


def _write_decimal(number: float) -> str:
    """Return a DS value, which has at most 16 characters."""
    # The most digits that fit: a fixed format would lose some, or be longer than 16 (PS3.5 6.2).
    return next(text for digits in range(15, 0, -1) if len(text := f"{number:.{digits}g}") <= 16)


def read(source: Dataset) -> Evidence:
    """Return what a report takes from `source`, which is left as it is.

    Parameters
    ----------
    source : Dataset
        A header as read from bytes, in any Specific Character Set; pixels are not needed.

    Raises
    ------
    NotUnderstood
        One of the four UIDs that place an Instance is missing, or has several values.
    """
    study = _read_uid(source, "StudyInstanceUID")
    changes: dict[str, None] = {}
    return Evidence(
        study_instance_uid=study,
        series_instance_uid=_read_uid(source, "SeriesInstanceUID"),
        sop_class_uid=_read_uid(source, "SOPClassUID"),
        sop_instance_uid=_read_uid(source, "SOPInstanceUID"),
        modality=text(source, "Modality"),
        common=_common_elements(source, changes),
        requests=tuple(_read_requests(source, study, changes)),
        rows=_read_number(source, "Rows"),
        columns=_read_number(source, "Columns"),
        source=source,
        view=text(source, "ViewPosition").strip(" \0").upper(),
        laterality=_read_laterality(source),
        orientation=_read_orientation(source),
        spacing=_read_spacing(source),
        institution=_legal_value(source, "InstitutionName", {}),
        changes=tuple(changes),
    )


def text(ds: Dataset, keyword: str) -> str:
    """Return the value of one element as decoded text, empty when absent.

    Values are joined as they stood in the file; escape sequences that pydicom leaves are removed.
    """
    value = _read_value(ds, keyword)
    values = value if isinstance(value, MultiValue) else [value]
    return without_escapes("\\".join("" if part is None else str(part) for part in values))


def _read_value(ds: Dataset, keyword: str) -> Any:
    # Most are absent, and pydicom raises and catches an error before it says so.
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in ds.keys():  # noqa: SIM118 - `in ds` makes a tag of it first
        return None
    try:
        raw = ds.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.VR not in _READ_AS_TEXT:
            vr = dictionary_VR(tag)
            if vr in _TEXTS and raw.VR is not None:
                # An identifier that was written as OB would be read as "b'P-1'"; the node, and
                # whoever else goes by the dictionary, reads P-1.
                codecs = ds.original_character_set
                return convert_raw_data_element(raw._replace(VR=vr), encoding=codecs, ds=ds).value
        return ds.get(keyword)
    except LookupError:
        return _decode_name(ds, keyword)
    except (ValueError, TypeError, AttributeError, OverflowError, NotImplementedError):
        return None  # bytes that are not a value of this VR


def _decode_name(ds: Dataset, keyword: str) -> str | None:
    """Return a name that pydicom 3.0.2 trips over: it has empty components in ISO 2022 IR 87."""
    raw = ds.get_item(keyword)
    if raw is None or not isinstance(raw.value, bytes):
        return None
    try:
        encodings = charset.convert_encodings(ds.get("SpecificCharacterSet", ""))
        return charset.decode_bytes(raw.value, encodings, set(b"\\^="))
    except (LookupError, ValueError):
        return None


def _read_uid(source: Dataset, keyword: str) -> str:
    value = text(source, keyword).strip(" \0")
    if not value:
        raise NotUnderstood(f"the Instance has no {keyword}; a report needs it")
    if "\\" in value:
        raise NotUnderstood(f"the Instance has several values of {keyword}; a report needs one")
    return value


def _read_number(source: Dataset, keyword: str) -> int:
    value = _read_value(source, keyword)
    return value if isinstance(value, int) else 0


def _read_laterality(source: Dataset) -> str:
    # Image Laterality is of this image; Laterality is of the Series, and stands for its images too.
    found = (text(source, name).strip(" \0") for name in ("ImageLaterality", "Laterality"))
    return next((side for side in found if side in {"L", "R", "B", "U"}), "")


def _read_orientation(source: Dataset) -> tuple[str, ...]:
    values = tuple(part.strip(" \0") for part in text(source, "PatientOrientation").split("\\"))
    # Each of the two is one to three of these letters (PS3.3 C.7.6.1.1.1).
    is_legal = len(values) == 2 and all(re.fullmatch("[ALRPFH]{1,3}", v) for v in values)
    return values if is_legal else ()


def _read_spacing(source: Dataset) -> tuple[float, ...]:
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


def _legal_value(source: Dataset, keyword: str, changes: dict[str, None]) -> str:
    """Return one element as legal text; a change of its meaning is noted in `changes`."""
    value = text(source, keyword)
    vr = dictionary_VR(keyword)
    legal = {"DA": legal_date, "TM": legal_time}.get(vr, lambda raw: legal_text(vr, raw))(value)
    name = dictionary_description(keyword)
    if UNREADABLE in legal:
        changes[f"The image's {name} does not fit its Specific Character Set."] = None
    if legal.strip() != value.strip(" \0"):
        made = "changed" if legal.strip() else "left out"
        changes[f"The image's {name} breaks a rule of DICOM and was {made}."] = None
    return legal


def _common_elements(source: Dataset, changes: dict[str, None]) -> Dataset:
    common = Dataset()
    put(common, "SpecificCharacterSet", CHARACTER_SET)
    put(common, "StudyInstanceUID", _read_uid(source, "StudyInstanceUID"))
    for keyword in (*IDENTIFIERS, "StudyDate", "PatientBirthDate", "StudyTime"):
        put(common, keyword, _legal_value(source, keyword, changes))
    if not text(source, "SpecificCharacterSet").strip(" \0"):
        for keyword in IDENTIFIERS:
            if not text(common, keyword).isascii():
                name = dictionary_description(keyword)
                changes[f"The image names no Specific Character Set for its {name}."] = None
    sex = text(source, "PatientSex").strip(" \0")
    put(common, "PatientSex", sex if sex in {"M", "F", "O"} else "")
    if sex and not text(common, "PatientSex"):
        changes["The image's Patient's Sex breaks a rule of DICOM and was left out."] = None
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
    value = _legal_value(source, keyword, changes)
    if value.strip():
        put(ds, keyword, value)


def _put_codes(ds: Dataset, source: Dataset, keyword: str) -> None:
    """Put those items of a code sequence that are legal: a code that is cut is another code."""
    found = [
        code for item in _read_items(source, keyword) if (code := _legal_code(item)) is not None
    ]
    if found:
        put(ds, keyword, found)


def _legal_code(item: Dataset) -> Dataset | None:
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
            put(common, keyword, _legal_value(source, keyword, changes))
    if text(source, "ClinicalTrialTimePointID").strip(" \0"):
        _put_legal(common, source, "ClinicalTrialTimePointID", changes)
        _put_legal(common, source, "ClinicalTrialTimePointDescription", changes)


def put(ds: Dataset, keyword: str, value: Any, vr: str = "") -> None:
    """Set one element without pydicom's checks, which would log the value."""
    tag, usual = _tag_and_vr(keyword)
    ds[tag] = DataElement(tag, vr or usual, value, validation_mode=config.IGNORE)


# Looked up once: a report puts a hundred elements, of which pydicom makes a tag twice each.
@cache
def _tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return BaseTag(tag), dictionary_VR(tag)


def _put_optional(ds: Dataset, source: Dataset, keywords: Iterable[str]) -> None:
    for keyword in keywords:
        value = text(source, keyword).rstrip(" \0")
        if value and _is_legal(keyword, value):
            put(ds, keyword, value)


def _is_legal(keyword: str, value: str) -> bool:
    vr = dictionary_VR(keyword)
    try:
        validate_value(vr, value, config.RAISE)
    except ValueError:
        return False
    # pydicom lets control characters pass, which no value representation but text may hold
    is_plain = all(character >= " " for character in value)
    return "\\" not in value and is_plain and legal_text(vr, value) == value


def _put_issuers(common: Dataset, source: Dataset) -> None:
    for keyword in ("IssuerOfPatientIDQualifiersSequence", "IssuerOfAccessionNumberSequence"):
        _put_issuer(common, source, keyword)
    others = [
        other
        for item in _read_items(source, "OtherPatientIDsSequence")
        if (other := _other_id(item))
    ]
    if others:
        put(common, "OtherPatientIDsSequence", others)


def _put_issuer(ds: Dataset, source: Dataset, keyword: str) -> None:
    issuers = [issuer for item in _read_items(source, keyword) if (issuer := _legal_issuer(item))]
    if issuers:
        put(ds, keyword, issuers[:1])


def _legal_issuer(item: Dataset) -> Dataset | None:
    """Return a legal item of the HL7v2 Hierarchic Designator Macro (PS3.3 Table 10-17)."""
    issuer = Dataset()
    _put_optional(issuer, item, ISSUER)
    kinds = {"DNS", "EUI64", "ISO", "URI", "UUID", "X400", "X500"}
    if text(issuer, "UniversalEntityIDType") not in kinds or "UniversalEntityID" not in issuer:
        # One without the other is worse than neither: both are required together (PS3.3 Table
        # 10-17).
        issuer.pop("UniversalEntityID", None)
        issuer.pop("UniversalEntityIDType", None)
    return issuer if len(issuer) else None


def _other_id(item: Dataset) -> Dataset | None:
    """Return a legal item of the Other Patient IDs Sequence, or None."""
    other = Dataset()
    _put_optional(other, item, ("PatientID", "IssuerOfPatientID", "TypeOfPatientID"))
    is_typed = text(other, "TypeOfPatientID") in {"TEXT", "RFID", "BARCODE"}
    return other if is_typed and "PatientID" in other else None


def _read_items(source: Dataset, keyword: str) -> list[Dataset]:
    value = _read_value(source, keyword)
    return [item for item in value or () if isinstance(item, Dataset)]


def _read_requests(
    source: Dataset, study_instance_uid: str, changes: dict[str, None]
) -> Iterable[Dataset]:
    """Yield the requests that the image answers, or a request made of its accession number."""
    items = _read_items(source, "RequestAttributesSequence")
    if not items and text(source, "AccessionNumber").strip(" \0"):
        items = [Dataset()]
    for item in items:
        request = Dataset()
        stated = text(item, "StudyInstanceUID")
        is_usable = STUDY.fullmatch(stated) and _is_legal("StudyInstanceUID", stated)
        put(request, "StudyInstanceUID", stated if is_usable else study_instance_uid)
        put(request, "ReferencedStudySequence", [])
        for keyword in REQUEST:
            holder = item if text(item, keyword) else source
            put(request, keyword, _legal_value(holder, keyword, changes))
        for holder in (source, item):
            _put_codes(request, holder, "RequestedProcedureCodeSequence")
            _put_issuer(request, holder, "IssuerOfAccessionNumberSequence")
        if "RequestedProcedureCodeSequence" not in request:
            put(request, "RequestedProcedureCodeSequence", [])
        yield request


def _read_display(source: Dataset) -> Dataset:
    """Return the image's own LUTs; empty where it is not a single grayscale frame.

    A presentation state overrides the image's polarity, so that it must repeat it (PS3.3 C.11.6).
    """
    shape = _gray_polarity(source)
    if shape is None:
        return Dataset()
    # As `worker.image.grey` does: a rescale before a table, a table before a window.
    rescale = tuple(
        _read_decimals(source, keyword)[:1] for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    is_rescaled = all(rescale)
    grey = Grey(
        is_inverted=shape == "INVERSE",
        rescale=(rescale[0][0], rescale[1][0]) if is_rescaled else None,
        modality_lut=None if is_rescaled else _read_table(source, "ModalityLUTSequence"),
        window=_read_window(source),
        voi_lut=_read_table(source, "VOILUTSequence"),
    )
    return as_display(grey, _read_number(source, "PixelRepresentation") == 1)


def _gray_polarity(source: Dataset) -> str | None:
    """Return the Presentation LUT Shape of a single grayscale frame; None of anything else."""
    polarity = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
    frames = text(source, "NumberOfFrames").strip() or "1"
    has_size = _read_number(source, "Rows") and _read_number(source, "Columns")
    if frames != "1" or not has_size:
        return None
    return polarity.get(text(source, "PhotometricInterpretation"))


def _read_decimals(source: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the numbers of a DS element, empty where one of them is not a number."""
    try:
        numbers = tuple(float(part) for part in text(source, keyword).split("\\"))
    except ValueError:
        return ()
    return numbers if all(math.isfinite(number) for number in numbers) else ()


def _read_window(source: Dataset) -> Window | None:
    """Return the first window of the image, where it is valid (PS3.3 C.11.2.1.2)."""
    centers, widths = _read_decimals(source, "WindowCenter"), _read_decimals(source, "WindowWidth")
    if not centers or not widths or widths[0] < 1:
        return None
    function = text(source, "VOILUTFunction").strip(" \0")
    is_known = function in {"LINEAR_EXACT", "SIGMOID"}
    return centers[0], widths[0], function if is_known else "LINEAR"


def _read_table(source: Dataset, keyword: str) -> tuple[int, tuple[int, ...]] | None:
    """Return first value and entries of a sequence's first table; None where it is not valid."""
    items = _read_items(source, keyword)
    if not items:
        return None
    descriptor, data = _read_words(items[0], "LUTDescriptor"), _read_words(items[0], "LUTData")
    if len(descriptor) != 3 or not data:
        return None
    entries, first, bits = descriptor
    # 0 entries mean 65536 (PS3.3 C.11.1.1.1): the number would not fit its 16 bits.
    count = entries % 2**16 or 2**16
    if len(data) * 2 == count:  # two entries of 8 bits in each word (PS3.3 C.11.1.1.1)
        data = [byte for word in data for byte in (word & 255, word >> 8)]
    is_table = len(data) == count and 1 <= bits <= 16 and -(2**15) <= first < 2**16
    return (first % 2**16, tuple(data)) if is_table else None


def _as_table(first: int, entries: Sequence[int], is_signed: bool) -> tuple[Dataset, float]:
    """Return a look-up table whose Descriptor is true of its entries, and their factor.

    The Standard knows tables of 8 and of 16 bits here, and validators want the bits used: entries
    of other widths are scaled to 16.
    """
    used = min(max(max(entries).bit_length(), 8), 16)
    factor = 1.0
    if 8 < used < 16:
        factor = 65535 / (2**used - 1)
        entries = [round(entry * factor) for entry in entries]
    is_negative = is_signed and first >= 2**15
    numbers = [len(entries) % 2**16, first, 8 if used == 8 else 16]
    if is_negative:  # the same 16 bits, read with a sign
        numbers = [number - 2**16 if number >= 2**15 else number for number in numbers]
    table = Dataset()
    put(table, "LUTDescriptor", numbers, "SS" if is_negative else "US")
    put(table, "LUTData", np.asarray(entries, "<u2").tobytes(), "OW")
    return table, factor


def _read_words(item: Dataset, keyword: str) -> list[int]:
    """Return the numbers of a US, SS or OW element; those of a Descriptor keep their sign."""
    value = _read_value(item, keyword)
    if isinstance(value, bytes):
        raw = value[: len(value) // 2 * 2]
        return [int.from_bytes(raw[i : i + 2], "little") for i in range(0, len(raw), 2)]
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    if not all(isinstance(number, int) for number in values):
        return []
    return values if keyword == "LUTDescriptor" else [number % 2**16 for number in values]
