"""A report about nobody, to try whether an archive takes and shows what this node will send."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node import __version__
from dicom_node.base.errors import Refused
from dicom_node.base.identity import UID_NAMESPACE
from dicom_node.base.local_time import local_time
from dicom_node.dimse.contexts import REPORTS
from dicom_node.settings import Peer
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.status import fault

if TYPE_CHECKING:
    from dicom_node.dimse.scu import Destination

PATIENT_NAME, PATIENT_ID = "TEST^CHEXFRACT", "CHEXFRACT-TEST"

BASIC_TEXT = "1.2.840.10008.5.1.4.1.1.88.11"


@dataclass(frozen=True, slots=True)
class Taken:
    """One object that a peer answered: its SOP class in words, the status and how long it took."""

    name: str
    status: int
    meaning: str
    """Empty for success."""
    ms: float


def send(ae_title: str, peer: Peer) -> list[Taken]:
    """Store test reports of the kinds that `peer` is to get; each is about nobody.

    Raises
    ------
    Unreachable
        The peer gives no answer.
    Refused
        It takes no report at all.
    """
    # Imported when an operator asks: the pages show the test's name without pynetdicom.
    from dicom_node.dimse.scu import Destination

    preferred = [SR_CLASSES[name] for name in peer.sop_classes]
    wanted = [*preferred, *([BASIC_TEXT] if "basic-text" in peer.objects else [])]
    with tempfile.TemporaryDirectory() as folder, Destination(ae_title, peer) as destination:
        destination.connect(wanted)
        taken = [uid for uid in preferred if destination.accepts(uid)][:1]
        taken += [uid for uid in wanted if uid == BASIC_TEXT and destination.accepts(uid)]
        if not taken:
            raise Refused(f"{destination.name} takes no structured report")
        return [_stored(destination, Path(folder), report(ae_title, uid)) for uid in taken]


def report(ae_title: str, sop_class_uid: str, at: datetime | None = None) -> Dataset:
    """Return a structured report that says in every place where people look that it is a test.

    Those of one day and node stand in one study, so that one act removes them.
    """
    now = at or local_time()
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, f"2.25.{uuid.uuid4().int}"
    ds.StudyInstanceUID = _uid(f"trial {ae_title} {now:%Y%m%d}")
    ds.SeriesInstanceUID = _uid(f"trial {ae_title} {now:%Y%m%d} {sop_class_uid}")
    ds.PatientName, ds.PatientID = PATIENT_NAME, PATIENT_ID
    ds.PatientBirthDate = ds.PatientSex = ds.AccessionNumber = ds.ReferringPhysicianName = ""
    ds.StudyID, ds.StudyDescription = "TEST", "TEST of a connection, may be deleted"
    ds.StudyDate, ds.StudyTime = f"{now:%Y%m%d}", "000000"
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "SR", 1, "TEST, about nobody"
    ds.Manufacturer = ds.ManufacturerModelName = "chexfract-node"
    ds.DeviceSerialNumber, ds.SoftwareVersions = ae_title.strip() or "0", __version__
    ds.InstanceNumber = int(f"{now:%H%M%S}")
    ds.ContentDate, ds.ContentTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    ds.ReferencedPerformedProcedureStepSequence, ds.PerformedProcedureCodeSequence = [], []
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    _say(ds, f"TEST. {ae_title.strip()} tries whether this archive takes and shows its reports. "
             "This is about no patient and no image, and may be deleted.")  # fmt: skip
    return ds


def _say(ds: Dataset, what: str) -> None:
    """Put a document of one text below the root (DICOM PS3.3 C.17.3)."""
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [_code("18748-4", "LN", "Diagnostic imaging report")]
    text = Dataset()
    text.RelationshipType, text.ValueType, text.TextValue = "CONTAINS", "TEXT", what
    text.ConceptNameCodeSequence = [_code("121106", "DCM", "Comment")]
    ds.ContentSequence = [text]


def _code(value: str, scheme: str, word: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, word
    return code


def _stored(destination: Destination, folder: Path, ds: Dataset) -> Taken:
    path = folder / "test.dcm"
    ds.save_as(path, enforce_file_format=True)
    started = time.perf_counter()
    status = destination.store(path)
    ms = (time.perf_counter() - started) * 1000
    name = REPORTS.get(str(ds.SOPClassUID), str(ds.SOPClassUID)).removesuffix(" Storage")
    return Taken(name, status, fault(status), ms)


def _uid(text: str) -> str:
    return f"2.25.{uuid.uuid5(UID_NAMESPACE, text).int}"


def is_fine(taken: Sequence[Taken]) -> bool:
    """Return whether everything was taken."""
    return all(not one.meaning for one in taken)
