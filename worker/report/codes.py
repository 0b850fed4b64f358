"""Every coded concept that a report may hold, in one table."""

from __future__ import annotations

from typing import Final

from pydicom.sr.coding import Code

TABLE: Final[dict[tuple[str, str], str]] = {}
"""(code value, coding scheme designator) -> code meaning; nothing else is ever written."""


def _enter(scheme: str, value: str, meaning: str) -> Code:
    TABLE[value, scheme] = meaning
    return Code(value, scheme, meaning)


def _dcm(value: str, meaning: str) -> Code:
    return _enter("DCM", value, meaning)


def _sct(value: str, meaning: str) -> Code:
    return _enter("SCT", value, meaning)


# Structure: TID 1500, TID 1600, TID 1501, TID 1410, TID 1204 (DICOM PS3.16)
IMAGING_MEASUREMENT_REPORT = _dcm("126000", "Imaging Measurement Report")
IMAGING_MEASUREMENTS = _dcm("126010", "Imaging Measurements")
MEASUREMENT_GROUP = _dcm("125007", "Measurement Group")
IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm("126200", "Image Library Group")
QUALITATIVE_EVALUATIONS = _enter("UMLS", "C0034375", "Qualitative Evaluations")
PROCEDURE_REPORTED = _dcm("121058", "Procedure reported")
IMAGING_PROCEDURE = _sct("363679005", "Imaging procedure")
LANGUAGE = _dcm("121049", "Language of Content Item and Descendants")
MODALITY = _dcm("121139", "Modality")
FINDING = _dcm("121071", "Finding")
COMMENT = _dcm("121106", "Comment")
SOURCE_OF_MEASUREMENT = _dcm("121112", "Source of Measurement")
IMAGE_REGION = _dcm("111030", "Image Region")
TRACKING_IDENTIFIER = _dcm("112039", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = _dcm("112040", "Tracking Unique Identifier")
FINDING_SITE = _sct("363698007", "Finding Site")
LATERALITY = _sct("272741003", "Laterality")
TOPOGRAPHICAL_MODIFIER = _sct("106233006", "Topographical modifier")

LANGUAGES: Final = {
    "en": _enter("RFC5646", "en", "English"),
    "ru": _enter("RFC5646", "ru", "Russian"),
    "zh": _enter("RFC5646", "zh", "Chinese"),
}
MODALITIES: Final = {
    "CR": _dcm("CR", "Computed Radiography"),
    "DX": _dcm("DX", "Digital Radiography"),
}

# Observer, algorithm, equipment: TID 1004, TID 4019 (PS3.16)
OBSERVER_TYPE = _dcm("121005", "Observer Type")
DEVICE = _dcm("121007", "Device")
DEVICE_OBSERVER_UID = _dcm("121012", "Device Observer UID")
DEVICE_OBSERVER_NAME = _dcm("121013", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER = _dcm("121014", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME = _dcm("121015", "Device Observer Model Name")
DEVICE_OBSERVER_SERIAL_NUMBER = _dcm("121016", "Device Observer Serial Number")
ALGORITHM_FAMILY = _dcm("111000", "Algorithm Family")
ALGORITHM_NAME = _dcm("111001", "Algorithm Name")
ALGORITHM_PARAMETERS = _dcm("111002", "Algorithm Parameters")
ALGORITHM_VERSION = _dcm("111003", "Algorithm Version")
ARTIFICIAL_INTELLIGENCE = _dcm("123110", "Artificial Intelligence")
PROCESSING_EQUIPMENT = _dcm("109102", "Processing Equipment")

# Finding, presence (CID 240), summary (CID 6047)
FRACTURE_OF_BONE = _sct("125605004", "Fracture of bone")
PRESENT = _sct("52101004", "Present")
ABSENT = _sct("272519000", "Absent")
UNDETERMINED = _sct("373068000", "Undetermined")
SUMMARY = _dcm("111017", "CAD Processing and Findings Summary")
SUCCEEDED_WITHOUT_FINDINGS = _dcm("111241", "All algorithms succeeded; without findings")
SUCCEEDED_WITH_FINDINGS = _dcm("111242", "All algorithms succeeded; with findings")
NOT_ALL_SUCCEEDED = _dcm("111243", "Not all algorithms succeeded; without findings")
NONE_SUCCEEDED = _dcm("111245", "No algorithms succeeded; without findings")

# Image quality (CID 6135)
IMAGE_QUALITY = _dcm("111101", "Image Quality")
POSITIONING = _dcm("111209", "Positioning")
NO_IMAGE = _dcm("111213", "No image")
SOFTWARE_FAILURE = _dcm("111218", "Software failure")
INAPPROPRIATE_PROCESSING = _dcm("111219", "Inappropriate image processing")
OTHER_FAILURE = _dcm("111220", "Other failure")
UNKNOWN_FAILURE = _dcm("111221", "Unknown failure")

QUALITY: Final = {
    "not-radiograph": OTHER_FAILURE,
    "for-processing": INAPPROPRIATE_PROCESSING,
    "not-grayscale": OTHER_FAILURE,
    "multi-frame": OTHER_FAILURE,
    "bit-depth": OTHER_FAILURE,
    "too-small": OTHER_FAILURE,
    "too-large": OTHER_FAILURE,
    "no-pixels": NO_IMAGE,
    "codestream-mismatch": NO_IMAGE,
    "undecodable": NO_IMAGE,
    "no-contrast": NO_IMAGE,
    "decoder-limits": SOFTWARE_FAILURE,
    "no-text": SOFTWARE_FAILURE,
    "empty-output": SOFTWARE_FAILURE,
    "model-failed": SOFTWARE_FAILURE,
    "not-chest": OTHER_FAILURE,
    "lateral-view": POSITIONING,
    "screened-out": OTHER_FAILURE,
}
"""Reason why an Instance was not analysed -> Image Quality (111101, DCM)."""

# Other result objects
DIAGNOSTIC_IMAGING_REPORT = _enter("LN", "18748-4", "Diagnostic Imaging Report")
FINDINGS = _dcm("121070", "Findings")
CONCLUSIONS = _dcm("121076", "Conclusions")
CONCLUSION = _dcm("121077", "Conclusion")
SOURCE_IMAGE = _dcm("121324", "Source image")
OF_INTEREST = _dcm("113000", "Of Interest")

# Sites (SNOMED CT)
RIB = _sct("113197003", "Rib")
VERTEBRA = _sct("51282000", "Vertebra")
SCAPULA = _sct("79601000", "Scapula")

RIBS: Final = {
    "1": _sct("48535007", "Bone structure of first rib"),
    "2": _sct("78247007", "Bone structure of second rib"),
    "3": _sct("25888004", "Bone structure of third rib"),
    "4": _sct("25523003", "Bone structure of fourth rib"),
    "5": _sct("15339008", "Bone structure of fifth rib"),
    "6": _sct("59558009", "Bone structure of sixth rib"),
    "7": _sct("24915002", "Bone structure of seventh rib"),
    "8": _sct("5953002", "Bone structure of eighth rib"),
    "9": _sct("22565002", "Bone structure of ninth rib"),
    "10": _sct("77644006", "Bone structure of tenth rib"),
    "11": _sct("58830002", "Bone structure of eleventh rib"),
    "12": _sct("43993008", "Bone structure of twelfth rib"),
}
VERTEBRAE: Final = {
    "T1": _sct("64864005", "T1 vertebra"),
    "T2": _sct("53733008", "T2 vertebra"),
    "T3": _sct("1626008", "T3 vertebra"),
    "T4": _sct("73071006", "T4 vertebra"),
    "T5": _sct("56401006", "T5 vertebra"),
    "T6": _sct("45296009", "T6 vertebra"),
    "T7": _sct("62487009", "T7 vertebra"),
    "T8": _sct("11068009", "T8 vertebra"),
    "T9": _sct("82687006", "T9 vertebra"),
    "T10": _sct("7610001", "T10 vertebra"),
    "T11": _sct("12989004", "T11 vertebra"),
    "T12": _sct("23215003", "T12 vertebra"),
}
"""Cervical and lumbar levels have no code here: they are coded as `VERTEBRA`."""

BONES: Final = {
    "rib": RIB,
    "vertebra": VERTEBRA,
    "clavicle": _sct("51299004", "Clavicle"),
    "scapula": SCAPULA,
    "acromion": SCAPULA,
    "glenoid": SCAPULA,
    "coracoid": SCAPULA,
    "humerus": _sct("85050009", "Humerus"),
    "sternum": _sct("56873002", "Sternum"),
}
"""Parts of the scapula are coded as the scapula, with a topographical modifier where one exists."""

SIDES: Final = {
    "left": _sct("7771000", "Left"),
    "right": _sct("24028007", "Right"),
    "bilateral": _sct("51440002", "Bilateral"),
}
UNSIDED: Final = frozenset({"vertebra", "sternum"})
"""Bones on the midline: a side would be untrue."""

SEGMENTS: Final = {
    "anterior": _sct("255549009", "Anterior"),
    "posterior": _sct("255551008", "Posterior"),
    "lateral": _sct("49370004", "Lateral"),
    "medial": _sct("255561001", "Medial"),
    "proximal": _sct("40415009", "Proximal"),
    "distal": _sct("46053002", "Distal"),
    "anterolateral": _sct("37197008", "Anterolateral"),
    "posterolateral": _sct("90069004", "Posterolateral"),
}
PARTS: Final = {
    ("rib", "head"): _sct("12872006", "Head of rib"),
    ("rib", "neck"): _sct("72184008", "Neck of rib"),
    ("rib", "angle"): _sct("14510004", "Angle of rib"),
    ("scapula", "acromion"): _sct("31934006", "Acromion process of scapula"),
    ("scapula", "glenoid"): _sct("46385009", "Glenoid cavity of scapula"),
    ("sternum", "body"): _sct("52509009", "Body of sternum"),
    ("sternum", "manubrium"): _sct("37285002", "Manubrium of sternum"),
}
"""(bone, part) -> Topographical modifier that names a part of that bone only."""


def site(bone: str, number: str | None) -> Code | None:
    """Return the Finding Site of a fracture, or None where no bone is named.

    Parameters
    ----------
    bone : str
        A bone as the parser names it, for example ``"rib"`` or ``"acromion"``.
    number : str or None
        Rib ``"1"`` to ``"12"`` or vertebral level, for example ``"T8"``.
    """
    numbered = {"rib": RIBS, "vertebra": VERTEBRAE}.get(bone, {})
    return numbered.get(number or "", BONES.get(bone))


def laterality(bone: str, side: str | None) -> Code | None:
    """Return the side of a Finding Site, or None for bones on the midline."""
    return None if bone in UNSIDED else SIDES.get(side or "")


def modifier(bone: str, segment: str | None) -> Code | None:
    """Return the Topographical modifier (106233006, SCT) of a Finding Site, if there is one."""
    if bone in {"acromion", "glenoid"}:
        return PARTS["scapula", bone]
    word = (segment or "").lower()
    return PARTS.get((bone, word), SEGMENTS.get(word))


def quality(reason: str) -> Code:
    """Return the Image Quality (111101, DCM) that says why an Instance was not analysed."""
    return QUALITY.get(reason, UNKNOWN_FAILURE)
