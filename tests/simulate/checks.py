"""What must hold after each schedule."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from functools import cache
from typing import Any

import sqlalchemy as sa

from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.uids import object_uid
from dicom_node.store.schema import conflicts, deliveries, instances, jobs, objects

from ..support.transitions import unknown
from . import images
from .node import PEERS, SimulatedNode
from .outside import ENHANCED_ONLY, said_in
from .world import World

DONE = ("sent", "committed", "settled", "given up", "withheld")


def check(world: World) -> None:
    """Note the first thing in `world` that must not be."""
    for node in world.sites.values():
        rows = Rows(node)
        _each_acknowledged_instance_has_an_end(world, node, rows)
        _no_transition_is_outside_the_table(world, node)
        _counters_equal_what_is_there(world, node, rows)
        _files_are_there(world, node, rows)
        _deliveries_are_what_rules_name(world, node, rows)
    _archives_have_what_they_should(world)


def ends(node: SimulatedNode) -> dict[str, frozenset[tuple[Any, ...]]]:
    """Return how each Instance of a node ended: its reports, and who has them."""
    rows = Rows(node)
    found: dict[str, set[tuple[Any, ...]]] = {uid: set() for uid in rows.instances}
    for job in rows.jobs.values():
        found[job.sop_instance_uid].add((job.generation, job.state))
    for item in rows.objects:
        job = rows.jobs[item.job]
        found[job.sop_instance_uid].add((job.generation, item.sop_class_uid, item.sop_instance_uid))
    for row in rows.deliveries:
        job = rows.jobs[row.job]
        state = "there" if row.state in ("sent", "committed") else row.state
        found[job.sop_instance_uid].add((job.generation, row.destination, row.kind, state))
    return {uid: frozenset(end) for uid, end in found.items()}


class Rows:
    """What a ledger holds at the end."""

    def __init__(self, node: SimulatedNode) -> None:
        def all_of(table: sa.Table) -> list[Any]:
            query, row = _all_of(table)
            return [row._make(values) for values in node.database.look(query)]

        self.instances = {row.sop_instance_uid: row for row in all_of(instances)}
        self.jobs = {row.id: row for row in all_of(jobs)}
        self.objects = all_of(objects)
        self.deliveries = all_of(deliveries)
        self.conflicts = all_of(conflicts)


@cache
def _all_of(table: sa.Table) -> tuple[sa.Select[Any], Any]:
    return sa.select(table), namedtuple(table.name, list(table.c.keys()))


def _each_acknowledged_instance_has_an_end(world: World, node: SimulatedNode, rows: Rows) -> None:
    by_instance = defaultdict(list)
    for job in rows.jobs.values():
        by_instance[job.sop_instance_uid].append(job)
    for (name, uid), promise in world.promises.items():
        if name != node.name:
            continue
        if uid not in rows.instances:
            world.fail("an acknowledged Instance is not in the ledger", f"{name} {uid}")
            continue
        instance, made = rows.instances[uid], by_instance[uid]
        if promise.wanted and not made:
            world.fail("an Instance that a rule takes has no job", f"{name} {uid}")
        if not made and not (instance.state == "ignored" and instance.reason):
            world.fail("an Instance ends without a reason", f"{name} {uid}")
        for job in made:
            if job.state == "failed" and not job.reason:
                world.fail("a job failed without a reason", f"{name} {uid}")
            if job.state == "failed" and images.number_of(uid) != images.POISON:
                world.fail("an image that can be read failed", f"{name} {uid}: {job.reason}")
        reports = defaultdict(set)
        for item in rows.objects:
            job = rows.jobs[item.job]
            key = (job.sop_instance_uid, job.model, job.generation)
            # the same again, whoever makes it: after a restore, or at another node
            about = (key[0], images.DEVICE, images.OPTIONS, job.generation)
            reports[key].add(item.sop_instance_uid == object_uid("sr", item.sop_class_uid, *about))
        for key, are_derived in reports.items():
            if are_derived != {True}:
                world.fail("an Instance has two reports of one model", f"{name} {key}")


def _no_transition_is_outside_the_table(world: World, node: SimulatedNode) -> None:
    for change in unknown(node.ledger):
        world.fail("a transition is in no table", f"{node.name} {change}")


def _counters_equal_what_is_there(world: World, node: SimulatedNode, rows: Rows) -> None:
    totals = node.ledger.history.status()
    counted = {
        "instances": _count(row.state for row in rows.instances.values()),
        "jobs": _count(row.state for row in rows.jobs.values()),
        "deliveries": _count(row.state for row in rows.deliveries),
    }
    for what, right in counted.items():
        said = {str(k): v for k, v in getattr(totals, what).items() if v}
        if said != right:
            world.fail("counters are wrong", f"{node.name} {what}: {said} but {right}")
    if totals.conflicts != len(rows.conflicts):
        world.fail("counters are wrong", f"{node.name}: {totals.conflicts} conflicts")


def _count(states: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for state in states:
        found[str(state)] = found.get(str(state), 0) + 1
    return found


def _files_are_there(world: World, node: SimulatedNode, rows: Rows) -> None:
    names = [row.file for row in (*rows.instances.values(), *rows.objects, *rows.conflicts)]
    for name in names:
        if name and not node.spool.path(name).is_file():
            world.fail("a file is gone", f"{node.name} {name}")


def _deliveries_are_what_rules_name(world: World, node: SimulatedNode, rows: Rows) -> None:
    ends = defaultdict(set)
    with_result = set()
    for job in rows.jobs.values():
        if job.state in ("reported", "rejected"):
            with_result.add(job.sop_instance_uid)
    for row in rows.deliveries:
        uid = rows.jobs[row.job].sop_instance_uid
        promise = world.promises.get((node.name, uid)) or world._maybe.get((node.name, uid))
        if promise is None:
            world.fail("a delivery of nothing that was received", f"{node.name} {uid}")
            continue
        named = promise.allowed | promise.shadowed
        if row.destination in PEERS and row.destination not in named:
            world.fail(
                "a delivery to whom no rule names", f"{node.name} {uid} to {row.destination}"
            )
        if row.state in DONE:
            ends[uid].add(row.destination)
    for (name, uid), promise in world.promises.items():
        if name == node.name and uid in with_result and (missing := promise.wanted - ends[uid]):
            what = "a destination that a rule names got nothing"
            world.fail(what, f"{name} image {images.number_of(uid)}: {sorted(missing)}")


def _archives_have_what_they_should(world: World) -> None:
    reports: dict[tuple[str, str], set[str]] = defaultdict(set)
    for archive in world.archives.values():
        for stored in archive.taken:
            said = said_in(stored.content)
            promises = [
                promise
                for found in (world.promises, world._maybe)
                for (_, uid), promise in found.items()
                if uid == said.source_uid
            ]
            allowed = {name for promise in promises for name in promise.allowed}
            patients = {patient for promise in promises for patient in promise.patients}
            if archive.name not in allowed:
                world.fail("an archive got what no rule sends there", f"{archive.name} {said}")
            if archive.name in ENHANCED_ONLY and said.sop_class != SR_CLASSES["enhanced"]:
                world.fail("an archive got a class that it does not take", f"{archive.name} {said}")
            if said.patient_id not in patients:
                world.fail("a report of another patient", f"{archive.name} {said}")
            reports[archive.name, stored.uid].add(stored.content.hex()[:0] + said.source_uid)
    for (name, uid), sources in reports.items():
        if len(sources) > 1:
            world.fail("two reports have one UID", f"{name} {uid}")
