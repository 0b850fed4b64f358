"""Labels are read as people have them, and readers' judgements are labels too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.base.errors import ConfigurationError
from worker.research.compare import compare
from worker.research.evaluate import evaluate
from worker.research.labels import LabelledRow, match, read_labels
from worker.research.measures import Counts
from worker.research.places import FracturePlace, labelled, score_places
from worker.research.sources import walk
from worker.research.tables import read_table
from worker.research.texts import measure_texts, rouge_l, template


def run_of(folder: Path, rows: list[dict[str, Any]], finished: bool = True) -> Path:
    folder.mkdir()
    lines = [json.dumps({"file": f"in/{i}.dcm", "sop_instance_uid": f"1.2.{i}", **row}) + "\n"
             for i, row in enumerate(rows)]  # fmt: skip
    (folder / "results.jsonl").write_text("".join(lines))
    (folder / "manifest.json").write_text(json.dumps({"finished": finished}))
    return folder


def says(presence: str, text: str = "t", *fractures: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "findings": {"presence": presence, "fractures": list(fractures)}}


def rib(number: int, side: str = "left", **more: Any) -> dict[str, Any]:
    return {"bone": "rib", "number": str(number), "side": side, **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(tmp_path / "run", [says("present", "t", rib(5)), says("absent")])


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbffile,fracture\r\n0.dcm,1\r\n1.dcm,0\r\n",
        b"file;fracture\r\n0.dcm;1\r\n1.dcm;0\r\n",
        b"sep=;\r\nFile;Fracture\r\n\"0.dcm\";\"1\"\r\n1.dcm;0\r\n",
        b"SOPInstanceUID\tFracture\n1.2.0\t1\n1.2.1\t0\n",
        b'SOP Instance UID,fracture\n"=""1.2.0""",1.0\n\'1.2.1,0.0\n',
        "file,fracture,note\n0.dcm,1,Rückseite\n1.dcm,0,\n".encode("cp1252"),
        "file,fracture\n0.dcm,1\n1.dcm,0\n".encode("utf-16"),
        b"file,fracture\n 0.dcm ,1\n\n,\nIN\\1.DCM,0\n",
        b"\n\nfile,fracture\n0,1\n1,0\n",
        b'{"file": "0.dcm", "fracture": 1}\n{"file": "1.dcm", "fracture": false}\n',
    ],
)  # fmt: skip
def test_labels_are_read_in_every_form_that_programs_write(
    tmp_path: Path, run: Path, content: bytes
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_bytes(content)
    assert evaluate(run, labels).whole.counts == Counts(tp=1, tn=1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no label in it"),
        (b"file,fracture\n", "no label in it"),
        (b"file,file,fracture\n1,2,1\n", "two columns are called file"),
        (b'{"file": 1}\n[]\n', "not a JSON object"),
        (b"{\n", "not JSON"),
        (b"file,fracture\n0.dcm,2\n", "line 2: fracture of 0.dcm is '2'; write 1 where"),
        (b"file,fracture\n0.dcm,yes\n", "fracture of 0.dcm is 'yes'; write 1 where there is one"),
        (b"file,fracture\n0.dcm,\n", "fracture of 0.dcm is empty; write 1 where"),
        (b"file,fracture\n,1\n", "line 2: names no image; write its file or"),
        (b"file,fracture\na,1\na,0\n", "line 3: a has two different labels; keep one"),
        (b"sop_instance_uid,judgement\n1.2.0,\n", "no reader has judged"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(
    tmp_path: Path, content: bytes, why: str
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_bytes(content)
    with pytest.raises(ConfigurationError, match=why):
        read_labels(labels)


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        rows = read_table(path)
    except ConfigurationError:
        return
    assert all(isinstance(value, str) for row in rows for value in row.values())


def test_one_image_under_two_names_counts_once_or_is_a_contradiction(
    tmp_path: Path, run: Path
) -> None:
    """One row names it by its file, the other by its UID."""
    labels = tmp_path / "labels.csv"
    labels.write_text("file,sop_instance_uid,fracture\n0.dcm,,1\n,1.2.0,1\n1.dcm,,0\n")
    found = match(run, labels)
    assert len(found.cases) == 2
    assert "1 label stands twice and counts once" in found.remarks
    labels.write_text("file,sop_instance_uid,fracture\n0.dcm,,1\n,1.2.0,0\n")
    with pytest.raises(ConfigurationError, match="one image with two different labels"):
        match(run, labels)


def test_an_empty_run_is_said_to_be_one(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file,fracture\n0.dcm,1\n")
    with pytest.raises(ConfigurationError, match="no row in it"):
        evaluate(run_of(tmp_path / "empty", []), labels)


def test_one_class_alone_is_said_and_gives_no_area(tmp_path: Path, run: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file,fracture\n0.dcm,1\n")
    found = evaluate(run, labels)
    values = {measure.name: measure.value for measure in found.whole.measures}
    assert values["recall"] == 1.0
    assert values["specificity"] is None
    assert values["roc_auc"] is None
    assert any("all labels say a fracture" in text for text in found.remarks)
    json.loads(found.as_json())


def test_runs_of_different_images_are_compared_where_both_have_the_label(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", [says("present"), says("absent"), says("absent")])
    b = run_of(tmp_path / "b", [says("absent"), says("absent")])
    labels = tmp_path / "labels.csv"
    labels.write_text("file,fracture\n0.dcm,1\n1.dcm,0\n2.dcm,0\n")
    found = compare(a, b, labels)
    assert (found.images, found.only_a, found.only_b) == (2, 1, 0)
    assert found.misleads


@pytest.mark.parametrize(
    ("written", "places"),
    [
        ("left rib 5; right clavicle", {("left", "rib", "5"), ("right", "clavicle", "")}),
        ("5th left rib", {("left", "rib", "5")}),
        ("old ribs 5 l", {("left", "rib", "5")}),
        ("bilateral rib 7", {("left", "rib", "7"), ("right", "rib", "7")}),
        ("T9 | sternum", {("", "vertebra", "t9"), ("", "sternum", "")}),
        ("none", set()),
        ("", set()),
    ],
)
def test_places_of_labels_are_sets(written: str, places: set[tuple[str, str, str]]) -> None:
    assert set(labelled(written).ages) == {FracturePlace(*place) for place in places}


def test_fractures_are_scored_by_rib_side_bone_and_age() -> None:
    row = {"file": "a", **says("present", "t", rib(5, age="old"), rib(6), rib(7, "right"))}
    case = LabelledRow({"fracture": "1", "findings": "old left rib 5; acute left rib 8"}, row)
    scores = {
        score.name: (score.right, score.named, score.labelled) for score in score_places([case])
    }
    assert scores["all"] == (1, 3, 2)
    assert scores["side=left"] == (1, 2, 2)
    assert scores["side=right"] == (0, 1, 0)
    assert scores["rib=left 5"] == (1, 1, 1)
    assert scores["age=old"] == (1, 1, 1)
    assert scores["age=acute"] == (0, 0, 1)
    assert next(iter(scores)) == "all"


EXPORT = [
    {"sop_instance_uid": "1.2.0", "judgement": "agree", "presence": "present", "text": "t",
     "fractures": [rib(5)], "judged_at": "2026-01-01"},
    {"sop_instance_uid": "1.2.1", "judgement": "disagree", "presence": "present",
     "fractures": [rib(5)], "corrected_text": "No fracture.", "judged_at": "2026-01-01"},
    {"sop_instance_uid": "1.2.2", "judgement": "disagree", "presence": "present",
     "fractures": [rib(5)], "judged_findings": [{"finding": "left rib 5", "verdict": "disagree"}]},
    {"sop_instance_uid": "1.2.3", "judgement": "disagree", "presence": "absent", "fractures": []},
    {"sop_instance_uid": "1.2.4", "judgement": None, "presence": "absent", "fractures": []},
    {"sop_instance_uid": "1.2.0", "judgement": "disagree", "presence": "present",
     "corrected_text": "Old fracture of the left 6th rib.", "judged_at": "2026-01-02"},
]  # fmt: skip


def test_readers_judgements_are_labels_and_the_last_one_counts(tmp_path: Path) -> None:
    export = tmp_path / "export.jsonl"
    export.write_text("".join(json.dumps(row) + "\n" for row in EXPORT))
    labels = {row["sop_instance_uid"]: row for row in read_labels(export)}
    assert {uid: row["fracture"] for uid, row in labels.items()} == {
        "1.2.0": "1", "1.2.1": "0", "1.2.2": "0",
    }  # fmt: skip
    assert labels["1.2.0"]["findings"] == "old left rib 6"


@pytest.mark.parametrize(
    # As the package rouge-score 0.1.2 measures them.
    ("text", "reference", "value"),
    [
        ("Fracture of the left rib 5.", "Fracture of the right rib 5.", 0.8333333),
        ("old fracture left 6th rib and clavicle", "Fracture of left clavicle; 6th rib old", 4 / 7),
        ("No fracture.", "no fracture", 1.0),
        ("x", "y", 0.0),
        ("", "y", 0.0),
    ],
)
def test_rouge_l_is_that_of_the_package_of_its_authors(
    text: str, reference: str, value: float
) -> None:
    assert rouge_l(text, reference) == pytest.approx(value)


def test_texts_are_measured_with_intervals_and_a_template_is_a_set_of_sentences() -> None:
    pairs = [("Fracture of the left 5th rib.", "fracture of the left 5th  rib"), ("No.", "Yes.")]
    cases = [
        LabelledRow({"fracture": "1", "text": reference}, {"file": "a", **says("present", text)})
        for text, reference in pairs
    ]
    found = {measure.name: measure for measure in measure_texts(cases)}
    assert found["exact"].value == 0.5
    assert found["rouge_l"].value == 0.5
    assert 0 < (found["bleu_4"].value or 0) < 1
    assert all(one.interval for one in found.values())
    assert template("B. A.") == template("a; b")
    assert measure_texts([LabelledRow({"fracture": "1"}, None)]) == []


def test_what_lies_beside_images_is_listed_and_an_empty_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_bytes(b"broken")
    (tmp_path / "IM0001").write_bytes(b"broken")
    (tmp_path / "notes.foo").write_text("x")
    (tmp_path / "odd.foo2").write_bytes(bytes(128) + b"DICM")
    found = walk([tmp_path])
    assert [Path(source.name).name for source in found.sources] == [
        "IM0001",
        "odd.foo2",
        "scan.dcm",
    ]
    assert [Path(name).name for name in found.companions] == ["notes.foo"]
    (tmp_path / "below").mkdir()
    with pytest.raises(ConfigurationError, match="no image in it"):
        walk([tmp_path / "below"])
    assert len(walk([tmp_path / "notes.foo"]).sources) == 1
