"""The research door: one row and one report per file, and a second call goes on."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from worker.phantom.draw import write_set


def describe(folder: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", "describe", str(folder), "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def rows_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantoms with their table, a file that is not DICOM, and an empty one below."""
    folder = tmp_path_factory.mktemp("images")
    write_set(4, folder, seed=55)
    (folder / "below").mkdir()
    (folder / "below" / "empty.dcm").touch()
    (folder / "below" / "note.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def done(
    images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("run")
    return out, describe(images, out)


def test_each_file_has_exactly_one_row_with_a_text_or_a_reason(
    images: Path, done: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    rows = rows_of(done[0])
    files = [str(path) for path in images.rglob("*.dcm")]
    assert sorted(str(row["file"]) for row in rows) == sorted(files)
    assert all(("text" in row) != ("reason" in row) for row in rows)
    assert all("sop_instance_uid" in row and "ms" in row for row in rows)


def test_a_file_without_text_makes_the_exit_code_1(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert done[1].returncode == 1
    assert "4 of 5 files described" in done[1].stdout


def test_each_described_image_has_its_report_beside_it(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    described = [row for row in rows_of(done[0]) if "text" in row]
    for row in described:
        report = dcmread(done[0] / str(row["report"]))
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
        source = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert source.ReferencedSOPInstanceUID == row["sop_instance_uid"]
    assert len({row["report"] for row in described}) == 4


def test_most_phantoms_are_described_as_drawn(
    images: Path, done: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    with (images / "truth.csv").open(newline="") as table:
        truth = {row["sop_instance_uid"]: row["text"] for row in csv.DictReader(table)}
    right = sum(
        truth.get(str(row["sop_instance_uid"])) == row.get("text") for row in rows_of(done[0])
    )
    assert right >= 3


def test_the_manifest_names_the_model_and_its_options(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    manifest = json.loads((done[0] / "manifest.json").read_text())
    assert manifest["finished"] is True
    assert manifest["model"] == "phantom"
    assert manifest["pixels"]["mode"] == "voi"
    assert manifest["files"] == 5


def test_a_second_call_goes_on_behind_a_row_that_was_half_written(
    images: Path, done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    lines = (done[0] / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "reports").mkdir()
    other = json.dumps({**json.loads(lines[0]), "file": "elsewhere/other.dcm"}) + "\n"
    (tmp_path / "results.jsonl").write_text("".join([*lines[:3], other, lines[3][:20]]))
    (tmp_path / "manifest.json").write_text((done[0] / "manifest.json").read_text())
    again = describe(images, tmp_path, "--json", "--batch", "2")
    summary = json.loads(again.stdout)
    assert summary["resumed"] == 3
    assert summary["files"] == 5
    assert summary["others"] == json.loads((tmp_path / "manifest.json").read_text())["others"] == 1
    assert sorted(str(row["file"]) for row in rows_of(tmp_path)) == sorted(
        [*(str(row["file"]) for row in rows_of(done[0])), "elsewhere/other.dcm"]
    )


def test_another_model_or_mode_does_not_mix_into_a_run(
    images: Path, done: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "worker.toml").write_text('[pixels]\nmode = "minmax"\n')
    again = describe(images, done[0], "--config", str(tmp_path / "worker.toml"))
    assert again.returncode == 78
    assert "choose another --out" in again.stderr


def test_a_path_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    gone = describe(tmp_path / "gone", tmp_path / "out")
    assert gone.returncode == 78
    assert gone.stderr.count("\n") == 1
    assert "no such file or folder" in gone.stderr
