"""Draw chest phantoms with known fractures, as pictures and as DX Instances.

Every phantom is a function of (seed, index). None of them shows a person.
"""

from __future__ import annotations

import csv
import dataclasses
import multiprocessing
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from worker.phantom import truth
from worker.phantom.picture import Picture, paint
from worker.phantom.truth import Finding

_UID_ROOT = uuid.UUID("6f1d2c0e-6f0b-5f0e-9d57-0c5b8f1f6c11")
_DATE, _TIME = "20260105", "090000"
_WHITE = 4095
"""The largest stored value: 12 bits."""

COLUMNS = ("file", "sop_instance_uid", "fracture", "text", "findings")
"""Columns of truth.csv."""


class Truth(NamedTuple):
    """One row of truth.csv."""

    file: str
    sop_instance_uid: str
    fracture: int
    text: str
    findings: str


def phantom(
    seed: int, index: int, findings: Iterable[Finding] | None = None, short_side: int = 512
) -> Picture:
    """Draw phantom `index` of the set `seed`.

    Parameters
    ----------
    seed, index : int
        Not negative. The same pair always draws the same picture.
    findings : iterable of Finding, optional
        What is broken, instead of what the pair would choose.
    short_side : int
        Rows or columns, whichever are fewer.
    """
    chosen = None if findings is None else frozenset(findings)
    return paint(np.random.default_rng([seed, index]), chosen, short_side)


def letterbox_picture(picture: Picture, columns: int, rows: int, grey: float = 0.0) -> Picture:
    """Return the picture between bars: `columns` left and right, `rows` above and below."""
    framed = np.pad(picture.grey, ((rows, rows), (columns, columns)), constant_values=grey)
    left, top, right, bottom = picture.bones
    return dataclasses.replace(
        picture,
        grey=framed.astype(np.float32),
        places=tuple((finding, x + columns, y + rows) for finding, x, y in picture.places),
        bones=(left + columns, top + rows, right + columns, bottom + rows),
    )


def instance(
    seed: int,
    index: int,
    findings: Iterable[Finding] | None = None,
    frame: Callable[[Picture], Picture] | None = None,
) -> Dataset:
    """Return a phantom as a Digital X-Ray Image - For Presentation Instance.

    12 bits are stored. The window restores the drawn grey values; other windows do not.

    Parameters
    ----------
    seed, index : int
        Which phantom. The UIDs follow from them, the findings and the size.
    findings : iterable of Finding, optional
        What is broken, instead of what (seed, index) would choose.
    frame : callable, optional
        Changes the picture before it is stored, for example `letterbox_picture`.

    Returns
    -------
    Dataset
        With File Meta Information, Explicit VR Little Endian.

    References
    ----------
    DICOM PS3.3 A.26 (Digital X-Ray Image IOD).
    """
    picture = phantom(seed, index, findings)
    picture = frame(picture) if frame else picture
    rows, columns = picture.grey.shape
    ds = Dataset()
    _set_patient(ds, seed, index)
    _set_identity(ds, f"{seed}/{index}/{truth.text(picture.findings)}/{rows}x{columns}")
    _set_equipment(ds)
    _set_detector(ds, picture)
    _store_pixels(ds, picture, np.random.default_rng([seed, index, 1]))
    ds.file_meta = _file_meta(ds)
    return ds


def write_set(count: int, out: Path, seed: int, processes: int = 1) -> list[Truth]:
    """Write `count` Instances ``phantom-<seed>-<nnnn>.dcm`` and ``truth.csv``.

    Parameters
    ----------
    count : int
        Instances to write.
    out : Path
        The folder; made when absent.
    seed : int
        The set. The Instances do not depend on `processes` or `count`.
    processes : int
        How many draw at the same time.

    Returns
    -------
    list of Truth
        The rows of truth.csv.
    """
    if count < 1 or seed < 0:
        raise ValueError("count must be at least 1, seed at least 0")
    out.mkdir(parents=True, exist_ok=True)
    write = partial(_write_one, out, seed)
    if processes > 1:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            rows = pool.map(write, range(count), chunksize=8)
    else:
        rows = list(map(write, range(count)))
    _write_truth(out, rows)
    return rows


def write_exhibits(out: Path, seed: int = 0) -> list[Truth]:
    """Write four Instances to show, and ``truth.csv``.

    No fracture; one rib; a clavicle with two ribs; two ribs on a wide, letterboxed picture.
    """
    shown: tuple[tuple[str, list[Finding], Callable[[Picture], Picture] | None], ...] = (
        ("1-none", [], None),
        ("2-one-rib", [Finding("left", 5)], None),
        (
            "3-clavicle-and-ribs",
            [Finding("right", 0), Finding("right", 3), Finding("left", 7)],
            None,
        ),
        ("4-letterboxed", [Finding("left", 4), Finding("right", 8)], _widen_picture),
    )
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, (name, findings, frame) in enumerate(shown):
        rows.append(
            _save_drawing(instance(seed, index, findings, frame), findings, out, f"{name}.dcm")
        )
    _write_truth(out, rows)
    return rows


def _widen_picture(picture: Picture) -> Picture:
    return letterbox_picture(picture, columns=150, rows=0)


def _write_one(out: Path, seed: int, index: int) -> Truth:
    findings = phantom_findings(seed, index)
    return _save_drawing(instance(seed, index), findings, out, f"phantom-{seed}-{index:04d}.dcm")


def phantom_findings(seed: int, index: int) -> frozenset[Finding]:
    """Return what is broken in phantom `index` of the set `seed`, without drawing it."""
    return truth.chosen_by(np.random.default_rng([seed, index]))


def _save_drawing(ds: Dataset, findings: Iterable[Finding], out: Path, name: str) -> Truth:
    ds.save_as(out / name, enforce_file_format=True)
    ordered = truth.in_order(findings)
    names = "; ".join(map(str, ordered))
    return Truth(name, str(ds.SOPInstanceUID), int(bool(ordered)), truth.text(ordered), names)


def _write_truth(out: Path, rows: list[Truth]) -> None:
    with (out / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _set_patient(ds: Dataset, seed: int, index: int) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = f"Phantom^Chest^No {index}"
    ds.PatientID = f"PHANTOM-{seed}-{index:04d}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.PatientComments = "Drawn by a program. Not a person."
    ds.StudyID = f"{index}"
    ds.AccessionNumber = f"PH{seed}.{index}"[:16]


def _set_identity(ds: Dataset, name: str) -> None:
    """Set UIDs that follow from `name`, and an invented date."""
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.StudyInstanceUID = _derive_uid(f"{name}/study")
    ds.SeriesInstanceUID = _derive_uid(f"{name}/series")
    ds.SOPInstanceUID = _derive_uid(f"{name}/instance")
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, keyword, _DATE)
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, keyword, _TIME)
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Drawn chest phantom"
    ds.SeriesDescription = "PA"
    ds.SeriesNumber = 1
    ds.InstanceNumber = 1
    ds.AcquisitionNumber = 1


def _derive_uid(name: str) -> UID:
    """Return a UID derived from a UUID (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_UID_ROOT, name).int}")


def _set_equipment(ds: Dataset) -> None:
    ds.Modality = "DX"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.Manufacturer = "chexfract-node"
    ds.ManufacturerModelName = "Drawn chest phantom"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1"
    ds.InstitutionName = "No hospital"


def _set_detector(ds: Dataset, picture: Picture) -> None:
    """Set anatomy, positioning and detector (PS3.3 C.8.11)."""
    ds.BodyPartExamined = "CHEST"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [_code_item("816094009", "SCT", "Chest")]
    ds.ViewPosition = "PA"
    view = _code_item("399348003", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.PatientOrientationCodeSequence = [_code_item("10904000", "SCT", "erect")]
    ds.PatientOrientation = ["L", "F"]
    ds.PositionerType = "NONE"
    ds.DetectorType = "DIRECT"
    ds.ImagerPixelSpacing = [f"{picture.spacing:.6f}"] * 2
    ds.AcquisitionContextSequence = []


def _code_item(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _store_pixels(ds: Dataset, picture: Picture, rng: np.random.Generator) -> None:
    """Store the grey values behind a window of their own (PS3.3 C.11.2.1.2.1)."""
    lowest, width = int(rng.integers(120, 400)), 2 * int(rng.integers(900, 1350))
    stored = np.rint(lowest + picture.grey * (width - 1)).clip(0, _WHITE)
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = picture.grey.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "IDENTITY"
    ds.WindowCenter, ds.WindowWidth = str(lowest + width // 2), str(width)
    ds.VOILUTFunction = "LINEAR"
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation = "NO"
    ds.PixelData = stored.astype("<u2").tobytes()


def _file_meta(ds: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _derive_uid("implementation")
    meta.ImplementationVersionName = "PHANTOM_1"
    return meta
