"""Writes results out of the ledger as CSV or JSON lines, de-identified when asked."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.local_time import read_local
from dicom_node.operate.sandbox_privacy import Hidden, privacy_of
from dicom_node.settings import Settings
from dicom_node.standard.deidentify import Pseudonyms, published_term, without
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.states import TAKEN
from dicom_node.store.ledger.views import ResultRow

IDENTIFIERS = (
    "job",
    "sop_instance_uid",
    "series_instance_uid",
    "study_instance_uid",
    "patient_id",
    "accession_number",
    "calling_ae",
    "worker",
    "judged_by",
)
"""Columns that lead to a person, a place or a machine."""

COLUMNS = (
    *IDENTIFIERS,
    "modality",
    "body_part",
    "view",
    "received_at",
    "started_at",
    "ended_at",
    "delivered_at",
    "rule",
    "mode",
    "model",
    "model_version",
    "demonstration",
    "generation",
    "attempts",
    "state",
    "presence",
    "text",
    "fractures",
    "warnings",
    "reason_code",
    "reason",
    "model_ms",
    "deliveries",
    "judgement",
    "comment",
    "corrected_text",
    "judged_findings",
    "judged_at",
    "judgements",
)

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings that a spreadsheet takes for a formula."""

_UIDS = ("sop_instance_uid", "series_instance_uid", "study_instance_uid")


def export(
    settings: Settings,
    since: str,
    until: str | None,
    *,
    form: str,
    is_deidentified: bool,
    out: Path | None,
    has_hashes: bool = False,
) -> int:
    """Write one line per job of the Instances received in a time; return how many.

    Parameters
    ----------
    since, until : str
        ISO 8601 dates or times, in this machine's zone unless they name one; `until` is not part.
    form : str
        ``csv`` or ``jsonl``.
    is_deidentified : bool
        Replace identifiers by keyed pseudonyms, shift times, leave out what a person has typed.
    has_hashes : bool
        As 0.1.0 did it: replace identifiers only, by hashes.
    out : Path, optional
        A file; standard output when left out.

    Raises
    ------
    ConfigurationError
        A date is not understood, or the file cannot be written.
    """
    begin, end = moment(since, "--since"), moment(until, "--until") if until else float("inf")
    ledger = Ledger.open(settings.ledger_url)
    try:
        found = ledger.results.between(begin, end)
        rows: Iterable[dict[str, Any]]
        if is_deidentified:
            rows = map(partial(_hidden_row, privacy_of(settings)), found)
        elif has_hashes:
            rows = map(_keyed_hashes(privacy_of(settings).names), map(row_of, found))
        else:
            rows = map(row_of, found)
        with _open_output(out) as file:
            return (_as_csv if form == "csv" else _as_lines)(rows, file)
    finally:
        ledger.close()


def moment(text: str, flag: str) -> float:
    """Return an ISO 8601 date or time as seconds since the epoch."""
    try:
        return read_local(text)
    except ValueError as exc:
        what = "not a date such as 2026-11-01 or 2026-11-01T08:00"
        raise ConfigurationError(f"{flag}: {text!r} is {what}") from exc


def row_of(row: ResultRow) -> dict[str, Any]:
    """Return a job of the ledger by the names in `COLUMNS`."""
    result, reason = row.result, row.result.reason if row.result else None
    ended = [d.ended_at for d in row.deliveries if d.state in TAKEN]
    judged = row.judgements[-1] if row.judgements else None
    shown = {name: getattr(row, name, None) for name in COLUMNS}
    return shown | {
        "received_at": _iso_time(row.received_at),
        "started_at": _iso_time(row.started_at),
        "ended_at": _iso_time(row.ended_at),
        "delivered_at": _iso_time(max(ended, default=0.0)),
        "state": row.job_state,
        "presence": result.presence if result else None,
        "text": result.text if result else None,
        "fractures": [fracture.model_dump() for fracture in result.fractures] if result else [],
        "warnings": list(result.warnings) if result else [],
        "reason_code": reason.code if reason else None,
        "reason": (reason.text if reason else "") or row.job_reason or None,
        "model_ms": result.stages_ms.get("model") if result else None,
        "deliveries": [
            {"destination": d.destination, "kind": d.kind, "state": d.state} for d in row.deliveries
        ],
        "judgement": judged.verdict if judged else None,
        "judged_by": judged.reader if judged else None,
        "judged_at": _iso_time(judged.at) if judged else None,
        "comment": judged.comment if judged else None,
        "corrected_text": judged.corrected_text or None if judged else None,
        "judged_findings": [
            {"finding": finding.finding, "verdict": finding.verdict} for finding in judged.findings
        ]
        if judged
        else [],
        "judgements": len(row.judgements),
    }


def _iso_time(at: float | None) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at else None


def _keyed_hashes(names: Pseudonyms) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what replaces a row's identifiers by keyed hashes; an absent one stays absent."""

    def hidden(row: dict[str, Any]) -> dict[str, Any]:
        named = {name: names.digest(name, row[name]) for name in IDENTIFIERS if row.get(name)}
        deliveries = [
            delivery | {"destination": names.digest("destination", delivery["destination"])}
            for delivery in row["deliveries"]
        ]
        return row | named | {"deliveries": deliveries}

    return hidden


def _hidden_row(privacy: Hidden, row: ResultRow) -> dict[str, Any]:
    """Return a row under pseudonyms that images of `pull` and `describe --deidentify` share."""
    names, shown = privacy.names, row_of(row)
    span = names.shift(row.patient_id).total_seconds() if privacy.profile.dates == "shift" else 0.0
    if privacy.profile.dates == "remove":
        span = float("inf")
    ended = [d.ended_at for d in row.deliveries if d.state in TAKEN]
    judged = row.judgements[-1].at if row.judgements else None
    times = {
        "received_at": row.received_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "delivered_at": max(ended, default=0.0),
        "judged_at": judged,
    }
    personal = [row.patient_id, row.accession_number, row.calling_ae, row.study_instance_uid]
    personal += re.split(r"[\^=\s]+", row.patient_name)
    machines = ("job", "calling_ae", "worker", "judged_by", "rule")
    return shown | {
        **{name: names.digest(name, shown[name]) for name in machines if shown.get(name)},
        **{name: privacy.uid(shown[name]) for name in _UIDS},
        **{name: _iso_time(at - span) if at and span != float("inf") else None
           for name, at in times.items()},
        "patient_id": names.patient(row.patient_id or row.study_instance_uid),
        "accession_number": privacy.accession(row.accession_number),
        "modality": published_term("Modality", row.modality),
        "body_part": published_term("BodyPartExamined", row.body_part),
        "view": published_term("ViewPosition", row.view),
        "text": _without_personal(shown["text"], personal),
        "corrected_text": _without_personal(shown["corrected_text"], personal),
        "warnings": [_without_personal(warning, personal) for warning in shown["warnings"]],
        "comment": None,  # a reader types there whatever comes to mind
        "reason": None,  # it may quote the header; its code stays
        "judged_findings": [
            finding | {"finding": _without_personal(finding["finding"], personal)}
            for finding in shown["judged_findings"]
        ],
        "deliveries": [
            delivery | {"destination": names.digest("destination", delivery["destination"])}
            for delivery in shown["deliveries"]
        ],
    }  # fmt: skip


def _without_personal(text: str | None, personal: Iterable[str]) -> str | None:
    return without(text, personal) if text else text


def plain_cell(value: Any) -> Any:
    """Return a value as a cell that no spreadsheet runs: formulas become text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULAS) else text


def _as_csv(rows: Iterable[dict[str, Any]], file: TextIO) -> int:
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    count = 0
    for row in rows:
        writer.writerow([plain_cell(row[name]) for name in COLUMNS])
        count += 1
    return count


def _as_lines(rows: Iterable[dict[str, Any]], file: TextIO) -> int:
    count = 0
    for row in rows:
        print(json.dumps(row, ensure_ascii=False), file=file)
        count += 1
    return count


@contextmanager
def _open_output(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"--out: {out}: {exc.strerror}") from exc
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file
