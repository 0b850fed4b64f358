"""The command says which validator passes, which fails and which is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import reports
from pydicom import dcmread
from pydicom.dataset import Dataset
from reports import ALGORITHM, CASES, ORDER

from dicom_node.base.errors import ConfigurationError
from worker.report import validate
from worker.report.renderings import BUILDERS, render
from worker.report.sr import build


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report with fractures as a file."""
    path = tmp_path / "report.dcm"
    path.write_bytes(build(reports.source(), CASES["fracture"], ALGORITHM, ORDER).content)
    return path


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without dicom3tools and Java."""
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))


def wrong(path: Path, ds: Dataset) -> tuple[str, ...]:
    verdict = validate.codes_of(path, ds)
    assert verdict.passed is (not verdict.errors)
    return verdict.errors


@pytest.mark.parametrize("case", list(CASES))
def test_every_code_of_every_case_is_in_the_table(case: str, tmp_path: Path) -> None:
    made = [build(reports.source(), CASES[case], ALGORITHM, ORDER)]
    for kind in BUILDERS:
        made.append(render(kind, reports.source(), None, CASES[case], ALGORITHM, ORDER))  # type: ignore[arg-type]
    for document in filter(None, made):
        assert wrong(tmp_path, reports.read(document.content)) == ()


def test_a_meaning_that_contradicts_its_code_is_caught(report: Path) -> None:
    """The mutation that all other validators miss."""
    ds = dcmread(report)
    for item in reports.items(ds):
        if item.ValueType == "CODE" and item.ConceptCodeSequence[0].CodeMeaning == "Left":
            item.ConceptCodeSequence[0].CodeMeaning = "Right"
    assert wrong(report, ds) == ("(7771000, SCT) means 'Left', not 'Right'",)


def test_a_code_outside_the_table_is_caught(report: Path) -> None:
    ds = dcmread(report)
    ds.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue = "109101"
    assert wrong(report, ds) == ("(109101, DCM) is not in the table of codes",)


@pytest.mark.usefixtures("no_programs")
def test_a_missing_validator_is_named_and_does_not_pass(
    report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = validate.validate([report], report)
    assert {verdict.validator: verdict.passed for verdict in verdicts} == {
        "codes": True,
        "dciodvfy": None,
        "dcentvfy": None,
        "pixelmed": None,
    }
    assert validate.main([report]) == 0
    assert "not installed: dciodvfy, pixelmed" in capsys.readouterr().err


@pytest.mark.usefixtures("no_programs")
def test_verdicts_can_be_read_by_a_program(
    report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate.main([report], as_json=True) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert (first["file"], first["validator"], first["passed"]) == (str(report), "codes", True)


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", bytes(128) + b"DICM\x02"])
def test_what_is_no_dicom_fails(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.dcm"
    path.write_bytes(content)
    assert validate.main([path]) == 1


def test_a_missing_file_fails(tmp_path: Path) -> None:
    (verdict,) = validate.validate([tmp_path / "absent.dcm"])
    assert (verdict.validator, verdict.passed) == ("read", False)


def test_a_report_of_another_study_is_not_compared(report: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.dcm"
    other.write_bytes(reports.as_bytes(reports.source(StudyInstanceUID="1.2.99")))
    verdict = validate.dcentvfy(report, other)
    assert (verdict.passed, verdict.errors) == (False, ("it is in another Study than the image",))


def test_a_source_that_is_missing_or_no_image_is_one_clear_line(
    report: Path, tmp_path: Path, no_programs: None
) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        validate.main([report], tmp_path / "nowhere.dcm")
    (tmp_path / "words.txt").write_text("no image")
    with pytest.raises(ConfigurationError, match="not a DICOM image"):
        validate.main([report], tmp_path / "words.txt")


def test_a_folder_stands_for_the_reports_in_it(
    report: Path, tmp_path: Path, no_programs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate.main([report.parent]) == 0
    assert str(report) in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"no \*\.dcm"):
        validate.main([tmp_path / "empty"])


def test_a_file_that_is_no_dicom_fails_and_the_others_are_judged(
    report: Path, tmp_path: Path, no_programs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("no report")
    assert validate.main([tmp_path / "words.txt", tmp_path / "nowhere.dcm", report]) == 1
    said = capsys.readouterr().out
    assert "it is not a DICOM Part 10 file" in said
    assert "No such file" in said
    assert "pass   codes" in said
