"""Which objects of a replaced report archives have, and are to hide: IHE's rejection notes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dicom_node.base.job import Predecessor, RejectionNote
from dicom_node.store.ledger.states import TAKEN, DeliveryState
from dicom_node.store.ledger.variants import IS_CHOSEN
from dicom_node.store.schema import deliveries, jobs, objects

NOTE = "rejection-note"
"""Kind of an object that hides others; it is never hidden itself."""


def find_rejection_notes(connection: Connection, row: Row[Any]) -> tuple[RejectionNote, ...]:
    """Return what each destination has of the last report of an Instance by one model.

    An archive may refuse a note that names an object which it does not know, so destinations that
    have other objects get other notes.

    Parameters
    ----------
    row : Row
        The job whose report is replaced; where it sent nothing, the jobs before it are looked at.
    """
    earlier = connection.scalars(
        sa.select(jobs.c.id)
        .where(
            jobs.c.sop_instance_uid == row.sop_instance_uid,
            jobs.c.model == row.model,
            jobs.c.generation <= row.generation,
        )
        .order_by(jobs.c.generation.desc())
    ).all()
    for job in earlier:
        if notes := _notes_of(connection, job, row.study_instance_uid):
            return notes
    return ()


def _notes_of(connection: Connection, job: str, study: str) -> tuple[RejectionNote, ...]:
    arrived = deliveries.c.state.in_((*TAKEN, DeliveryState.SETTLED)) | (
        deliveries.c.unanswered > 0
    )
    rows = connection.execute(
        sa.select(
            deliveries.c.destination,
            objects.c.sop_class_uid,
            objects.c.sop_instance_uid,
            objects.c.series_instance_uid,
        )
        .select_from(deliveries.join(objects, IS_CHOSEN))
        .where(deliveries.c.job == job, objects.c.kind != NOTE, arrived)
        .order_by(deliveries.c.destination, objects.c.part)
    ).all()
    had: dict[str, list[Predecessor]] = {}
    for row in rows:
        had.setdefault(row.destination, []).append(
            Predecessor(
                study_instance_uid=study,
                series_instance_uid=row.series_instance_uid,
                sop_class_uid=row.sop_class_uid,
                sop_instance_uid=row.sop_instance_uid,
            )
        )
    alike: dict[tuple[Predecessor, ...], list[str]] = {}
    for destination, every in had.items():
        alike.setdefault(tuple(every), []).append(destination)
    return tuple(
        RejectionNote(destinations=tuple(names), objects=every) for every, names in alike.items()
    )
