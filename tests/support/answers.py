"""Results that belong to their jobs, as small as the job API takes them; no worker is loaded."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from serving import DX, Api

from dicom_node.base.job import ReportObject, Result, Ticket
from dicom_node.standard.uids import derived_uid, object_series_uid, object_uid

COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
DEVICE = derived_uid("device", "0.1.0")
OPTIONS = "0" * 64


def part10(ds: Dataset) -> bytes:
    """Return a data set as a file in Explicit VR Little Endian."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    content = BytesIO()
    dcmwrite(content, ds, enforce_file_format=True)
    return content.getvalue()


def report_of(image: str, study: str = "1.2", series: str = "1.3", patient: str = "") -> Dataset:
    """Return the least that a report of an image has to say."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = COMPREHENSIVE_3D
    ds.SOPInstanceUID = object_uid("sr", COMPREHENSIVE_3D, image, DEVICE, OPTIONS, 1)
    ds.Modality, ds.PatientID = "SR", patient
    ds.StudyInstanceUID = study
    ds.SeriesInstanceUID = object_series_uid("sr", study, DEVICE)
    picture, of_series, of_study = Dataset(), Dataset(), Dataset()
    picture.ReferencedSOPClassUID, picture.ReferencedSOPInstanceUID = DX, image
    of_series.SeriesInstanceUID, of_series.ReferencedSOPSequence = series, [picture]
    of_study.StudyInstanceUID, of_study.ReferencedSeriesSequence = study, [of_series]
    ds.CurrentRequestedProcedureEvidenceSequence = [of_study]
    return ds


def result_for(api: Api, ticket: Ticket, **changed: Any) -> tuple[Result, bytes]:
    """Return the result of a job and the bytes of its one object, part ``sr``."""
    image = str(api.ledger.history.trace(ticket.job).sop_instance_uid)
    ds = report_of(image)
    item = ReportObject(
        kind="sr",
        part="sr",
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        series_instance_uid=ds.SeriesInstanceUID,
    )
    values: dict[str, Any] = {
        "token": ticket.token,
        "outcome": "reported",
        "model": "phantom",
        "model_version": "0.1.0",
        "device_uid": DEVICE,
        "options": OPTIONS,
        "demonstration": True,
        "text": "No fracture.",
        "presence": "absent",
        "stages_ms": {"model": 5.0},
        "objects": (item,),
    }
    return Result(**(values | changed)), part10(ds)
