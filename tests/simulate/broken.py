"""Broken variants of the product: each must be found, else the simulation proves nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import sqlalchemy as sa

from dicom_node import peers
from dicom_node.base.errors import ChexFractError
from dicom_node.flow import deliver, dispatch, intake
from dicom_node.peers import Caller, bare_title
from dicom_node.store.ledger import Receipt, instances
from dicom_node.store.ledger import deliveries as ledger_deliveries
from dicom_node.store.ledger import jobs as ledger_jobs
from dicom_node.store.ledger.deliveries import Deliveries
from dicom_node.store.ledger.instances import Instances
from dicom_node.store.ledger.jobs import Expired, JobLedger
from dicom_node.store.ledger.repeats import Repeats
from dicom_node.store.ledger.states import JobState
from dicom_node.store.schema import jobs
from dicom_node.web import jobs as job_api
from worker.service.turns import Turns

from . import outside
from .databases import SimulatedDatabase
from .effects import Crashed
from .node import SimulatedNode


@contextmanager
def _patched(*patches: tuple[Any, str, Any]) -> Iterator[None]:
    kept = [(thing, name, getattr(thing, name)) for thing, name, _ in patches]
    for thing, name, value in patches:
        setattr(thing, name, value)
    try:
        yield
    finally:
        for thing, name, value in kept:
            setattr(thing, name, value)


def answered_before_commit() -> AbstractContextManager[None]:
    """0x0000 is answered when the file is there; the ledger's row follows, unless it cannot."""
    honest, honest_receive = intake.Intake._record_receipt, SimulatedNode.receive
    out: list[Receipt] = []
    """The answer of a process that was killed behind it."""

    def record(self: Any, header: Any, kept: Any, accepted: Any, sender: Any) -> Receipt:
        try:
            return honest(self, header, kept, accepted, sender)
        except ChexFractError:
            return Receipt("new", (), kept.name, "")
        except Crashed:
            out.append(Receipt("new", (), kept.name, ""))
            raise

    def receive(self: Any, *what: Any) -> Receipt | str:
        receipt = honest_receive(self, *what)
        return out.pop() if out else receipt

    return _patched((intake.Intake, "_record_receipt", record), (SimulatedNode, "receive", receive))


def no_lease_token() -> AbstractContextManager[None]:
    """Whoever knows a job may renew, release and report it."""

    def row_of(self: Any, job: str, token: str) -> Any:
        with self._database.reading() as connection:
            row = self._read_row(connection, job)
        return ledger_jobs.Held(
            row.worker, row.file, row.transfer_syntax_uid, ledger_jobs.order_of(row, row.ordered)
        )

    any_token = (jobs.c.token == sa.bindparam("by")) | (jobs.c.id == sa.bindparam("of"))
    return _patched(
        _changes(_OF, jobs.c.state == sa.bindparam("was")),
        (JobLedger, "held", row_of),
        *_claims(_OF, any_token, jobs.c.state == JobState.QUEUED),
        *_reports(_OF, any_token, jobs.c.state == JobState.RUNNING),
    )


_OF = jobs.c.id == sa.bindparam("of")


def _changes(*criteria: Any) -> tuple[Any, str, Any]:
    """Return the patch that changes held jobs under other conditions."""
    honest = ledger_jobs._change_of

    @cache
    def change_of(names: tuple[str, ...]) -> Any:
        statement = honest(names)._generate()
        statement._where_criteria = criteria
        return statement

    return ledger_jobs, "_change_of", change_of


def _under(honest: sa.Update, criteria: tuple[Any, ...]) -> sa.Update:
    """Return an UPDATE under other conditions."""
    statement = honest._generate()
    statement._where_criteria = criteria
    for kept in ("exported_columns", "_all_selected_columns"):
        # once executed it remembers that it returns nothing
        statement.__dict__.pop(kept, None)
    return statement


def _claims(*criteria: Any) -> list[tuple[Any, str, Any]]:
    """Return the patches that claim a job under other conditions, in any database."""
    claim = _under(ledger_jobs._CLAIM, criteria)
    at_once = ledger_jobs._claim_at_once(claim)
    return [(ledger_jobs, "_CLAIM", claim), (ledger_jobs, "_CLAIM_AT_ONCE", at_once)]


def _reports(*criteria: Any) -> list[tuple[Any, str, Any]]:
    """Return the patches that record a result under other conditions, in any database."""
    report = _under(ledger_jobs._REPORT, criteria)
    at_once = {
        stage: ledger_jobs._report_at_once(report, stage) for stage in ledger_jobs._REPORTS_AT_ONCE
    }
    return [(ledger_jobs, "_REPORT", report), (ledger_jobs, "_REPORTS_AT_ONCE", at_once)]


def random_uids() -> AbstractContextManager[None]:
    """A report has another UID each time it is made, and nobody compares."""
    honest = outside.SimulatedPipeline.report

    def report(self: Any, facts: Any, generation: int, before: str) -> Any:
        uid = f"2.25.{uuid.uuid4().int}"
        return outside.images.report(
            facts.uid, facts.study, facts.patient_id, generation, before, uid
        )

    assert honest
    return _patched(
        (outside.SimulatedPipeline, "report", report), (job_api, "_result_mismatch", lambda *_: "")
    )


def second_sender_dropped() -> AbstractContextManager[None]:
    """What comes again makes no further delivery."""
    return _patched((Repeats, "_add_destinations", lambda *_: None))


def wrong_peer_of_one_title() -> AbstractContextManager[None]:
    """A caller is the first peer that has its title, wherever it calls from."""

    def who_calls(known: Any, ae_title: str, *_: Any, **__: Any) -> Caller:
        title = bare_title(ae_title)
        found = [name for name, peer in known.items() if peer.ae_title == title]
        return Caller(found[0]) if found else Caller(None, is_title_known=False)

    return _patched(
        (peers, "who_calls", who_calls),
        (intake, "who_calls", who_calls),
        (deliver, "who_calls", who_calls),
    )


_NOT_ASKED = (outside.Archive, "why_not_there", lambda *_: "is not asked for it")


def duplicate_is_failure() -> AbstractContextManager[None]:
    """0x0111 is a failure even of what was sent there before, and nobody asks whose it is."""
    honest = deliver.is_stored
    return _patched(
        (deliver, "is_stored", lambda code, **_: code != 0x0111 and honest(code)), _NOT_ASKED
    )


def timer_lost_at_jump() -> AbstractContextManager[None]:
    """Times that were written by a clock which was ahead are believed."""
    nothing: Callable[[Any], int] = lambda self: 0  # noqa: E731
    return _patched((JobLedger, "redate", nothing), (Deliveries, "redate", nothing))


def result_of_another_patient() -> AbstractContextManager[None]:
    """A worker answers with the report of the image that it read before, and nobody compares."""
    honest = outside.SimulatedPipeline.report
    last: list[Any] = []

    def report(self: Any, facts: Any, generation: int, before: str) -> Any:
        last.append(facts)
        return honest(self, last[-2] if len(last) > 1 else facts, generation, before)

    return _patched(
        (outside.SimulatedPipeline, "report", report), (job_api, "_result_mismatch", lambda *_: "")
    )


def lost_message_waits_for_ever() -> AbstractContextManager[None]:
    """What nobody claimed or finished in time is not taken back."""
    return _patched((JobLedger, "expire", lambda self, attempts: Expired()))


def shadow_is_sent() -> AbstractContextManager[None]:
    """Reports of a shadow rule go out."""
    return _patched((ledger_deliveries, "_why_withheld", lambda *_: ""))


def ledger_before_file() -> AbstractContextManager[None]:
    """A repeated image's file takes the place of the first, which is removed."""
    honest = intake.Intake.finish

    def finish(self: Any, incoming: Any, accepted: Any, sender: Any) -> Receipt:
        receipt = honest(self, incoming, accepted, sender)
        if receipt.kind == "duplicate" and receipt.file:
            self.spool.remove(receipt.file)
        return receipt

    return _patched((intake.Intake, "finish", finish))


def restored_knows_nothing() -> AbstractContextManager[None]:
    """A restored ledger does not know that archives may have more than it has, and asks none."""
    return _patched((Deliveries, "doubt", lambda self: None), _NOT_ASKED)


def resent_by_nobody() -> AbstractContextManager[None]:
    """A job that failed, or was reported, may be claimed again."""

    mine = (_OF, jobs.c.token == sa.bindparam("by"))
    return _patched(_changes(*mine), *_claims(*mine), *_reports(*mine))


def another_nodes_report_refused() -> AbstractContextManager[None]:
    """0x0111 of what this node never sent is a failure, whoever sent it."""
    return _patched(_NOT_ASKED)


def claimed_beside_others() -> AbstractContextManager[None]:
    """What may have killed a worker is claimed while others are in the worker."""
    honest = Turns.ask

    def ask(
        self: Any, begin: Any, count: int, *, alone: bool = False, urgent: bool = False
    ) -> None:
        honest(self, begin, count, urgent=urgent)

    return _patched((Turns, "ask", ask))


def answered_before_sync() -> AbstractContextManager[None]:
    """0x0000 is answered when the row is committed; a power cut may undo it."""
    honest = SimulatedDatabase.driving

    @contextmanager
    def driving(self: Any) -> Iterator[Any]:
        synced = self._synced or (self.copy() if self.may_lose_power else None)
        with honest(self) as cursor:
            yield cursor
        self._synced = synced

    return _patched((SimulatedDatabase, "driving", driving))


def known_by_a_look() -> AbstractContextManager[None]:
    """Whether an image is known is asked before it is recorded, and not when it is."""
    honest = Instances.receive

    def receive(self: Any, instance: Any, routes: Any, reason: str = "") -> Receipt:
        if self.known(instance.sop_instance_uid) is not None:
            return honest(self, instance, routes, reason)
        arrival = instances._Arrival(instance, routes, reason, self._clock.wall())
        return self._received(arrival) or Receipt("new", (), instance.file)

    return _patched((Instances, "receive", receive))


VARIANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    variant.__name__: variant
    for variant in (
        answered_before_commit,
        no_lease_token,
        random_uids,
        second_sender_dropped,
        wrong_peer_of_one_title,
        duplicate_is_failure,
        timer_lost_at_jump,
        result_of_another_patient,
        lost_message_waits_for_ever,
        shadow_is_sent,
        ledger_before_file,
        resent_by_nobody,
        restored_knows_nothing,
        another_nodes_report_refused,
        claimed_beside_others,
        answered_before_sync,
        known_by_a_look,
    )
}


def removed_report_is_sent() -> AbstractContextManager[None]:
    """What has no file any more is tried again each hour (found by seed 1601)."""
    honest = Deliveries.give_up

    def give_up(self: Any, delivery: int, reason: str) -> bool:
        if deliver.REMOVED_REPORT in reason:
            return self.postpone(delivery, reason, self._clock.wall() + 3600.0)
        return honest(self, delivery, reason)

    return _patched((Deliveries, "give_up", give_up))


def dated_by_the_beginning() -> AbstractContextManager[None]:
    """A hand-out is good from the time at which its step began (found by seeds 1991, 3893)."""
    step, hand_out = dispatch.Dispatcher.step, JobLedger.hand_out
    began: dict[int, float] = {}

    def timed(self: Any) -> float:
        began[id(self._ledger.jobs)] = self.clock.wall()
        return step(self)

    def dated(self: Any, model: str, limit: int, until: float, priority: Any = None) -> Any:
        late = self._clock.wall() - began[id(self)]
        return hand_out(self, model, limit, until - late, priority)

    return _patched((dispatch.Dispatcher, "step", timed), (JobLedger, "hand_out", dated))


RARE: dict[str, Callable[[], AbstractContextManager[None]]] = {
    variant.__name__: variant for variant in (removed_report_is_sent, dated_by_the_beginning)
}
"""Faults that the simulation found, of which it takes more than 300 schedules to find one."""

FOUND_BY = {
    "answered_before_commit": 19,
    "shadow_is_sent": 91,
    "claimed_beside_others": 10,
    "answered_before_sync": 32,
    "known_by_a_look": 104,
}
"""Which schedule finds each, so that a gate needs not look for them among all before."""
