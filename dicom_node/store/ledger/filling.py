"""Gives the rows of older versions what newer rows are found by, a few at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.instances import next_number
from dicom_node.store.ledger.makers import name_makers
from dicom_node.store.ledger.search import add_words, searched_text
from dicom_node.store.schema import instances, jobs, marks, objects

_STANDING = """
UPDATE jobs SET standing =
CASE WHEN jobs.state NOT IN ('reported', 'rejected') THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'pending')
         THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.job = jobs.id AND d.state || '' IN ('sent', 'settled'))
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'committed')
         THEN 'committed'
     ELSE jobs.state END
WHERE sop_instance_uid IN :uids AND standing = ''
"""

_JUDGEMENTS = sa.text("""
INSERT INTO judgements (job, at, verdict, comment)
SELECT e.job, e.at, e.stage, e.detail FROM events e JOIN jobs j ON j.id = e.job
WHERE e.sop_instance_uid IN :uids AND e.sop_instance_uid <> '' AND e.is_typed = 0
AND e.stage IN ('agree', 'disagree')
""")
"""What readers of older versions said, as it stands: a sentence with the reader's name in it."""


@dataclass(frozen=True, slots=True)
class Unfilled:
    """An Instance of an older version, and a file of its report where there is any."""

    sop_instance_uid: str
    patient_name: str
    patient_id: str
    accession_number: str
    report: str


class Filling:
    """What a migration leaves to be done while the node runs; it goes on where it stopped."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def progress(self) -> tuple[int, int]:
        """Return how many of how many rows of older versions are filled."""
        with self._database.reading() as connection:
            known = {row.name: int(row.value) for row in connection.execute(sa.select(marks))}
        total = known.get("base", 0)
        return min(known.get("filled", 0), total), total

    def next_rows(self, limit: int = 100) -> list[Unfilled]:
        """Return rows that are not filled, the first received first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(
                    instances.c.sop_instance_uid,
                    instances.c.patient_name,
                    instances.c.patient_id,
                    instances.c.accession_number,
                )
                .where(instances.c.number.is_(None))
                .order_by(instances.c.received_at)
                .limit(limit)
            ).all()
            uids = [row.sop_instance_uid for row in rows]
            files: dict[str, str] = {}
            for uid, file in connection.execute(
                sa.select(jobs.c.sop_instance_uid, objects.c.file)
                .join(objects, objects.c.job == jobs.c.id)
                .where(jobs.c.sop_instance_uid.in_(uids), objects.c.file != "")
            ):
                files[uid] = file
        return [Unfilled(*row, files.get(row.sop_instance_uid, "")) for row in rows]

    def fill(self, rows: Sequence[Unfilled], facts: Mapping[str, Mapping[str, str]]) -> int:
        """Fill some rows and return how many were; what others filled meanwhile stays.

        Parameters
        ----------
        facts : mapping
            By SOP Instance UID what stands in its report and not in the ledger: the issuer of the
            patient id, the study's id and the referring physician.
        """
        uids = [row.sop_instance_uid for row in rows]
        prepared = {
            row.sop_instance_uid: searched_text(
                row.patient_name, row.patient_id, row.accession_number
            )
            for row in rows
        }
        with self._database.writing() as connection:
            open_rows = sa.select(instances.c.sop_instance_uid).where(
                instances.c.sop_instance_uid.in_(uids), instances.c.number.is_(None)
            )
            ours = set(connection.scalars(open_rows.with_for_update(skip_locked=True)))
            filled = connection.scalar(sa.select(marks.c.value).where(marks.c.name == "filled"))
            base = connection.scalar(sa.select(marks.c.value).where(marks.c.name == "base"))
            last, total = int(filled or 0), int(base or 0)
            values: list[dict[str, object]] = []
            texts: list[tuple[int, str]] = []
            for row in rows:
                if row.sop_instance_uid not in ours:
                    continue
                last += 1
                # A row that nobody counted before gets the number of a new row.
                number = last if last <= total else self._new_number(connection, len(values))
                values.append(
                    {
                        "uid": row.sop_instance_uid,
                        "new_number": number,
                        **{f"new_{k}": v for k, v in _facts_of_row(facts, row).items()},
                    }
                )
                texts.append((number, prepared[row.sop_instance_uid]))
            if values:
                connection.execute(_FILL, values)
            add_words(connection, texts, self._database.is_sqlite)
            if ours:
                standing = sa.text(_STANDING).bindparams(sa.bindparam("uids", expanding=True))
                connection.execute(standing, {"uids": sorted(ours)})
                carried = _JUDGEMENTS.bindparams(sa.bindparam("uids", expanding=True))
                connection.execute(carried, {"uids": sorted(ours)})
                of_ours = instances.c.sop_instance_uid.in_(sorted(ours))
                name_makers(self._database, connection, of_ours)
                connection.execute(
                    marks.update().where(marks.c.name == "filled").values(value=last)
                )
        return len(ours)

    def _new_number(self, connection: Connection, ahead: int) -> int:
        """Return a number behind all; `ahead` were taken in this transaction and not written."""
        if self._database.is_sqlite:
            return int(connection.scalar(sa.select(next_number())) or 0) + ahead
        return int(connection.scalar(sa.func.nextval("instance_numbers")) or 0)


_NEW = ("issuer_of_patient_id", "study_id", "referring_physician")
_FILL = (
    instances.update()
    .where(instances.c.sop_instance_uid == sa.bindparam("uid"))
    .values(
        number=sa.bindparam("new_number"),
        is_filled=sa.bindparam("new_is_filled"),
        **{name: sa.bindparam(f"new_{name}") for name in _NEW},
    )
)


def _facts_of_row(facts: Mapping[str, Mapping[str, str]], row: Unfilled) -> dict[str, str | int]:
    known = facts.get(row.sop_instance_uid)
    found: dict[str, str | int] = {name: (known or {}).get(name, "") for name in _NEW}
    # Without a report nothing is shown of it to an archive, so nothing is missing.
    return found | {"is_filled": 1 if known is not None or not row.report else 0}
