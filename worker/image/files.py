"""Takes PNG, JPEG, TIFF and WebP files, which have no header, the way of an Instance's picture."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from dicom_node.base.errors import Rejected
from dicom_node.base.rims import foreign_code
from dicom_node.standard.part10 import is_part10
from dicom_node.standard.uids import derived_uid
from worker.image.gate import LARGEST, MOST_PIXELS, SECONDARY_CAPTURE, SMALLEST
from worker.image.pixels import Radiograph, preprocessing_name, screen_picture
from worker.settings import Pixels as Options

Bytes = npt.NDArray[np.uint8]

_KINDS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_MOST_BYTES = 160_000_000
"""Of a picture in memory, all its bands."""
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262
_COLOUR, _COLOURED = 16, 0.02
"""Difference of bands from which a pixel has a colour, and share of such pixels that is named."""

MADE_UP = "Made from a picture file, not a study of an archive"
"""Study Description of an Instance that stands for a picture file."""


def file_kind(content: bytes) -> str:
    """Return "PNG", "JPEG", "TIFF" or "WebP"; empty for bytes of another kind."""
    if is_part10(content):
        # A preamble may be that of a TIFF file, so that both kinds of readers are content.
        return ""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WebP"
    return next((kind for start, kind in _KINDS.items() if content.startswith(start)), "")


def picture(content: bytes, options: Options) -> Radiograph:
    """Return a file's picture as a model sees it: grey, upright, 0 = black.

    Eight bits pass unchanged, more are spread by the bits that they use.

    Raises
    ------
    Rejected
        ``undecodable``, ``multi-frame``, ``too-small``, ``too-large``, ``no-contrast`` or
        ``screened-out``.
    """
    kind = file_kind(content)
    if not kind:
        raise Rejected("not-dicom", "The file is neither DICOM nor PNG, JPEG, TIFF or WebP.")

    def refuse_file(exc: BaseException) -> Rejected:
        if isinstance(exc, Image.DecompressionBombError):  # before its size can be asked for
            return Rejected("too-large", f"The picture has more than {MOST_PIXELS} pixels.")
        return Rejected("undecodable", f"The file is not a whole {kind} picture.")

    with foreign_code(refuse_file), warnings.catch_warnings():
        # Of sizes and tags: the limits here are our own.
        warnings.simplefilter("ignore")
        pixels, mode, notes = _read_grey(content, kind)
    if pixels.min() == pixels.max():
        raise Rejected("no-contrast", "All pixels of the picture are of the same grey.")
    notes += (
        "A picture file does not say which side is the patient's right; it was left as it is.",
    )
    notes += screen_picture(pixels, options)
    steps = f"file={kind.lower()},mode={mode},aspect=square,orient=unknown,size=full"
    return Radiograph(pixels, f"{preprocessing_name(options)}: {steps}", notes)


def _read_grey(content: bytes, kind: str) -> tuple[Bytes, str, tuple[str, ...]]:
    with Image.open(io.BytesIO(content), formats=[kind.upper()]) as image:
        _check_size(image)
        tags = getattr(image, "tag_v2", {})
        is_negative = kind == "TIFF" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        mode = image.mode
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            pixels, notes = _spread_wide(np.asarray(upright))
            # Pillow inverts such files of eight bits itself.
            return (255 - pixels if is_negative else pixels), mode, notes
        if upright.mode == "P" or "A" in upright.mode or "transparency" in upright.info:
            upright = _on_black(upright)
        if upright.mode in ("L", "1"):
            return np.ascontiguousarray(np.asarray(upright.convert("L"))), mode, ()
        colours = upright.convert("RGB")
        grey = np.ascontiguousarray(np.asarray(colours.convert("L")))
        return grey, mode, _colour_notes(np.asarray(colours))


def _check_size(image: Any) -> None:
    columns, rows = image.size
    if min(rows, columns) < SMALLEST:
        raise Rejected(
            "too-small", f"The picture has {rows} x {columns} pixels; {SMALLEST} are needed."
        )
    # Bytes of a pixel: modes I and F hold 32 bits, all others 8 for each band.
    deep = 4 if image.mode[0] in "IF" else len(image.getbands())
    is_large = max(rows, columns) > LARGEST or rows * columns > MOST_PIXELS
    if is_large or rows * columns * deep > _MOST_BYTES:
        raise Rejected("too-large", f"The picture has {rows} x {columns} pixels.")
    if image.format != "JPEG" and getattr(image, "n_frames", 1) > 1:
        raise Rejected("multi-frame", f"The file has {image.n_frames} pictures instead of one.")


def _on_black(image: Image.Image) -> Image.Image:
    """Return the picture on black where it is transparent."""
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema() == (255, 255):
        return layered.convert("RGB")
    ground = Image.new("RGBA", layered.size, (0, 0, 0, 255))
    ground.alpha_composite(layered)
    return ground.convert("RGB")


def _spread_wide(values: npt.NDArray[Any]) -> tuple[Bytes, tuple[str, ...]]:
    """Return values of more than eight bits by the bits that they use, real ones by their range."""
    if values.dtype.kind == "f":
        finite = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
        low, top = float(finite.min()), float(finite.max())
        spread = (finite - low) / max(top - low, np.finfo(float).tiny) * 255
        return np.rint(spread).astype(np.uint8), ()
    least = min(int(values.min()), 0)
    bits = max((int(values.max()) - least).bit_length(), 8)
    factor = 255 / ((1 << bits) - 1)
    grey = np.rint((values.astype(np.float32) - least) * np.float32(factor)).astype(np.uint8)
    if bits in (8, 16) and not least:
        return grey, ()
    return grey, (f"The picture uses {bits} bits; these were spread over all grey levels.",)


def _colour_notes(colours: Bytes) -> tuple[str, ...]:
    few = colours[::8, ::8].astype(np.int16)
    share = float((np.ptp(few, axis=2) > _COLOUR).mean())
    if share < _COLOURED:
        return ()
    return (f"The picture is coloured ({share:.0%} of it); its brightness was taken.",)


def make_instance(found: Radiograph, content: bytes, identifiers: dict[str, str]) -> Dataset:
    """Return an Instance that stands for a picture file, so that a report can refer to it.

    Parameters
    ----------
    found : Radiograph
        From `picture`.
    content : bytes
        The file: what is not identified otherwise gets UIDs made of it, always the same.
    identifiers : dict
        ``patient_id``, ``study_instance_uid``, ``sop_instance_uid``, ``accession_number``.
    """
    mark = hashlib.sha256(content).hexdigest()
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    ds.SOPClassUID = SECONDARY_CAPTURE
    ds.SOPInstanceUID = identifiers.get("sop_instance_uid") or derived_uid("file", mark)
    study = identifiers.get("study_instance_uid")
    ds.StudyInstanceUID = study or derived_uid("file-study", mark)
    ds.SeriesInstanceUID = derived_uid("file-series", ds.StudyInstanceUID)
    ds.PatientID = identifiers.get("patient_id", "")
    ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "", "", ""
    ds.AccessionNumber = identifiers.get("accession_number", "")
    ds.StudyDate = ds.StudyTime = ds.StudyID = ds.ReferringPhysicianName = ""
    ds.StudyDescription = MADE_UP
    ds.Modality, ds.ConversionType, ds.SeriesNumber, ds.InstanceNumber = "OT", "WSD", 1, 1
    ds.Rows, ds.Columns = found.pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = found.pixels.tobytes() + b"\0" * (found.pixels.size % 2)
    return ds
