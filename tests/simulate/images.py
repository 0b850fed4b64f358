"""Small images and reports: real DICOM bytes, each made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.standard.uids import object_series_uid, object_uid, options_digest

CR = "1.2.840.10008.5.1.4.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
DEVICE = "2.25.77"
OPTIONS = options_digest(("a=1",))
ROOT = "1.2.826.0.1.3680043.10.9999"

IMAGES = 5
POISON, UNREADABLE = 3, 4
"""Which image kills the worker that reads it, and which shows a hip."""

VARIANTS = ("first", "recoded", "corrected", "other")
"""The image, the same pixels in another syntax, the right patient, other pixels."""


@dataclass(frozen=True)
class Image:
    """A data set as a sender has it."""

    number: int
    variant: str
    uid: str
    syntax: str
    patient_id: str
    study: str
    content: bytes


def uid_of(number: int) -> str:
    """Return the SOP Instance UID of an image."""
    return f"{ROOT}.{number + 1}.1"


def number_of(uid: str) -> int:
    """Return which image has this UID."""
    return int(uid.split(".")[-2]) - 1


@cache
def image(number: int, variant: str) -> Image:
    """Return an image, in one of its variants."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CR, uid_of(number)
    ds.PatientID = f"P{number}" + ("-RIGHT" if variant == "corrected" else "")
    ds.PatientName = f"Patient^Number{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.{number + 1}.2", f"{ROOT}.{number + 1}.3"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", "PA"
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = bytes([number, 9 if variant == "other" else 0]) * 16
    is_implicit = variant == "recoded"
    out = BytesIO()
    dcmwrite(out, ds, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False)
    syntax = str(ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian)
    return Image(
        number,
        variant,
        ds.SOPInstanceUID,
        syntax,
        ds.PatientID,
        ds.StudyInstanceUID,
        out.getvalue(),
    )


@lru_cache(maxsize=4096)
def report(
    source_uid: str, study: str, patient_id: str, generation: int, before: str, report_uid: str = ""
) -> tuple[str, str, bytes]:
    """Return SOP Instance UID, Series Instance UID and Part 10 bytes of a report."""
    uid = report_uid or object_uid("sr", SR, source_uid, DEVICE, OPTIONS, generation)
    series = object_series_uid("sr", study, DEVICE)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = SR, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.PatientID, ds.Modality = patient_id, "SR"
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(study, CR, source_uid)]
    if before:
        ds.PredecessorDocumentsSequence = [_evidence(study, SR, before)]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = SR, uid
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = BytesIO()
    dcmwrite(out, ds, enforce_file_format=True)
    return uid, series, out.getvalue()


def _evidence(study: str, sop_class: str, uid: str) -> Dataset:
    referenced = Dataset()
    referenced.ReferencedSOPClassUID, referenced.ReferencedSOPInstanceUID = sop_class, uid
    series = Dataset()
    series.SeriesInstanceUID = f"{ROOT}.9"
    series.ReferencedSOPSequence = Sequence([referenced])
    found = Dataset()
    found.StudyInstanceUID = study
    found.ReferencedSeriesSequence = Sequence([series])
    return found
