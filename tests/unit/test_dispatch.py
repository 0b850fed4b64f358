"""The dispatcher: a lone job at once, a backlog in batches, and nothing lost to a broker."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from clocks import FakeClock
from ledgers import NOW, fresh, instance, on, post, result, route

from dicom_node.base.errors import Busy, Unreachable
from dicom_node.base.job import Handout
from dicom_node.flow.dispatch import SHARES, Dispatcher
from dicom_node.settings import Dispatch, Settings, Web
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.views import JobView


class Broker:
    """A broker that remembers what it got, and can be away."""

    def __init__(self) -> None:
        self.got: list[tuple[Handout, int]] = []
        self.at: list[float] = []
        self.is_away = False
        self.takes = 10**9

    def __call__(self, handout: Handout, priority: int) -> None:
        if self.is_away or self.takes <= 0:
            raise Unreachable("redis://127.0.0.1:1/0 gives no answer")
        self.takes -= 1
        self.got.append((handout, priority))
        self.at.append(time.monotonic())

    @property
    def sizes(self) -> list[int]:
        return [len(handout.tickets) for handout, _ in self.got]


def dispatcher(ledger: Ledger, broker: Broker, **limits: Any) -> Dispatcher:
    settings = Settings(dispatch=Dispatch(**limits), web=Web(url="http://node:8080"))
    return Dispatcher(settings, ledger, broker)


def receive(ledger: Ledger, count: int, first: int = 0, **changed: Any) -> None:
    for n in range(first, first + count):
        on(ledger, NOW + n / 1000).instances.receive(instance(n, **changed), [route()])


def test_a_lone_job_goes_alone_and_names_the_node(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 1)
    on(dispatcher(ledger, broker), NOW + 1).step()
    ((handout, priority),) = broker.got
    assert (handout.node, handout.model, priority) == ("http://node:8080", "phantom", 1)
    assert len(handout.tickets) == 1


def test_a_clock_that_is_set_back_within_a_step_delays_no_lost_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulation: the ticket was good until ten days later, and nobody claimed it."""
    clock = FakeClock(NOW)
    ledger = Ledger.open(fresh(tmp_path), clock)
    ledger.instances.receive(instance(), [route()])
    broker = Broker()
    desk = dispatcher(ledger, broker, queued_for=60)
    look = ledger.jobs.waiting

    def set_back() -> object:
        found = look()
        clock.set_by(-864_000.0)
        monkeypatch.undo()
        return found

    monkeypatch.setattr(ledger.jobs, "waiting", set_back)
    desk.step()
    clock.pass_by(61.0)
    desk.step()
    desk.step()
    assert len(broker.got) == 2
    ledger.close()


def test_a_backlog_goes_in_batches_up_to_the_window(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 45)
    work = dispatcher(ledger, broker, window=32, batch=8)
    on(work, NOW + 1).step()
    assert broker.sizes == [8, 8, 8, 8]
    on(work, NOW + 2).step()
    assert sum(broker.sizes) == 32
    for handout, _ in broker.got[:1]:
        for ticket in handout.tickets:
            on(ledger, NOW).jobs.claim(ticket.job, ticket.token, "w", 60)
    on(work, NOW + 3).step()
    assert sum(broker.sizes) == 40


@pytest.mark.parametrize(("window", "batch"), [(32, 8), (32, 5), (4, 8), (8, 8), (100, 16)])
def test_a_window_is_refilled_in_whole_batches_while_there_is_a_backlog(
    ledger: Ledger, window: int, batch: int
) -> None:
    """A worker claims its hand-out ticket by ticket, and the dispatcher looks after each."""
    broker = Broker()
    receive(ledger, 4 * window)
    work = dispatcher(ledger, broker, window=window, batch=batch)
    on(work, NOW + 1).step()
    claimed = 0
    for handout, _ in broker.got:  # what refills it is claimed in turn
        for ticket in handout.tickets:
            on(ledger, NOW + 1).jobs.claim(ticket.job, ticket.token, "w", 60)
            claimed += 1
            on(work, NOW + 1.1).step()
            assert claimed == 4 * window or ledger.history.status().jobs["queued"] > 0, (
                "workers wait"
            )
    assert sum(broker.sizes) == claimed == 4 * window
    whole = min(batch, window)
    under_backlog = broker.sizes[: -2 * SHARES]
    assert under_backlog.count(whole) >= 0.9 * len(under_backlog)


def test_the_last_of_a_backlog_do_not_wait_for_a_batch_that_never_comes(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 35)
    work = dispatcher(ledger, broker, window=32, batch=8)
    on(work, NOW + 1).step()
    (ticket, *_) = broker.got[0][0].tickets
    on(ledger, NOW + 1).jobs.claim(ticket.job, ticket.token, "w", 60)
    on(work, NOW + 1.1).step()
    assert sum(broker.sizes) == 32, "room for one of three: more room is on its way"
    for ticket in broker.got[0][0].tickets[1:3]:
        on(ledger, NOW + 1).jobs.claim(ticket.job, ticket.token, "w", 60)
    on(work, NOW + 1.2).step()
    assert broker.sizes[4:] == [3], "room for all that wait"


def test_stat_never_waits_for_a_batch(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 40)
    work = dispatcher(ledger, broker, window=32, batch=8)
    on(work, NOW + 1).step()
    receive(ledger, 1, first=50, priority=1)
    on(work, NOW + 1.1).step()
    assert [(len(h.tickets), p) for h, p in broker.got[4:]] == [(1, 0)]


def test_a_small_backlog_is_shared_by_several_workers(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 5)
    on(dispatcher(ledger, broker, batch=8), NOW + 1).step()
    assert broker.sizes == [1] * 5


def test_stat_is_not_held_up_by_a_full_window(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 6)
    work = dispatcher(ledger, broker, window=4, batch=1)
    on(work, NOW + 1).step()
    receive(ledger, 1, first=50, priority=1)
    on(work, NOW + 2).step()
    assert [priority for _, priority in broker.got] == [1, 1, 1, 1, 0]


def test_what_a_broker_does_not_take_waits_in_the_ledger(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 3)
    broker.takes = 1
    work = dispatcher(ledger, broker)
    wait = on(work, NOW + 1).step()
    assert wait <= 0.25
    waiting = on(ledger, NOW + 1).jobs.waiting()["phantom"]
    assert (waiting.queued, waiting.due) == (1, 2)
    broker.takes = 10
    on(work, NOW + 1.1).step()
    assert len(broker.got) == 1
    on(work, NOW + 1.3).step()
    assert len(broker.got) == 3
    assert ledger.history.status().jobs == {"queued": 3}


def test_a_model_without_workers_does_not_hold_up_another(ledger: Ledger) -> None:
    got = []

    def put(handout: Handout, priority: int) -> None:
        if handout.model == "a-model":
            raise Busy("200 hand-outs lie in queue model.a-model")
        got.append(handout.model)

    on(ledger, NOW).instances.receive(instance(1), [route(model="a-model"), route(model="b-model")])
    on(Dispatcher(Settings(), ledger, put), NOW + 1).step()
    assert got == ["b-model"]
    assert on(ledger, NOW + 1).jobs.waiting()["a-model"].due == 1


def test_a_hand_out_that_got_lost_is_handed_out_again(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 2)
    work = dispatcher(ledger, broker, queued_for=60, lease=60)
    on(work, NOW + 1).step()
    on(work, NOW + 60).step()
    assert len(broker.got) == 2
    on(work, NOW + 62).step()
    assert len(broker.got) == 4
    tokens = {t.token for handout, _ in broker.got for t in handout.tickets}
    assert len(tokens) == 4


def test_a_job_that_kills_each_worker_ends_as_failed(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 1)
    work = dispatcher(ledger, broker, lease=10, attempts=3)
    now = NOW + 1
    for _ in range(40):
        on(work, now).step()
        for handout, _ in broker.got:
            for ticket in handout.tickets:
                on(ledger, now).jobs.claim(ticket.job, ticket.token, "w", 10)
        broker.got.clear()
        now += 6
    trace = ledger.history.trace("1.2.3.0")
    assert trace.state == "failed"
    assert [s.stage for s in trace.stages].count("claimed") == 3


def test_an_instance_is_published_soon_after_its_commit(ledger: Ledger) -> None:
    broker = Broker()
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher(ledger, broker).loop().run, args=(stop,))
    thread.start()
    try:
        time.sleep(0.3)
        waits = []
        for n in range(8):
            before = len(broker.got)
            ledger.instances.receive(instance(n), [route()])
            received_at = time.monotonic()
            while len(broker.got) == before:
                assert time.monotonic() < received_at + 20
                time.sleep(0.001)
            waits.append(broker.at[-1] - received_at)
            ticket = broker.got[-1][0].tickets[0]
            ledger.jobs.claim(ticket.job, ticket.token, "w", 60)
            post(ledger, ticket, result(ticket, n + 1))
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert min(waits) < 0.06


def test_the_loop_outlives_a_ledger_that_is_away(ledger: Ledger) -> None:
    broker = Broker()
    stop = threading.Event()
    honest, calls = ledger.jobs.waiting, []

    def away() -> Any:
        calls.append(1)
        if len(calls) < 2:
            raise Unreachable("ledger: database is locked")
        return honest()

    ledger.jobs.waiting = away  # type: ignore[method-assign]
    receive(ledger, 1)
    thread = threading.Thread(target=dispatcher(ledger, broker).loop().run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 20
    while not broker.got and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join(10)
    assert len(broker.got) == 1


def test_what_kills_workers_takes_no_neighbour_with_it(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 80)
    work = dispatcher(ledger, broker, window=8, batch=2, attempts=5)
    deadly = jobs_of(ledger, 3)[0].job
    for now in (NOW + 60 * minute for minute in range(1, 24)):
        on(work, now).step()
        for handout, _ in broker.got:
            held = [
                t for t in handout.tickets if on(ledger, now).jobs.claim(t.job, t.token, "w", 30)
            ]
            if deadly not in {ticket.job for ticket in held}:
                for ticket in held:
                    post(ledger, ticket, result(ticket), now)
        broker.got.clear()
    states = {row.job: row.state for n in range(80) for row in jobs_of(ledger, n)}
    assert [job for job, state in states.items() if state != "reported"] == [deadly]
    assert states[deadly] == "failed"


def jobs_of(ledger: Ledger, n: int) -> tuple[JobView, ...]:
    return ledger.history.trace(f"1.2.3.{n}").jobs


def test_a_clock_that_was_an_hour_ahead_holds_nothing_up(ledger: Ledger) -> None:
    receive(ledger, 1)
    (ticket,) = on(ledger, NOW).jobs.hand_out("phantom", 1, NOW + 60)
    on(ledger, NOW).jobs.claim(ticket.job, ticket.token, "w", 60)
    on(ledger, NOW + 3600).jobs.release(ticket.job, ticket.token, "the node restarts", delay_s=10)
    broker = Broker()
    work = dispatcher(ledger, broker)
    on(work, NOW + 5).step()
    assert broker.sizes == []
    on(work, NOW + 16).step()
    assert broker.sizes == [1]


def test_a_job_that_was_tried_goes_as_one_to_be_alone(ledger: Ledger) -> None:
    broker = Broker()
    receive(ledger, 3)
    work = dispatcher(ledger, broker, batch=8)
    on(work, NOW + 1).step()
    assert [handout.alone for handout, _ in broker.got] == [False] * len(broker.got)
    tickets = [ticket for handout, _ in broker.got for ticket in handout.tickets]
    for ticket in tickets[:2]:
        on(ledger, NOW + 2).jobs.claim(ticket.job, ticket.token, "w", 60)
    before = len(broker.got)
    on(work, NOW + 63).step()  # the worker fell silent, and the third hand-out went unclaimed
    again = {ticket.job: h.alone for h, _ in broker.got[before:] for ticket in h.tickets}
    assert again == {ticket.job: ticket in tickets[:2] for ticket in tickets}
