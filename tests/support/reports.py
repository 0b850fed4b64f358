"""Builds what a report is made from: images' headers, outcomes, algorithms, orders."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from dicom_node.base.job import Reason, ReportOrder
from worker.report.sr import Algorithm, Outcome
from worker.text.findings import Findings, Fracture, Presence

DX = "1.2.840.10008.5.1.4.1.1.1.1"
WHEN = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
ORDER = ReportOrder(content_datetime=WHEN, station_name="CHEXFRACT")
ALGORITHM = Algorithm(
    name="chexfract-maira2",
    version="0.1.0+chexfract-1.0.1a2b3c4d",
    parameters=("decode=greedy", "preproc=voi-2", "weights=1a2b3c4d"),
)


def fracture(
    bone: str, number: str | None = None, side: str | None = None, **more: Any
) -> Fracture:
    """Return one fracture, definite unless said otherwise."""
    facts = {"certainty": "definite", "age": None, "segment": None, "sentence": "", **more}
    return Fracture(bone=bone, number=number, side=side, **facts)


TEXT = "Acute displaced fracture of the posterolateral left seventh rib. T8 is fractured too."
FRACTURES = (
    fracture("rib", "7", "left", segment="posterolateral", age="acute", sentence=TEXT[:64]),
    fracture("vertebra", "T8", sentence=TEXT[65:]),
)
CASES = {
    "fracture": Outcome(text=TEXT, findings=Findings(Presence.PRESENT, FRACTURES)),
    "none": Outcome(text="No fracture.", findings=Findings(Presence.ABSENT, ())),
    "unclear": Outcome(
        text="Limited view. Перелом? 骨折?",
        findings=Findings(Presence.UNDETERMINED, ()),
        warnings=("The orientation of the image is unknown.",),
    ),
    "rejected": Outcome(reason=Reason(code="lateral-view", text="The image is a lateral view.")),
}


def source(**elements: Any) -> Dataset:
    """Return the header of a DX image as read from bytes; None removes an element."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = DX, "1.2.3.4.5"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    ds.PatientName, ds.PatientID = "Иванова^Анна", "4711"
    ds.PatientBirthDate, ds.PatientSex = "19600102", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20260303", "101500", "S1"
    ds.AccessionNumber, ds.ReferringPhysicianName = "A100", "House^Gregory"
    ds.Modality, ds.ViewPosition, ds.InstanceNumber = "DX", "PA", 1
    ds.Rows, ds.Columns, ds.SamplesPerPixel = 2000, 1600, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return again(ds)


def as_bytes(ds: Dataset) -> bytes:
    """Return `ds` as a Part 10 file."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def again(ds: Dataset) -> Dataset:
    """Return `ds` written and read."""
    return read(as_bytes(ds))


def read(content: bytes) -> Dataset:
    """Return the data set of Part 10 bytes."""
    return dcmread(BytesIO(content))


def items(ds: Dataset) -> Iterator[Dataset]:
    """Yield each content item below `ds`, depth first."""
    for child in ds.get("ContentSequence") or ():
        yield child
        yield from items(child)


def name(item: Dataset) -> str:
    """Return the code value of a content item's name, empty where it has none."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def values(ds: Dataset, concept: str) -> list[str]:
    """Return the values of all content items that `concept` (a code value) names."""
    return [_value(item) for item in items(ds) if name(item) == concept]


def _value(item: Dataset) -> str:
    if item.ValueType == "CODE":
        return str(item.ConceptCodeSequence[0].CodeValue)
    return str(item.get("TextValue", item.get("UID", "")))
