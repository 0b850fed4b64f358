"""De-identification at the door: what of a header may stay, and keyed pseudonyms for the rest.

The Basic Application Level Confidentiality Profile (PS3.15 Annex E) lists what must go. Of 1,546
text attributes of the data dictionary that list leaves 1,241 as they are, and sites write names
into any of them. This profile therefore lists what may **stay**: numbers and defined terms that a
radiograph is read by. All else is removed, at every depth, private or not; a test holds it against
Table E.1-1. Options as in PS3.15: UIDs, dates, descriptors, private elements.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, cast

from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from dicom_node.base.errors import ConfigurationError
from dicom_node.standard.legal import legal_date, legal_time
from dicom_node.standard.unreadable import UNREADABLE

# pydicom's complaints about a value print the value: patient data would reach the log.
config.settings.reading_validation_mode = config.IGNORE
config.settings.writing_validation_mode = config.IGNORE

KEY_BYTES: Final = 32
REMOVED: Final = "[removed]"
DEEPEST_SHIFT: Final = 3650
"""Days by which a patient's dates go back at most."""

_TERMS: Final = {
    "ImageType": "ORIGINAL DERIVED PRIMARY SECONDARY POST_PROCESSED",
    "Modality": "CR DX DR RG MG OT SC SR PR KO DOC CT MR US XA RF",
    "ConversionType": "DV DI DF WSD SD SI DRW SYN",
    "BodyPartExamined": (
        "ABDOMEN ABDOMENPELVIS ACJOINT ANKLE ARM BACK BRAIN BREAST CALCANEUS CALF CHEST "
        "CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX CSPINE CTSPINE ELBOW EXTREMITY FEMUR FINGER "
        "FOOT FOREARM HAND HEAD HEADNECK HEART HIP HUMERUS JAW KNEE LEG LSPINE LSSPINE LUNG "
        "MEDIASTINUM NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV PATELLA PELVIS RIB RIBS "
        "SACRUM SCAPULA SCJOINT SHOULDER SKULL SPINE SSPINE STERNUM TSPINE TLSPINE THORAX "
        "TIBIAFIBULA TOE WHOLEBODY WRIST ZYGOMA"
    ),
    "ViewPosition": "PA AP LL RL LLD RLD LLO RLO LAO RAO LPO RPO LATERAL OBLIQUE",
    "Laterality": "L R",
    "ImageLaterality": "L R B U",
    "PresentationIntentType": "FOR%20PRESENTATION FOR%20PROCESSING",
    "PresentationLUTShape": "IDENTITY INVERSE",
    "PhotometricInterpretation": (
        "MONOCHROME1 MONOCHROME2 PALETTE%20COLOR RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_RCT"
    ),
    "PixelIntensityRelationship": "LIN LOG DISP",
    "LossyImageCompression": "00 01",
    "LossyImageCompressionMethod": "ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_13818_2",
    "BurnedInAnnotation": "YES NO",
    "RecognizableVisualFeatures": "YES NO",
    "VOILUTFunction": "LINEAR LINEAR_EXACT SIGMOID",
    "RescaleType": "US HU OD",
    "ModalityLUTType": "US HU OD",
    "ShutterShape": "RECTANGULAR CIRCULAR POLYGONAL",
    "DetectorType": "DIRECT SCINTILLATOR STORAGE FILM",
    "PatientPosition": "HFP HFS HFDR HFDL FFP FFS FFDR FFDL",
    "PositionerType": "CARM COLUMN NONE MAMMOGRAPHIC PANORAMIC CEPHALOSTAT RIGID",
}
"""Keyword -> its defined terms (PS3.3, PS3.16 Annex L); %20 is a blank within a term."""

_NUMBERS: Final = """
    InstanceNumber SeriesNumber AcquisitionNumber
    KVP ExposureTime XRayTubeCurrent Exposure ExposureInuAs DistanceSourceToDetector
    DistanceSourceToPatient ImagerPixelSpacing PixelSpacing NominalScannedPixelSpacing
    PixelAspectRatio DetectorElementSpacing DetectorElementPhysicalSize DetectorActiveDimensions
    ExposureIndex TargetExposureIndex DeviationIndex RelativeXRayExposure Sensitivity
    SamplesPerPixel PlanarConfiguration Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit
    PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit SmallestImagePixelValue
    LargestImagePixelValue PixelIntensityRelationshipSign WindowCenter WindowWidth RescaleIntercept
    RescaleSlope LossyImageCompressionRatio LUTDescriptor LUTData ShutterLeftVerticalEdge
    ShutterRightVerticalEdge ShutterUpperHorizontalEdge ShutterLowerHorizontalEdge
    CenterOfCircularShutter RadiusOfCircularShutter VerticesOfThePolygonalShutter
    ShutterPresentationValue
    RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
    BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData
    GreenPaletteColorLookupTableData BluePaletteColorLookupTableData PixelData
"""
"""Keywords whose numbers may stay."""
_TABLES: Final = ("ModalityLUTSequence", "VOILUTSequence")
_CODES: Final = ("AnatomicRegionSequence", "ViewCodeSequence")
_EMPTY: Final = (
    "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyID", "Manufacturer",
    "StudyDate", "StudyTime",
)  # fmt: skip
"""Type 2 attributes of the modules that every image has: there, and empty."""
_MOMENTS: Final = (
    ("StudyDate", "StudyTime"), ("SeriesDate", "SeriesTime"),
    ("AcquisitionDate", "AcquisitionTime"), ("ContentDate", "ContentTime"),
)  # fmt: skip
_UIDS: Final = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID",
)  # fmt: skip
_DESCRIPTORS: Final = ("StudyDescription", "SeriesDescription", "ProtocolName")
_WORDS: Final = """
    XR CXR XRAY X-RAY RADIOGRAPH PORTABLE BEDSIDE ERECT SUPINE UPRIGHT LYING STANDING SITTING VIEW
    VIEWS FRONTAL SINGLE TWO 1 2 3 LEFT RIGHT BILATERAL ADULT PEDIATRIC GRID AND OF THE WITHOUT WITH
    CONTROL FOLLOW UP RIBCAGE
"""
"""Words of a description that say nothing of anybody."""
_TEXTS: Final = frozenset(
    (
        "AE",
        "AS",
        "CS",
        "DA",
        "DT",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "ST",
        "TM",
        "UC",
        "UI",
        "UR",
        "UT",
        "UN",
    )
)
_ORIENTATION = re.compile(r"[AFHLPR]{1,3}")
_CODE_SCHEMES: Final = ("SCT", "DCM", "RADLEX", "FMA")
_METHOD: Final = "ChexFract Node: attributes that may stay, PS3.15 Basic Profile"

_OPTION_CODES: Final = {
    "113100": "Basic Application Confidentiality Profile",
    "113105": "Clean Descriptors Option",
    "113106": "Retain Longitudinal Temporal Information Full Dates Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
}
"""PS3.16 CID 7050."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Options of the Basic Profile, as ``[sandbox]`` and ``describe`` name them."""

    uids: Literal["replace", "keep"] = "replace"
    dates: Literal["shift", "remove", "keep"] = "shift"
    descriptors: Literal["remove", "clean"] = "remove"
    keep_private: tuple[str, ...] = ()
    """Private elements that stay, each as ``group,creator,element``: ``0019,ACME 1.0,10``."""

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the profile and its options (PS3.16 CID 7050)."""
        wanted = {
            "113105": self.descriptors == "clean",
            "113106": self.dates == "keep",
            "113107": self.dates == "shift",
            "113110": self.uids == "keep",
            "113111": bool(self.keep_private),
        }
        return ("113100", *(code for code, is_wanted in wanted.items() if is_wanted))


BASIC: Final = Profile()
"""UIDs replaced, dates shifted per patient, descriptions and private elements removed."""


class Pseudonyms:
    """Keyed replacements, the same for the same value in every run with this key.

    Parameters
    ----------
    key : bytes
        A bare hash of a patient's id is guessed by trying all ids; the key stays with its owner.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise ConfigurationError(f"the key of de-identification needs {KEY_BYTES} bytes")
        self._key = key

    def digest(self, kind: str, value: str) -> str:
        """Return 32 hexadecimal digits for a value of a kind, such as ``patient_id``."""
        return self._keyed_bytes(kind, value).hex()[:32]

    def patient(self, patient_id: str) -> str:
        """Return the Patient ID and name of a patient."""
        return f"P{self.digest('patient_id', patient_id.strip())[:15].upper()}"

    def accession(self, number: str) -> str:
        """Return an Accession Number; empty for an empty number."""
        number = number.strip()
        return f"A{self.digest('accession_number', number)[:15].upper()}" if number else ""

    def uid(self, uid: str) -> str:
        """Return a UID of the form that PS3.5 B.2 gives to UUIDs; one of the Standard stays."""
        uid = uid.strip(" \0")
        if not uid or _is_published(uid):
            return uid
        return f"2.25.{int.from_bytes(self._keyed_bytes('uid', uid)[:15], 'big')}"

    def path(self, name: str) -> str:
        """Return a file's name, each part by itself: a label that names the last part matches."""
        parts = re.split(r"[/\\]", name)
        return "/".join(self.digest("file", part)[:16] if part else "" for part in parts)

    def shift(self, patient_id: str) -> timedelta:
        """Return by how much a patient's dates go back: days and part of a day."""
        drawn = int.from_bytes(self._keyed_bytes("shift", patient_id.strip())[:8], "big")
        return timedelta(days=1 + drawn % DEEPEST_SHIFT, seconds=drawn // DEEPEST_SHIFT % 86400)

    def _keyed_bytes(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}\0{value}".encode("utf-8", "replace"), hashlib.sha256)


def read_key(path: Path) -> bytes:
    """Return the key in a file, which is made at the first use, for its owner alone.

    Raises
    ------
    ConfigurationError
        The file cannot be made or read, or holds too little.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
            try:
                os.link(temporary, path)  # never replaces a key that another run has made
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        key = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{path}: the key of de-identification: {exc.strerror}") from exc
    if len(key) < KEY_BYTES:
        raise ConfigurationError(f"{path}: the key of de-identification needs {KEY_BYTES} bytes")
    return key


def deidentify(ds: Dataset, names: Pseudonyms, profile: Profile = BASIC) -> Dataset:
    """Return a data set with what may stay of `ds`, which is left as it is.

    Parameters
    ----------
    ds : Dataset
        With its File Meta Information where it has one.
    names : Pseudonyms
    profile : Profile
        Options; without them UIDs are replaced, dates shifted per patient, descriptions removed.
    """
    made = Dataset()
    _put_element(made, "SpecificCharacterSet", "ISO_IR 192")
    for keyword in _EMPTY:
        _put_element(made, keyword, "")
    _put_identity(made, ds, names, profile)
    _keep_numbers(made, ds)
    for keyword in _TABLES:
        items = [_keep_numbers(Dataset(), item) for item in _sequence_items(ds, keyword)]
        if items := [item for item in items if "LUTDescriptor" in item and "LUTData" in item]:
            _put_element(made, keyword, items)
    for keyword in _CODES:
        if codes := [
            code
            for item in _sequence_items(ds, keyword)
            if (code := _published_code(item)) is not None
        ]:
            _put_element(made, keyword, codes)
    if profile.dates != "remove":
        _shift_dates(made, ds, names, profile)
    if profile.descriptors == "clean":
        for keyword in _DESCRIPTORS:
            if words := _clean_words(_element_text(ds, keyword)):
                _put_element(made, keyword, words)
    _keep_private(made, ds, profile.keep_private)
    _say_so(made, profile)
    _put_meta(made, ds)
    return made


def content_of(ds: Dataset) -> bytes:
    """Return a data set that `deidentify` made as the bytes of a Part 10 file."""
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def texts_of(ds: Dataset) -> Iterator[str]:
    """Yield each text of a data set, at every depth, as it is written, of three letters and more.

    What of it is not in the de-identified data set must not be quoted anywhere.
    """
    for element in ds.iterall():
        try:
            if element.VR not in _TEXTS:
                continue
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
        except UNREADABLE:  # bytes that are not a value of their VR hold no text
            continue
        for value in values:
            text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for part in (text.strip(" \0"), *re.split(r"[\^=\s,;]+", text.strip(" \0"))):
                if len(part) > 2:
                    yield part


def quotes(text: str, hidden: Iterable[str]) -> bool:
    """Return whether a text contains one of the texts that are to be hidden, in any case."""
    folded = text.casefold()
    return any(part.casefold() in folded for part in hidden)


def without(text: str, hidden: Iterable[str]) -> str:
    """Return a text without what is to be hidden, and without numbers of five digits and more."""
    parts = sorted({part for part in hidden if len(part) > 2}, key=len, reverse=True)
    for part in parts:
        text = re.sub(re.escape(part), REMOVED, text, flags=re.IGNORECASE)
    return re.sub(r"\d[\d.\-/]{3,}\d", REMOVED, text)


def published_term(keyword: str, value: str) -> str:
    """Return a value if it is a defined term of its attribute, else an empty text."""
    value = value.strip(" \0").upper()
    return value if value in _kept_terms(keyword) else ""


def _put_identity(made: Dataset, ds: Dataset, names: Pseudonyms, profile: Profile) -> None:
    sop_class = _element_text(ds, "SOPClassUID")
    if _is_published(sop_class):
        _put_element(made, "SOPClassUID", sop_class)
    for keyword in _UIDS:
        if uid := _element_text(ds, keyword):
            _put_element(made, keyword, uid if profile.uids == "keep" else names.uid(uid))
    patient = names.patient(_patient_key(ds))
    _put_element(made, "PatientID", patient)
    _put_element(made, "PatientName", patient)
    _put_element(made, "AccessionNumber", names.accession(_element_text(ds, "AccessionNumber")))


def _is_published(uid: str) -> bool:
    """Return whether the Standard itself gives a meaning to a UID."""
    return UID(uid).type != "" and uid.startswith("1.2.840.10008.")


def _patient_key(ds: Dataset) -> str:
    """Return what a patient's replacements follow: the Patient ID, or else the study's UID."""
    return _element_text(ds, "PatientID") or _element_text(ds, "StudyInstanceUID")


def _keep_numbers(made: Dataset, ds: Dataset) -> Dataset:
    """Put the numbers and terms of `ds` that may stay."""
    for keyword in _number_keywords():
        if (element := _find_element(ds, keyword)) is not None and _is_number(element):
            made[element.tag] = element
    for keyword in _TERMS:
        terms = _kept_terms(keyword)
        values = [value for value in _element_texts(ds, keyword) if value in terms]
        if values:
            _put_element(made, keyword, values if len(values) > 1 else values[0])
    ways = _element_texts(ds, "PatientOrientation")
    if len(ways) == 2 and all(_ORIENTATION.fullmatch(way) for way in ways):
        _put_element(made, "PatientOrientation", ways)
    return made


@cache
def _number_keywords() -> tuple[str, ...]:
    return tuple(_NUMBERS.split())


@cache
def _known_words() -> frozenset[str]:
    return frozenset(_WORDS.split()) | _kept_terms("BodyPartExamined") | _kept_terms("ViewPosition")


@cache
def _kept_terms(keyword: str) -> frozenset[str]:
    return frozenset(term.replace("%20", " ") for term in _TERMS[keyword].split())


def _is_number(element: DataElement) -> bool:
    """Return whether an element holds numbers: in DS and IS a device can write anything."""
    if element.tag == 0x7FE00010 or element.VR in ("OB", "OW"):
        return True
    if element.VR not in ("DS", "IS", "US", "SS", "UL", "SL", "FL", "FD"):
        return False
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    try:
        return all(abs(float(value)) < 1e9 for value in values if value not in (None, ""))
    except (TypeError, ValueError):
        return False


def _published_code(item: Dataset) -> Dataset | None:
    """Return a published code with its published meaning, or None: a meaning is free text."""
    scheme, value = _element_text(item, "CodingSchemeDesignator"), _element_text(item, "CodeValue")
    meaning = _code_meanings().get((scheme, value))
    if meaning is None:
        return None
    code = Dataset()
    _put_element(code, "CodeValue", value)
    _put_element(code, "CodingSchemeDesignator", scheme)
    _put_element(code, "CodeMeaning", meaning)
    return code


@cache
def _code_meanings() -> dict[tuple[str, str], str]:
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    found = {
        (scheme, value): meaning
        for scheme in _CODE_SCHEMES
        for values in cast("Mapping[str, Any]", concepts[scheme]).values()
        for value, (meaning, _) in values.items()
    }
    for old, new in mapping["SRT"].items():
        if ("SCT", new) in found:
            found["SRT", old] = found["SCT", new]
    return found


def _shift_dates(made: Dataset, ds: Dataset, names: Pseudonyms, profile: Profile) -> None:
    """Put dates and times, all of one patient moved by the same span."""
    span = names.shift(_patient_key(ds)) if profile.dates == "shift" else timedelta()
    for day_of, time_of in _MOMENTS:
        day, time = legal_date(_element_text(ds, day_of)), legal_time(_element_text(ds, time_of))
        if not day:
            continue
        try:
            moment = datetime.strptime(day + f"{time[:6]:0<6}", "%Y%m%d%H%M%S") - span  # noqa: DTZ007
        except (ValueError, OverflowError):
            continue
        _put_element(made, day_of, moment.strftime("%Y%m%d").zfill(8))
        if time:
            _put_element(made, time_of, moment.strftime("%H%M%S"))


def _clean_words(text: str) -> str:
    return " ".join(
        word for word in re.split(r"[\s,;/_]+", text.upper()) if word in _known_words()
    )[:64]


def _keep_private(made: Dataset, ds: Dataset, wanted: Iterable[str]) -> None:
    for entry in wanted:
        group, creator, element = (part.strip() for part in entry.split(",", 2))
        try:
            block = ds.private_block(int(group, 16), creator)
            found = block[int(element, 16)]
        except (KeyError, ValueError):
            continue
        copy = made.private_block(int(group, 16), creator, create=True)
        copy.add_new(int(element, 16), found.VR, found.value)


def check_private(wanted: Iterable[str]) -> None:
    """Raise `ValueError` unless each entry of `Profile.keep_private` is of its form."""
    for entry in wanted:
        if not re.fullmatch(r"[0-9A-Fa-f]{3}[13579BDFbdf],[^,]{1,64},[0-9A-Fa-f]{2}", entry):
            raise ValueError(f"{entry!r}: write group,creator,element such as 0019,ACME 1.0,10")


def _say_so(made: Dataset, profile: Profile) -> None:
    modified = {"shift": "MODIFIED", "remove": "REMOVED", "keep": "UNMODIFIED"}
    _put_element(made, "PatientIdentityRemoved", "YES")
    _put_element(made, "DeidentificationMethod", _METHOD)
    _put_element(made, "LongitudinalTemporalInformationModified", modified[profile.dates])
    codes = []
    for value in profile.codes:
        code = Dataset()
        _put_element(code, "CodeValue", value)
        _put_element(code, "CodingSchemeDesignator", "DCM")
        _put_element(code, "CodeMeaning", _OPTION_CODES[value])
        codes.append(code)
    _put_element(made, "DeidentificationMethodCodeSequence", codes)


def _put_meta(made: Dataset, ds: Dataset) -> None:
    """Put a File Meta Information of our own: the old head names application entities."""
    meta = FileMetaDataset()
    syntax = getattr(getattr(ds, "file_meta", None), "TransferSyntaxUID", "1.2.840.10008.1.2.1")
    meta.TransferSyntaxUID = UID(str(syntax))
    if "SOPClassUID" in made:
        meta.MediaStorageSOPClassUID = UID(str(made.SOPClassUID))
    if "SOPInstanceUID" in made:
        meta.MediaStorageSOPInstanceUID = UID(str(made.SOPInstanceUID))
    made.file_meta = meta


def _find_element(ds: Dataset, keyword: str) -> DataElement | None:
    try:
        tag = tag_for_keyword(keyword)
        return ds[tag] if tag is not None and tag in ds else None
    except UNREADABLE:
        return None


def _element_texts(ds: Dataset, keyword: str) -> list[str]:
    element = _find_element(ds, keyword)
    if element is None or element.value is None:
        return []
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return [str(value).strip(" \0") for value in values]


def _element_text(ds: Dataset, keyword: str) -> str:
    return "\\".join(_element_texts(ds, keyword))


def _sequence_items(ds: Dataset, keyword: str) -> list[Dataset]:
    element = _find_element(ds, keyword)
    if element is None or element.VR != "SQ" or not element.value:
        return []
    return list(element.value)


def _put_element(ds: Dataset, keyword: str, value: Any) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    # pydicom's complaints about a value print the value.
    ds[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE)
