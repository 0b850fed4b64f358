"""Every coded concept that a report may hold, in one table, with where each is published."""

from __future__ import annotations

from typing import Final

from pydicom.sr.coding import Code

TABLE: Final[dict[tuple[str, str], str]] = {}
"""(code value, coding scheme designator) -> code meaning; nothing else is ever written."""

SOURCES: Final[dict[tuple[str, str], tuple[str, ...]]] = {}
"""(code value, coding scheme designator) -> where the code is published with this meaning."""

PS3_16 = "DICOM PS3.16 (pydicom 3.0.2)"
SNOMED_TEMPLATES = "SNOMED CT fracture template (SNOMED International)"
TOTAL_SEGMENTATOR = "TotalSegmentator SNOMED mapping"
MCODE = "HL7 mCODE 4.0.0 radiotherapy locations"
EHDSI = "eHDSI Body Site 8.1.0 (SNOMED CT 2025)"
FHIR_R4 = "HL7 FHIR R4 value sets of SNOMED CT"
BE_TOPOGRAPHY = "eHealth Belgium, body topography and body sites (SNOMED CT)"
CH_RAD_ORDER = "HL7 Switzerland, radiology order: qualifier values"
MII_LABORATORY = "Medizininformatik-Initiative, laboratory: qualitative results"
SCREENING = "Topicus colon screening register, finding context"
OWL = "SNOMED CT, OWL expressions"
GRAMMAR = "SNOMED CT, examples of the compositional grammar"
CLINICAL_COURSE = "SNOMED CT, clinical course (snomed.info)"
RADELEMENT = "RSNA/ACR common data elements: status of a fracture"
VMDB = "Veterinary Medical Database, fractures"
OIDM = "Open imaging data model, finding models"
TID_1500 = "DICOM PS3.16 TID 1500, row 12 (PixelMed)"
UCUM = "UCUM"
UMLS = "UMLS"
RFC = "RFC 5646"
LOINC = "LOINC"
OWN = "this project: no published code is known"

PRIVATE = "99CHEXFRACT"
"""Coding Scheme Designator of the parts of bones for which no published code is known."""


def _enter_code(scheme: str, value: str, meaning: str, *sources: str) -> Code:
    TABLE[value, scheme] = meaning
    SOURCES[value, scheme] = sources
    return Code(value, scheme, meaning)


def _dcm_code(value: str, meaning: str) -> Code:
    return _enter_code("DCM", value, meaning, PS3_16)


def _sct_code(value: str, meaning: str, *sources: str) -> Code:
    return _enter_code("SCT", value, meaning, *sources)


def _own_code(value: str, meaning: str) -> Code:
    return _enter_code(PRIVATE, value, meaning, OWN)


# Structure: TID 1500, TID 1600, TID 1501, TID 1410, TID 1204 (DICOM PS3.16)
IMAGING_MEASUREMENT_REPORT = _dcm_code("126000", "Imaging Measurement Report")
IMAGING_MEASUREMENTS = _dcm_code("126010", "Imaging Measurements")
MEASUREMENT_GROUP = _dcm_code("125007", "Measurement Group")
IMAGE_LIBRARY = _dcm_code("111028", "Image Library")
IMAGE_LIBRARY_GROUP = _dcm_code("126200", "Image Library Group")
QUALITATIVE_EVALUATIONS = _enter_code("UMLS", "C0034375", "Qualitative Evaluations", UMLS, TID_1500)
PROCEDURE_REPORTED = _dcm_code("121058", "Procedure reported")
IMAGING_PROCEDURE = _sct_code("363679005", "Imaging procedure", PS3_16, FHIR_R4)
LANGUAGE = _dcm_code("121049", "Language of Content Item and Descendants")
MODALITY = _dcm_code("121139", "Modality")
FINDING = _dcm_code("121071", "Finding")
COMMENT = _dcm_code("121106", "Comment")
SOURCE_OF_MEASUREMENT = _dcm_code("121112", "Source of Measurement")
IMAGE_REGION = _dcm_code("111030", "Image Region")
TRACKING_IDENTIFIER = _dcm_code("112039", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = _dcm_code("112040", "Tracking Unique Identifier")
FINDING_SITE = _sct_code("363698007", "Finding Site", PS3_16, VMDB)
LATERALITY = _sct_code("272741003", "Laterality", PS3_16, GRAMMAR)
TOPOGRAPHICAL_MODIFIER = _sct_code("106233006", "Topographical modifier", PS3_16, BE_TOPOGRAPHY)

IMAGE_VIEW = _dcm_code("111031", "Image View")
IMAGE_LATERALITY = _dcm_code("111027", "Image Laterality")
PATIENT_ORIENTATION_ROW = _dcm_code("111044", "Patient Orientation Row")
PATIENT_ORIENTATION_COLUMN = _dcm_code("111043", "Patient Orientation Column")
HORIZONTAL_SPACING = _dcm_code("111026", "Horizontal Pixel Spacing")
VERTICAL_SPACING = _dcm_code("111066", "Vertical Pixel Spacing")
PIXEL_ROWS = _dcm_code("110910", "Pixel Data Rows")
PIXEL_COLUMNS = _dcm_code("110911", "Pixel Data Columns")
PIXELS = _enter_code("UCUM", "{pixels}", "pixels", UCUM)
MILLIMETER = _enter_code("UCUM", "mm", "millimeter", UCUM, PS3_16)
VIEWS: Final = {
    "PA": _sct_code("272479007", "postero-anterior", PS3_16, FHIR_R4),
    "AP": _sct_code("399348003", "antero-posterior", PS3_16, FHIR_R4),
    "LL": _sct_code("399173006", "left lateral", PS3_16, FHIR_R4),
    "RL": _sct_code("399198007", "right lateral", PS3_16, FHIR_R4),
}
"""View Position (0018,5101) -> Image View (111031, DCM), CID 4010."""

LANGUAGES: Final = {
    "en": _enter_code("RFC5646", "en", "English", RFC),
    "ru": _enter_code("RFC5646", "ru", "Russian", RFC),
    "zh": _enter_code("RFC5646", "zh", "Chinese", RFC),
}
MODALITIES: Final = {
    "CR": _dcm_code("CR", "Computed Radiography"),
    "DX": _dcm_code("DX", "Digital Radiography"),
}

# Observer, algorithm, equipment: TID 1003, TID 1004, TID 4019 (PS3.16)
PERSON = _dcm_code("121006", "Person")
PERSON_OBSERVER_NAME = _dcm_code("121008", "Person Observer Name")
OBSERVER_TYPE = _dcm_code("121005", "Observer Type")
DEVICE = _dcm_code("121007", "Device")
DEVICE_OBSERVER_UID = _dcm_code("121012", "Device Observer UID")
DEVICE_OBSERVER_NAME = _dcm_code("121013", "Device Observer Name")
DEVICE_OBSERVER_MANUFACTURER = _dcm_code("121014", "Device Observer Manufacturer")
DEVICE_OBSERVER_MODEL_NAME = _dcm_code("121015", "Device Observer Model Name")
DEVICE_OBSERVER_SERIAL_NUMBER = _dcm_code("121016", "Device Observer Serial Number")
ALGORITHM_FAMILY = _dcm_code("111000", "Algorithm Family")
ALGORITHM_NAME = _dcm_code("111001", "Algorithm Name")
ALGORITHM_PARAMETERS = _dcm_code("111002", "Algorithm Parameters")
ALGORITHM_VERSION = _dcm_code("111003", "Algorithm Version")
ARTIFICIAL_INTELLIGENCE = _dcm_code("123110", "Artificial Intelligence")
PROCESSING_EQUIPMENT = _dcm_code("109102", "Processing Equipment")

# Finding, presence (CID 240), summary (CID 6047)
FRACTURE_OF_BONE = _sct_code("125605004", "Fracture of bone", SNOMED_TEMPLATES, VMDB)
PRESENT = _sct_code("52101004", "Present", PS3_16, OIDM)
ABSENT = _sct_code("272519000", "Absent", PS3_16, MII_LABORATORY)
UNDETERMINED = _sct_code("373068000", "Undetermined", PS3_16, CH_RAD_ORDER)
SUMMARY = _dcm_code("111017", "CAD Processing and Findings Summary")
SUCCEEDED_WITHOUT_FINDINGS = _dcm_code("111241", "All algorithms succeeded; without findings")
SUCCEEDED_WITH_FINDINGS = _dcm_code("111242", "All algorithms succeeded; with findings")
NOT_ALL_SUCCEEDED = _dcm_code("111244", "Not all algorithms succeeded; with findings")
"""Of a text that is not clear: 111243, "… without findings", would be read as a negative."""
NONE_SUCCEEDED = _dcm_code("111245", "No algorithms succeeded; without findings")

# Certainty (SNOMED CT finding context; values of CID 3770) and clinical course
FINDING_CONTEXT = _sct_code("408729009", "Finding context", OWL, GRAMMAR)
CERTAINTIES: Final = {
    "definite": _sct_code("410515003", "Known present", OWL, GRAMMAR),
    "possible": _sct_code("415684004", "Suspected", PS3_16, SCREENING),
}
"""How sure the text is of a fracture -> value of `FINDING_CONTEXT`."""

COURSE = _sct_code("263502005", "Clinical course", CLINICAL_COURSE, GRAMMAR)
AGES: Final = {
    "acute": _sct_code("373933003", "Acute onset", PS3_16, CLINICAL_COURSE),
    "healing": _sct_code("19939008", "Subacute", PS3_16, RADELEMENT),
    "old": _sct_code("90734009", "Chronic", PS3_16, RADELEMENT),
}
"""Age as the parser names it -> value of `COURSE`.

The common data elements of RSNA and ACR have three states of a fracture: acute; subacute, of which
"healing" is a synonym; and remote, of which "chronic", "healed" and "old" are synonyms.
"""

# What a reader thinks of a report (values of CID 3217)
ASSESSMENT = _dcm_code("111005", "Assessment Category")
ASSESSMENTS: Final = {
    "agree": _dcm_code("122775", "Agreement with prior findings"),
    "disagree": _dcm_code("122776", "Disagreement with prior findings"),
}
"""A reader's verdict -> value of `ASSESSMENT`: the prior findings are those of the model."""

# Image quality (CID 6135)
IMAGE_QUALITY = _dcm_code("111101", "Image Quality")
POSITIONING = _dcm_code("111209", "Positioning")
NO_IMAGE = _dcm_code("111213", "No image")
SOFTWARE_FAILURE = _dcm_code("111218", "Software failure")
INAPPROPRIATE_PROCESSING = _dcm_code("111219", "Inappropriate image processing")
OTHER_FAILURE = _dcm_code("111220", "Other failure")
UNKNOWN_FAILURE = _dcm_code("111221", "Unknown failure")

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
    "oblique-view": POSITIONING,
    "screened-out": OTHER_FAILURE,
    "text-in-picture": OTHER_FAILURE,
}
"""Reason why an Instance was not analysed -> Image Quality (111101, DCM)."""

# Other result objects
DIAGNOSTIC_IMAGING_REPORT = _enter_code("LN", "18748-4", "Diagnostic Imaging Report", PS3_16, LOINC)
FINDINGS = _dcm_code("121070", "Findings")
CONCLUSIONS = _dcm_code("121076", "Conclusions")
CONCLUSION = _dcm_code("121077", "Conclusion")
RECOMMENDATIONS = _dcm_code("121074", "Recommendations")
RECOMMENDATION = _dcm_code("121075", "Recommendation")
SOURCE_IMAGE = _dcm_code("121324", "Source image")
SOURCE_FOR_PROCESSING = _dcm_code("121322", "Source image for image processing operation")
"""Of CID 7202, Purpose of Reference in Source Image Sequence (0008,2112)."""
REJECTED = _dcm_code("113037", "Rejected for Patient Safety Reasons")
"""Title of a Key Object Selection that tells an archive to hide the report that was replaced."""
OF_INTEREST = _dcm_code("113000", "Of Interest")
KEY_OBJECT_DESCRIPTION = _dcm_code("113012", "Key Object Description")

# Sites (SNOMED CT)
BONE_OF_THORAX = _sct_code("272710004", "Bone of thorax", PS3_16, EHDSI)
"""Site of what is said of the image as a whole."""


def _bone_code(value: str, meaning: str) -> Code:
    return _sct_code(value, meaning, PS3_16, TOTAL_SEGMENTATOR)


def _part_code(value: str, meaning: str) -> Code:
    return _sct_code(value, meaning, PS3_16, EHDSI)


RIBS: Final = {
    "1": _sct_code("48535007", "Bone structure of first rib", TOTAL_SEGMENTATOR, MCODE),
    "2": _sct_code("78247007", "Bone structure of second rib", TOTAL_SEGMENTATOR, MCODE),
    "3": _sct_code("25888004", "Bone structure of third rib", TOTAL_SEGMENTATOR, MCODE),
    "4": _sct_code("25523003", "Bone structure of fourth rib", TOTAL_SEGMENTATOR, MCODE),
    "5": _sct_code("15339008", "Bone structure of fifth rib", TOTAL_SEGMENTATOR, MCODE),
    "6": _sct_code("59558009", "Bone structure of sixth rib", TOTAL_SEGMENTATOR, MCODE),
    "7": _sct_code("24915002", "Bone structure of seventh rib", TOTAL_SEGMENTATOR, MCODE),
    "8": _sct_code("5953002", "Bone structure of eighth rib", TOTAL_SEGMENTATOR, MCODE),
    "9": _sct_code("22565002", "Bone structure of ninth rib", TOTAL_SEGMENTATOR, MCODE),
    "10": _sct_code("77644006", "Bone structure of tenth rib", TOTAL_SEGMENTATOR, MCODE),
    "11": _sct_code("58830002", "Bone structure of eleventh rib", TOTAL_SEGMENTATOR, MCODE),
    "12": _sct_code("43993008", "Bone structure of twelfth rib", TOTAL_SEGMENTATOR, MCODE),
}
VERTEBRAE: Final = {
    "C1": _bone_code("14806007", "C1 vertebra"),
    "C2": _bone_code("39976000", "C2 vertebra"),
    "C3": _bone_code("113205007", "C3 vertebra"),
    "C4": _bone_code("5329002", "C4 vertebra"),
    "C5": _bone_code("36978003", "C5 vertebra"),
    "C6": _bone_code("36054005", "C6 vertebra"),
    "C7": _bone_code("87391001", "C7 vertebra"),
    "T1": _bone_code("64864005", "T1 vertebra"),
    "T2": _bone_code("53733008", "T2 vertebra"),
    "T3": _bone_code("1626008", "T3 vertebra"),
    "T4": _bone_code("73071006", "T4 vertebra"),
    "T5": _bone_code("56401006", "T5 vertebra"),
    "T6": _bone_code("45296009", "T6 vertebra"),
    "T7": _bone_code("62487009", "T7 vertebra"),
    "T8": _bone_code("11068009", "T8 vertebra"),
    "T9": _bone_code("82687006", "T9 vertebra"),
    "T10": _bone_code("7610001", "T10 vertebra"),
    "T11": _bone_code("12989004", "T11 vertebra"),
    "T12": _bone_code("23215003", "T12 vertebra"),
    "L1": _bone_code("66794005", "L1 vertebra"),
    "L2": _bone_code("14293000", "L2 vertebra"),
    "L3": _bone_code("36470004", "L3 vertebra"),
    "L4": _bone_code("11994002", "L4 vertebra"),
    "L5": _bone_code("49668003", "L5 vertebra"),
}
BONES: Final = {
    "rib": _part_code("113197003", "Rib"),
    "vertebra": _sct_code("51282000", "Vertebra", PS3_16, EHDSI),
    "clavicle": _bone_code("51299004", "Clavicle"),
    "scapula": _bone_code("79601000", "Scapula"),
    "acromion": _part_code("31934006", "Acromion process of scapula"),
    "glenoid": _part_code("46385009", "Glenoid cavity of scapula"),
    "coracoid": _part_code("8931003", "Coracoid process of scapula"),
    "humerus": _bone_code("85050009", "Humerus"),
    "sternum": _bone_code("56873002", "Sternum"),
}
"""Bone as the parser names it -> Finding Site, where no number says more."""

OTHER_BONES: Final = {
    "femur": _bone_code("71341001", "Femur"),
    "radius": _bone_code("62413002", "Radius"),
    "ulna": _bone_code("23416004", "Ulna"),
    "pelvis": _part_code("816092008", "Pelvis"),
    "hip": _bone_code("29836001", "Hip"),
    "skull": _bone_code("89546000", "Skull"),
    "mandible": _part_code("91609006", "Mandible"),
    "tibia": _bone_code("12611008", "Tibia"),
    "fibula": _bone_code("87342007", "Fibula"),
    "patella": _bone_code("64234005", "Patella"),
    "forearm": _part_code("14975008", "Forearm"),
    "metacarpal": _sct_code("36455000", "Metacarpal bone structure", EHDSI, TOTAL_SEGMENTATOR),
    "hand": _part_code("85562004", "Hand"),
    "foot": _part_code("56459004", "Foot"),
    "facial": _part_code("91397008", "Facial bones"),
    "nasal": _part_code("74386004", "Nasal bone"),
    "sacrum": _bone_code("54735007", "Sacrum"),
    "iliac": _part_code("22356005", "Ilium"),
    "ilium": _part_code("22356005", "Ilium"),
    "pubic ramus": _sct_code("66040006", "Bone structure of pubis", EHDSI, BE_TOPOGRAPHY),
    "olecranon": _sct_code("371504003", "Structure of olecranon", EHDSI),
    "costal cartilage": _sct_code("50016007", "Structure of costal cartilage", EHDSI),
    "calvarium": _sct_code("1193553009", "Bone structure of vault of skull", EHDSI),
    "shoulder": _part_code("16982005", "Shoulder"),
}
"""Bone that the parser only knows by name -> Finding Site; a name that is not here has no code."""

SIDES: Final = {
    "left": _bone_code("7771000", "Left"),
    "right": _bone_code("24028007", "Right"),
    "bilateral": _sct_code("51440002", "Bilateral", PS3_16, FHIR_R4, EHDSI),
}
UNSIDED: Final = frozenset({"vertebra", "sternum"})
"""Bones on the midline: a side would be untrue."""

SEGMENTS: Final = {
    "anterior": _sct_code("255549009", "Anterior", PS3_16, MCODE),
    "posterior": _sct_code("255551008", "Posterior", PS3_16, MCODE),
    "lateral": _sct_code("49370004", "Lateral", PS3_16, FHIR_R4, BE_TOPOGRAPHY),
    "medial": _sct_code("255561001", "Medial", PS3_16, FHIR_R4, BE_TOPOGRAPHY),
    "proximal": _sct_code("40415009", "Proximal", PS3_16, MCODE),
    "distal": _sct_code("46053002", "Distal", PS3_16, MCODE),
    "anterolateral": _sct_code("37197008", "Anterolateral", PS3_16, BE_TOPOGRAPHY),
    "posterolateral": _sct_code("90069004", "Posterolateral", PS3_16, BE_TOPOGRAPHY),
    "posteromedial": _own_code("posteromedial", "Posteromedial"),
}
"""Direction -> Topographical modifier (106233006, SCT)."""

PARTS: Final = {
    ("rib", "head"): _part_code("12872006", "Head of rib"),
    ("rib", "neck"): _part_code("72184008", "Neck of rib"),
    ("rib", "angle"): _part_code("14510004", "Angle of rib"),
    ("rib", "shaft"): _part_code("41601005", "Shaft of rib"),
    ("scapula", "spine"): _dcm_code("112099", "Scapular Spine"),
    ("sternum", "body"): _part_code("52509009", "Body of sternum"),
    ("sternum", "manubrium"): _part_code("37285002", "Manubrium of sternum"),
    ("sternum", "xiphoid process"): _part_code("20298003", "Xiphoid process of sternum"),
    ("sternum", "manubriosternal junction"): _part_code("44612009", "Sternal angle"),
    ("humerus", "surgical neck"): _sct_code("66388000", "Surgical neck of humerus", EHDSI),
    ("humerus", "anatomical neck"): _sct_code("181936006", "Anatomical neck of humerus", EHDSI),
    ("humerus", "greater tuberosity"): _sct_code(
        "58947000", "Greater tuberosity of humerus", EHDSI
    ),
    ("humerus", "lesser tuberosity"): _sct_code("4621004", "Lesser tuberosity of humerus", FHIR_R4),
    ("humerus", "shaft"): _part_code("20760004", "Shaft of Humerus"),
    ("humerus", "proximal part"): _part_code("119524001", "Proximal Humerus"),
    ("humerus", "distal part"): _part_code("118495001", "Distal Humerus"),
    ("vertebra", "body"): _sct_code("3572006", "Structure of body of vertebra", EHDSI, FHIR_R4),
    ("vertebra", "spinous process"): _part_code("55678000", "Spinous process of vertebra"),
    ("vertebra", "transverse process"): _part_code("73400003", "Transverse process or vertebra"),
    ("vertebra", "odontoid process"): _sct_code(
        "1172006", "Odontoid process of axis", EHDSI, MCODE
    ),
}
"""(bone, part) -> Finding Site that names this part of the bone."""

MODIFIED: Final = {
    ("clavicle", "medial third"): SEGMENTS["medial"],
    ("clavicle", "lateral third"): SEGMENTS["lateral"],
    ("clavicle", "middle third"): _enter_code("NCIt", "C25569", "Middle", PS3_16),
    ("rib", "costochondral junction"): _own_code("costochondral", "Costochondral junction"),
    ("scapula", "body"): _own_code("scapula-body", "Body of scapula"),
    ("scapula", "neck"): _own_code("scapula-neck", "Neck of scapula"),
    ("glenoid", "neck"): _own_code("glenoid-neck", "Neck of glenoid"),
    ("glenoid", "rim"): _own_code("glenoid-rim", "Rim of glenoid"),
    ("humerus", "head"): _own_code("humerus-head", "Head of humerus"),
    ("humerus", "neck"): _own_code("humerus-neck", "Neck of humerus"),
    ("vertebra", "endplate"): _own_code("endplate", "Vertebral endplate"),
}
"""(bone, part) -> Topographical modifier, where the part has no published Finding Site."""


def sites(bone: str, number: str | None, part: str | None = None) -> tuple[Code, ...]:
    """Return the Finding Sites of a fracture: the bone, and the part of it that is named.

    A numbered bone stands before its part ("Bone structure of fifth rib", "Angle of rib"); of other
    bones the part alone says which bone it belongs to.

    Parameters
    ----------
    bone : str
        A bone as the parser names it, for example ``"rib"`` or ``"acromion"``.
    number : str or None
        Rib ``"1"`` to ``"12"`` or vertebral level, for example ``"T8"``.
    part : str or None
        As the parser names it, for example ``"angle"``; of ``"other"`` the name of the bone.
    """
    if bone == "other":
        named = OTHER_BONES.get(part or "")
        return (named,) if named else ()
    numbered = {"rib": RIBS, "vertebra": VERTEBRAE}.get(bone, {}).get(number or "")
    of_part = PARTS.get((bone, part or ""))
    whole = numbered or (None if of_part else BONES.get(bone))
    return tuple(code for code in (whole, of_part) if code is not None)


def laterality(bone: str, side: str | None) -> Code | None:
    """Return the side of a Finding Site, or None for bones on the midline."""
    return None if bone in UNSIDED else SIDES.get(side or "")


def modifiers(bone: str, segment: str | None, part: str | None = None) -> tuple[Code, ...]:
    """Return the Topographical modifiers (106233006, SCT) of a Finding Site."""
    found = (MODIFIED.get((bone, part or "")), SEGMENTS.get((segment or "").lower()))
    return tuple(dict.fromkeys(code for code in found if code is not None))


def quality(reason: str) -> Code:
    """Return the Image Quality (111101, DCM) that says why an Instance was not analysed."""
    return QUALITY.get(reason, UNKNOWN_FAILURE)
