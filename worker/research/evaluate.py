"""Compare a describe run with labels: how often the right images are called fractured."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ConfigurationError

RESULTS = "results.jsonl"
"""The file of a describe run with one row per file."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Counts:
    """A confusion matrix; `undetermined` and `without_text` are beside it, never inside."""

    tp: int = 0
    fn: int = 0
    fp: int = 0
    tn: int = 0
    undetermined: int = 0
    without_text: int = 0

    def figures(self) -> dict[str, float | None]:
        """Return sensitivity, specificity, predictive values, F1 and balanced accuracy."""
        sensitivity = _ratio(self.tp, self.tp + self.fn)
        specificity = _ratio(self.tn, self.tn + self.fp)
        known = sensitivity is not None and specificity is not None
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": _ratio(self.tp, self.tp + self.fp),
            "npv": _ratio(self.tn, self.tn + self.fn),
            "accuracy": _ratio(self.tp + self.tn, self.tp + self.tn + self.fp + self.fn),
            "f1": _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn),
            "balanced_accuracy": (sensitivity + specificity) / 2 if known else None,  # type: ignore[operator]
        }

    def intervals(self) -> dict[str, Interval | None]:
        """Return 95 % Wilson intervals of sensitivity and specificity."""
        return {
            "sensitivity": wilson(self.tp, self.tp + self.fn),
            "specificity": wilson(self.tn, self.tn + self.fp),
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """An evaluation as a whole and by group."""

    run: str
    labelled: int
    unmatched: int
    counts: Counts
    groups: dict[str, Counts] = field(default_factory=dict)

    def as_json(self) -> str:
        """Return everything as one JSON object."""
        content: dict[str, Any] = {
            "run": self.run,
            "labelled": self.labelled,
            "unmatched": self.unmatched,
            "counts": asdict(self.counts),
            "figures": self.counts.figures(),
            "intervals_95": self.counts.intervals(),
            "groups": {
                name: {"counts": asdict(counts), "figures": counts.figures()}
                for name, counts in self.groups.items()
            },
        }
        return json.dumps(content)

    def as_text(self) -> str:
        """Return the figures as lines for people."""
        c = self.counts
        lines = [
            f"{self.labelled} labelled, {self.unmatched} of them not in the run",
            f"TP {c.tp}  FN {c.fn}  FP {c.fp}  TN {c.tn}  undetermined {c.undetermined}  "
            f"without text {c.without_text}",
        ]
        intervals = c.intervals()
        for name, value in c.figures().items():
            interval = intervals.get(name)
            within = f"  (95 % {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
            lines.append(f"{name:18} {_shown(value)}{within}")
        for group, counts in self.groups.items():
            figures = counts.figures()
            lines.append(
                f"{group:18} sensitivity {_shown(figures['sensitivity'])}  "
                f"specificity {_shown(figures['specificity'])}"
            )
        return "\n".join(lines)


def evaluate(run: Path, labels: Path) -> Figures:
    """Compare the rows of a run with a table of labels.

    Parameters
    ----------
    run : Path
        The folder that ``describe`` wrote, or its ``results.jsonl``.
    labels : Path
        CSV with ``file`` or ``sop_instance_uid``, ``fracture`` (0 or 1) and any further columns,
        of which each with at most eight values makes groups.

    Raises
    ------
    ConfigurationError
        A file is missing or not of this form.
    """
    rows = _results(run / RESULTS if run.is_dir() else run)
    table = _labels(labels)
    pairs = [(label, _found(rows, label)) for label in table]
    return Figures(
        run=str(run),
        labelled=len(table),
        unmatched=sum(row is None for _, row in pairs),
        counts=_count(pairs),
        groups=_groups(pairs),
    )


def wilson(hits: int, n: int, z: float = 1.96) -> Interval | None:
    """Return the Wilson score interval of `hits` of `n`."""
    if not n:
        return None
    p, q = hits / n, z * z / n
    middle = (p + q / 2) / (1 + q)
    half = z * math.sqrt(p * (1 - p) / n + q / (4 * n)) / (1 + q)
    return max(0.0, middle - half), min(1.0, middle + half)


def _results(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows by file, by file name and by SOP Instance UID."""
    rows: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for row in (json.loads(line) for line in lines if line):
            rows.setdefault(Path(row["file"]).name, row)
            rows[row["file"]] = row
            if row.get("sop_instance_uid"):
                rows[row["sop_instance_uid"]] = row
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigurationError(f"{path}: not the results of a describe run") from exc
    return rows


def _labels(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = [
                {key.strip().lower(): (value or "").strip() for key, value in row.items() if key}
                for row in csv.DictReader(lines)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc
    for number, row in enumerate(table, 2):
        if row.get("fracture") not in ("0", "1") or not (
            row.get("file") or row.get("sop_instance_uid")
        ):
            raise ConfigurationError(
                f"{path}, line {number}: needs file or sop_instance_uid, and fracture as 0 or 1"
            )
    return table


def _found(rows: dict[str, dict[str, Any]], label: dict[str, str]) -> dict[str, Any] | None:
    for key in (label.get("sop_instance_uid"), label.get("file"), Path(label.get("file", "")).name):
        if key and key in rows:
            return rows[key]
    return None


Pair = tuple[dict[str, str], dict[str, Any] | None]


def _count(pairs: Iterable[Pair]) -> Counts:
    names = {("1", "present"): "tp", ("1", "absent"): "fn", ("0", "present"): "fp"}
    names[("0", "absent")] = "tn"
    counts = dict.fromkeys(("tp", "fn", "fp", "tn", "undetermined", "without_text"), 0)
    for label, row in pairs:
        if row is None or "text" not in row:
            counts["without_text"] += 1
            continue
        counts[names.get((label["fracture"], row["findings"]["presence"]), "undetermined")] += 1
    return Counts(**counts)


def _groups(pairs: Sequence[Pair]) -> dict[str, Counts]:
    columns = {key for label, _ in pairs for key in label} - {
        "file",
        "sop_instance_uid",
        "fracture",
    }
    groups = {}
    for column in sorted(columns):
        values = sorted({label.get(column, "") for label, _ in pairs} - {""})
        if not 1 < len(values) <= 8:
            continue
        for value in values:
            members = [pair for pair in pairs if pair[0].get(column) == value]
            groups[f"{column}={value}"] = _count(members)
    return groups


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
