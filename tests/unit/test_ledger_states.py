"""Whatever acts meet, no state changes but as its table says, and of two writers one wins."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
import transitions
from clocks import FakeClock
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule
from ledgers import NOW, fresh, instance, post, reported, result, route
from postgresql import Cluster, cluster

from dicom_node.base.errors import Busy, NotFound, Stale
from dicom_node.base.job import Reason, Ticket
from dicom_node.store.ledger import DueDelivery, Ledger, Uncommitted
from dicom_node.store.ledger.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, DeliveryState

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
IMAGES = st.integers(0, 4)
FOR_IMAGES = IMAGES.map(lambda n: f"1.2.3.{n}")
WRITERS = st.sampled_from((0, 1))
DELIVERING = ("sent", "sent", "refused", "given up", "held", "sender known", "withheld")
WALKED: dict[str, set[tuple[str, str, str]]] = {"sqlite": set(), "postgresql": set()}
"""Which transitions were met on each database, over all examples."""


class Acts(RuleBasedStateMachine):
    """Every act and step, by two processes that know nothing of each other."""

    tickets: Bundle[Ticket] = Bundle("tickets")
    due: Bundle[DueDelivery] = Bundle("due")
    wanted: Bundle[tuple[str, Uncommitted]] = Bundle("wanted")
    server: ClassVar[Cluster | None] = None

    @initialize()
    def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.clock = FakeClock(NOW)
        url = self.server.fresh() if self.server else fresh(Path(self._folder.name))
        self.writers = [Ledger.open(url, self.clock) for _ in range(2)]
        transitions.write_down(self.writers[0])
        self._questions = 0
        ledger = self.writers[0]
        reported(ledger, 0, send_to=("archive", "@sender"))
        reported(ledger, 1, mode="shadow", send_to=("archive", "second"))
        ledger.instances.receive(instance(3), [route()])
        ledger.instances.receive(instance(4), [route(send_to=("archive", "@sender"))])

    def teardown(self) -> None:
        try:
            found = transitions.written(self.writers[0])
            assert [move for move in found if not transitions.is_known(move)] == []
            walked = WALKED["postgresql" if self.server else "sqlite"]
            walked.update((move.what, move.old, move.new) for move in found)
        finally:
            for writer in self.writers:
                writer.close()
            self._folder.cleanup()

    @rule(
        by=WRITERS,
        n=IMAGES,
        content=st.sampled_from("aab"),
        sender=st.sampled_from(("MODALITY", "MODALITY", "SECOND")),
        mode=st.sampled_from(("live", "live", "shadow")),
        to=st.sampled_from((("archive",), ("archive", "@sender"))),
    )
    def receive(self, by: int, n: int, content: str, sender: str, mode: Any, to: Any) -> None:
        changed = {"sha256": content * 64, "calling_ae": sender}
        changed |= {"patient_id": "PID2"} if content == "b" else {}
        routes = [route(mode=mode, send_to=(*to, *(("second",) if sender == "SECOND" else ())))]
        self.writers[by].instances.receive(instance(n, **changed), routes)

    @rule(target=tickets, by=WRITERS)
    def hand_out_and_claim(self, by: int) -> Any:
        jobs = self.writers[by].jobs
        tickets = jobs.hand_out("phantom", 2, self.clock.wall() + 60)
        for ticket in tickets[:1]:
            jobs.claim(ticket.job, ticket.token, "w", 60)
        return multiple(*tickets)

    @rule(by=WRITERS, seconds=st.sampled_from((1, 61)), attempts=st.integers(1, 2))
    def a_worker_falls_silent(self, by: int, seconds: int, attempts: int) -> None:
        """One of two tickets is claimed; nothing is heard of either any more."""
        self.hand_out_and_claim(by)
        self.time_passes(1 - by, seconds, attempts)

    @rule(by=WRITERS, is_kept=st.booleans(), again=FOR_IMAGES)
    def an_archive_is_asked_at_once(self, by: int, is_kept: bool, again: str) -> None:
        """What was sent is committed to, or sent again; an operator wants it once more."""
        self.deliver_what_is_due(by, "sent")
        self.time_passes(by, 1, 3)
        for name, found in self.writers[by].commitments.due().items():
            self._questions += 1
            question = f"2.25.{self._questions}.{name}"
            self.writers[by].commitments.ask(question, found, lambda _: 600)
            for move in found:
                self.answer(1 - by, (question, move), is_kept)
        self.operate(by, again, "resend")

    @rule(by=WRITERS, ticket=tickets, act=st.sampled_from(("unpublish", "claim", "renew")))
    def touch(self, by: int, ticket: Ticket, act: str) -> None:
        jobs = self.writers[by].jobs
        with suppress(Stale):
            if act == "unpublish":
                jobs.unpublish([ticket])
            elif act == "claim":
                jobs.claim(ticket.job, ticket.token, f"w{by}", 60)
            else:
                jobs.renew(ticket.job, ticket.token, 60)

    @rule(by=WRITERS, ticket=tickets, is_good=st.booleans())
    def report(self, by: int, ticket: Ticket, is_good: bool) -> None:
        ledger = self.writers[by]
        reason = None if is_good else Reason(code="not-chest", text="A hip.")
        outcome = "reported" if is_good else "rejected"
        with suppress(Stale):
            post(
                ledger,
                ticket,
                result(ticket, int(ticket.job[:6], 32), outcome=outcome, reason=reason),
            )

    @rule(by=WRITERS, ticket=tickets, most=st.integers(1, 3), counts=st.booleans())
    def give_back(self, by: int, ticket: Ticket, most: int, counts: bool) -> None:
        with suppress(Stale):
            self.writers[by].jobs.release(ticket.job, ticket.token, "x", counts, 5, most)

    @rule(by=WRITERS, seconds=st.sampled_from((1, 61, 700, -5000)), attempts=st.integers(1, 3))
    def time_passes(self, by: int, seconds: int, attempts: int) -> None:
        if seconds < 0:
            self.clock.set_by(seconds)
        else:
            self.clock.pass_by(seconds)
        ledger = self.writers[by]
        ledger.jobs.redate()
        ledger.deliveries.redate()
        ledger.jobs.expire(attempts)

    @rule(
        by=WRITERS,
        uid=FOR_IMAGES,
        act=st.sampled_from(("retry", "resend", "release", "replay", "adopt", "judge")),
    )
    def operate(self, by: int, uid: str, act: str) -> None:
        ledger = self.writers[by]
        try:
            if act == "adopt":
                conflict = ledger.acts.kept_apart(uid)
                corrected = instance(int(uid[-1]), sha256="b" * 64, patient_id="PID2")
                ledger.acts.adopt(conflict.id, corrected, [route()])
            elif act == "judge":
                ledger.acts.judge(
                    ledger.history.trace(uid).jobs[-1].job, "disagree", "r", sends=True
                )
            else:
                getattr(ledger.acts, act)(uid)
        except (NotFound, Busy, IndexError):
            pass

    @rule(by=WRITERS, uid=FOR_IMAGES, outcome=st.sampled_from(("sent", "given-up")))
    def settle(self, by: int, uid: str, outcome: Any) -> None:
        with suppress(NotFound):
            self.writers[by].acts.settle(uid, outcome)

    @rule(by=WRITERS)
    def retry_failed(self, by: int) -> None:
        self.writers[by].acts.retry_failed()

    @rule(target=due, by=WRITERS)
    def look_what_is_due(self, by: int) -> Any:
        return multiple(*self.writers[by].deliveries.due()[:3])

    @rule(by=WRITERS, act=st.sampled_from(DELIVERING))
    def deliver_what_is_due(self, by: int, act: str) -> None:
        for delivery in self.writers[by].deliveries.due():
            self.deliver(by, delivery, act)

    @rule(by=WRITERS, one=due, act=st.sampled_from(DELIVERING))
    def deliver_late(self, by: int, one: DueDelivery, act: str) -> None:
        self.deliver(by, one, act)

    def deliver(self, by: int, one: DueDelivery, act: str) -> None:
        deliveries, now = self.writers[by].deliveries, self.clock.wall()
        if one.objects:
            deliveries.choose(one.id, one.objects[0].sop_instance_uid)
        if act == "sent":
            deliveries.delivered(one.id, 0, ask_at=now + 1)
        elif act == "refused":
            deliveries.postpone(one.id, "refused", now + 30, status=0xA700)
        elif act == "given up":
            deliveries.give_up(one.id, "given up")
        elif act == "withheld":
            deliveries.withhold(one.id, "not wanted")
        elif act == "held":
            deliveries.hold(one.destination, "away", now + 10)
            deliveries.wake(one.destination)
            deliveries.resume(one.destination)
        else:
            deliveries.redirect(one.job, "archive", ("sr",))

    @rule(target=wanted, by=WRITERS)
    def ask(self, by: int) -> Any:
        ledger, asked = self.writers[by], []
        for name, found in ledger.commitments.due().items():
            self._questions += 1
            question = f"2.25.{self._questions}"
            ledger.commitments.ask(question, found, lambda _: 600)
            asked += [(question, move) for move in found]
            ledger.commitments.put_off(found[1:], f"{name} is away", lambda _: 1)
        return multiple(*asked)

    @rule(by=WRITERS, asked=wanted, is_kept=st.booleans())
    def answer(self, by: int, asked: tuple[str, Uncommitted], is_kept: bool) -> None:
        question, one = asked
        kept = {one.sop_instance_uid} if is_kept else set()
        lost = {} if is_kept else {one.sop_instance_uid: "lost"}
        self.writers[by].commitments.answer(question, kept, lost, lambda _: 30)


def examples(count: int, steps: int) -> Any:
    return settings(
        max_examples=count,
        stateful_step_count=steps,
        phases=(Phase.reuse, Phase.generate),
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class TestActs(Acts.TestCase):  # type: ignore[misc, name-defined]
    settings = examples(12, 50)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def test_the_same_on_postgresql(server: Cluster) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class OnPostgresql(Acts):
        server = None

    OnPostgresql.server = server
    run_state_machine_as_test(OnPostgresql, settings=examples(4, 40))


ARROWS = {("jobs", old, new) for old, news in JOB_TRANSITIONS.items() for new in news} | {
    ("deliveries", old, new) for old, news in DELIVERY_TRANSITIONS.items() for new in news
}


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_most_arrows_of_the_tables_were_met_by_chance(database: str) -> None:
    """A machine that goes nowhere would let a fault pass."""
    if not WALKED[database]:
        pytest.skip("the machine did not run in this process")
    met = ARROWS & WALKED[database]
    assert len(met) >= 0.5 * len(ARROWS), sorted(ARROWS - met)


# each arrow on purpose ---------------------------------------------------------------------------


def test_every_arrow_of_the_tables_is_walked_and_no_other(both: list[Ledger]) -> None:
    """What chance does not reach is reached here; a table with an arrow too many would be seen."""
    ledger = both[0]
    transitions.write_down(ledger)
    jobs, numbers = ledger.jobs, count(10)

    def handed(n: int) -> Ticket:
        ledger.instances.receive(instance(n), [route()])
        (ticket,) = jobs.hand_out("phantom", 1, NOW + 60)
        return ticket

    def ended(n: int, **how: Any) -> None:
        ticket = handed(n)
        jobs.claim(ticket.job, ticket.token, "w", 60)
        post(ledger, ticket, result(ticket, n, **how))

    jobs.unpublish([handed(1)])
    (ticket,) = jobs.hand_out("phantom", 1, NOW + 60)
    for most in (2, 1):
        jobs.claim(ticket.job, ticket.token, "w", 60)
        jobs.release(ticket.job, ticket.token, "x", True, 0, most)
        if most == 2:
            (ticket,) = jobs.hand_out("phantom", 1, NOW + 60)
    ledger.acts.retry("1.2.3.1")
    (ticket,) = jobs.hand_out("phantom", 1, NOW + 60)
    jobs.claim(ticket.job, ticket.token, "w", 60)
    post(ledger, ticket, result(ticket, 1))
    ended(2, outcome="rejected", reason=Reason(code="not-chest", text="A hip."))

    reach: dict[DeliveryState, Callable[[int, str], object]] = {
        DeliveryState.PENDING: lambda one, uid: None,
        DeliveryState.RETRYING: lambda one, uid: ledger.deliveries.postpone(one, "refused", NOW),
        DeliveryState.SENT: lambda one, uid: ledger.deliveries.delivered(one, 0, ask_at=NOW),
        DeliveryState.COMMITTED: lambda one, uid: (
            ledger.deliveries.delivered(one, 0),
            ledger.deliveries.committed(one),
        ),
        DeliveryState.WITHHELD: lambda one, uid: ledger.deliveries.withhold(one, "not wanted"),
        DeliveryState.SETTLED: lambda one, uid: ledger.acts.settle(uid, "sent"),
        DeliveryState.GIVEN_UP: lambda one, uid: ledger.deliveries.give_up(one, "given up"),
    }

    def lost(one: int, uid: str) -> None:
        """The archive does not have what it took."""
        due = ledger.commitments.due()["archive"]
        (wanted,) = (asked for asked in due if asked.delivery == one)
        ledger.commitments.ask(f"2.25.{one}", [wanted], lambda _: 600)
        gone = {wanted.sop_instance_uid: "lost"}
        ledger.commitments.answer(f"2.25.{one}", set(), gone, lambda _: 30)

    def sent_again(one: int, uid: str) -> None:
        ledger.acts.resend(uid)

    def act_of(old: DeliveryState, new: DeliveryState) -> Callable[[int, str], object]:
        if new == DeliveryState.PENDING:
            return sent_again
        if (old, new) == (DeliveryState.SENT, DeliveryState.RETRYING):
            return lost
        if old == DeliveryState.SENT:
            return lambda one, uid: ledger.deliveries.committed(one)
        return reach[new]

    for old, news in DELIVERY_TRANSITIONS.items():
        for new in sorted(news):
            n = next(numbers)
            uid = f"1.2.3.{n}"
            if (old, new) == (DeliveryState.RETRYING, DeliveryState.PENDING):
                reported(ledger, n, send_to=("@sender",))  # who that was is known by now
                job = ledger.history.trace(uid).jobs[0].job
                ledger.deliveries.redirect(job, "second", ("sr",))
                continue
            shadow = old == DeliveryState.WITHHELD
            reported(ledger, n, mode="shadow" if shadow else "live", send_to=("archive",))
            (view,) = ledger.history.trace(uid).deliveries
            if shadow:
                ledger.acts.release(uid)
                ledger.deliveries.delivered(view.id, 0)
                continue
            ledger.deliveries.choose(view.id, f"2.25.{n}")
            reach[old](view.id, uid)
            act_of(old, new)(view.id, uid)
            for _ in range(2):  # out of the way of what follows
                ledger.deliveries.delivered(view.id, 0)
    walked = {(move.what, move.old, move.new) for move in transitions.written(ledger)}
    assert sorted(ARROWS - walked) == []
    assert transitions.unknown(ledger) == []


# two writers at one time -------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Ledger]]:
    url = fresh(tmp_path)
    if request.param == "postgresql":
        url = request.getfixturevalue("server").fresh()
    writers = [Ledger.open(url, FakeClock(NOW)) for _ in range(2)]
    yield writers
    for writer in writers:
        writer.close()


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Do these acts in threads at one moment; return what each returned or raised."""
    gate, outcomes = threading.Barrier(len(acts)), [None] * len(acts)

    def do(i: int, act: Callable[[], Any]) -> None:
        gate.wait(60)
        try:
            outcomes[i] = act()
        except Stale as exc:
            outcomes[i] = exc  # type: ignore[call-overload]

    threads = [threading.Thread(target=do, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def is_won(outcome: Any) -> bool:
    return bool(outcome) and not isinstance(outcome, Stale)


@pytest.mark.parametrize("turn", range(3))
def test_one_of_two_writers_wins_each_transition(both: list[Ledger], turn: int) -> None:
    one, other = both
    transitions.write_down(one)
    one.instances.receive(instance(), [route()])
    handed = at_once(*(lambda w=w: w.jobs.hand_out("phantom", 1, NOW + 60) for w in both))
    (ticket,) = [ticket for tickets in handed for ticket in tickets]
    claims = at_once(
        lambda: one.jobs.claim(ticket.job, ticket.token, "a", 60),
        lambda: other.jobs.claim(ticket.job, ticket.token, "b", 60),
    )
    assert sum(map(is_won, claims)) == 1
    made = result(ticket)
    ends = at_once(
        lambda: post(one, ticket, made),
        lambda: other.jobs.release(ticket.job, ticket.token, "x", True, 0, 1),
    )
    assert sum(map(is_won, ends)) == 1
    if isinstance(ends[0], Stale):
        return  # it has failed: there is nothing to deliver
    (due,) = one.deliveries.due()
    sent = at_once(
        lambda: one.deliveries.delivered(due.id, 0, ask_at=NOW),
        lambda: other.deliveries.give_up(due.id, "given up"),
    )
    assert sorted(sent) == [False, True]
    changes = [(t.old, t.new) for t in transitions.written(one) if t.what == "deliveries"]
    assert len(changes) == 1


def test_one_of_two_commitments_wins_over_a_resend(both: list[Ledger]) -> None:
    one, other = both
    transitions.write_down(one)
    reported(one)
    (due,) = one.deliveries.due()
    one.deliveries.delivered(due.id, 0, ask_at=NOW)
    at_once(
        lambda: one.deliveries.committed(due.id),
        lambda: other.acts.resend("1.2.3.1"),
        lambda: other.deliveries.committed(due.id),
    )
    assert transitions.unknown(one) == []
    (last,) = [view.state for view in one.history.trace("1.2.3.1").deliveries]
    assert last == "pending", "what an operator asks for is not undone by a late answer"
