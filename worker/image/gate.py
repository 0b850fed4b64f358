"""Refuses what is not a frontal chest radiograph by its header, before any pixel is decoded."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.uid import UID

from dicom_node.base.errors import Rejected
from worker.image import header, vocabulary
from worker.image.header import Header
from worker.settings import Pixels as Options

SMALLEST, LARGEST, MOST_PIXELS = 256, 10_000, 64_000_000
"""Limits on Rows and Columns, and on their product."""

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

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


def gate(source: Dataset | Header, options: Options) -> None:
    """Refuse what is not a frontal chest radiograph by its header, before any pixel is decoded.

    Raises
    ------
    Rejected
        ``not-radiograph``, ``for-processing``, ``no-pixels``, ``not-grayscale``, ``multi-frame``,
        ``bit-depth``, ``too-small``, ``too-large``, ``not-chest``, ``lateral-view`` or
        ``oblique-view``.
    """
    head = source if isinstance(source, Header) else header.read(source)
    _gate_class(head)
    _gate_pixels(head)
    _gate_size(head)
    _gate_body_part(head)
    if not options.accept_lateral:
        _gate_view(head)


def _gate_class(head: Header) -> None:
    if head.sop_class == DX_FOR_PROCESSING or head.intent == "FOR PROCESSING":
        raise Rejected("for-processing", "The image is For Processing, not For Presentation.")
    is_capture = head.sop_class == SECONDARY_CAPTURE and head.modality in ("CR", "DX")
    if head.sop_class not in (CR, DX) and not is_capture:
        what = _sop_class_name(head.sop_class)
        if head.sop_class == SECONDARY_CAPTURE:
            what += f" of Modality {_show_value(head.modality)}"
        raise Rejected("not-radiograph", f"The SOP Class is {what}, not a CR or DX image.")


def _sop_class_name(sop_class: str) -> str:
    """Return the name of a SOP Class and its UID, or the UID alone where nobody knows it."""
    name = UID(sop_class).name if sop_class else ""
    known = name.removesuffix(" Storage") if name != sop_class else ""
    shown = _show_value(sop_class)
    return f"{known} ({shown})" if known else shown


def _gate_pixels(head: Header) -> None:
    if not head.has_pixels and head.broken_at:
        raise Rejected(
            "no-pixels",
            f"The header cannot be read from {head.broken_at} on: no Pixel Data is found.",
        )
    if not head.has_pixels:
        floats = " but Float Pixel Data, which no radiograph has" if head.has_floats else ""
        raise Rejected("no-pixels", f"The Instance has no Pixel Data{floats}.")
    if head.photometric not in ("MONOCHROME1", "MONOCHROME2") or head.samples not in (1, None):
        raise Rejected(
            "not-grayscale",
            f"Photometric Interpretation is {_show_value(head.photometric)}, "
            f"Samples per Pixel {_show_value(head.samples)}.",
        )
    if head.frames != 1:
        raise Rejected(
            "multi-frame", f"The image has {_show_value(head.frames)} frames instead of one."
        )
    allocated, stored = head.bits_allocated, head.bits_stored
    if allocated not in (8, 16) or stored is None or not 1 <= stored <= allocated:
        raise Rejected(
            "bit-depth",
            f"Bits Allocated is {_show_value(allocated)}, Bits Stored {_show_value(stored)}.",
        )


def _gate_size(head: Header) -> None:
    rows, columns = head.rows, head.columns
    if min(rows, columns) < SMALLEST:
        raise Rejected(
            "too-small", f"The image has {rows} x {columns} pixels; {SMALLEST} are needed."
        )
    if max(rows, columns) > LARGEST or rows * columns > MOST_PIXELS:
        raise Rejected("too-large", f"The image has {rows} x {columns} pixels.")


def _gate_body_part(head: Header) -> None:
    if head.species not in _HUMAN:
        raise Rejected("not-chest", "The patient is not human, by Patient Species.")
    named = [part for part in head.body_parts if not vocabulary.says_nothing(part)]
    if named:
        if not any(vocabulary.is_chest(part) for part in named):
            raise Rejected("not-chest", f"The body part is {_show_value(', '.join(named))}.")
        return
    if head.region_codes and not head.region_codes & _CHEST_CODES.keys():
        raise Rejected("not-chest", "The body part is another one, by Anatomic Region.")


def _gate_view(head: Header) -> None:
    written = " ".join(head.views)
    view, shown = vocabulary.named_view(written), _show_value(written)
    if not view:
        others = [
            _OTHER_VIEW_CODES[code] for code in sorted(head.view_codes & _OTHER_VIEW_CODES.keys())
        ]
        if others:
            shown = ", ".join(others)
            view = "oblique" if all("oblique" in name for name in others) else "lateral"
        elif not head.view_codes & _FRONTAL_CODES.keys() and {"A", "P"} & set(head.orientation):
            # Rows or columns that run from front to back are those of a lateral view, upright or
            # lying on its side.
            view, shown = "lateral", "lateral, by Patient Orientation"
    if view not in ("", "frontal"):
        code = "oblique-view" if view == "oblique" else "lateral-view"
        raise Rejected(code, f"The view is {shown}, not PA or AP.")


def _show_value(found: str | int | None) -> str:
    """Return a coded value for people: printable and short, whatever was sent."""
    text = "" if found is None else str(found).upper()
    shown = "".join(letter for letter in text if letter.isprintable())
    return f"'{shown[:64]}'" if shown else "absent"
