"""After the storm: what was acknowledged, and what became of each of it."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

import sqlalchemy as sa

from dicom_node.store.ledger.orders import load_own

from .pictures import Picture
from .processes import ROOT, python
from .world import World

KEPT = (0x0000, 0xB000)
POISON = ("killing", "hanging", "hungry")
SAMPLE = 24


@dataclass(slots=True)
class Count:
    """The figures; `faults` are those that must be 0."""

    acknowledged: int = 0
    never_acknowledged: int = 0
    reported: int = 0
    rejected: int = 0
    failed: int = 0
    delivered: int = 0
    repeats: int = 0
    warned: int = 0
    refusals: int = 0
    conflicts: int = 0
    lost: int = 0
    second_reports: int = 0
    changed_bytes: int = 0
    without_reason: int = 0
    wrongly_failed: int = 0
    wrong_text: int = 0
    not_rebuilt: int = 0
    left_running: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Up to ten examples of each fault."""

    @property
    def faults(self) -> dict[str, int]:
        """What must not be."""
        names: tuple[str, ...] = (
            "lost",
            "second_reports",
            "changed_bytes",
            "without_reason",
            "wrongly_failed",
        )
        names += ("wrong_text", "not_rebuilt", "left_running")
        return {name: getattr(self, name) for name in names}

    def add(self, name: str, example: str) -> None:
        """Count one more of a fault."""
        setattr(self, name, getattr(self, name) + 1)
        if len(self.examples.setdefault(name, [])) < 10:
            self.examples[name].append(example)


class Counted(Protocol):
    """A node with its archive, as far as a count needs them."""

    @property
    def log(self) -> Path:
        """What the archive wrote down."""

    @property
    def ledger(self) -> str:
        """URL of the ledger, to read."""


@dataclass(slots=True)
class Archived:
    """What the archive wrote down, by source."""

    kept: dict[str, list[dict[str, Any]]]
    bytes_of: dict[str, set[str]]
    refusals: int


def open_work(ledger: str) -> set[str]:
    """Return the Instances with a job or a delivery that is not settled."""
    with _rows(ledger) as rows:
        return {row["sop_instance_uid"] for row in rows(_OPEN)}


def held_jobs(ledger: str) -> dict[int, list[str]]:
    """Return the jobs that are worked on, by the process id of their worker."""
    held: dict[int, list[str]] = defaultdict(list)
    try:
        with _rows(ledger) as rows:
            running = rows("SELECT id, worker FROM jobs WHERE state = 'running'")
    except sa.exc.SQLAlchemyError:
        return {}
    for row in running:
        held[int(row["worker"].rpartition(":")[2] or 0)].append(row["id"])
    return held


def are_done(ledger: str, jobs: Sequence[str]) -> bool:
    """Return whether all of these jobs have a result."""
    query = "SELECT id FROM jobs WHERE state NOT IN ('reported', 'rejected')"
    try:
        with _rows(ledger) as rows:
            return not {row["id"] for row in rows(query)} & set(jobs)
    except sa.exc.SQLAlchemyError:
        return False


def archived(log: Path) -> Archived:
    """Read the archive's log."""
    kept: dict[str, list[dict[str, Any]]] = defaultdict(list)
    bytes_of: dict[str, set[str]] = defaultdict(set)
    refusals = 0
    for text in log.read_text().splitlines() if log.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the archive was killed while it wrote: it gave no answer either
        bytes_of[line["report"]].add(line["sha256"])
        if line["status"] in KEPT:
            kept[line["source"]].append(line)
        else:
            refusals += 1
    return Archived(kept, bytes_of, refusals)


def count(world: Counted, pictures: Sequence[Picture], acknowledged: set[str]) -> Count:
    """Compare the answers to the modalities with the archive's files and the ledger's rows."""
    found, archive = Count(), archived(world.log)
    with _rows(world.ledger) as rows:
        jobs = {row["sop_instance_uid"]: row for row in rows(_JOBS)}
        found.conflicts = rows("SELECT count(*) AS n FROM conflicts")[0]["n"]
    found.refusals = archive.refusals
    for report, hashes in archive.bytes_of.items():
        if len(hashes) > 1:
            found.add("changed_bytes", report)
    for picture in pictures:
        _count_one(
            found, picture, archive.kept.get(picture.uid, []), jobs.get(picture.uid), acknowledged
        )
    return found


def _count_one(
    found: Count,
    picture: Picture,
    lines: list[dict[str, Any]],
    job: dict[str, Any] | None,
    acknowledged: set[str],
) -> None:
    reports = {line["report"] for line in lines}
    state = job["state"] if job else "unknown"
    reason = (job["reason"] or job["waits"]) if job else ""
    example = f"{picture.uid} ({picture.kind}): {state}, {reason or 'no reason'}"
    found.reported += state == "reported"
    found.rejected += state == "rejected"
    found.failed += state == "failed"
    found.delivered += bool(reports)
    found.repeats += len(lines) - len(reports)
    found.warned += sum(line["status"] != 0 for line in lines)
    if len(reports) > 1:
        found.add("second_reports", example)
    if picture.uid in acknowledged:
        found.acknowledged += 1
        if not reports and not (state == "failed" and reason):
            found.add("lost", example)
    else:
        found.never_acknowledged += 1
    if job and not reports and not reason:
        found.add("without_reason", example)
    if state == "failed" and picture.kind not in POISON:
        found.add("wrongly_failed", example)
    for line in lines[:1]:
        wanted = "PARTIAL" if picture.kind == "corrupt" else "COMPLETE"
        if line["completion"] != wanted or (wanted == "COMPLETE" and line["text"] != picture.text):
            found.add("wrong_text", example)


def rebuild(world: World, found: Count, rng: Random) -> int:
    """Build a sample of the reports again and compare; return how many."""
    kept = archived(world.log).kept
    with _rows(world.ledger) as rows:
        made = rows(_REBUILD)
    sample = rng.sample(made, min(SAMPLE, len(made)))
    for row in sample:
        row["file"] = str(world.data / "spool" / row["file"])
        row["report_order"] = json.dumps(
            _merged(_read(row.pop("shared")), load_own(row.pop("own")))
        )
    done = subprocess.run(
        python("-m", "tests.drill.rebuild"),
        input="".join(json.dumps(row) + "\n" for row in sample),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=world.environment(),
        timeout=300,
    )
    for text in done.stdout.splitlines():
        again = json.loads(text)
        for line in kept[again["source"]]:
            if (line["report"], line["sha256"]) != (again["report"], again["sha256"]):
                found.add("not_rebuilt", again["source"])
    return len(sample)


_JOBS = """
SELECT i.sop_instance_uid, j.state, j.reason, j.attempts,
       coalesce((SELECT d.reason FROM deliveries d WHERE d.job = j.id AND d.reason != ''), '')
       AS waits
FROM instances i JOIN jobs j USING (sop_instance_uid)
"""

_OPEN = """
SELECT sop_instance_uid FROM jobs WHERE state IN ('received', 'queued', 'running')
UNION
SELECT j.sop_instance_uid FROM deliveries d JOIN jobs j ON j.id = d.job
WHERE d.state IN ('pending', 'retrying')
"""

_REBUILD = """
SELECT j.sop_instance_uid, i.file, o.content AS shared, j.report_order AS own,
       coalesce((SELECT m.model_version FROM makers m WHERE m.id = j.maker_id), j.model_version)
       AS model_version
FROM jobs j JOIN instances i USING (sop_instance_uid) LEFT JOIN orders o ON o.id = j.order_id
WHERE j.state IN ('reported', 'rejected') AND i.file != ''
  AND EXISTS (SELECT 1 FROM deliveries d WHERE d.job = j.id AND d.state = 'sent')
"""


@contextmanager
def _rows(ledger: str) -> Iterator[Any]:
    """Yield what returns the rows of a statement as dictionaries, over one connection."""
    engine = sa.create_engine(ledger, poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield lambda query: [dict(row) for row in connection.execute(sa.text(query)).mappings()]


def _read(content: Any) -> dict[str, Any]:
    """Return a JSON column, which one database gives as text and the other as what it means."""
    read: dict[str, Any] = json.loads(content) if isinstance(content, str) else content or {}
    return read


def _merged(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return an order from what jobs share and what is its own (RFC 7386)."""
    merged = dict(shared)
    for key, value in own.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            before = merged.get(key)
            merged[key] = _merged(before if isinstance(before, dict) else {}, value)
        else:
            merged[key] = value
    return merged
