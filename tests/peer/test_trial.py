"""A test send stores valid objects that say everywhere that they are about nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peers import need
from pydicom import dcmread
from pynetdicom import AE, evt
from stations import free_ports, wait_for

from dicom_node.base.errors import ChexFractError
from dicom_node.cli import main
from dicom_node.dimse import scu
from dicom_node.dimse.contexts import REPORTS, SECOND_OBJECTS
from dicom_node.flow import test_objects, test_report
from dicom_node.settings import Peer
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.web import peers as page

pytestmark = pytest.mark.peer


def answers(peer: Peer) -> bool:
    try:
        scu.echo("CHEXFRACT", peer)
    except ChexFractError:
        return False
    return True


@contextmanager
def storescp(folder: Path, **keys: Any) -> Iterator[Peer]:
    (port,) = free_ports(1)
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=port, **keys)
    command = [need("storescp"), "-aet", "PACS", "-od", str(folder), "-uf", str(port)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("storescp answers", lambda: answers(peer), 20)
        yield peer
    finally:
        running.terminate()
        running.wait(10)


def test_an_archive_gets_the_kinds_that_it_will_get_later(tmp_path: Path) -> None:
    with storescp(tmp_path, objects=["sr", "basic-text"], sop_classes=["enhanced"]) as peer:
        taken = test_report.send("CHEXFRACT", peer)
    assert [(one.name, one.status) for one in taken] == [("Enhanced SR", 0), ("Basic Text SR", 0)]
    assert test_report.is_fine(taken)
    kept = [dcmread(path) for path in tmp_path.iterdir()]
    assert len({ds.StudyInstanceUID for ds in kept}) == 1
    assert len({ds.SeriesInstanceUID for ds in kept}) == 2
    for ds in kept:
        assert (ds.PatientName, ds.PatientID) == (test_report.PATIENT_NAME, test_report.PATIENT_ID)
        assert "TEST" in ds.StudyDescription
        assert "about no patient" in ds.ContentSequence[0].TextValue


KINDS: Any = ["sr", *SECOND_OBJECTS]
SC, KO, PDF = SECOND_OBJECTS["sc"], SECOND_OBJECTS["ko"], SECOND_OBJECTS["pdf"]


def test_every_kind_that_is_configured_is_tried(tmp_path: Path) -> None:
    with storescp(tmp_path, objects=KINDS) as peer:
        taken = test_report.send("CHEXFRACT", peer)
    assert [(one.kind, one.state, one.status) for one in taken] == [
        (kind, "taken", 0) for kind in KINDS
    ]
    kept = {str(ds.SOPClassUID): ds for path in tmp_path.iterdir() if (ds := dcmread(path))}
    assert set(kept) == {SR_CLASSES["comprehensive3d"], *SECOND_OBJECTS.values()}
    assert len({ds.StudyInstanceUID for ds in kept.values()}) == 1
    assert {(str(ds.PatientName), ds.PatientID) for ds in kept.values()} == {
        (test_report.PATIENT_NAME, test_report.PATIENT_ID)
    }
    picture = kept[SC].SOPInstanceUID
    state, selection = kept[SECOND_OBJECTS["gsps"]], kept[KO]
    series = state.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == kept[SC].SeriesInstanceUID
    assert series.ReferencedImageSequence[0].ReferencedSOPInstanceUID == picture
    reference = selection.ContentSequence[-1].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == picture
    assert len(kept[SC].PixelData) == kept[SC].Rows * kept[SC].Columns


@contextmanager
def particular(statuses: dict[str, int], **keys: Any) -> Iterator[Peer]:
    """Run an archive with an answer for each SOP class; below 0 it breaks the association."""

    def answer(event: evt.Event) -> int:
        status = statuses[str(event.request.AffectedSOPClassUID)]
        if status < 0:
            event.assoc.abort()
        return max(status, 0)

    ae = AE("PACS")
    for uid in statuses:
        ae.add_supported_context(uid)
    handlers: Any = [(evt.EVT_C_STORE, answer)]
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        port = server.socket.getsockname()[1]
        yield Peer(ae_title="PACS", host="127.0.0.1", port=port, **keys)
    finally:
        server.shutdown()


def test_what_became_of_each_kind_is_said() -> None:
    statuses = {SR_CLASSES["enhanced"]: 0, SC: 0xB000, KO: -1, PDF: 0xA700}
    with particular(statuses, objects=["sr", "basic-text", "sc", "ko", "pdf"],
                    sop_classes=["comprehensive", "enhanced"]) as peer:  # fmt: skip
        taken = test_report.send("CHEXFRACT", peer)
    assert [(one.kind, one.name, one.state, one.status) for one in taken] == [
        ("sr", "Enhanced SR", "taken", 0),
        ("basic-text", "Basic Text SR", "no context", None),
        ("sc", "Secondary Capture Image", "taken with warning", 0xB000),
        ("ko", "Key Object Selection Document", "no answer", None),
        ("pdf", "Encapsulated PDF", "refused", 0xA700),
    ]
    by_kind = {one.kind: one for one in taken}
    assert "coercion" in by_kind["sc"].remark
    assert "out of resources" in by_kind["pdf"].meaning
    assert not test_report.is_fine(taken)
    assert test_report.is_fine([by_kind["sr"], by_kind["sc"]])


def test_a_peer_that_takes_nothing_is_told_by_kind_also_on_the_page() -> None:
    with particular({PDF: 0}, objects=["sr", "ko"]) as peer:
        answer = page.test("CHEXFRACT", peer)
    assert not answer.problem
    assert [one.state for one in answer.tests] == ["no context"] * 2


def test_test_objects_need_no_library_of_pictures() -> None:
    script = """
import sys
sys.modules.update(dict.fromkeys(("numpy", "PIL", "highdicom", "worker")))
from io import BytesIO
from dicom_node.flow.test_objects import SECOND_OBJECTS, build
for uid in SECOND_OBJECTS.values():
    build("CHEXFRACT", uid).save_as(BytesIO(), enforce_file_format=True)
print("built", len(SECOND_OBJECTS))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "built 5\n", done.stderr


def test_the_pdf_is_whole() -> None:
    ds = test_objects.build("CHEXFRACT", PDF)
    content = bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])
    assert content.startswith(b"%PDF-1.4\n")
    start = int(content.split(b"startxref\n")[1].split()[0])
    head, count, *entries = content[start:].split(b"trailer")[0].splitlines()
    assert (head, count, len(entries)) == (b"xref", b"0 6", 6)
    for number, entry in enumerate(entries[1:], 1):
        assert content[int(entry[:10]) :].startswith(b"%d 0 obj\n" % number)
    page_length = int(content.split(b"/Length ")[1].split()[0])
    assert len(content.split(b"stream\n")[1]) == page_length + len(b"\nend")
    assert b"(This is about no patient and no image" in content


@pytest.mark.parametrize("sop_class", [*SR_CLASSES.values(), *SECOND_OBJECTS.values()])
def test_a_test_object_is_valid(tmp_path: Path, sop_class: str) -> None:
    assert sop_class in REPORTS
    path = tmp_path / "test.dcm"
    test_objects.build("CHEXFRACT", sop_class).save_as(path, enforce_file_format=True)
    done = subprocess.run(
        [need("dciodvfy"), str(path)], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_the_command_line_tests_a_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, config = tmp_path / "kept", tmp_path / "node.toml"
    kept.mkdir()
    with storescp(kept) as peer:
        config.write_text(
            f'[peers.archive]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {peer.port}\n'
        )
        command = ["send", "--test", "--to", "archive", "--config", str(config), "--json"]
        assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["state"], one["status"]) for one in printed["objects"]] == [
        ("sr", "taken", 0)
    ]
    assert len(list(kept.iterdir())) == 1
    assert main(["send", "--to", "archive", "--config", str(config)]) == 2
