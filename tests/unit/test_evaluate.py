"""The research figures are those of the confusion matrix, and odd tables are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.base.errors import ConfigurationError
from worker.cli import main
from worker.research.compare import compare
from worker.research.evaluate import evaluate, of_counts
from worker.research.measures import Counts, kappa, mcnemar, measure_counts, wilson


def run_of(folder: Path, *rows: tuple[str, str | None], finished: bool = True) -> Path:
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
    (folder / "manifest.json").write_text(json.dumps({"finished": finished}))
    return folder


def written(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def values(found: Any) -> dict[str, float | None]:
    return {measure.name: measure.value for measure in found.whole.measures}


def test_each_answer_falls_into_its_cell(tmp_path: Path) -> None:
    run = run_of(
        tmp_path / "run",
        ("tp", "present"), ("fn", "absent"), ("fp", "present"), ("tn", "absent"),
        ("u", "undetermined"), ("bad", None),
    )  # fmt: skip
    labels = written(
        tmp_path,
        "file,fracture,sex\ntp,1,F\nfn,1,M\nfp,0,F\ntn,0,M\nu,1,F\nbad,0,M\nmissing,1,M\n",
    )
    found = evaluate(run, labels, by=["sex"])
    assert found.whole.counts == Counts(tp=1, fn=1, fp=1, tn=1, undetermined=1, without_text=2)
    assert found.parts[0].name == "sex=F"
    assert found.parts[0].counts == Counts(tp=1, fp=1, undetermined=1)
    assert json.loads(found.as_json())["measures"]["recall"]["value"] == 0.5
    assert [one["kind"] for one in found.wrong] == ["missed", "false alarm", "undetermined"]


# TP, FP, FN, TN of the card's four rows, and what it publishes: precision, recall, accuracy, F1
# and what it calls ROC-AUC. It truncates the first and the third, so 0.001 is allowed there.
CARD = [
    ((7, 2, 147, 266), (0.778, 0.045, 0.645, 0.086, 0.519), 0.0025),
    ((90, 42, 64, 224), (0.682, 0.584, 0.748, 0.629, 0.713), 0.0005),
    ((38, 10, 116, 256), (0.792, 0.247, 0.700, 0.376, 0.605), 0.001),
    ((75, 25, 79, 241), (0.750, 0.487, 0.752, 0.591, 0.697), 0.0005),
]


@pytest.mark.parametrize(("cells", "published", "within"), CARD)
def test_the_figures_of_the_card_follow_from_its_cells(
    cells: tuple[int, int, int, int], published: tuple[float, ...], within: float
) -> None:
    found = values(of_counts(*cells))
    names = ("precision", "recall", "accuracy", "f1", "roc_auc")
    assert [found[name] for name in names] == pytest.approx(list(published), abs=within)


def test_predictive_values_follow_the_prevalence() -> None:
    found = values(of_counts(90, 42, 64, 224, 0.02))
    assert found["ppv"] == pytest.approx(0.070, abs=0.0005)
    assert found["npv"] == pytest.approx(0.9900, abs=0.0005)
    at_that_of_labels = values(of_counts(90, 42, 64, 224))
    assert at_that_of_labels["ppv"] == pytest.approx(at_that_of_labels["precision"])


@pytest.mark.parametrize("cells", [(4, 0, 0, 2), (4, 0, 1, 2), (0, 0, 4, 20), (3, 2, 2, 0)])
def test_a_few_right_cases_leave_every_measure_in_doubt(cells: tuple[int, int, int, int]) -> None:
    """Cases drawn again from four right ones are all right: a bootstrap knows no doubt of them."""
    tp, fp, fn, tn = cells
    for measure in measure_counts(Counts(tp, fn, fp, tn)):
        if measure.value is not None and measure.interval is not None:
            low, high = measure.interval
            assert low - 1e-9 <= measure.value <= high + 1e-9
            assert high - low > 0.05


def test_one_line_a_measure_is_printed_with_value_and_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", "--counts", "90", "42", "64", "224", "--prevalence", "0.02"]) == 0
    lines = capsys.readouterr().out.splitlines()
    recall = next(line for line in lines if line.startswith("recall"))
    assert recall.split()[:6] == ["recall", "0.584", "95", "%", "0.505", "to"]
    assert all(any(line.startswith(name) for line in lines) for name in ("ppv", "npv", "mcc"))


@pytest.mark.parametrize(
    "arguments",
    [[], ["--counts", "1", "2", "3", "-4"], ["run"], ["run", "--labels", "x", "--counts", *"1234"],
     ["--counts", *"1234", "--prevalence", "2"]],
)  # fmt: skip
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    assert main(["evaluate", *arguments]) == 2


def test_labels_by_sop_instance_uid_match(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", ("a", "present"))
    labels = written(tmp_path, "sop_instance_uid,fracture\n1.2.0,1\n")
    assert evaluate(run, labels).whole.counts == Counts(tp=1)


def test_a_file_name_that_two_folders_have_matches_neither(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", ("x/a", "present"), ("y/a", "absent"), ("b", "absent"))
    labels = written(tmp_path, "file,fracture\na,1\nb,0\n")
    assert evaluate(run, labels).whole.counts == Counts(tn=1, without_text=1)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file\na\n", "has the columns 'file'; needs"),
        ("fracture\n1\n", "has the columns 'fracture'; needs"),
        ("file,fracture\na,yes\n", "line 2"),
        ("file,fracture\n,1\n", "line 2"),
    ],
)
def test_a_table_without_its_columns_names_what_it_has(
    tmp_path: Path, table: str, said: str
) -> None:
    run = run_of(tmp_path / "run", ("a", "present"))
    with pytest.raises(ConfigurationError, match=said):
        evaluate(run, written(tmp_path, table))


def test_what_misleads_is_told_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is not whole, or labels of other images, give figures that nobody may quote."""
    labels = written(tmp_path, "file,fracture\na,1\nb,0\n")
    for number, (rows, finished, says) in enumerate(
        [
            ((("a", "present"), ("b", "absent")), False, "not finished"),
            ((("a", "present"),), True, "of no image of the run"),
            ((("a", "present"), ("b", None)), True, "without a text"),
        ]
    ):
        run = run_of(tmp_path / f"run{number}", *rows, finished=finished)
        assert main(["evaluate", str(run), "--labels", str(labels)]) == 1
        assert says in capsys.readouterr().out


def test_labels_that_match_nothing_or_contradict_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", ("a", "present"))
    with pytest.raises(ConfigurationError, match="no label is of an image"):
        evaluate(run, written(tmp_path, "file,fracture\nother,1\n"))
    with pytest.raises(ConfigurationError, match="two different labels"):
        evaluate(run, written(tmp_path, "file,fracture\na,1\na,0\n"))
    with pytest.raises(ConfigurationError, match="no column 'age' to group by"):
        evaluate(run, written(tmp_path, "file,fracture,sex\na,1,F\n"), by=["age"])


def test_double_labels_count_once(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", ("a", "present"))
    found = evaluate(run, written(tmp_path, "file,fracture\na,1\na,1\n"))
    assert found.whole.counts == Counts(tp=1)
    assert "1 label stands twice" in found.remarks[0]


def test_fractures_are_compared_as_sets_of_places(tmp_path: Path) -> None:
    """A bone that only the label names counts as missed, one that only the model names as wrong."""
    run = run_of(tmp_path / "run", ("a", "present"), ("b", "absent"))
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    rib = {"bone": "rib", "number": "5", "side": "left"}
    rows[0]["findings"]["fractures"] = [rib, rib | {"number": "7"}]
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = written(tmp_path, "file,fracture,findings\na,1,left rib 5; right clavicle\nb,0,\n")
    scores = {fracture.name: fracture for fracture in evaluate(run, labels).fractures}
    assert (scores["all"].right, scores["all"].named, scores["all"].labelled) == (1, 2, 2)
    assert scores["bone=clavicle"].labelled == 1
    assert scores["side=left"].named == 2


def test_mcnemar_is_exact_for_few_cases_and_close_for_many() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == pytest.approx(0.0625)
    assert mcnemar(10, 2) == pytest.approx(0.03857, abs=1e-5)
    assert mcnemar(540, 459) == pytest.approx(mcnemar(541, 460), rel=0.2)


def test_kappa_is_agreement_beyond_chance() -> None:
    pairs = [("a", "a")] * 20 + [("a", "b")] * 5 + [("b", "a")] * 10 + [("b", "b")] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([("a", "a")]) is None


def test_two_runs_are_compared_by_the_same_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"i{number:03}" for number in range(120)]
    truth = {name: number % 2 for number, name in enumerate(names)}
    good = {name: "present" if truth[name] else "absent" for name in names}
    weak = dict(good)
    for name in names[:20]:
        weak[name] = "absent" if good[name] == "present" else "present"
    a, b = run_of(tmp_path / "a", *good.items()), run_of(tmp_path / "b", *weak.items())
    labels = written(
        tmp_path, "file,fracture\n" + "".join(f"{name},{truth[name]}\n" for name in names)
    )
    found = compare(a, b, labels)
    assert (found.only_a, found.only_b, len(found.flipped)) == (20, 0, 20)
    assert found.p == pytest.approx(2 / 2**20)
    accuracy = next(difference for difference in found.differences if difference.name == "accuracy")
    assert accuracy.value == pytest.approx(20 / 120)
    assert accuracy.interval is not None
    assert accuracy.interval[0] > 0
    assert compare(a, a, labels).p == 1
    assert main(["compare", str(a), str(b), "--labels", str(labels)]) == 0
    out = capsys.readouterr().out
    assert "McNemar p = 1.907e-06" in out
    assert "bootstrap recall" in out
    assert compare(a, b).kappa == pytest.approx(1 - 40 / 120)


def test_runs_without_an_image_in_common_are_refused(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", ("x", "absent")), run_of(tmp_path / "b", ("y", "absent"))
    with pytest.raises(ConfigurationError, match="no described image in common"):
        compare(a, b)


@given(st.tuples(*[st.integers(0, 40)] * 4))
def test_every_interval_holds_its_value(cells: tuple[int, int, int, int]) -> None:
    for measure in measure_counts(Counts(*cells)):
        if measure.value is not None and measure.wilson is not None:
            assert measure.wilson[0] - 1e-9 <= measure.value <= measure.wilson[1] + 1e-9
        if measure.value is not None and measure.name != "mcc":
            assert 0 <= measure.value <= 1


def test_a_bootstrap_gives_the_same_intervals_again() -> None:
    assert measure_counts(Counts(9, 5, 4, 20)) == measure_counts(Counts(9, 5, 4, 20))


@given(n=st.integers(1, 1000), part=st.floats(0, 1))
def test_an_interval_holds_its_rate(n: int, part: float) -> None:
    hits = round(n * part)
    interval = wilson(hits, n)
    assert interval is not None
    assert 0 <= interval[0] <= hits / n + 1e-9
    assert hits / n - 1e-9 <= interval[1] <= 1
