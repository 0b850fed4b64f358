"""A listener on its real intake, spool and ledger, in this process, and Instances to send to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, Association

from dicom_node.dimse import patches
from dicom_node.dimse.commitment import Reports
from dicom_node.dimse.scp import Listener
from dicom_node.flow.commit import keeper
from dicom_node.flow.deliver import Pace
from dicom_node.flow.intake import Intake
from dicom_node.settings import Settings
from dicom_node.store.catalogue import Catalogue
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"


@dataclass
class Node:
    """A running listener and what stands behind it."""

    settings: Settings
    spool: Spool
    ledger: Ledger
    listener: Listener

    @property
    def port(self) -> int:
        return self.listener.port

    @property
    def kept(self) -> list[Path]:
        return sorted((self.spool.root / "images").rglob("*.dcm"))

    @property
    def unfinished(self) -> list[Path]:
        return sorted((self.spool.root / "incoming").iterdir())


@dataclass(frozen=True)
class ModalityStation:
    """A station at the DICOM port of a node; by this AE title the node knows it."""

    port: int
    ae_title: str = "MODALITY"

    @contextmanager
    def associated(self, *sop_classes: str, **options: Any) -> Iterator[Association]:
        """Ask for an association; further options are those of `AE.associate`."""
        ae = AE(self.ae_title)
        for uid in sop_classes:
            ae.add_requested_context(uid)
        assoc = ae.associate("127.0.0.1", self.port, ae_title="CHEXFRACT", **options)
        try:
            yield assoc
        finally:
            if assoc.is_established:
                assoc.release()

    def store(self, ds: Dataset, **options: Any) -> Dataset:
        """Send an Instance by C-STORE and return the response."""
        with self.associated(str(ds.SOPClassUID)) as assoc:
            return assoc.send_c_store(ds, **options)


def settings_of(folder: Path, peers: dict[str, Any] | None = None, **node: Any) -> Settings:
    return Settings(
        node={"host": "127.0.0.1", "port": 0, "data_dir": folder, **node},
        peers=peers or {"modality": {"ae_title": "MODALITY", "host": "127.0.0.1", "port": 1}},
        rules=[{"name": "all", "model": "phantom", "allow_demonstration": True}],
    )


if os.environ.get("CHEXFRACT_STANDARD_WAY"):
    patches.KNOWN = ()  # the way that is taken with a pynetdicom that the node does not know


@contextmanager
def listening(folder: Path, **node: Any) -> Iterator[Node]:
    settings = settings_of(folder, **node)
    spool = Spool(folder / "spool")
    Ledger.upgrade(settings.ledger_url)
    ledger = Ledger.open(settings.ledger_url)
    catalogue = Catalogue(ledger, spool, settings.node.ae_title)
    reports = Reports(keeper(ledger, Pace()))
    intake = Intake(settings, spool, ledger)
    listener = Listener(settings, intake, spool.has_room, catalogue, reports)
    listener.start()
    try:
        yield Node(settings, spool, ledger, listener)
    finally:
        listener.stop()
        ledger.close()


def radiograph(sop_class: str = DX, rows: int = 64, columns: int = 48) -> Dataset:
    """Return a small drawn DX or CR Instance."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Modality = "CR" if sop_class == CR else "DX"
    ds.PatientName, ds.PatientID = "Drawn^Test", "T1"
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    grey = np.arange(rows * columns, dtype="<u2").reshape(rows, columns) % 4096
    ds.PixelData = grey.tobytes()
    return ds


def written(folder: Path, ds: Dataset, name: str = "image.dcm") -> Path:
    path = folder / name
    ds.save_as(path, enforce_file_format=True)
    return path
