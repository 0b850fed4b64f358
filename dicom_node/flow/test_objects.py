"""Small valid objects about nobody, one of each kind that a peer may be sent, for test sends."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node import __version__
from dicom_node.base.identity import UID_NAMESPACE
from dicom_node.base.local_time import local_time
from dicom_node.dimse.contexts import SECOND_OBJECTS

PATIENT_NAME, PATIENT_ID = "TEST^CHEXFRACT", "CHEXFRACT-TEST"

SAYS: Final = (
    "TEST. {} tries whether this archive takes and shows its reports. "
    "This is about no patient and no image, and may be deleted."
)

LETTERS: Final = {
    "T": ("#####", "  #  ", "  #  ", "  #  ", "  #  ", "  #  ", "  #  "),
    "E": ("#####", "#    ", "#    ", "#### ", "#    ", "#    ", "#####"),
    "S": (" ####", "#    ", "#    ", " ### ", "    #", "    #", "#### "),
}
"""What the picture's word is drawn with: the node has no library of pictures."""

SCALE: Final = 8
"""Pixels of the picture for each dot of a letter."""


def build(ae_title: str, sop_class_uid: str, at: datetime | None = None) -> Dataset:
    """Return an object that says in every place where people look that it is a test.

    Those of one day and node stand in one study, so that one act removes them.
    """
    now = at or local_time()
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = _instance_uid(ae_title, sop_class_uid, now)
    ds.StudyInstanceUID = _uid_of_text(f"trial {ae_title} {now:%Y%m%d}")
    ds.SeriesInstanceUID = _series_uid(ae_title, sop_class_uid, now)
    ds.PatientName, ds.PatientID = PATIENT_NAME, PATIENT_ID
    ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyID, ds.StudyDescription = "TEST", "TEST of a connection, may be deleted"
    ds.StudyDate, ds.StudyTime = f"{now:%Y%m%d}", "000000"
    ds.SeriesNumber, ds.SeriesDescription = 1, "TEST, about nobody"
    ds.Manufacturer = ds.ManufacturerModelName = "chexfract-node"
    ds.DeviceSerialNumber, ds.SoftwareVersions = ae_title.strip() or "0", __version__
    ds.InstanceNumber = int(f"{now:%H%M%S}")
    ds.ContentDate, ds.ContentTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    BUILDERS.get(sop_class_uid, _put_report)(ds, ae_title, now)
    return ds


def _put_report(ds: Dataset, ae_title: str, _now: datetime) -> None:
    """Put a document of one text below the root (DICOM PS3.3 C.17.3)."""
    ds.Modality = "SR"
    ds.ReferencedPerformedProcedureStepSequence, ds.PerformedProcedureCodeSequence = [], []
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [_code_item("18748-4", "LN", "Diagnostic imaging report")]
    ds.ContentSequence = [_text_item(_code_item("121106", "DCM", "Comment"), ae_title)]


def _key_object(ds: Dataset, ae_title: str, now: datetime) -> None:
    """Put a selection of the test's picture (DICOM PS3.3 A.35.4, PS3.16 TID 2010)."""
    ds.Modality = "KO"
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [_code_item("113000", "DCM", "Of Interest")]
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    ds.ContentTemplateSequence = [template]
    picture = Dataset()
    picture.RelationshipType, picture.ValueType = "CONTAINS", "IMAGE"
    picture.ReferencedSOPSequence = [_picture_reference(ae_title, now)]
    description = _text_item(_code_item("113012", "DCM", "Key Object Description"), ae_title)
    ds.ContentSequence = [description, picture]
    series, study = Dataset(), Dataset()
    series.SeriesInstanceUID = _series_uid(ae_title, SECOND_OBJECTS["sc"], now)
    series.ReferencedSOPSequence = [_picture_reference(ae_title, now)]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, [series]
    ds.CurrentRequestedProcedureEvidenceSequence = [study]


def _presentation_state(ds: Dataset, ae_title: str, now: datetime) -> None:
    """Put a presentation of the test's picture as it is (DICOM PS3.3 A.33.1)."""
    ds.Modality, ds.Laterality = "PR", ""
    ds.PresentationCreationDate, ds.PresentationCreationTime = ds.ContentDate, ds.ContentTime
    del ds.ContentDate, ds.ContentTime  # not in this IOD
    ds.ContentLabel, ds.ContentDescription = "TEST", "TEST, about nobody"
    ds.ContentCreatorName = ""
    series = Dataset()
    series.SeriesInstanceUID = _series_uid(ae_title, SECOND_OBJECTS["sc"], now)
    series.ReferencedImageSequence = [_picture_reference(ae_title, now)]
    ds.ReferencedSeriesSequence = [series]
    rows = _draw_word("TEST")
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [len(rows[0]), len(rows)]
    area.PresentationSizeMode, area.PresentationPixelAspectRatio = "SCALE TO FIT", [1, 1]
    ds.DisplayedAreaSelectionSequence = [area]
    ds.PresentationLUTShape = "IDENTITY"


def _secondary_capture(ds: Dataset, _ae_title: str, _now: datetime) -> None:
    """Put a picture of the word TEST (DICOM PS3.3 A.8.1)."""
    ds.Modality, ds.ConversionType, ds.ImageType = "OT", "WSD", ["DERIVED", "SECONDARY"]
    ds.PatientOrientation, ds.Laterality, ds.BurnedInAnnotation = "", "", "NO"
    rows = _draw_word("TEST")
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = len(rows), len(rows[0])
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.add_new("PixelData", "OB", b"".join(rows))


def _put_pdf(ds: Dataset, ae_title: str, _now: datetime) -> None:
    """Put a page of PDF (DICOM PS3.3 A.45.1)."""
    ds.Modality, ds.ConversionType = "DOC", "WSD"
    ds.AcquisitionDateTime, ds.BurnedInAnnotation = "", "NO"
    ds.DocumentTitle = "TEST, about nobody"
    ds.ConceptNameCodeSequence = [_code_item("18748-4", "LN", "Diagnostic imaging report")]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    content = _print_pdf(SAYS.format(ae_title.strip()))
    ds.EncapsulatedDocumentLength = len(content)
    ds.EncapsulatedDocument = content + b"\0" * (len(content) % 2)


BUILDERS: Final[dict[str, Callable[[Dataset, str, datetime], None]]] = {
    SECOND_OBJECTS["sc"]: _secondary_capture,
    SECOND_OBJECTS["gsps"]: _presentation_state,
    SECOND_OBJECTS["ko"]: _key_object,
    SECOND_OBJECTS["pdf"]: _put_pdf,
}
"""What is put into objects that are not reports, by their SOP class."""


def _picture_reference(ae_title: str, now: datetime) -> Dataset:
    """Return a reference to the picture of the same test, whether that is sent or not."""
    item = Dataset()
    item.ReferencedSOPClassUID = SECOND_OBJECTS["sc"]
    item.ReferencedSOPInstanceUID = _instance_uid(ae_title, SECOND_OBJECTS["sc"], now)
    return item


def _draw_word(word: str) -> list[bytes]:
    """Return a word as rows of grey values, with a margin of a dot."""
    blank = " " * (len(word) * 6 + 1)
    lines = [f" {' '.join(LETTERS[letter][row] for letter in word)} " for row in range(7)]
    return [
        b"".join((b"\xff" if dot == "#" else b"\x20") * SCALE for dot in line)
        for line in (blank, *lines, blank)
        for _ in range(SCALE)
    ]


def _print_pdf(what: str) -> bytes:
    """Return a PDF file of one page with a text, a sentence to a line (ISO 32000-1, 7.5)."""
    plain = what.encode("ascii", "replace").decode()
    for sign in "\\()":
        plain = plain.replace(sign, f"\\{sign}")
    lines = " ".join(f"({line}.) Tj T*" for line in plain.rstrip(".").split(". "))
    page = f"BT /F1 14 Tf 18 TL 40 780 Td {lines} ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(page)} >>\nstream\n{page}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    file, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(file))
        file += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    count, start = len(objects) + 1, len(file)
    file += f"xref\n0 {count}\n0000000000 65535 f \n{table}"
    file += f"trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    return file.encode("ascii")


def _text_item(name: Dataset, ae_title: str) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
    item.ConceptNameCodeSequence = [name]
    item.TextValue = SAYS.format(ae_title.strip())
    return item


def _code_item(value: str, scheme: str, word: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, word
    return code


def _instance_uid(ae_title: str, sop_class_uid: str, now: datetime) -> str:
    """Return the UID of an object of the test at this time."""
    return _uid_of_text(f"trial {ae_title} {now.isoformat()} {sop_class_uid}")


def _series_uid(ae_title: str, sop_class_uid: str, now: datetime) -> str:
    return _uid_of_text(f"trial {ae_title} {now:%Y%m%d} {sop_class_uid}")


def _uid_of_text(text: str) -> str:
    return f"2.25.{uuid.uuid5(UID_NAMESPACE, text).int}"
