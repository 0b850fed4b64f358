"""A test send stores valid reports that say everywhere that they are about nobody."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peers import need
from pydicom import dcmread
from stations import free_ports, wait_for

from dicom_node.base.errors import ChexFractError
from dicom_node.cli import main
from dicom_node.dimse import scu
from dicom_node.flow import test_report
from dicom_node.settings import Peer
from dicom_node.standard.sr_classes import SR_CLASSES

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


@pytest.mark.parametrize("sop_class", [*SR_CLASSES.values(), test_report.BASIC_TEXT])
def test_a_test_report_is_a_valid_object(tmp_path: Path, sop_class: str) -> None:
    path = tmp_path / "test.dcm"
    test_report.report("CHEXFRACT", sop_class).save_as(path, enforce_file_format=True)
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
    assert [one["status"] for one in printed["objects"]] == [0]
    assert len(list(kept.iterdir())) == 1
    assert main(["send", "--to", "archive", "--config", str(config)]) == 2
