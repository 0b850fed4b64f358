"""The rows of a run beside a table of labels: which belong together, and what does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.plurals import counted
from worker.research.judgements import judged_labels
from worker.research.measures import Counts
from worker.research.tables import read_table

if TYPE_CHECKING:
    from worker.research.privacy import Privacy

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
class LabelledRow:
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
    cases: tuple[LabelledRow, ...]
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
    if not rows:
        raise ConfigurationError(f"{path}: no row in it; run describe again")
    return rows


def manifest_of(run: Path) -> dict[str, Any]:
    """Return the manifest of a run; empty where it has none that can be read."""
    folder = run if run.is_dir() else run.parent
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_finished(run: Path) -> bool:
    """Return whether a run has come to its end; a file by itself says nothing of that."""
    if not run.is_dir() or not (run / MANIFEST).exists():
        return True
    return bool(manifest_of(run).get("finished"))


def read_labels(path: Path) -> list[Label]:
    """Return the rows of a table of labels, with its columns by the names in `KEYS`.

    A CSV with ``file`` or ``sop_instance_uid`` and ``fracture`` (0 or 1), as programs and Excel
    write it; or an export of a node (CSV or JSON lines), whose readers' judgements are the labels.

    Raises
    ------
    ConfigurationError
        It cannot be read, a column is missing, or one image has two different labels.
    """
    table = read_table(path)
    if not table:
        raise ConfigurationError(f"{path}: no label in it")
    if "judgement" in table[0] and "fracture" not in table[0]:
        table = judged_labels(table)
        if not table:
            raise ConfigurationError(f"{path}: an export in which no reader has judged a result")
    if "fracture" not in table[0] or not {"file", "sop_instance_uid"} & set(table[0]):
        raise ConfigurationError(
            f"{path}: has the columns {', '.join(map(repr, table[0]))}; "
            "needs file or sop_instance_uid, and fracture (0 or 1)"
        )
    seen: dict[str, str] = {}
    for number, row in enumerate(table, 2):
        name = row.get("sop_instance_uid") or row.get("file")
        row["fracture"] = {"0.0": "0", "1.0": "1"}.get(
            row.get("fracture", ""), row.get("fracture", "")
        )
        if not name:
            raise ConfigurationError(
                f"{path}, line {number}: names no image; write its file or sop_instance_uid"
            )
        if row["fracture"] not in ("0", "1"):
            value = f"is {row['fracture'][:32]!a}" if row["fracture"] else "is empty"
            raise ConfigurationError(
                f"{path}, line {number}: fracture of {name} {value}; write 1 where there is one, "
                "0 where there is none"
            )
        if seen.setdefault(name, row["fracture"]) != row["fracture"]:
            raise ConfigurationError(
                f"{path}, line {number}: {name} has two different labels; keep one of them"
            )
    return table


def match(run: Path, labels: Path, privacy: Privacy | None = None) -> Matched:
    """Put each label beside its row.

    Parameters
    ----------
    run, labels : Path
    privacy : Privacy, optional
        Whose pseudonyms stand in a de-identified run; that of this user when left out.

    Raises
    ------
    ConfigurationError
        See `read_rows` and `read_labels`, or no label is of any image of the run.
    """
    rows, table = read_rows(run), read_labels(labels)
    if (hidden := manifest_of(run).get("deidentified")) is not None:
        table = _by_pseudonym(table, rows, hidden, privacy)
    places = _rows_by_name(rows)
    cases, twice = _drop_repeats(
        [LabelledRow(label, _find_row(places, label)) for label in table], labels
    )
    unmatched = sum(case.row is None for case in cases)
    if unmatched == len(cases):
        raise ConfigurationError(f"{labels}: no label is of an image of {run}; see file and UIDs")
    unanswered = sum(case.row is not None and case.cell == "without_text" for case in cases)
    undetermined = sum(case.cell == "undetermined" for case in cases)
    problems, remarks = [], []
    if not is_finished(run):
        problems.append(f"{run} is not finished: run describe again, it goes on")
    if unmatched:
        problems.append(f"labels of no image of the run: {unmatched} of {len(cases)}")
    if unanswered:
        problems.append(f"labelled images without a text: {unanswered} of {len(cases)}")
    if twice:
        remarks.append(
            counted(
                twice, "label stands twice and counts once", "labels stand twice and count once"
            )
        )
    if undetermined:
        remarks.append(
            counted(
                undetermined,
                "text is undetermined and stands beside the matrix",
                "texts are undetermined and stand beside the matrix",
            )
        )
    if len({case.label["fracture"] for case in cases}) == 1:
        word = "a" if cases[0].label["fracture"] == "1" else "no"
        remarks.append(f"all labels say {word} fracture: half of the measures have no value")
    if (more := len({row["file"] for row in rows}) - len(cases) + unmatched) > 0:
        remarks.append(
            counted(more, "image of the run has no label", "images of the run have no label")
        )
    columns = sorted({key for label in table for key in label} - set(KEYS))
    return Matched(str(run), tuple(cases), tuple(problems), tuple(remarks), tuple(columns))


def _drop_repeats(cases: Sequence[LabelledRow], labels: Path) -> tuple[list[LabelledRow], int]:
    """Return each image once, by whatever column it is named, and how many stood twice."""
    kept: dict[object, LabelledRow] = {}
    for case in cases:
        key: object = id(case.row) if case.row is not None else case.name
        known = kept.setdefault(key, case)
        if known.label["fracture"] != case.label["fracture"]:
            raise ConfigurationError(
                f"{labels}: {case.name} and {known.name} are one image with two different labels"
            )
    return list(kept.values()), len(cases) - len(kept)


def _by_pseudonym(
    table: list[Label], rows: Sequence[Row], hidden: dict[str, Any], privacy: Privacy | None
) -> list[Label]:
    """Return labels by the names of a de-identified run, unless they have these already."""
    from worker.research.privacy import Privacy, hashed_labels

    places = _rows_by_name(rows)
    if any(_find_row(places, label) is not None for label in table):
        return table
    privacy = privacy or Privacy.of_file(None)
    if privacy.as_json()["key"] != hidden.get("key"):
        raise ConfigurationError("the run was de-identified with another key: name it by --key")
    return hashed_labels(
        table, Privacy(privacy.names, replace(privacy.profile, uids=hidden["uids"]))
    )


def count(cases: Sequence[LabelledRow]) -> Counts:
    """Return the confusion matrix of some cases."""
    return Counts(**Counter(case.cell for case in cases))


def groups(cases: Sequence[LabelledRow], column: str) -> dict[str, list[LabelledRow]]:
    """Return the cases by the value of a column of their labels."""
    found: dict[str, list[LabelledRow]] = {}
    for case in cases:
        found.setdefault(case.label.get(column, "") or "(empty)", []).append(case)
    return dict(sorted(found.items()))


def _rows_by_name(rows: Sequence[Row]) -> dict[str, Row]:
    """Return rows by SOP Instance UID, file, and what of a file's name only one of them has."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        path = PurePosixPath(str(row["file"]).replace("\\", "/"))
        for part in dict.fromkeys((path.name, path.stem, path.name.casefold())):
            parts.setdefault(part, []).append(row)
    places = {part: found[0] for part, found in parts.items() if len(found) == 1}
    for row in rows:
        places[row["file"]] = row
        if row.get("sop_instance_uid"):
            places[row["sop_instance_uid"]] = row
    return places


def _find_row(places: dict[str, Row], label: Label) -> Row | None:
    file = label.get("file", "")
    name = PurePosixPath(file.replace("\\", "/")).name
    for key in (label.get("sop_instance_uid"), file, name, name.casefold()):
        if key and key in places:
            return places[key]
    return None
