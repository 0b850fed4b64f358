"""Instances whose pixels say what the drill's model has to answer, or what it has to suffer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
)

KINDS = ("healthy", "killing", "hanging", "hungry", "corrupt")
"""What a picture does to a worker: nothing, SIGKILL, no end, no memory, no decoding."""

SIZE = 256
_BLOCK = 32
_STEP = 50


@dataclass(frozen=True, slots=True)
class Picture:
    """One Instance of the drill."""

    uid: str
    kind: str
    rib: int
    side: str

    @property
    def text(self) -> str:
        """What the drill's model says of it."""
        return f"There is an acute fracture of the {self.side} {self.rib}th rib."


def picture(number: int, unique: int, kind: str = "healthy") -> Picture:
    """Return the picture with this number; `unique` (below 2**96) makes its UID."""
    side = "left" if number % 2 else "right"
    return Picture(f"2.25.{unique}", kind, 4 + number // 2 % 7, side)


def write(picture: Picture, path: Path, *, other_bytes: bool = False) -> None:
    """Write a Part 10 file of some kilobytes; `other_bytes` changes what it holds."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = DigitalXRayImageStorageForPresentation, picture.uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = picture.uid + ".1", picture.uid + ".2"
    ds.PatientName, ds.PatientID = "Drill^Nobody", "DRILL"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.AccessionNumber, ds.StudyID = "", ""
    ds.StudyDate, ds.StudyTime = "20260101", "120000"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "PA"
    ds.PresentationIntentType, ds.PhotometricInterpretation = "FOR PRESENTATION", "MONOCHROME2"
    ds.InstanceNumber = 2 if other_bytes else 1
    ds.Rows = ds.Columns = SIZE
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.WindowCenter, ds.WindowWidth = 128, 256
    ds.PixelData = _drawn(picture).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(RLELossless, generate_instance_uid=False)
    if picture.kind == "corrupt":
        ds.PixelData = encapsulate([bytes(range(1, 201))])
        ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)


def read(pixels: npt.NDArray[np.uint8]) -> tuple[str, int, str]:
    """Return kind, rib and side as the picture shows them."""
    marks = [round(int(pixels[8, 8 + i * _BLOCK]) / _STEP) for i in range(4)]
    kind = KINDS[marks[0]]
    return kind, 4 + marks[1] + 4 * marks[2], "left" if marks[3] else "right"


def _drawn(picture: Picture) -> npt.NDArray[np.uint8]:
    ramp = np.linspace(0, 250, SIZE // 16, dtype=np.uint8).repeat(16)
    pixels = np.tile(ramp, (SIZE, 1))
    shown = 0 if picture.kind == "corrupt" else KINDS.index(picture.kind)
    rib = picture.rib - 4
    for i, mark in enumerate((shown, rib % 4, rib // 4, int(picture.side == "left"))):
        pixels[:_BLOCK, i * _BLOCK : (i + 1) * _BLOCK] = mark * _STEP
    return pixels
