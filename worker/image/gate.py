"""Refuses what is no frontal chest radiograph by its header, before any pixel is decoded."""

from __future__ import annotations

import re
import unicodedata

from pydicom import Dataset

from dicom_node.base.errors import Rejected
from worker.image import header
from worker.settings import Pixels as Options

SMALLEST, LARGEST, MOST_PIXELS = 256, 10_000, 64_000_000
"""Limits on Rows and Columns, and on their product."""

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

_CHEST_WORDS = (
    *("CHEST", "THORAX", "THORACIC", "TORAX", "TORACE", "BRUSTKORB", "POITRINE", "RIB", "RIPPE"),
    *("COTES", "COSTA", "LUNG", "PULMO", "POUMON", "CLAVIC", "STERNUM", "MEDIASTIN", "HEART"),
    "CARDIAC",
)
_NOT_CHEST_WORDS = ("SPINE", "VERTEBRA", "WIRBEL")
_HUMAN = ("", "HUMAN", "HOMO SAPIENS", "HOMO SAPIENS (ORGANISM)")

_CHEST_CODES = {
    "51185008": "chest",
    "816094009": "chest",
    "T-D3000": "chest",
    "78904004": "chest wall",
    "T-D3050": "chest wall",
    "113197003": "rib",
    "T-11300": "rib",
    "39607008": "lung",
    "T-28000": "lung",
    "51299004": "clavicle",
    "T-12310": "clavicle",
    "56873002": "sternum",
    "T-11210": "sternum",
    "72410000": "mediastinum",
    "T-D3300": "mediastinum",
    "80891009": "heart",
    "T-32000": "heart",
    "417437006": "neck and chest",
    "R-FAB52": "neck and chest",
    "416550000": "chest and abdomen",
    "R-FAB55": "chest and abdomen",
    "416152001": "neck, chest and abdomen",
    "R-FAB53": "neck, chest and abdomen",
    "416775004": "chest, abdomen and pelvis",
    "R-FAB56": "chest, abdomen and pelvis",
    "416319003": "neck, chest, abdomen and pelvis",
    "R-FAB54": "neck, chest, abdomen and pelvis",
}
"""PS3.16 CID 4009: SNOMED CT codes and the SRT codes that older images bear."""

_FRONTAL_VIEWS = frozenset(
    {"PA", "AP", "LLD", "RLD", "FRONTAL", "POSTEROANTERIOR", "ANTEROPOSTERIOR"}
)
"""Decubitus views are frontal too: the beam is horizontal, the patient lies on a side."""
_LATERAL_VIEWS = frozenset({"LL", "RL", "LAT", "LATERAL"})

_FRONTAL_CODES = {
    "399348003": "antero-posterior",
    "R-10206": "antero-posterior",
    "272479007": "postero-anterior",
    "R-10214": "postero-anterior",
    "R-40888": "postero-anterior",
    "399033003": "frontal",
    "R-10202": "frontal",
}
_OTHER_VIEW_CODES = {
    "399067008": "lateral",
    "R-102CD": "lateral",
    "399198007": "right lateral",
    "R-10232": "right lateral",
    "399173006": "left lateral",
    "R-10236": "left lateral",
    "399182000": "oblique",
    "R-102C1": "oblique",
    "399236003": "right oblique",
    "R-10234": "right oblique",
    "399184004": "left oblique",
    "R-10238": "left oblique",
    "399135007": "left anterior oblique",
    "R-10220": "left anterior oblique",
    "399356000": "right anterior oblique",
    "R-40985": "right anterior oblique",
    "399006002": "left posterior oblique",
    "R-10212": "left posterior oblique",
    "399038007": "right posterior oblique",
    "R-10210": "right posterior oblique",
    "399059000": "postero-anterior oblique",
    "R-10216": "postero-anterior oblique",
    "399312000": "antero-posterior oblique",
    "R-10208": "antero-posterior oblique",
    "399160007": "frontal oblique",
    "R-10204": "frontal oblique",
    "399061009": "axial",
    "R-10241": "axial",
}
"""PS3.16 CID 4010, the views of a chest among them."""


def gate(ds: Dataset, options: Options) -> None:
    """Refuse what is no frontal chest radiograph by its header, before any pixel is decoded.

    Raises
    ------
    Rejected
        ``not-radiograph``, ``for-processing``, ``no-pixels``, ``not-grayscale``, ``multi-frame``,
        ``bit-depth``, ``too-small``, ``too-large``, ``not-chest`` or ``lateral-view``.
    """
    _gate_class(ds)
    _gate_pixels(ds)
    _gate_size(ds)
    _gate_body_part(ds)
    if not options.accept_lateral:
        _gate_view(ds)


def _gate_class(ds: Dataset) -> None:
    sop_class, modality = header.word(ds, "SOPClassUID"), header.word(ds, "Modality")
    intent = header.word(ds, "PresentationIntentType")
    if sop_class == DX_FOR_PROCESSING or intent == "FOR PROCESSING":
        raise Rejected("for-processing", "The image is For Processing, not For Presentation.")
    is_capture = sop_class == SECONDARY_CAPTURE and modality in ("CR", "DX")
    if sop_class not in (CR, DX) and not is_capture:
        raise Rejected(
            "not-radiograph", f"SOP Class {_shown(ds, 'SOPClassUID')} is no CR or DX image."
        )


def _gate_pixels(ds: Dataset) -> None:
    if "PixelData" not in ds:
        raise Rejected("no-pixels", "The Instance has no Pixel Data.")
    photometric = header.word(ds, "PhotometricInterpretation")
    samples = header.integer(ds, "SamplesPerPixel")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or samples not in (1, None):
        raise Rejected(
            "not-grayscale",
            f"Photometric Interpretation is {_shown(ds, 'PhotometricInterpretation')}, "
            f"Samples per Pixel {_shown(ds, 'SamplesPerPixel')}.",
        )
    if header.value(ds, "NumberOfFrames") is not None and header.integer(ds, "NumberOfFrames") != 1:
        frames = _shown(ds, "NumberOfFrames")
        raise Rejected("multi-frame", f"The image has {frames} frames instead of one.")
    allocated, stored = header.integer(ds, "BitsAllocated"), header.integer(ds, "BitsStored")
    if allocated not in (8, 16) or stored is None or not 1 <= stored <= allocated:
        raise Rejected(
            "bit-depth",
            f"Bits Allocated is {_shown(ds, 'BitsAllocated')}, "
            f"Bits Stored {_shown(ds, 'BitsStored')}.",
        )


def _gate_size(ds: Dataset) -> None:
    rows, columns = header.integer(ds, "Rows") or 0, header.integer(ds, "Columns") or 0
    if min(rows, columns) < SMALLEST:
        raise Rejected(
            "too-small", f"The image has {rows} x {columns} pixels; {SMALLEST} are needed."
        )
    if max(rows, columns) > LARGEST or rows * columns > MOST_PIXELS:
        raise Rejected("too-large", f"The image has {rows} x {columns} pixels.")


def _gate_body_part(ds: Dataset) -> None:
    if header.word(ds, "PatientSpeciesDescription") not in _HUMAN:
        raise Rejected("not-chest", "The patient is not human, by Patient Species.")
    body_part = header.word(ds, "BodyPartExamined")
    plain = unicodedata.normalize("NFKD", body_part).encode("ascii", "ignore").decode()
    if any(found in plain for found in _NOT_CHEST_WORDS) and "CHEST" not in plain:
        is_chest = False
    elif plain:
        is_chest = any(found in plain for found in _CHEST_WORDS)
    else:
        codes = _codes(ds, "AnatomicRegionSequence")
        is_chest = not codes or bool(codes & _CHEST_CODES.keys())
    if not is_chest:
        shown = _shown(ds, "BodyPartExamined") if plain else "another one, by Anatomic Region"
        raise Rejected("not-chest", f"The body part is {shown}.")


def _gate_view(ds: Dataset) -> None:
    view, codes = header.word(ds, "ViewPosition"), _codes(ds, "ViewCodeSequence")
    other = [_OTHER_VIEW_CODES[code] for code in sorted(codes) if code in _OTHER_VIEW_CODES]
    along_rows = (header.words(ds, "PatientOrientation") or ("",))[0][:1]
    if view:
        # "AP SUPINE" or "PA_ERECT" are no defined terms, but clear.
        parts = {*re.findall("[A-Z]+", view), re.sub("[^A-Z]", "", view)}
        is_frontal = bool(parts & _FRONTAL_VIEWS) and not parts & _LATERAL_VIEWS
        shown = _shown(ds, "ViewPosition")
    elif other or codes & _FRONTAL_CODES.keys():
        is_frontal, shown = not other, ", ".join(other)
    else:
        # Rows that run from front to back are those of a lateral view.
        is_frontal, shown = along_rows not in ("A", "P"), "lateral, by Patient Orientation"
    if not is_frontal:
        raise Rejected("lateral-view", f"The view is {shown}, not PA or AP.")


def _codes(ds: Dataset, keyword: str) -> frozenset[str]:
    return frozenset(header.word(item, "CodeValue") for item in header.items(ds, keyword)) - {""}


def _shown(ds: Dataset, keyword: str) -> str:
    """Return a coded value for people: printable and short, whatever was sent."""
    shown = "".join(letter for letter in header.word(ds, keyword) if letter.isprintable())
    return f"'{shown[:64]}'" if shown else "absent"
