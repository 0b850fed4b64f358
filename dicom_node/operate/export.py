"""Writes results out of the ledger as CSV or JSON lines, de-identified when asked."""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.local_time import read_local
from dicom_node.settings import Settings
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

KEY_FILE = "deid.key"


def export(
    settings: Settings,
    since: str,
    until: str | None,
    *,
    form: str,
    is_deidentified: bool,
    out: Path | None,
) -> int:
    """Write one line per job of the Instances received in a time; return how many.

    Parameters
    ----------
    since, until : str
        ISO 8601 dates or times, in this machine's zone unless they name one; `until` is not part.
    form : str
        ``csv`` or ``jsonl``.
    is_deidentified : bool
        Replace identifiers by hashes that are the same in every export of this node.
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
        rows: Iterable[dict[str, Any]] = map(row_of, ledger.results.between(begin, end))
        if is_deidentified:
            rows = map(hashing(deid_key(settings)), rows)
        with _opened(out) as file:
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
        "received_at": _iso(row.received_at),
        "started_at": _iso(row.started_at),
        "ended_at": _iso(row.ended_at),
        "delivered_at": _iso(max(ended, default=0.0)),
        "state": row.job_state,
        "presence": result.presence if result else None,
        "text": result.text if result else None,
        "fractures": [one.model_dump() for one in result.fractures] if result else [],
        "warnings": list(result.warnings) if result else [],
        "reason_code": reason.code if reason else None,
        "reason": (reason.text if reason else "") or row.job_reason or None,
        "model_ms": result.stages_ms.get("model") if result else None,
        "deliveries": [
            {"destination": d.destination, "kind": d.kind, "state": d.state} for d in row.deliveries
        ],
        "judgement": judged.verdict if judged else None,
        "judged_by": judged.reader if judged else None,
        "judged_at": _iso(judged.at) if judged else None,
        "comment": judged.comment if judged else None,
        "corrected_text": judged.corrected_text or None if judged else None,
        "judged_findings": [
            {"finding": one.finding, "verdict": one.verdict} for one in judged.findings
        ]
        if judged
        else [],
        "judgements": len(row.judgements),
    }


def _iso(at: float | None) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at else None


def hashing(key: bytes) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what replaces a row's identifiers by keyed hashes; an absent one stays absent.

    A bare hash of a patient's id is guessed by trying all ids; the key stays with the node.
    """

    def hidden(row: dict[str, Any]) -> dict[str, Any]:
        named = {name: _hash(key, name, row[name]) for name in IDENTIFIERS if row.get(name)}
        deliveries = [
            one | {"destination": _hash(key, "destination", one["destination"])}
            for one in row["deliveries"]
        ]
        return row | named | {"deliveries": deliveries}

    return hidden


def _hash(key: bytes, name: str, value: str) -> str:
    return hmac.new(key, f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()[:32]


def deid_key(settings: Settings) -> bytes:
    """Return the key of this node's hashes; made once in data_dir."""
    path = settings.node.data_dir / KEY_FILE
    try:
        if not path.exists():
            temporary = path.with_name(f".{KEY_FILE}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(temporary, path)  # never replaces a key that another export has made
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"--deid: {path}: {exc.strerror}") from exc


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
def _opened(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"--out: {out}: {exc.strerror}") from exc
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file
