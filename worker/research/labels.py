"""The rows of a run beside a table of labels: which belong together, and what does not."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ConfigurationError
from worker.research.measures import Counts

RESULTS = "results.jsonl"
"""The file of a describe run with one row per file."""

MANIFEST = "manifest.json"

KEYS = ("file", "sop_instance_uid", "fracture", "text", "findings")
"""Columns of labels with a meaning of their own; all others may name groups."""

_CELLS = {("1", "present"): "tp", ("1", "absent"): "fn", ("0", "present"): "fp"}
_CELLS |= {("0", "absent"): "tn"}

Row = dict[str, Any]
Label = dict[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """A label and the row that answers it."""

    label: Label
    row: Row | None

    @property
    def cell(self) -> str:
        """Place in the confusion matrix, ``undetermined`` or ``without_text``."""
        if self.row is None or "text" not in self.row:
            return "without_text"
        presence = str(self.row["findings"]["presence"])
        return _CELLS.get((self.label["fracture"], presence), "undetermined")

    @property
    def name(self) -> str:
        """What people find the image by."""
        return self.label.get("file") or self.label.get("sop_instance_uid") or ""


@dataclass(frozen=True, slots=True)
class Matched:
    """A run beside its labels."""

    run: str
    cases: tuple[Case, ...]
    problems: tuple[str, ...] = ()
    """What makes the figures mislead."""
    remarks: tuple[str, ...] = ()
    """What is worth knowing."""
    columns: tuple[str, ...] = field(default=())
    """Of the labels, beside `KEYS`."""


def read_rows(run: Path) -> list[Row]:
    """Return the rows of a run, from its folder or its ``results.jsonl``.

    Raises
    ------
    ConfigurationError
        The file is missing or not of a describe run.
    """
    path = run / RESULTS if run.is_dir() else run
    rows = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line:
                row = json.loads(line)
                if "file" not in row or ("text" in row and "presence" not in row["findings"]):
                    raise ConfigurationError(f"{path}: not the results of a describe run")
                rows.append(row)
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigurationError(f"{path}: not the results of a describe run") from exc
    return rows


def is_finished(run: Path) -> bool:
    """Return whether a run has come to its end; a file by itself says nothing of that."""
    manifest = run / MANIFEST
    if not run.is_dir() or not manifest.exists():
        return True
    try:
        return bool(json.loads(manifest.read_text(encoding="utf-8")).get("finished"))
    except (OSError, ValueError):
        return False


def read_labels(path: Path) -> list[Label]:
    """Return the rows of a CSV with ``file`` or ``sop_instance_uid`` and ``fracture`` (0 or 1).

    Raises
    ------
    ConfigurationError
        It cannot be read, a column is missing, or one image has two different labels.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = [
                {key.strip().lower(): (value or "").strip() for key, value in row.items() if key}
                for row in csv.DictReader(lines)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ConfigurationError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc
    seen: dict[str, str] = {}
    for number, row in enumerate(table, 2):
        name = row.get("sop_instance_uid") or row.get("file")
        if row.get("fracture") not in ("0", "1") or not name:
            raise ConfigurationError(
                f"{path}, line {number}: needs file or sop_instance_uid, and fracture as 0 or 1"
            )
        if seen.setdefault(name, row["fracture"]) != row["fracture"]:
            raise ConfigurationError(f"{path}, line {number}: {name} has two different labels")
    return table


def match(run: Path, labels: Path) -> Matched:
    """Put each label beside its row.

    Raises
    ------
    ConfigurationError
        See `read_rows` and `read_labels`, or no label is of any image of the run.
    """
    rows, table = read_rows(run), read_labels(labels)
    places = _places(rows)
    names = Counter(label.get("sop_instance_uid") or label.get("file") for label in table)
    double = sum(count - 1 for count in names.values())
    unique = list(
        {label.get("sop_instance_uid") or label.get("file"): label for label in table}.values()
    )
    cases = tuple(Case(label, _found(places, label)) for label in unique)
    unmatched = sum(case.row is None for case in cases)
    if unmatched == len(cases):
        raise ConfigurationError(f"{labels}: no label is of an image of {run}; see file and UIDs")
    unanswered = sum(case.row is not None and case.cell == "without_text" for case in cases)
    undetermined = sum(case.cell == "undetermined" for case in cases)
    problems, remarks = [], []
    if not is_finished(run):
        problems.append(f"{run} is not finished: run describe again, it goes on")
    if unmatched:
        problems.append(f"{unmatched} of {len(cases)} labels are of no image of the run")
    if unanswered:
        problems.append(f"{unanswered} of {len(cases)} labelled images have no text")
    if double:
        remarks.append(f"{double} labels stand twice and count once")
    if undetermined:
        remarks.append(f"{undetermined} texts are undetermined and stand beside the matrix")
    if (more := len({row["file"] for row in rows}) - len(cases) + unmatched) > 0:
        remarks.append(f"{more} images of the run have no label")
    columns = sorted({key for label in table for key in label} - set(KEYS))
    return Matched(str(run), cases, tuple(problems), tuple(remarks), tuple(columns))


def count(cases: Sequence[Case]) -> Counts:
    """Return the confusion matrix of some cases."""
    return Counts(**Counter(case.cell for case in cases))


def groups(cases: Sequence[Case], column: str) -> dict[str, list[Case]]:
    """Return the cases by the value of a column of their labels."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.label.get(column, "") or "(empty)", []).append(case)
    return dict(sorted(found.items()))


def _places(rows: Sequence[Row]) -> dict[str, Row]:
    """Return rows by file, by file name where only one has it, and by SOP Instance UID."""
    names = Counter(Path(row["file"]).name for row in rows)
    places: dict[str, Row] = {}
    for row in rows:
        if names[Path(row["file"]).name] == 1:
            places.setdefault(Path(row["file"]).name, row)
        places[row["file"]] = row
        if row.get("sop_instance_uid"):
            places[row["sop_instance_uid"]] = row
    return places


def _found(places: dict[str, Row], label: Label) -> Row | None:
    file = label.get("file", "")
    for key in (label.get("sop_instance_uid"), file, Path(file).name):
        if key and key in places:
            return places[key]
    return None
