"""Compare two runs over the same images: who is better, how surely, and which cases flipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.plurals import counted
from worker.research.labels import Row, count, match, read_rows
from worker.research.measures import (
    Difference,
    Interval,
    differences,
    kappa,
    mcnemar,
    measure_counts,
)

if TYPE_CHECKING:
    from worker.research.privacy import Privacy

ANSWERS = ("tp", "fn", "fp", "tn")


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs side by side."""

    run_a: str
    run_b: str
    images: int
    """That both have a text of."""
    agreement: float | None
    """Share of images of which both say the same."""
    kappa: float | None
    flipped: list[dict[str, str]] = field(default_factory=list)
    p: float | None = None
    """McNemar's, where there are labels."""
    only_a: int = 0
    only_b: int = 0
    differences: list[Difference] = field(default_factory=list)
    of_a: dict[str, float | None] = field(default_factory=dict)
    of_b: dict[str, float | None] = field(default_factory=dict)
    intervals_a: dict[str, Interval | None] = field(default_factory=dict)
    intervals_b: dict[str, Interval | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def misleads(self) -> bool:
        """Whether a figure should not be quoted as it stands."""
        return bool(self.problems)

    def as_json(self) -> str:
        """Return everything as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def as_text(self) -> str:
        """Return one line a figure."""
        lines = [f"problem: {text}" for text in self.problems]
        lines += [
            f"A {self.run_a}",
            f"B {self.run_b}",
            f"images {self.images}",
            f"agreement {_show_figure(self.agreement)}",
            f"kappa {_show_figure(self.kappa)}",
        ]
        if self.p is not None:
            lines += [f"only A right {self.only_a}", f"only B right {self.only_b}"]
            lines += [f"McNemar p = {self.p:.4g}"]
            for difference in self.differences:
                within = (
                    f"{difference.interval[0]:+.3f} to {difference.interval[1]:+.3f}"
                    if difference.interval
                    else "-"
                )
                value = "-" if difference.value is None else f"{difference.value:+.3f}"
                a, b = (
                    _show_figure(self.of_a.get(difference.name)),
                    _show_figure(self.of_b.get(difference.name)),
                )
                lines.append(
                    f"bootstrap {difference.name:12} A {a}  B {b}  A - B {value}  95 % {within}"
                )
        if self.flipped:
            lines += ["", "flipped cases"]
            lines += [
                f"  {case['image']}: A {case['a']}, B {case['b']}{_case_label(case)}"
                for case in self.flipped
            ]
        return "\n".join(lines)


def compare(
    run_a: Path, run_b: Path, labels: Path | None = None, privacy: Privacy | None = None
) -> RunComparison:
    """Compare two runs over the same images.

    Parameters
    ----------
    run_a, run_b : Path
        Folders that ``describe`` wrote.
    labels : Path, optional
        As for ``evaluate``; without them only agreement is measured.
    privacy : Privacy, optional
        Whose pseudonyms de-identified runs have.

    Raises
    ------
    ConfigurationError
        A file is missing or not of this form, or the runs have no image in common.
    """
    a, b = (_by_image(read_rows(run)) for run in (run_a, run_b))
    both = [image for image in a if image in b]
    if not both:
        raise ConfigurationError(f"{run_a} and {run_b} have no described image in common")
    words = [(_row_presence(a[image]), _row_presence(b[image])) for image in both]
    flipped = [
        {"image": image, "a": first, "b": second}
        for image, (first, second) in zip(both, words, strict=True)
        if first != second
    ]
    agreement = sum(first == second for first, second in words) / len(words)
    problems = []
    if alone := len(a) + len(b) - 2 * len(both):
        problems.append(
            f"{counted(alone, 'image is', 'images are')} described in one of the runs only"
        )
    found = RunComparison(str(run_a), str(run_b), len(both), agreement, kappa(words), flipped)
    if labels is None:
        return _with_changes(found, problems=tuple(problems))
    return _labelled_pairs(found, (run_a, run_b), labels, problems, privacy)


def _labelled_pairs(
    found: RunComparison,
    runs: tuple[Path, Path],
    labels: Path,
    problems: list[str],
    privacy: Privacy | None,
) -> RunComparison:
    of_a, of_b = (match(run, labels, privacy) for run in runs)
    for matched in (of_a, of_b):
        problems += [f"{matched.run}: {text}" for text in matched.problems]
    # One run may lack what two labels name; the labels in both are what is compared.
    others = {case.name: case for case in of_b.cases}
    pairs = [(case, others[case.name]) for case in of_a.cases if case.name in others]
    truth = {case.name: case.label["fracture"] for case in of_a.cases}
    truth |= {c.row["file"]: c.label["fracture"] for c in of_a.cases if c.row is not None}
    flipped = [case | {"label": truth.get(case["image"], "")} for case in found.flipped]
    right = ("tp", "tn")
    answered = [(x.cell, y.cell) for x, y in pairs if x.cell in ANSWERS and y.cell in ANSWERS]
    # One that says nothing certain is not right: it counts against its run.
    judged = [(x.cell in right, y.cell in right) for x, y in pairs if x.row and y.row]
    only_a, only_b = judged.count((True, False)), judged.count((False, True))
    figures = [measure_counts(count(matched.cases)) for matched in (of_a, of_b)]
    values = [{measure.name: measure.value for measure in measures} for measures in figures]
    within = [{measure.name: measure.interval for measure in measures} for measures in figures]
    return _with_changes(
        found,
        flipped=flipped,
        p=mcnemar(only_a, only_b),
        only_a=only_a,
        only_b=only_b,
        differences=list(differences(*zip(*answered, strict=True))) if answered else [],
        of_a=values[0],
        of_b=values[1],
        intervals_a=within[0],
        intervals_b=within[1],
        problems=tuple(dict.fromkeys(problems)),
    )


def _with_changes(found: RunComparison, **changes: object) -> RunComparison:
    from dataclasses import replace

    return replace(found, **changes)  # type: ignore[arg-type]


def _by_image(rows: Sequence[Row]) -> dict[str, Row]:
    return {str(row["file"]): row for row in rows if "text" in row}


def _row_presence(row: Row) -> str:
    return str(row["findings"]["presence"])


def _case_label(case: dict[str, str]) -> str:
    return f", label {case['label']}" if case.get("label") else ""


def _show_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
