"""One report as each SR class: the object that is kept, and those that are made of its file.

A variant gets a row of its own when it is sent or given out. Its row names the kept object's file;
`standard.part10.recast` makes the variant's bytes of that. Ledgers of before have an object and a
file for each class, and these are sent as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.standard.sr_classes import SR_CLASSES, recast_uid
from dicom_node.standard.uids import object_uid
from dicom_node.store.ledger.database import Database, fetch, fetch_among
from dicom_node.store.ledger.kept_results import load_result
from dicom_node.store.ledger.makers import DEVICE_UID, OPTIONS
from dicom_node.store.schema import deliveries, jobs, objects

RECAST = "sr:"
"""How the part of a variant begins; no worker's part has a colon."""


@dataclass(frozen=True, slots=True)
class ReportFile:
    """One object of a result and its file in the spool."""

    kind: str
    part: str
    sop_class_uid: str
    sop_instance_uid: str
    file: str

    @property
    def is_recast(self) -> bool:
        """Whether the file is the kept object, of which this object is made."""
        return is_recast(self.part)


OWN_PART = "="
"""How the name of a chosen object begins that is its part, and no UID."""

CHOSEN_NAME = sa.literal_column(f"'{OWN_PART}'").concat(objects.c.part)
"""What ``deliveries.sop_instance_uid`` has of an object of its job: a tenth of the UID, which the
object has. Rows of before 0011 have the UID."""

IS_CHOSEN = (objects.c.job == deliveries.c.job) & (
    (objects.c.sop_instance_uid == deliveries.c.sop_instance_uid)
    | (deliveries.c.sop_instance_uid == CHOSEN_NAME)
)
"""Whether an object is what was settled on for a delivery."""

CHOSEN_UID = sa.func.coalesce(
    sa.select(objects.c.sop_instance_uid).where(IS_CHOSEN).limit(1).scalar_subquery(),
    deliveries.c.sop_instance_uid,
)
"""Its UID; empty while nothing is."""


def is_recast(part: str) -> bool:
    """Return whether an object is made of another object's file."""
    return part.startswith(RECAST)


_OF_JOB = sa.select(objects).where(objects.c.job == sa.bindparam("of"))
_RESULT = sa.case((jobs.c.maker_id.is_(None), jobs.c.result), else_="").label("result")
_REPORTS = (
    sa.select(objects, jobs.c.sop_instance_uid.label("source"), jobs.c.generation)
    .add_columns(DEVICE_UID, OPTIONS, _RESULT)
    .join(jobs, jobs.c.id == objects.c.job)
    .where(objects.c.job.in_(sa.bindparam("ids", expanding=True)), objects.c.kind == "sr")
)
"""The objects of reports, each with what its UIDs are made of."""


def variants_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[ReportFile]]:
    """Return the report of each of some jobs as each SR class; none where none was made."""
    made: dict[str, list[Any]] = {}
    for report in fetch_among(connection, _REPORTS, "ids", ids):
        made.setdefault(report.job, []).append(report)
    return {job: _report_variants(reports) for job, reports in made.items()}


def _report_variants(made: Sequence[Any]) -> list[ReportFile]:
    """Return what was made, then what can be made of it."""
    found = [
        ReportFile(
            report.kind, report.part, report.sop_class_uid, report.sop_instance_uid, report.file
        )
        for report in sorted(made, key=lambda report: (is_recast(report.part), report.part))
    ]
    kept = found[0]
    known = {report.sop_class_uid for report in found}
    for name, sop_class in SR_CLASSES.items():
        if sop_class not in known and kept.sop_class_uid in SR_CLASSES.values():
            uid = _variant_uid(made[0], kept, sop_class)
            found.append(ReportFile(kept.kind, f"{RECAST}{name}", sop_class, uid, kept.file))
    return found


def _variant_uid(row: Any, kept: ReportFile, sop_class: str) -> str:
    """Return the UID that a worker would give the report in this class."""
    options = row.options or load_result(row.result).get("options", "")
    about = (row.source, row.device_uid, options, row.generation)
    if object_uid("sr", kept.sop_class_uid, *about) == kept.sop_instance_uid:
        return object_uid("sr", sop_class, *about)
    return recast_uid(sop_class, kept.sop_instance_uid)


def keep_variant(database: Database, connection: Connection, job: str, uid: str) -> None:
    """Give the variant with this UID its row, unless it has one: others are about to know it."""
    rows = fetch(connection, _OF_JOB, {"of": job})
    if any(row.sop_instance_uid == uid for row in rows):
        return
    made = variants_of(connection, [job]).get(job, [])
    for report in made:
        if report.sop_instance_uid == uid:
            kept = next(row for row in rows if row.part == made[0].part)
            own = {
                "part": report.part,
                "sop_class_uid": report.sop_class_uid,
                "sop_instance_uid": uid,
            }
            database.insert_new(connection, objects, {**kept._asdict(), **own})
