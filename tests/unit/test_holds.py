"""What people hold back waits, loses nothing and fails nothing, and goes on when it is let go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ledgers import NOW, fresh, instance, on, post, result, route

from dicom_node import conditions
from dicom_node.base.errors import NotFound, Stale
from dicom_node.base.job import Handout
from dicom_node.flow.deliver import Deliverer, Pace
from dicom_node.flow.dispatch import Dispatcher
from dicom_node.settings import Delivery, Peer, Settings
from dicom_node.store.actor import Actor
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.api_keys import MOST_OF_PERSON
from dicom_node.store.spool import Spool

JANE = Actor("jane", "10.1.1.1")


class Archive:
    """A destination that answers with given statuses."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.got: list[bytes] = []

    def __call__(self, peer: Peer) -> Archive:
        return self

    def connect(self, sop_classes: object) -> None: ...

    def accepts(self, sop_class_uid: str) -> bool:
        return True

    def store(self, path: Path) -> int:
        self.got.append(path.read_bytes())
        return self.statuses.pop(0) if self.statuses else 0

    def close(self) -> None: ...


def receive(ledger: Ledger, count: int, first: int = 0) -> None:
    for n in range(first, first + count):
        on(ledger, NOW + n / 1000).instances.receive(instance(n), [route()])


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        url = fresh(tmp_path)
    else:
        url = request.getfixturevalue("cluster").fresh()
    ledger = Ledger.open(url)
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    from postgresql import cluster

    with cluster() as running:
        yield running


def test_a_held_model_hands_nothing_out_and_takes_back_what_waits_in_the_broker(
    ledger: Ledger,
) -> None:
    got: list[Handout] = []
    work = Dispatcher(Settings(), ledger, lambda handout, priority: got.append(handout))
    receive(ledger, 2)
    on(work, NOW + 1).step()
    first = got[0]
    assert on(ledger, NOW + 2).holds.hold("model", "phantom", JANE, "new weights")
    with pytest.raises(Stale):
        on(ledger, NOW + 3).jobs.claim(first.tickets[0].job, first.tickets[0].token, "w", 60)
    got.clear()
    receive(ledger, 1, first=5)
    on(work, NOW + 4).step()
    assert got == []
    assert on(ledger, NOW + 4).jobs.waiting()["phantom"].due == 0
    # nobody counts it as late: it waits on purpose
    assert list(conditions.of_jobs(ledger.jobs.waiting(), (), NOW + 9000)) == []
    ledger.holds.let_go("model", "phantom")
    on(work, NOW + 5).step()
    handed = {ticket.job for handout in got for ticket in handout.tickets}
    assert len(handed) == 3


def test_a_running_job_of_a_held_model_is_finished(ledger: Ledger) -> None:
    receive(ledger, 1)
    (ticket,) = on(ledger, NOW + 1).jobs.hand_out("phantom", 1, NOW + 60)
    on(ledger, NOW + 2).jobs.claim(ticket.job, ticket.token, "w", 60)
    ledger.holds.hold("model", "phantom", JANE)
    assert post(ledger, ticket, result(ticket, 1), NOW + 3)


def test_a_held_rule_keeps_its_own_images_waiting_alone(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(1), [route(rule="held")])
    on(ledger, NOW).instances.receive(instance(2), [route(rule="free")])
    ledger.holds.hold("rule", "held", JANE)
    assert on(ledger, NOW + 1).jobs.waiting()["phantom"].due == 1
    (ticket,) = on(ledger, NOW + 1).jobs.hand_out("phantom", 9, NOW + 60)
    assert ledger.history.trace(ticket.job).jobs[0].rule == "free"
    ledger.holds.let_go("rule", "held")
    assert len(on(ledger, NOW + 2).jobs.hand_out("phantom", 9, NOW + 60)) == 1


def test_a_held_worker_gets_no_job_and_another_gets_it_without_an_attempt(ledger: Ledger) -> None:
    receive(ledger, 1)
    ledger.holds.hold("worker", "gpu-1:7", JANE)
    (ticket,) = on(ledger, NOW + 1).jobs.hand_out("phantom", 1, NOW + 60)
    with pytest.raises(Stale):
        on(ledger, NOW + 2).jobs.claim(ticket.job, ticket.token, "gpu-1:7", 60)
    assert on(ledger, NOW + 3).jobs.hand_out("phantom", 1, NOW + 60) == []
    (again,) = on(ledger, NOW + 5).jobs.hand_out("phantom", 1, NOW + 60)
    claimed = on(ledger, NOW + 6).jobs.claim(again.job, again.token, "gpu-2:9", 60)
    assert claimed.attempt == 1


def test_a_held_worker_may_repeat_the_claim_of_the_job_that_it_has(ledger: Ledger) -> None:
    receive(ledger, 1)
    (ticket,) = on(ledger, NOW + 1).jobs.hand_out("phantom", 1, NOW + 60)
    on(ledger, NOW + 2).jobs.claim(ticket.job, ticket.token, "gpu-1:7", 60)
    ledger.holds.hold("worker", "gpu-1:7", JANE)
    assert on(ledger, NOW + 3).jobs.claim(ticket.job, ticket.token, "gpu-1:7", 60).attempt == 1


def test_a_held_destination_gets_nothing_and_later_all_without_a_failure(
    ledger: Ledger, tmp_path: Path
) -> None:
    archive, spool = Archive(), Spool(tmp_path / "spool")
    settings = Settings(
        peers={"archive": Peer(ae_title="A", host="h", port=1)}, delivery=Delivery(give_up=3600)
    )
    work = Deliverer(settings, spool, ledger, archive, Pace())
    on(ledger, NOW).instances.receive(instance(1), [route()])
    (ticket,) = on(ledger, NOW).jobs.hand_out("phantom", 1, NOW + 60)
    on(ledger, NOW).jobs.claim(ticket.job, ticket.token, "w", 60)
    on(ledger, NOW + 1).holds.hold("destination", "archive", JANE, "it moves")
    name = spool.write_report(ticket.job, ticket.token, "sr", b"SR")
    made = result(ticket, 1)
    files = {one.part: name for one in made.objects}
    assert on(ledger, NOW + 2).jobs.report(ticket.job, ticket.token, made, files)
    assert on(work, NOW + 9).step() == 5.0
    assert archive.got == []
    (state,) = ledger.history.status().destinations
    assert (state.waiting, state.is_held, conditions.is_down(state)) == (1, True, False)
    # held for longer than give_up: the first refusal afterwards must not end it
    on(ledger, NOW + 9000).holds.let_go("destination", "archive")
    archive.statuses = [0xA700]
    on(work, NOW + 9001).step()
    (delivery,) = ledger.history.trace("1.2.3.1").deliveries
    assert (delivery.state, delivery.attempts) == ("retrying", 1)
    on(work, NOW + 9100).step()
    assert ledger.history.trace("1.2.3.1").deliveries[0].state == "sent"


def test_what_is_held_stands_among_the_conditions_with_who_and_why(ledger: Ledger) -> None:
    assert on(ledger, NOW).holds.hold("destination", "archive", JANE, "it moves")
    assert not ledger.holds.hold("destination", "archive", Actor("joe"))
    (one,) = conditions.of_holds(ledger.holds.held())
    assert one.level == "warn"
    assert "by jane (it moves)" in one.text
    assert ledger.holds.let_go("destination", "archive").held_by == "jane"
    with pytest.raises(NotFound):
        ledger.holds.let_go("destination", "archive")


def test_a_key_is_known_by_its_text_alone_and_ends(ledger: Ledger) -> None:
    made, text = ledger.api_keys.make("jane", "script", "jane")
    assert text.startswith(f"cfx_{made.ident}_")
    found = ledger.api_keys.find(text)
    assert found is not None
    assert found.user_name == "jane"
    assert ledger.api_keys.of_person("jane")[0].used_at > 0
    assert ledger.api_keys.find(text[:-1]) is None
    assert ledger.api_keys.find("") is None
    with pytest.raises(NotFound):
        ledger.api_keys.end(made.ident, "joe")
    ledger.api_keys.end(made.ident, "jane")
    assert ledger.api_keys.find(text) is None
    for _ in range(MOST_OF_PERSON):
        ledger.api_keys.make("jane", "", "root")
    assert ledger.api_keys.end_all("jane") == MOST_OF_PERSON
