"""The ledger's first step: an Instance was received, and these jobs follow from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.job import ReportOrder
from dicom_node.store.ledger.database import Database, append, event, moment
from dicom_node.store.schema import conflicts, counters, instances, jobs

PRIORITIES = {0: 1, 1: 0, 2: 2}
"""C-STORE Priority (0000,0700) medium, high, low as the ledger's order: 0 goes first."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What the header of a received Instance says, and where its file is.

    ``priority`` is Priority (0000,0700) of the C-STORE request; ``size`` is in bytes.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sha256: str
    size: int
    file: str
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_time: str = ""
    modality: str = ""
    body_part: str = ""
    view: str = ""
    manufacturer: str = ""
    station_name: str = ""
    institution: str = ""
    study_description: str = ""
    series_description: str = ""
    presentation_intent: str = ""
    calling_ae: str = ""
    calling_host: str = ""
    called_ae: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """What a rule asks for one Instance.

    ``send_to`` holds names of peers, and ``"@sender"`` where the sender is not a known peer (yet).
    ``objects`` says which kinds each of them takes; a name that is missing takes every kind.
    ``priority`` is 0 (stat), 1 (normal), 2 (low), or None for that of the C-STORE request.
    """

    rule: str
    model: str
    mode: Literal["live", "shadow"] = "live"
    send_to: tuple[str, ...] = ()
    objects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    priority: int | None = None
    allow_demonstration: bool = False
    order: ReportOrder = field(
        default_factory=lambda: ReportOrder(content_datetime=datetime.fromtimestamp(0, UTC))
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the ledger made of a received Instance.

    ``file`` is the spool file that stands for the Instance: that of the first reception.
    """

    kind: Literal["new", "duplicate", "conflict"]
    jobs: tuple[str, ...] = ()
    file: str = ""
    reason: str = ""


class Instances(Database):
    """Reception."""

    def receive(
        self,
        instance: Instance,
        routes: Sequence[Route],
        reason: str = "",
        at: float | None = None,
    ) -> Receipt:
        """Record an Instance whose file is durable, and the jobs that follow from it.

        Parameters
        ----------
        instance : Instance
            Its ``file`` was kept by the spool.
        routes : sequence of Route
            One job each; none leaves the Instance ``ignored`` for `reason`.
        at : float, optional
            Time of reception, seconds since the epoch.

        Returns
        -------
        Receipt
            ``duplicate`` when the same bytes are known, ``conflict`` when the UID is known with
            other bytes; neither makes a job.

        Raises
        ------
        Unreachable, OutOfResources
            Nothing was recorded: answer 0xA700 (DICOM PS3.4 Table B.2-1).
        """
        now = moment(at)
        row = asdict(instance) | {
            "state": "routed" if routes else "ignored",
            "reason": "" if routes else (reason or "no rule matched"),
            "received_at": now,
            "kept_at": now,
        }
        with self.writing() as connection:
            if not self.insert_new(connection, instances, row):
                return self._again(connection, instance, now)
            told = f"from {instance.calling_ae}@{instance.calling_host}"
            append(connection, [event(instance.sop_instance_uid, "received", now, detail=told)])
            if not routes:
                ignored = event(instance.sop_instance_uid, "ignored", now, detail=row["reason"])
                append(connection, [ignored])
            made = tuple(self._add_job(connection, instance, route, now) for route in routes)
        return Receipt("new", made, instance.file, row["reason"])

    def known(self, sop_instance_uid: str) -> Instance | None:
        """Return the Instance as it was first received, if it was."""
        columns = [instances.c[f.name] for f in fields(Instance)]
        with self.reading() as connection:
            row = connection.execute(
                sa.select(*columns).where(instances.c.sop_instance_uid == sop_instance_uid)
            ).one_or_none()
        return None if row is None else Instance(**row._mapping)

    def _again(self, connection: Connection, instance: Instance, now: float) -> Receipt:
        uid = instance.sop_instance_uid
        first = connection.execute(
            sa.select(instances).where(instances.c.sop_instance_uid == uid)
        ).one()
        same = (first.sha256, first.transfer_syntax_uid) == (
            instance.sha256,
            instance.transfer_syntax_uid,
        )
        if not same:
            return self._conflict(connection, instance, now)
        values: dict[str, Any] = {"resends": instances.c.resends + 1}
        if first.purged_at:  # retention had removed the file: this one takes its place
            values |= {"file": instance.file, "purged_at": 0, "kept_at": now}
        connection.execute(
            instances.update().where(instances.c.sop_instance_uid == uid).values(**values)
        )
        if first.resends == 0 or first.purged_at:
            append(connection, [event(uid, "duplicate", now, detail="same bytes again")])
        return Receipt("duplicate", file=values.get("file", first.file))

    def _conflict(self, connection: Connection, instance: Instance, now: float) -> Receipt:
        row = {c.name: getattr(instance, c.name) for c in conflicts.c if hasattr(instance, c.name)}
        reason = "same SOP Instance UID with other content; kept apart, not analysed"
        if self.insert_new(connection, conflicts, row | {"received_at": now}):
            append(connection, [event(instance.sop_instance_uid, "conflict", now, detail=reason)])
        kept = connection.scalar(
            sa.select(conflicts.c.file).where(
                conflicts.c.sop_instance_uid == instance.sop_instance_uid,
                conflicts.c.sha256 == instance.sha256,
                conflicts.c.transfer_syntax_uid == instance.transfer_syntax_uid,
            )
        )
        return Receipt("conflict", file=kept or "", reason=reason)

    def _add_job(self, connection: Connection, instance: Instance, route: Route, now: float) -> str:
        number = self._next_number(connection, instance.study_instance_uid, route.model)
        order = route.order.model_copy(
            update={
                "instance_number": number,
                "content_datetime": content_datetime(now),
                "generation": 1,
                "predecessor": None,
            }
        )
        job = job_id(instance.sop_instance_uid, route.model, 1)
        priority = PRIORITIES.get(instance.priority, 1)
        values = {
            "id": job,
            "sop_instance_uid": instance.sop_instance_uid,
            "model": route.model,
            "generation": 1,
            "rule": route.rule,
            "mode": route.mode,
            "allow_demonstration": route.allow_demonstration,
            "priority": priority if route.priority is None else route.priority,
            "send_to": json.dumps(
                {name: list(route.objects.get(name, ())) for name in route.send_to}
            ),
            "report_order": order.model_dump_json(),
            "state": "received",
            "received_at": now,
        }
        connection.execute(jobs.insert(), values)
        told = f"rule {route.rule!r}: {route.model}, {route.mode}"
        append(connection, [event(instance.sop_instance_uid, "routed", now, job, told)])
        return job

    def _next_number(self, connection: Connection, study: str, model: str) -> int:
        """Return an Instance Number (0020,0013) that no other report of the study has."""
        self.insert_new(
            connection, counters, {"study_instance_uid": study, "model": model, "last": 0}
        )
        number = connection.scalar(
            counters.update()
            .where(counters.c.study_instance_uid == study, counters.c.model == model)
            .values(last=counters.c.last + 1)
            .returning(counters.c.last)
        )
        return int(number or 1)


def job_id(sop_instance_uid: str, model: str, generation: int) -> str:
    """Return the id of a job: the same for the same (Instance, model, generation)."""
    key = f"{sop_instance_uid}\n{model}\n{generation}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def content_datetime(at: float) -> datetime:
    """Return `at` in the node's time zone, to the second: when a report says it was made."""
    return datetime.fromtimestamp(int(at)).astimezone()
