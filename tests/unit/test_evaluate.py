"""The research figures are those of the confusion matrix, and odd tables are refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.base.errors import ConfigurationError
from worker.research.evaluate import Counts, evaluate, wilson


def run_of(folder: Path, *rows: tuple[str, str | None]) -> Path:
    folder.mkdir()
    lines = []
    for i, (file, presence) in enumerate(rows):
        row: dict[str, object] = {"file": f"in/{file}", "sop_instance_uid": f"1.2.{i}"}
        if presence:
            row |= {"text": "t", "findings": {"presence": presence, "fractures": []}}
        else:
            row |= {"reason": "not-dicom: x"}
        lines.append(json.dumps(row))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_each_answer_falls_into_its_cell(tmp_path: Path) -> None:
    run = run_of(
        tmp_path / "run",
        ("tp", "present"), ("fn", "absent"), ("fp", "present"), ("tn", "absent"),
        ("u", "undetermined"), ("bad", None),
    )  # fmt: skip
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "file,fracture,sex\ntp,1,F\nfn,1,M\nfp,0,F\ntn,0,M\nu,1,F\nbad,0,M\nmissing,1,M\n"
    )
    figures = evaluate(run, labels)
    assert figures.counts == Counts(tp=1, fn=1, fp=1, tn=1, undetermined=1, without_text=2)
    assert figures.unmatched == 1
    assert figures.groups["sex=F"] == Counts(tp=1, fp=1, undetermined=1)
    assert json.loads(figures.as_json())["figures"]["sensitivity"] == 0.5


def test_labels_by_sop_instance_uid_match(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", ("a", "present"))
    labels = tmp_path / "labels.csv"
    labels.write_text("sop_instance_uid,fracture\n1.2.0,1\n")
    assert evaluate(run, labels).counts == Counts(tp=1)


@pytest.mark.parametrize("table", ["file\na\n", "file,fracture\na,yes\n", "fracture\n1\n"])
def test_a_table_without_its_columns_names_the_line(tmp_path: Path, table: str) -> None:
    run = run_of(tmp_path / "run", ("a", "present"))
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ConfigurationError, match="line 2"):
        evaluate(run, tmp_path / "labels.csv")


def test_published_figures_follow_from_their_confusion_matrix() -> None:
    figures = Counts(tp=90, fn=64, fp=42, tn=224).figures()
    assert figures["f1"] == pytest.approx(0.629, abs=0.001)
    assert figures["balanced_accuracy"] == pytest.approx(0.713, abs=0.001)


@given(n=st.integers(1, 1000), part=st.floats(0, 1))
def test_an_interval_holds_its_rate(n: int, part: float) -> None:
    hits = round(n * part)
    interval = wilson(hits, n)
    assert interval is not None
    assert 0 <= interval[0] <= hits / n + 1e-9
    assert hits / n - 1e-9 <= interval[1] <= 1
