"""Orthanc stores every kind of object as it was sent, and lists it in the study of the image."""

from __future__ import annotations

import io
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gallery
import pictures
import pytest
import reports
from pydicom import Dataset, dcmread
from reports import ALGORITHM, CASES, ORDER
from stations import Orthanc

from dicom_node.base.job import Predecessor, RejectionNote
from dicom_node.dimse.scu import Destination
from worker.report.renderings import BUILDERS, rejection_notes, render
from worker.report.sr import SOP_CLASSES, build_each

pytestmark = pytest.mark.peer

STUDY = "1.2.3.8"
KINDS = [*SOP_CLASSES, *BUILDERS, "judged", "rejection-note"]


@dataclass(frozen=True)
class Stored:
    """What was sent to the archive, with which answer."""

    archive: Orthanc
    sent: dict[str, bytes]
    statuses: dict[str, int]

    def instance(self, kind: str) -> str:
        """Return the archive's own id of an object."""
        uid = reports.read(self.sent[kind]).SOPInstanceUID
        (found,) = self.archive.post("/tools/lookup", str(uid).encode())
        return str(found["ID"])

    def fetch(self, kind: str, what: str) -> bytes:
        """Return one of the archive's own forms of an object."""
        address = f"http://127.0.0.1:{self.archive.http_port}/instances/{self.instance(kind)}"
        with urllib.request.urlopen(f"{address}/{what}", timeout=10) as answer:
            return bytes(answer.read())


def objects_of_one_image() -> dict[str, bytes]:
    """Return the image and each object about it; the case that all kinds exist for."""
    pixels = pictures.drawn()
    elements = {"PatientID": "8", "PatientName": "Иванова^Анна", "AccessionNumber": "A8"}
    image = pictures.instance(
        pixels, SpecificCharacterSet="ISO_IR 192", StudyInstanceUID=STUDY,
        SeriesInstanceUID="1.2.3.8.1", SOPInstanceUID="1.2.3.8.1.1", **elements,
    )  # fmt: skip
    made = {"image": pictures.part10(image)}
    source, outcome = reports.read(made["image"]), CASES["fracture"]
    each = build_each(source, outcome, ALGORITHM, ORDER, list(SOP_CLASSES))
    made |= {name: one.content for name, one in zip(SOP_CLASSES, each, strict=True)}
    for kind in BUILDERS:
        document = render(kind, source, (pixels >> 4).astype("u1"), outcome, ALGORITHM, ORDER)  # type: ignore[arg-type]
        assert document is not None
        made[kind] = document.content
    return made | replacing(source, made["comprehensive3d"])


def replacing(source: Dataset, before: bytes) -> dict[str, bytes]:
    """Return a judged report in the place of another, and the note that hides that one."""
    old = reports.read(before)
    first = Predecessor(
        study_instance_uid=STUDY,
        series_instance_uid=old.SeriesInstanceUID,
        sop_class_uid=old.SOPClassUID,
        sop_instance_uid=old.SOPInstanceUID,
    )
    order = gallery.replacing(
        predecessor=first,
        judgement=gallery.JUDGED,
        rejection_notes=(RejectionNote(destinations=("archive",), objects=(first,)),),
    )
    (judged,) = build_each(source, CASES["fracture"], ALGORITHM, order, ["comprehensive3d"])
    (note,) = rejection_notes(source, CASES["fracture"], ALGORITHM, order)
    return {"judged": judged.content, "rejection-note": note.content}


@pytest.fixture(scope="module")
def stored(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    folder = tmp_path_factory.mktemp("objects")
    sent = objects_of_one_image()
    destination = Destination("CHEXFRACT", archive.peer)
    try:
        destination.connect(sorted({str(reports.read(each).SOPClassUID) for each in sent.values()}))
        statuses = {}
        for kind, content in sent.items():
            path = folder / f"{kind}.dcm"
            path.write_bytes(content)
            statuses[kind] = destination.store(path)
        yield Stored(archive, sent, statuses)
    finally:
        destination.close()


@pytest.mark.parametrize("kind", KINDS)
def test_orthanc_stores_the_object_as_it_was_sent(kind: str, stored: Stored) -> None:
    assert stored.statuses[kind] == 0x0000
    kept = dcmread(io.BytesIO(stored.archive.file(stored.instance(kind))))
    assert kept == reports.read(stored.sent[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_orthanc_lists_the_object_in_the_study(kind: str, stored: Stored) -> None:
    meant = reports.read(stored.sent[kind])
    found = stored.archive.get(f"/dicom-web/studies/{STUDY}/instances")
    listed = {one["00080018"]["Value"][0]: one for one in found}
    one = Dataset.from_json(listed[str(meant.SOPInstanceUID)])
    for keyword in ("SOPClassUID", "SeriesInstanceUID", "InstanceNumber"):
        assert one[keyword].value == meant[keyword].value


def test_orthanc_lists_one_study_of_one_patient(stored: Stored) -> None:
    (study,) = stored.archive.get(f"/dicom-web/studies?StudyInstanceUID={STUDY}&includefield=all")
    one = Dataset.from_json(study)
    assert one.PatientName == "Иванова^Анна"
    assert set(one.ModalitiesInStudy) == {"CR", "SR", "OT", "PR", "KO", "DOC"}
    assert one.NumberOfStudyRelatedInstances == len(stored.sent)
    assert len(stored.archive.get("/patients")) == 1


def test_the_page_is_drawn_and_the_pdf_handed_out(stored: Stored) -> None:
    """By the archive's own means."""
    assert stored.fetch("sc", "preview").startswith(b"\x89PNG")
    assert stored.fetch("pdf", "pdf").startswith(b"%PDF-")


def test_the_same_objects_sent_again_make_no_new_ones(stored: Stored, tmp_path: Path) -> None:
    """Their UIDs come from the job: a repeated delivery cannot double a report."""
    before = stored.archive.get("/statistics")["CountInstances"]
    again = objects_of_one_image()
    for kind in KINDS:
        stored.archive.post("/instances", again[kind])
    assert again == stored.sent
    assert stored.archive.get("/statistics")["CountInstances"] == before


def test_a_note_that_comes_twice_is_one_object_that_names_the_old_report(stored: Stored) -> None:
    sent = stored.sent
    again = replacing(reports.read(sent["image"]), sent["comprehensive3d"])
    assert again == {kind: sent[kind] for kind in ("judged", "rejection-note")}
    note = reports.read(stored.fetch("rejection-note", "file"))
    (hidden,) = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in note.ContentSequence
        if item.ValueType == "COMPOSITE"
    ]
    assert hidden == reports.read(sent["comprehensive3d"]).SOPInstanceUID
    judged = reports.read(stored.fetch("judged", "file"))
    (study,) = judged.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == hidden
