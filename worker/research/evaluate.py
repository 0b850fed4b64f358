"""Compare a describe run with labels: how often, how sure, for whom, and which were wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ConfigurationError
from worker.research.labels import Case, Matched, count, groups, match
from worker.research.measures import Counts, Measure, measure, wilson

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
class FractureScore:
    """Fractures told beside fractures labelled, as sets of places."""

    name: str
    right: int
    told: int
    labelled: int

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        whole = self.told + self.labelled
        return 2 * self.right / whole if whole else None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run beside its labels, in figures."""

    run: str
    whole: Part
    parts: list[Part] = field(default_factory=list)
    fractures: list[FractureScore] = field(default_factory=list)
    wrong: list[dict[str, str]] = field(default_factory=list)
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
                "fractures": [asdict(one) | {"f1": one.f1} for one in self.fractures],
                "wrong": self.wrong,
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
            *_lines(self.whole, self.prevalence),
        ]
        for part in self.parts:
            small = ", few cases" if part.is_small else ""
            lines += ["", f"{part.name}  n = {part.counts.answered}{small}"]
            lines += [f"  {line}" for line in _lines(part, self.prevalence)]
        if self.fractures:
            lines += ["", "fractures as sets of places"]
            for one in self.fractures:
                lines.append(
                    f"  {one.name:18} precision {_shown(_ratio(one.right, one.told))}  "
                    f"recall {_shown(_ratio(one.right, one.labelled))}  f1 {_shown(one.f1)}  "
                    f"n = {one.labelled}"
                )
        if self.wrong:
            lines += ["", "wrong cases"]
            lines += [f"  {one['kind']:15} {one['image']}: {one['text']}" for one in self.wrong]
        return "\n".join(lines)


def evaluate(
    run: Path, labels: Path, *, by: Sequence[str] = (), prevalence: float | None = None
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

    Raises
    ------
    ConfigurationError
        A file is missing or not of this form, a column does not exist, or nothing matches.
    """
    matched = match(run, labels)
    for column in by:
        if column.lower() not in matched.columns:
            known = ", ".join(matched.columns) or "none"
            raise ConfigurationError(f"{labels}: no column {column!r} to group by; there: {known}")
    parts = [
        _part(f"{column}={value}", cases, prevalence)
        for column in by
        for value, cases in groups(matched.cases, column.lower()).items()
    ]
    return Evaluation(
        run=str(run),
        whole=_part("all", matched.cases, prevalence),
        parts=parts,
        fractures=_fractures(matched),
        wrong=[_wrong(case) for case in matched.cases if case.cell in ("fn", "fp", "undetermined")],
        problems=matched.problems,
        remarks=matched.remarks,
        prevalence=prevalence,
    )


def of_counts(tp: int, fp: int, fn: int, tn: int, prevalence: float | None = None) -> Evaluation:
    """Return the same figures from four numbers."""
    counts = Counts(tp=tp, fn=fn, fp=fp, tn=tn)
    return Evaluation("", Part("all", counts, measure(counts, prevalence)), prevalence=prevalence)


def _part(name: str, cases: Sequence[Case], prevalence: float | None) -> Part:
    counts = count(cases)
    return Part(name, counts, measure(counts, prevalence))


def _as_json(part: Part) -> dict[str, Any]:
    return {
        "n": part.counts.answered,
        "few_cases": part.is_small,
        "counts": asdict(part.counts),
        "measures": {
            one.name: {
                "value": one.value,
                "interval_95": one.interval,
                "wilson_95": one.wilson,
                "bootstrap_95": one.bootstrap,
            }
            for one in part.measures
        },
    }


def _lines(part: Part, prevalence: float | None) -> list[str]:
    lines = []
    for one in part.measures:
        within = f"95 % {one.interval[0]:.3f} to {one.interval[1]:.3f}" if one.interval else "-"
        note = ""
        if one.name == "roc_auc":
            note = f"  {CARD}"
        elif one.name in ("ppv", "npv"):
            share = _ratio(part.counts.positives, part.counts.answered)
            note = f"  at a prevalence of {_shown(share if prevalence is None else prevalence)}"
        lines.append(f"{one.name:12} {_shown(one.value)}  {within}{note}")
    return lines


def _wrong(case: Case) -> dict[str, str]:
    kinds = {"fn": "missed", "fp": "false alarm", "undetermined": "undetermined"}
    text = " ".join(str((case.row or {}).get("text", "")).split())
    return {"kind": kinds[case.cell], "image": case.name, "text": text}


def _fractures(matched: Matched) -> list[FractureScore]:
    """Compare sets of places, where the labels have them: all, by bone and by side."""
    cases = [case for case in matched.cases if "findings" in case.label and case.row is not None]
    cases = [case for case in cases if "text" in (case.row or {})]
    if not any(case.label["findings"] for case in cases):
        return []
    scores: dict[str, list[int]] = {}
    for case in cases:
        told = {_place(one) for one in (case.row or {})["findings"].get("fractures", ())}
        labelled = {
            " ".join(one.split()).lower()
            for one in case.label["findings"].split(";")
            if one.strip()
        }
        for place in told | labelled:
            for name in ("all", *_kinds(place)):
                score = scores.setdefault(name, [0, 0, 0])
                score[0] += place in told and place in labelled
                score[1] += place in told
                score[2] += place in labelled
    order = sorted(scores, key=lambda name: (name != "all", name))
    return [FractureScore(name, *scores[name]) for name in order]


def _place(fracture: dict[str, Any]) -> str:
    """Return a fracture of a row as labels name it: ``left rib 5``."""
    words = (fracture.get("side"), fracture.get("bone"), fracture.get("number"))
    return " ".join(str(word) for word in words if word not in (None, "")).lower()


def _kinds(place: str) -> list[str]:
    words = place.split()
    sides = [word for word in words if word in ("left", "right", "bilateral")]
    bones = [word for word in words if word not in sides and not word.isdigit()]
    return [*(f"side={side}" for side in sides), *(["bone=" + " ".join(bones)] if bones else [])]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


__all__ = ["Evaluation", "evaluate", "of_counts", "wilson"]
