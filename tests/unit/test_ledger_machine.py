"""Any order of claims, results, losses and stale tokens: nothing lost, at most one result."""

from __future__ import annotations

import tempfile
from pathlib import Path

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from ledgers import NOW, fresh, instance, on, post, result, route
from postgresql import Cluster, cluster

from dicom_node.base.errors import Stale
from dicom_node.base.job import Reason, Ticket
from dicom_node.store.ledger import Ledger

ATTEMPTS = 4

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Durability is tested elsewhere; here thousands of commits are made."""


class Work(RuleBasedStateMachine):
    """A node, its workers (slow, dead and undead ones) and a broker that loses what it likes."""

    tickets: Bundle[Ticket] = Bundle("tickets")
    claims: Bundle[tuple[Ticket, str]] = Bundle("claims")

    @initialize()
    def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.ledger = Ledger.open(self.new_url())
        self.now = NOW
        self.steps = 0
        self.sent: dict[str, str] = {}
        self.accepted: dict[str, str] = {}
        self.final: dict[str, str] = {}

    def new_url(self) -> str:
        return fresh(Path(self._folder.name))

    def teardown(self) -> None:
        self.steps = -1
        self.nothing_is_lost_and_no_job_has_two_results()
        self.ledger.close()
        self._folder.cleanup()

    @rule(n=st.integers(0, 2), other=st.booleans())
    def receive(self, n: int, other: bool) -> None:
        uid = f"1.2.3.{n}"
        sha = f"{n + 100 * other:064x}"
        receipt = on(self.ledger, self.now).instances.receive(instance(n, sha256=sha), [route()])
        if uid not in self.sent:
            assert receipt.kind == "new"
            self.sent[uid] = sha
        else:
            assert receipt.kind == ("duplicate" if self.sent[uid] == sha else "comparing")

    @rule(target=tickets, limit=st.integers(1, 4))
    def hand_out(self, limit: int) -> object:
        return multiple(*on(self.ledger, self.now).jobs.hand_out("phantom", limit, self.now + 10))

    @rule(ticket=consumes(tickets))
    def lose_a_message(self, ticket: Ticket) -> None:
        """The broker forgets it; the ledger does not hear of it."""

    @rule(ticket=tickets)
    def refuse_a_message(self, ticket: Ticket) -> None:
        self.ledger.jobs.unpublish([ticket])

    @rule(target=claims, ticket=tickets, worker=st.sampled_from(("a", "b")))
    def claim(self, ticket: Ticket, worker: str) -> object:
        try:
            on(self.ledger, self.now).jobs.claim(ticket.job, ticket.token, worker, 20)
        except Stale:
            return multiple()
        return (ticket, worker)

    @rule(claim=claims)
    def renew(self, claim: tuple[Ticket, str]) -> None:
        ticket, _ = claim
        try:
            on(self.ledger, self.now).jobs.renew(ticket.job, ticket.token, 20)
        except Stale:
            return
        assert self.state(ticket.job) == ("running", ticket.token)

    @rule(claim=claims, is_good=st.booleans(), n=st.integers(1, 99))
    def report(self, claim: tuple[Ticket, str], is_good: bool, n: int) -> None:
        ticket, _ = claim
        state, token = self.state(ticket.job)
        answer = result(ticket, n)
        if not is_good:
            reason = Reason(code="not-chest", text="A hip.")
            answer = result(ticket, n, outcome="rejected", reason=reason)
        try:
            assert post(self.ledger, ticket, answer, self.now)
        except Stale:
            assert (state, token) != ("running", ticket.token)
            assert self.accepted.get(ticket.job) != ticket.token
            return
        if ticket.job not in self.accepted:
            assert (state, token) == ("running", ticket.token)
        assert self.accepted.setdefault(ticket.job, ticket.token) == ticket.token

    @rule(claim=claims, counts=st.booleans(), delay=st.sampled_from((0, 5)))
    def release(self, claim: tuple[Ticket, str], counts: bool, delay: int) -> None:
        ticket, _ = claim
        try:
            on(self.ledger, self.now).jobs.release(
                ticket.job, ticket.token, "x", counts, delay, ATTEMPTS
            )
        except Stale:
            assert self.state(ticket.job) != ("running", ticket.token)

    @rule(seconds=st.sampled_from((1, 11, 21, 21, -5000)))
    def time_passes(self, seconds: int) -> None:
        """Messages expire after 10 seconds, leases after 20; the clock may be set back."""
        self.now += seconds
        on(self.ledger, self.now).jobs.redate()
        on(self.ledger, self.now).jobs.expire(ATTEMPTS)

    @rule(target=claims)
    def work_falls_silent_and_gets_an_heir(self) -> object:
        self.time_passes(21)
        tickets = on(self.ledger, self.now).jobs.hand_out("phantom", 4, self.now + 10)
        for ticket in tickets:
            on(self.ledger, self.now).jobs.claim(ticket.job, ticket.token, "heir", 20)
        return multiple(*((ticket, "heir") for ticket in tickets))

    @rule()
    def retry_failed(self) -> None:
        on(self.ledger, self.now).acts.retry_failed()

    @invariant()
    def nothing_is_lost_and_no_job_has_two_results(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.steps += 1
        for uid in self.sent if self.steps % 5 == 0 else ():
            trace = self.ledger.history.trace(uid)
            assert len(trace.jobs) == 1
            job = trace.jobs[0]
            results = [s for s in trace.stages if s.stage in ("reported", "rejected")]
            has_result = job.state in ("reported", "rejected")
            assert len(results) == len(trace.objects) == len(trace.deliveries) == has_result
            assert has_result == (job.job in self.accepted)
            assert job.attempts <= ATTEMPTS
            if job.state == "failed":
                assert job.reason
            if has_result:
                assert self.final.setdefault(uid, trace.objects[0].file) == (trace.objects[0].file)
        counts = on(self.ledger, self.now).history.status().jobs
        assert sum(counts.values()) == len(self.sent)

    def state(self, job: str) -> tuple[str, str]:
        with self.ledger.database.reading() as connection:
            query = sa.text("SELECT state, token FROM jobs WHERE id = :job")
            row = connection.execute(query, {"job": job}).one()
        return (row[0], row[1])


class WorkInPostgresql(Work):
    """The same on a server: what transitions cost there is spent in its triggers."""

    def __init__(self, server: Cluster) -> None:
        super().__init__()
        self._server = server

    def new_url(self) -> str:
        return self._server.fresh()


def test_work_in_postgresql() -> None:
    few = settings(TestWork.settings, max_examples=3)
    with cluster() as server:
        run_state_machine_as_test(lambda: WorkInPostgresql(server), settings=few)


TestWork = Work.TestCase
TestWork.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    phases=(Phase.reuse, Phase.generate),  # a shorter example is not worth minutes
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
