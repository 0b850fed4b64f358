"""A real archive is asked whether the object that it has under a UID is the report."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from peers import need
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from stations import wait_for

from dicom_node.dimse.lookup import why_not_there
from dicom_node.dimse.scu import send
from dicom_node.settings import Peer

pytestmark = pytest.mark.peer

DCMQRSCP = """\
NetworkTCPPort = {port}
MaxAssociations = 4
HostTable BEGIN
known = (KNOWN, localhost, 104)
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {folder} RW (9, 1024mb) known
AETable END
"""


@pytest.fixture
def archive(tmp_path: Path, free_port: int) -> Iterator[Peer]:
    (tmp_path / "db").mkdir()
    table = tmp_path / "dcmqrscp.cfg"
    table.write_text(DCMQRSCP.format(port=free_port, folder=tmp_path / "db"))

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", free_port), 0.5).close()
        except OSError:
            return False
        return True

    with (tmp_path / "log").open("ab") as output:
        command = [need("dcmqrscp"), "-c", str(table), str(free_port)]
        running = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for("dcmqrscp listens", listens, 60)
        yield Peer(ae_title="ARCHIVE", host="127.0.0.1", port=free_port)
    finally:
        running.terminate()
        running.wait(20)


def report() -> bytes:
    """Return a report as an archive indexes one."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.4.7"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4", "1.2.3.4.6"
    ds.PatientID, ds.PatientName, ds.PatientSex, ds.PatientBirthDate = "P1", "Doe^Jane", "", ""
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20261129", "1200", "1", "A1"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "SR", 1, 1
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def changed(content: bytes, **values: str) -> bytes:
    """Return a report with other values."""
    ds: Dataset = dcmread(BytesIO(content))
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_a_real_archive_says_whether_it_has_this_report(archive: Peer, tmp_path: Path) -> None:
    content = report()
    file = tmp_path / "report.dcm"
    file.write_bytes(content)
    assert "does not find it" in why_not_there("KNOWN", archive, content)
    assert send("KNOWN", archive, [file]).stored == 1
    assert why_not_there("KNOWN", archive, file) == ""
    # another node made it for the patient that the order was corrected to
    other = changed(content, PatientID="P2")
    assert why_not_there("KNOWN", archive, other) == "has this study under another Patient ID"
    moved = changed(content, StudyInstanceUID="1.2.3.5")
    assert "does not find it" in why_not_there("KNOWN", archive, moved)
    away = Peer(ae_title="OTHER", host="127.0.0.1", port=archive.port)
    assert why_not_there("KNOWN", away, content).startswith("cannot be asked for it: ")
