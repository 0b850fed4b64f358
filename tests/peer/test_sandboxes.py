"""Worked sandboxes with real archives: fetch, describe, give back, and nobody is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peers import need
from PIL import Image
from pydicom import Dataset, dcmread
from stations import Orthanc, free_ports, wait_for

from dicom_node.cli import main as node
from worker.cli import main as worker
from worker.phantom.draw import instance, phantom

pytestmark = pytest.mark.peer


def study(number: int, modality: str = "DX") -> Dataset:
    """A phantom of a patient with a name, in a study with an accession number."""
    ds = instance(61, number)
    ds.PatientName, ds.PatientID = "MILLER^JANE", "MRN4711X"
    ds.AccessionNumber, ds.Modality = f"ACC{number}", modality
    ds.InstitutionName = "MILLERTON GENERAL"
    return ds


@pytest.fixture(scope="module")
def orthanc(archive: Orthanc) -> Orthanc:
    """The archive with three studies, one of them no radiograph."""
    for number, modality in ((1, "DX"), (2, "DX"), (3, "OT")):
        path = archive.folder / f"{number}.dcm"
        study(number, modality).save_as(path, enforce_file_format=True)
        archive.post("/instances", path.read_bytes())
    return archive


@pytest.fixture
def config(orthanc: Orthanc, tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(
        f"[node]\ndata_dir = {json.dumps(str(tmp_path / 'data'))}\n"
        f'[peers.archive]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {orthanc.port}\n'
    )
    return path


def test_radiographs_are_pulled_by_accession_number_and_only_once(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "accessions.csv", tmp_path / "pulled"
    table.write_text("\ufeffAccession Number;site\nACC1;a\nACC2;a\nACC3;b\nACC9;b\n")
    command = ["pull", "--config", str(config), "--from", "archive", "--json"]
    command += ["--accessions", str(table), "--out", str(out)]
    assert node(command) == 1
    first = json.loads(capsys.readouterr().out)
    assert (first["fetched"], first["skipped_series"]) == (2, {"OT": 1}), first["problems"]
    assert first["problems"] == [{"accession_number": "ACC9", "problem": "no such study"}]
    pulled = {dcmread(path).SOPInstanceUID for path in out.iterdir()}
    assert pulled == {study(1).SOPInstanceUID, study(2).SOPInstanceUID}
    node(command)
    again = json.loads(capsys.readouterr().out)
    assert (again["fetched"], again["there"]) == (0, 2)


def test_what_is_pulled_under_pseudonyms_names_nobody(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "accessions.txt", tmp_path / "pulled"
    table.write_text("ACC1\nACC9\n")
    command = ["pull", "--config", str(config), "--from", "archive", "--deidentify"]
    assert node([*command, "--accessions", str(table), "--out", str(out)]) == 1
    said = capsys.readouterr()
    (path,) = out.iterdir()
    assert " (number 2 of the list): no such study" in said.out, "whose table it is finds it"
    content = path.read_bytes() + path.name.encode() + (said.out + said.err).encode()
    uid = str(study(1).SOPInstanceUID)
    assert [
        mark for mark in ("MILLER", "MRN4711X", "ACC1", "ACC9", uid) if mark.encode() in content
    ] == []
    assert np.array_equal(dcmread(path).pixel_array, study(1).pixel_array)


def test_an_archive_is_described_by_dicomweb_and_gets_its_reports(
    orthanc: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{orthanc.http_port}/dicom-web"
    run = tmp_path / "run"
    command = ["describe", url, "--query", "PatientID=MRN4711X", "--out", str(run), "--quiet"]
    assert worker(command) == 0
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert {row["sop_instance_uid"] for row in rows} == {
        study(1).SOPInstanceUID, study(2).SOPInstanceUID,
    }  # fmt: skip
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["companions"][0].endswith(": OT")
    program = Path(sys.executable).with_name("dicomweb_client")
    stow = [str(program), "--url", url, "store", "instances"]
    reports = [str(run / row["report"]) for row in rows]
    subprocess.run([*stow, *reports], check=True, capture_output=True, timeout=60)
    there = orthanc.reports(str(study(1).StudyInstanceUID))
    assert len(there) == 1

    assert worker(["describe", url, "--out", str(run)]) == 78
    assert "needs --query or --accessions" in capsys.readouterr().err
    assert worker(["describe", url, "--query", "PatientID=none", "--out", str(run)]) == 78
    gone = f"http://127.0.0.1:{free_ports(1)[0]}/dicom-web"
    assert worker(["describe", gone, "--query", "PatientID=1", "--out", str(run)]) == 69


def test_reports_reach_the_receiver_of_a_research_archive(tmp_path: Path) -> None:
    """DCMTK's storescp stands for XNAT's receiver: it takes what is sent to the title XNAT."""
    folder, (port,) = tmp_path / "xnat", free_ports(1)
    folder.mkdir()
    command = [need("storescp"), "-aet", "XNAT", "-od", str(folder), "-xf",
               str(Path("/etc/dcmtk/storescp.cfg")), "Default", str(port)]  # fmt: skip
    if not Path(command[6]).exists():
        command = [need("storescp"), "-aet", "XNAT", "-od", str(folder), str(port)]
    receiver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        config = tmp_path / "node.toml"
        config.write_text(
            f"[node]\ndata_dir = {json.dumps(str(tmp_path / 'data'))}\n"
            f'[peers.xnat]\nae_title = "XNAT"\nhost = "127.0.0.1"\nport = {port}\n'
        )
        wait_for("storescp", lambda: node(["echo", "xnat", "--config", str(config)]) == 0)
        images = tmp_path / "images"
        images.mkdir()
        study(1).save_as(images / "a.dcm", enforce_file_format=True)
        run, key = tmp_path / "run", tmp_path / "key"
        options = ["--deidentify", "--images", "--key", str(key), "--quiet"]
        assert worker(["describe", str(images), "--out", str(run), *options]) == 0
        files = [str(run / "reports"), str(run / "images")]
        assert node(["send", *files, "--to", "xnat", "--config", str(config)]) == 0
    finally:
        receiver.terminate()
        receiver.wait(20)
    there = [dcmread(path) for path in folder.iterdir()]
    assert {ds.Modality for ds in there} == {"DX", "SR"}
    assert len({ds.StudyInstanceUID for ds in there}) == 1
    assert "MILLER" not in "".join(map(str, there))


def test_a_folder_of_public_pictures_is_described_and_evaluated(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    lines = ["file;fracture;patient_id"]
    for number in range(3):
        drawn = phantom(62, number)
        Image.fromarray((np.clip(drawn.grey, 0, 1) * 255).astype(np.uint8)).save(
            pictures / f"{number}.png"
        )
        lines.append(f"{number}.png;{int(bool(drawn.findings))};subject-{number}")
    (pictures / "readme.txt").write_text("a public set")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines))
    run = tmp_path / "run"
    options = ["--identifiers", str(table), "--make-studies", "--quiet"]
    assert worker(["describe", str(pictures), "--out", str(run), *options]) == 0
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert [row["patient_id"] for row in rows] == ["subject-0", "subject-1", "subject-2"]
    assert dcmread(run / rows[0]["report"]).PatientID == "subject-0"
    page = tmp_path / "page.html"
    assert worker(["evaluate", str(run), "--labels", str(table), "--html", str(page)]) == 0
