"""Compare a describe run with labels: how often, how sure, for whom, and which were wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.base.errors import ConfigurationError
from worker.research import texts
from worker.research.labels import LabelledRow, count, groups, match
from worker.research.measures import Counts, Interval, Measure, measure_counts, wilson
from worker.research.places import FractureScore, differs, score_places
from worker.research.texts import measure_texts

if TYPE_CHECKING:
    from worker.research.privacy import Privacy

FEW = 30
"""Cases below which a group's figures are marked: their intervals are wide."""

CARD = "(recall + specificity) / 2, as the card of ChexFract computes its ROC-AUC; no score exists"


@dataclass(frozen=True, slots=True)
class Part:
    """The figures of all cases, or of one group."""

    name: str
    counts: Counts
    measures: list[Measure]

    @property
    def is_small(self) -> bool:
        """Whether there are too few cases to say much."""
        return self.counts.answered < FEW


@dataclass(frozen=True, slots=True)
class Certainty:
    """Images of which a run says a fracture in the same words of certainty."""

    word: str
    right: int
    named: int

    @property
    def interval(self) -> Interval | None:
        """Wilson's."""
        return wilson(self.right, self.named)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run beside its labels, in figures."""

    run: str
    whole: Part
    parts: list[Part] = field(default_factory=list)
    fractures: list[FractureScore] = field(default_factory=list)
    texts: list[Measure] = field(default_factory=list)
    certainties: list[Certainty] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    """Kind, image and text of each, with the run's row."""
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    prevalence: float | None = None

    @property
    def misleads(self) -> bool:
        """Whether a figure should not be quoted as it stands."""
        return bool(self.problems)

    def as_json(self) -> str:
        """Return everything as one JSON object."""
        return json.dumps(
            {
                "run": self.run,
                "prevalence": self.prevalence,
                "problems": self.problems,
                "remarks": self.remarks,
                **_as_json(self.whole),
                "groups": {part.name: _as_json(part) for part in self.parts},
                "fractures": [
                    asdict(score)
                    | {"precision": score.precision, "recall": score.recall, "f1": score.f1}
                    for score in self.fractures
                ],
                "texts": {measure.name: _measure_json(measure) for measure in self.texts},
                "certainty": [
                    asdict(certainty) | {"interval_95": certainty.interval}
                    for certainty in self.certainties
                ],
                "wrong": [
                    {key: case[key] for key in ("kind", "image", "text", "labelled")}
                    for case in self.wrong
                ],
            },
            ensure_ascii=False,
        )

    def as_text(self) -> str:
        """Return one line a measure: name, value, 95 % interval."""
        c = self.whole.counts
        lines = [f"problem: {text}" for text in self.problems]
        lines += [f"note: {text}" for text in self.remarks]
        lines += [
            f"TP {c.tp}  FN {c.fn}  FP {c.fp}  TN {c.tn}  undetermined {c.undetermined}  "
            f"without text {c.without_text}",
            *_part_lines(self.whole, self.prevalence),
        ]
        for part in self.parts:
            small = ", few cases" if part.is_small else ""
            lines += ["", f"{part.name}  n = {part.counts.answered}{small}"]
            lines += [f"  {line}" for line in _part_lines(part, self.prevalence)]
        if self.fractures:
            lines += ["", "fractures as sets of places"]
            for score in self.fractures:
                lines.append(
                    f"  {score.name:18} precision {_show_figure(score.precision)}  "
                    f"recall {_show_figure(score.recall)}  f1 {_show_figure(score.f1)}  "
                    f"n = {score.labelled}"
                )
        if self.texts:
            lines += ["", "texts beside reference texts"]
            lines += [f"  {_measure_line(measure)}" for measure in self.texts]
        if self.certainties:
            lines += ["", "certainty: share of images with a fracture"]
            for sure in self.certainties:
                rate = Measure(sure.word, _part_share(sure.right, sure.named), sure.interval, None)
                lines.append(f"  {_measure_line(rate)}  n = {sure.named}")
        if self.wrong:
            lines += ["", "wrong cases"]
            lines += [f"  {_wrong_line(case)}" for case in self.wrong]
        return "\n".join(lines)


def evaluate(
    run: Path,
    labels: Path,
    *,
    by: Sequence[str] = (),
    prevalence: float | None = None,
    privacy: Privacy | None = None,
) -> Evaluation:
    """Compare the rows of a run with a table of labels.

    Parameters
    ----------
    run : Path
        The folder that ``describe`` wrote, or its ``results.jsonl``.
    labels : Path
        CSV with ``file`` or ``sop_instance_uid``, ``fracture`` (0 or 1), and where known
        ``findings``: places such as ``left rib 5; right clavicle``.
    by : sequence of str
        Columns of the labels that make groups.
    prevalence : float, optional
        Share of fractured images for which PPV and NPV hold; that of the labels when left out.
    privacy : Privacy, optional
        Whose pseudonyms a de-identified run has.

    Raises
    ------
    ConfigurationError
        A file is missing or not of this form, a column does not exist, or nothing matches.
    """
    matched = match(run, labels, privacy)
    for column in by:
        if column.lower() not in matched.columns:
            known = ", ".join(matched.columns) or "none"
            raise ConfigurationError(f"{labels}: no column {column!r} to group by; there: {known}")
    parts = [
        _measure_part(f"{column}={value}", cases, prevalence)
        for column in by
        for value, cases in groups(matched.cases, column.lower()).items()
    ]
    return Evaluation(
        run=str(run),
        whole=_measure_part("all", matched.cases, prevalence),
        parts=parts,
        fractures=score_places(matched.cases),
        texts=measure_texts(matched.cases) if texts.is_ready() else [],
        certainties=_certainty_shares(matched.cases),
        wrong=_wrong_cases(matched.cases),
        problems=matched.problems,
        remarks=matched.remarks + _missing_images(matched.cases),
        prevalence=prevalence,
    )


def of_counts(tp: int, fp: int, fn: int, tn: int, prevalence: float | None = None) -> Evaluation:
    """Return the same figures from four numbers."""
    counts = Counts(tp=tp, fn=fn, fp=fp, tn=tn)
    return Evaluation(
        "", Part("all", counts, measure_counts(counts, prevalence)), prevalence=prevalence
    )


def _measure_part(name: str, cases: Sequence[LabelledRow], prevalence: float | None) -> Part:
    counts = count(cases)
    return Part(name, counts, measure_counts(counts, prevalence))


def _as_json(part: Part) -> dict[str, Any]:
    return {
        "n": part.counts.answered,
        "few_cases": part.is_small,
        "counts": asdict(part.counts),
        "measures": {measure.name: _measure_json(measure) for measure in part.measures},
    }


def _measure_json(measure: Measure) -> dict[str, Any]:
    return {
        "value": measure.value,
        "interval_95": measure.interval,
        "wilson_95": measure.wilson,
        "bootstrap_95": measure.bootstrap,
    }


def _measure_line(measure: Measure) -> str:
    within = (
        f"95 % {measure.interval[0]:.3f} to {measure.interval[1]:.3f}" if measure.interval else "-"
    )
    return f"{measure.name:12} {_show_figure(measure.value)}  {within}"


def _part_lines(part: Part, prevalence: float | None) -> list[str]:
    lines = []
    for measure in part.measures:
        note = ""
        if measure.name == "roc_auc":
            note = f"  {CARD}"
        elif measure.name in ("ppv", "npv"):
            share = _part_share(part.counts.positives, part.counts.answered)
            note = (
                f"  at a prevalence of {_show_figure(share if prevalence is None else prevalence)}"
            )
        lines.append(f"{_measure_line(measure)}{note}")
    return lines


def _wrong_line(case: dict[str, Any]) -> str:
    truth = f"  [{case['labelled']}]" if case["labelled"] else ""
    return f"{case['kind']:15} {case['image']}: {case['text']}{truth}"


def _wrong_cases(cases: Sequence[LabelledRow]) -> list[dict[str, Any]]:
    """Return what went wrong, the worst first: missed, false alarm, undetermined, elsewhere."""
    order = ("fn", "fp", "undetermined", "tp")
    wrong = [case for case in cases if case.cell in order[:3] or differs(case)]
    return [_wrong_case(case) for case in sorted(wrong, key=lambda case: order.index(case.cell))]


def _wrong_case(case: LabelledRow) -> dict[str, Any]:
    kinds = {"fn": "missed", "fp": "false alarm", "undetermined": "undetermined"}
    kinds |= {"tp": "other places"}
    text = " ".join(str((case.row or {}).get("text", "")).split())
    return {
        "kind": kinds[case.cell],
        "image": case.name,
        "text": text,
        "labelled": case.label.get("findings", ""),
        "row": case.row,
    }


def _certainty_shares(cases: Sequence[LabelledRow]) -> list[Certainty]:
    """Return how often each degree of certainty was right: definite, possible, undetermined."""
    found: dict[str, list[int]] = {}
    for case in cases:
        row = case.row or {}
        if "text" not in row:
            continue
        word = str(row["findings"]["presence"])
        if word == "present":
            sure = {
                str(fracture.get("certainty")) for fracture in row["findings"].get("fractures", ())
            }
            word = "possible" if sure == {"possible"} else "definite"
        counted = found.setdefault(word, [0, 0])
        counted[0] += case.label["fracture"] == "1"
        counted[1] += 1
    order = ("definite", "possible", "undetermined", "absent")
    return [Certainty(word, *found[word]) for word in order if word in found]


def _missing_images(cases: Sequence[LabelledRow]) -> tuple[str, ...]:
    if texts.is_ready() or not any(case.label.get("text") for case in cases):
        return ()
    return ("reference texts are not compared: pip install 'chexfract-node[research]'",)


def _part_share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _show_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


__all__ = ["Evaluation", "evaluate", "of_counts", "wilson"]
