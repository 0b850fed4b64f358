"""After the storm: what was acknowledged, and what became of each of it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

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
    told: dict[str, list[str]] = field(default_factory=dict)
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
        if len(self.told.setdefault(name, [])) < 10:
            self.told[name].append(example)


@dataclass(slots=True)
class Archived:
    """What the archive wrote down, by source."""

    kept: dict[str, list[dict[str, Any]]]
    bytes_of: dict[str, set[str]]
    refusals: int


def open_work(ledger: Path) -> set[str]:
    """Return the Instances with a job or a delivery that is not settled."""
    with closing(_ledger(ledger)) as db:
        return {row[0] for row in db.execute(_OPEN)}


def held_jobs(ledger: Path) -> dict[int, list[str]]:
    """Return the jobs that are worked on, by the process id of their worker."""
    held: dict[int, list[str]] = defaultdict(list)
    try:
        with closing(_ledger(ledger)) as db:
            rows = db.execute("SELECT id, worker FROM jobs WHERE state = 'running'").fetchall()
    except sqlite3.Error:
        return {}
    for row in rows:
        held[int(row["worker"].rpartition(":")[2] or 0)].append(row["id"])
    return held


def are_done(ledger: Path, jobs: Sequence[str]) -> bool:
    """Return whether all of these jobs have a result."""
    marks = ",".join("?" * len(jobs))
    query = f"SELECT 1 FROM jobs WHERE id IN ({marks}) AND state NOT IN ('reported', 'rejected')"
    try:
        with closing(_ledger(ledger)) as db:
            return db.execute(query, jobs).fetchone() is None
    except sqlite3.Error:
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


def count(world: World, pictures: Sequence[Picture], acknowledged: set[str]) -> Count:
    """Compare what the modalities were told with what the archive has and the ledger says."""
    found, archive = Count(), archived(world.log)
    with closing(_ledger(world.ledger)) as db:
        jobs = {row["sop_instance_uid"]: dict(row) for row in db.execute(_JOBS)}
        found.conflicts = db.execute("SELECT count(*) FROM conflicts").fetchone()[0]
    found.refusals = archive.refusals
    for report, hashes in archive.bytes_of.items():
        if len(hashes) > 1:
            found.add("changed_bytes", report)
    for one in pictures:
        _count_one(found, one, archive.kept.get(one.uid, []), jobs.get(one.uid), acknowledged)
    return found


def _count_one(
    found: Count,
    one: Picture,
    lines: list[dict[str, Any]],
    job: dict[str, Any] | None,
    acknowledged: set[str],
) -> None:
    reports = {line["report"] for line in lines}
    state = job["state"] if job else "unknown"
    reason = (job["reason"] or job["waits"]) if job else ""
    example = f"{one.uid} ({one.kind}): {state}, {reason or 'no reason'}"
    found.reported += state == "reported"
    found.rejected += state == "rejected"
    found.failed += state == "failed"
    found.delivered += bool(reports)
    found.repeats += len(lines) - len(reports)
    found.warned += sum(line["status"] != 0 for line in lines)
    if len(reports) > 1:
        found.add("second_reports", example)
    if one.uid in acknowledged:
        found.acknowledged += 1
        if not reports and not (state == "failed" and reason):
            found.add("lost", example)
    else:
        found.never_acknowledged += 1
    if job and not reports and not reason:
        found.add("without_reason", example)
    if state == "failed" and one.kind not in POISON:
        found.add("wrongly_failed", example)
    for line in lines[:1]:
        wanted = "PARTIAL" if one.kind == "corrupt" else "COMPLETE"
        if line["completion"] != wanted or (wanted == "COMPLETE" and line["text"] != one.text):
            found.add("wrong_text", example)


def rebuild(world: World, found: Count, rng: Random) -> int:
    """Build a sample of the reports again and compare; return how many."""
    kept = archived(world.log).kept
    with closing(_ledger(world.ledger)) as db:
        rows = [dict(row) for row in db.execute(_REBUILD)]
    rows = rng.sample(rows, min(SAMPLE, len(rows)))
    for row in rows:
        row["file"] = str(world.data / "spool" / row["file"])
    done = subprocess.run(
        python("-m", "tests.drill.rebuild"),
        input="".join(json.dumps(row) + "\n" for row in rows),
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
    return len(rows)


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
SELECT j.sop_instance_uid, i.file, j.model_version,
       json_patch(coalesce(o.content, '{}'), j.report_order) AS report_order
FROM jobs j JOIN instances i USING (sop_instance_uid) LEFT JOIN orders o ON o.id = j.order_id
WHERE j.state IN ('reported', 'rejected') AND i.file != ''
  AND EXISTS (SELECT 1 FROM deliveries d WHERE d.job = j.id AND d.state = 'sent')
"""


def _ledger(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    db.row_factory = sqlite3.Row
    return db
