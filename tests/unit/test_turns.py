"""Several nodes on one PostgreSQL ledger: what one has to do is done once, without a leader."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import killed
import pytest
import sqlalchemy as sa
from ledgers import fresh, instance, on, post, reported, result, route, taken
from postgresql import Cluster, cluster

from dicom_node.base.errors import Unreachable
from dicom_node.flow.deliver import Deliverer
from dicom_node.flow.loop import Threads
from dicom_node.settings import Peer, Settings
from dicom_node.store.ledger import Ledger, acts, locks, repeats
from dicom_node.store.ledger.events import Details, NewEvent, append
from dicom_node.store.ledger.purge import Purgeable
from dicom_node.store.schema import VERSIONS
from dicom_node.store.spool import Spool


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def nodes(server: Cluster) -> Iterator[tuple[Ledger, Ledger]]:
    url = server.fresh()
    both = (Ledger.open(url), Ledger.open(url))
    yield both
    for ledger in both:
        ledger.close()


def test_one_has_the_turn_until_it_gives_it_back(nodes: tuple[Ledger, Ledger]) -> None:
    one, other = (ledger.turns for ledger in nodes)
    assert one.take("deliver-a")
    assert one.take("deliver-a")
    assert not other.take("deliver-a")
    assert other.take("deliver-b")
    one.give_back("deliver-a")
    one.give_back("deliver-a")
    assert other.take("deliver-a")


def test_the_turns_of_a_node_that_ends_are_free(nodes: tuple[Ledger, Ledger]) -> None:
    one, other = nodes
    assert one.turns.take("compare")
    one.close()
    end = time.monotonic() + 60
    while not other.turns.take("compare"):
        assert time.monotonic() < end


def test_who_loses_its_connection_has_lost_its_turn_and_finds_out(
    nodes: tuple[Ledger, Ledger],
) -> None:
    one, other = nodes
    assert one.turns.take("compare")
    with other.database.writing() as connection:
        held = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.execute(sa.text(held)).all()
    end = time.monotonic() + 60
    while not other.turns.take("compare"):
        assert time.monotonic() < end
    with pytest.raises(Unreachable):
        one.turns.take("compare")
    assert not one.turns.take("compare")
    other.turns.give_back("compare")
    assert one.turns.take("compare")


def test_the_one_node_of_a_file_has_every_turn(tmp_path: Path) -> None:
    ledger = Ledger.open(fresh(tmp_path))
    assert ledger.turns.take("compare")
    ledger.turns.give_back("compare")
    ledger.close()


class Archive:
    """A destination that counts what it gets from all nodes."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def connect(self, sop_classes: object) -> None: ...

    def accepts(self, sop_class_uid: str) -> bool:
        return True

    def store(self, path: object) -> int:
        self.got.append(str(path))
        return 0x0000

    def close(self) -> None: ...


def test_two_couriers_send_each_report_once(nodes: tuple[Ledger, Ledger], tmp_path: Path) -> None:
    for n in range(24):
        reported(nodes[0], n)
    peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=104)
    archive, spool, stop = Archive(), Spool(tmp_path / "spool"), threading.Event()
    for ledger in nodes:
        crew = Threads(stop)
        settings = Settings(peers={"archive": peer})
        crew.add(Deliverer(settings, spool, ledger, lambda _: archive, crew=crew).loop())
    end = time.monotonic() + 60
    while nodes[0].history.status().deliveries != {"sent": 24}:
        assert time.monotonic() < end
        time.sleep(0.05)
    stop.set()
    crew.join(30)
    assert len(archive.got) == 24


def test_two_nodes_that_start_at_once_make_one_ledger(server: Cluster) -> None:
    url = server.without_tables()
    lived: list[bool] = []
    starts = [
        threading.Thread(target=lambda: lived.append(killed.upgrade(url, 10**9, small=2000)))
        for _ in range(2)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert lived == [True, True]
    ledger = Ledger.open(url)
    assert ledger.revision() == VERSIONS[-1]
    ledger.close()


def test_an_event_that_is_committed_late_is_missed_by_nobody(nodes: tuple[Ledger, Ledger]) -> None:
    """The audit trail follows the ids of events; who writes at once ends in any order."""
    one, other = nodes
    one.history.note("accessed", "the first")
    start = one.history.newest_event()
    with one.database.writing() as connection:
        append(connection, [NewEvent("", "accessed", 1.0, details=Details(sentence="the second"))])
        other.history.note("accessed", "the third")
        assert other.history.events_after(start, 10) == []
        assert other.history.newest_event() == start
    found = [event.detail for event in other.history.events_after(start, 10)]
    assert found == ["the second", "the third"]
    assert other.history.newest_event() == start + 2


class Remover:
    """Another node that removes a file while the first one works on its row."""

    def __init__(self, ledger: Ledger, item: Purgeable) -> None:
        self._ledger = ledger
        self._thread = threading.Thread(target=lambda: self.removed.append(self._remove(item)))
        self.removed: list[bool] = []

    def _remove(self, item: Purgeable) -> bool:
        return self._ledger.purge.forget(item, 0.0, 0.0)

    def before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """Return `act`, before which it has removed the file or waits for a lock."""

        def later(*given: Any) -> Any:
            self._thread.start()
            end = time.monotonic() + 60
            while self._thread.is_alive() and time.monotonic() < end:
                with self._ledger.database.reading() as connection:
                    if connection.scalar(
                        sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                    ):
                        break
            return act(*given)

        return later

    def has_removed(self) -> bool:
        """Return whether it has, once it is done."""
        self._thread.join(60)
        return self.removed == [True]


OTHER: dict[str, Any] = {"sha256": "b" * 64, "patient_id": "PID2", "file": "images/bb/2.dcm"}


def test_a_correction_is_not_removed_while_it_is_adopted(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file stands for the Instance from then on, and the first file goes."""
    one, other = nodes
    one.instances.receive(instance(sha256="a" * 64), [])
    assert one.instances.receive(instance(**OTHER), []).kind == "conflict"
    kept = one.acts.kept_apart("1.2.3.1")
    remover = Remover(other, Purgeable("conflict", (str(kept.id),), kept.file))
    monkeypatch.setattr(acts, "replace_content", remover.before(repeats.replace_content))
    one.acts.adopt(kept.id, instance(**OTHER), [])
    assert not remover.has_removed()
    assert one.history.trace("1.2.3.1").instance.file == OTHER["file"]


@pytest.mark.parametrize("where", ["before it is compared", "before it gets its job"])
def test_an_image_that_comes_again_is_not_removed_when_it_gets_its_first_job(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The file that came second is dropped: it is the same."""
    one, other = nodes
    one.instances.receive(instance(sha256="a" * 64), [])
    first = one.history.trace("1.2.3.1").instance.file
    remover = Remover(other, Purgeable("image", ("1.2.3.1",), first))
    owner, name = {
        "before it is compared": (one.instances.repeats, "record"),
        "before it gets its job": (repeats, "_newest_jobs"),
    }[where]
    monkeypatch.setattr(owner, name, remover.before(getattr(owner, name)))
    again = one.instances.receive(instance(sha256="a" * 64, file="images/cc/3.dcm"), [route()])
    assert (again.kind, len(again.jobs), again.file) == ("duplicate", 1, first)
    assert not remover.has_removed()
    assert one.history.trace("1.2.3.1").instance.file == first


def test_an_image_is_not_removed_while_it_is_analysed_again(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = nodes
    reported(one, at=one.clock.wall() - 100)
    one.acts.settle("1.2.3.1", "sent")
    image = one.history.trace("1.2.3.1").instance.file
    remover = Remover(other, Purgeable("image", ("1.2.3.1",), image))
    monkeypatch.setattr(acts, "_require_file", remover.before(acts._require_file))
    assert len(one.acts.replay("1.2.3.1")) == 1
    assert not remover.has_removed()
    assert one.history.trace("1.2.3.1").instance.file == image


def test_a_report_is_not_removed_while_it_is_sent_again(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = nodes
    job = reported(one, at=one.clock.wall() - 100).job
    one.acts.settle("1.2.3.1", "sent")
    remover = Remover(other, Purgeable("report", (job, "sr"), f"reports/aa/{job[:8]}.sr.dcm"))
    monkeypatch.setattr(acts, "_send_now", remover.before(acts._send_now))
    assert one.acts.resend("1.2.3.1") == 1
    assert not remover.has_removed()


@pytest.mark.parametrize("act", ["retry", "retry_failed"])
def test_an_image_is_not_removed_while_its_failed_job_is_tried_again(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    one, other = nodes
    at = one.clock.wall() - 100
    on(one, at).instances.receive(instance(), [route()])
    ticket = taken(one, at=at)
    on(one, at).jobs.release(ticket.job, ticket.token, "broken", True, 0, 1)
    image = one.history.trace("1.2.3.1").instance.file
    remover = Remover(other, Purgeable("image", ("1.2.3.1",), image))
    monkeypatch.setattr(acts.Acts, "_restart_job", remover.before(acts.Acts._restart_job))
    assert (one.acts.retry("1.2.3.1") if act == "retry" else one.acts.retry_failed()) == 1
    assert not remover.has_removed()


def during(
    monkeypatch: pytest.MonkeyPatch,
    watcher: Ledger,
    name: str,
    other: Callable[[], object],
    within: object = acts.Acts,
) -> Callable[[], list[object]]:
    """Let another node act once an act has its locks; return what it has said when it is done."""
    said: list[object] = []

    def act() -> None:
        try:
            said.append(other())
        except Unreachable as exc:
            said.append(exc)

    thread, whole = threading.Thread(target=act), getattr(within, name)

    def later(*given: Any, **named: Any) -> Any:
        if not thread.ident:
            thread.start()
            end = time.monotonic() + 60
            waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while thread.is_alive() and time.monotonic() < end:
                with watcher.database.reading() as connection:
                    if connection.scalar(waits):
                        break
        return whole(*given, **named)

    def ended() -> list[object]:
        thread.join(60)
        return said

    monkeypatch.setattr(within, name, later)
    return ended


@pytest.mark.parametrize("act", ["retry", "resend"])
def test_a_courier_settles_what_a_person_sends_again_without_a_deadlock(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """A delivery is locked before its job: its trigger writes the job."""
    one, other = nodes
    reported(one, at=one.clock.wall() - 100)
    (row,) = one.deliveries.due(10)
    one.deliveries.choose(row.id, row.objects[0].sop_instance_uid)
    sent = during(monkeypatch, one, "_jobs_of", lambda: other.deliveries.delivered(row.id, 0x0000))
    getattr(one.acts, act)("1.2.3.1")
    assert sent() == [True]


def test_a_destination_that_is_first_held_between_the_locks_of_two_acts_is_no_deadlock(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no row before, which could be locked."""
    one, other = nodes
    now = one.clock.wall()
    for n in (1, 2):
        reported(one, n, now - 100, send_to=("b", "c"))
    for row in one.deliveries.due(10):
        one.deliveries.postpone(row.id, "refused", now + 60)
    one.deliveries.hold("c", "no answer", now + 60)

    def hold_and_retry() -> int:
        other.deliveries.hold("b", "no answer", now + 60)
        return other.acts.retry("1.2.3.2")

    tried = during(monkeypatch, one, "_jobs_of", hold_and_retry)
    assert one.acts.retry("1.2.3.1") == 2
    assert tried() == [2]
    assert [one.deliveries.destination(name).held_until for name in ("b", "c")] == [0, 0]


def test_what_comes_to_a_study_meanwhile_is_left_out_of_an_act_on_it(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is locked by nobody: its new job would wait for whoever locks it in the right order."""
    one, other = nodes
    reported(one, at=one.clock.wall() - 100)
    come = during(monkeypatch, one, "_jobs_of", lambda: reported(other, 2, other.clock.wall()))
    assert len(one.acts.replay("1.2.4")) == 1
    assert len(come()) == 1
    assert [len(one.history.trace(f"1.2.3.{n}").jobs) for n in (1, 2)] == [2, 1]


@pytest.mark.parametrize("act", ["retry", "retry_failed"])
def test_an_image_comes_again_while_its_job_is_tried_again_without_a_deadlock(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Jobs are locked before their Instance, as by a repetition."""
    one, other = nodes
    at = one.clock.wall() - 100
    on(one, at).instances.receive(instance(), [route()])
    ticket = taken(one, at=at)
    on(one, at).jobs.release(ticket.job, ticket.token, "broken", True, 0, 1)
    again = during(
        monkeypatch, one, "_restart_job", lambda: other.instances.receive(instance(), [route()])
    )
    assert (one.acts.retry("1.2.3.1") if act == "retry" else one.acts.retry_failed()) == 1
    (receipt,) = again()
    assert getattr(receipt, "kind", receipt) == "duplicate"


def test_a_failed_job_is_tried_again_while_a_repetition_is_found_to_be_the_same(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = nodes
    at = one.clock.wall() - 100
    on(one, at).instances.receive(instance(), [route()])
    ticket = taken(one, at=at)
    on(one, at).jobs.release(ticket.job, ticket.token, "broken", True, 0, 1)
    assert one.instances.receive(instance(sha256="b" * 64), [route()]).kind == "comparing"
    (likeness,) = one.repeats.waiting()
    tried = during(monkeypatch, one, "_newest_jobs", other.acts.retry_failed, repeats)
    assert one.repeats.settle_same(likeness, [route()]) == ((), "images/aa/1.dcm")
    assert tried() == [1]


@pytest.mark.parametrize("act", ["retry", "resend"])
def test_a_report_is_made_while_an_act_takes_its_locks_without_a_deadlock(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Its deliveries are locked before its job, too, though there were none when that began."""
    one, other = nodes
    at = one.clock.wall() - 100
    on(one, at).instances.receive(instance(), [route()])
    ticket = taken(one, at=at)
    lock_jobs, made = locks._lock_jobs, list[bool]()

    def report_first(*given: Any) -> Any:
        if not made:
            made.append(post(other, ticket, result(ticket)))
        return lock_jobs(*given)

    monkeypatch.setattr(locks, "_lock_jobs", report_first)

    def deliver() -> object:
        (row,) = other.deliveries.due(10)
        return other.deliveries.delivered(row.id, 0x0000)

    sent = during(monkeypatch, one, "_jobs_of", deliver)
    getattr(one.acts, act)("1.2.3.1")
    assert (made, sent()) == ([True], [True])


def test_a_conflict_comes_again_while_it_is_adopted_without_a_deadlock(
    nodes: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict is locked behind its Instance, as by a repetition."""
    one, other = nodes
    reported(one, at=one.clock.wall() - 100)
    corrected = instance(sha256="f" * 64, file="conflicts/ff/1.dcm", patient_id="P2")
    assert one.instances.receive(corrected, [route()]).kind == "conflict"
    kept = one.acts.kept_apart("1.2.3.1")
    again = during(
        monkeypatch,
        one,
        "replace_content",
        lambda: other.instances.receive(corrected, [route()]),
        acts,
    )
    one.acts.adopt(kept.id, corrected, [route()])
    (receipt,) = again()
    assert getattr(receipt, "kind", receipt) == "duplicate"


@pytest.mark.parametrize("many", ["extend_leases", "redate", "unpublish"])
def test_who_changes_many_jobs_locks_them_by_their_ids_as_acts_do(
    nodes: tuple[Ledger, Ledger], many: str
) -> None:
    one, other = nodes
    at = one.clock.wall() - 100
    for n in range(2, 8):
        on(one, at + n).instances.receive(instance(n), [route()])
    tickets = on(one, at + 9).jobs.hand_out("phantom", 6, at + 9999)
    first = min(ticket.job for ticket in tickets)
    assert first != tickets[0].job, "it is not the first row, either"
    others = {
        "extend_leases": lambda: other.jobs.extend_leases(-7200.0),
        "redate": lambda: on(other, 1000.0).jobs.redate(),
        "unpublish": lambda: other.jobs.unpublish(
            sorted(tickets, key=lambda ticket: ticket.job, reverse=True)
        ),
    }
    thread = threading.Thread(target=others[many])
    lock = "SELECT 1 FROM jobs WHERE id {} :job FOR NO KEY UPDATE {}"
    with one.database.writing() as act:
        act.execute(sa.text(lock.format("=", "")), {"job": first})
        thread.start()
        waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with one.database.reading() as connection:
                if connection.scalar(waits):
                    break
        act.execute(sa.text(lock.format(">", "NOWAIT")), {"job": first})
    thread.join(60)
    assert not thread.is_alive()
