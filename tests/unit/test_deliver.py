"""The deliverer: one report per destination, whatever the destination does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ledgers import NOW, fresh, instance, on, result, route, taken

from dicom_node.base.errors import MismatchedAnswer, NotUnderstood, Unreachable
from dicom_node.base.job import ReportObject
from dicom_node.flow import deliver
from dicom_node.flow.deliver import Deliverer, Pace
from dicom_node.flow.loop import Threads
from dicom_node.settings import Peer, Settings
from dicom_node.standard.header import CUT_OFF
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.status import meaning
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.views import DeliveryView
from dicom_node.store.spool import Spool

TEXT = "1.2.840.10008.5.1.4.1.1.88.11"
KO = "1.2.840.10008.5.1.4.1.1.88.59"


class Archive:
    """A destination in this process: what it accepts, answers and got."""

    def __init__(self, accepts: Sequence[str] = (*SR_CLASSES.values(), TEXT)) -> None:
        self.takes = set(accepts)
        self.is_away = False
        self.breaks_on: bytes = b"nothing"
        self.statuses: list[int] = []
        self.got: list[bytes] = []
        self.associations = 0
        self.closed = 0

    def __call__(self, peer: Peer) -> Archive:
        return self

    def connect(self, sop_classes: Sequence[str]) -> None:
        if self.is_away:
            raise Unreachable("ARCHIVE@127.0.0.1:1 refused the connection")
        self.associations += 1

    def accepts(self, sop_class_uid: str) -> bool:
        return sop_class_uid in self.takes

    def store(self, content: Path | bytes) -> int:
        content = content.read_bytes() if isinstance(content, Path) else content
        if content == self.breaks_on:
            raise Unreachable("ARCHIVE@127.0.0.1:1 aborted the association")
        status = self.statuses.pop(0) if self.statuses else 0
        self.got.append(content)
        return status

    def close(self) -> None:
        self.closed += 1


class Node:
    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder / "spool")
        self.ledger = Ledger.open(fresh(folder))
        self.archive = Archive()
        self.peers: dict[str, Peer] = {"archive": Peer(ae_title="ARCHIVE", host="h", port=1)}

    def deliverer(self, pace: Pace | None = None) -> Deliverer:
        return Deliverer(Settings(peers=self.peers), self.spool, self.ledger, self.archive, pace)

    def running(self, stop: threading.Event, pace: Pace | None = None) -> Any:
        crew, settings = Threads(stop), Settings(peers=self.peers)
        work = Deliverer(settings, self.spool, self.ledger, self.archive, pace, crew)

        def run(stop: threading.Event) -> None:
            work.loop().run(stop)
            crew.join(10)

        return run

    def report(
        self, n: int = 1, classes: Sequence[str] = ("comprehensive3d",), **routed: Any
    ) -> None:
        on(self.ledger, NOW).instances.receive(instance(n), [route(**routed)])
        ticket = taken(self.ledger)
        made = [(f"sr-{name}", "sr", SR_CLASSES[name], f"{n}-{name}".encode()) for name in classes]
        made.append(("text", "basic-text", TEXT, f"{n}-text".encode()))
        objects = tuple(
            ReportObject(
                kind=kind,  # type: ignore[arg-type]
                part=part,
                sop_class_uid=uid,
                sop_instance_uid=f"2.25.{n}{i}",
                series_instance_uid="2.25.9",
            )
            for i, (part, kind, uid, _) in enumerate(made)
        )
        files = {
            part: self.spool.write_report(ticket.job, ticket.token, part, content)
            for part, _, _, content in made
        }
        answer = result(ticket, n, objects=objects)
        on(self.ledger, NOW).jobs.report(ticket.job, ticket.token, answer, files)

    def deliveries(self, n: int = 1) -> tuple[DeliveryView, ...]:
        return self.ledger.history.trace(f"1.2.3.{n}").deliveries


ONLY_SR = {"objects": {"archive": ("sr",)}}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.ledger.close()


def test_a_report_is_stored_once_and_the_status_kept(node: Node) -> None:
    node.report(**ONLY_SR)
    work = node.deliverer()
    on(work, NOW).step()
    on(work, NOW + 1).step()
    assert node.archive.got == [b"1-comprehensive3d"]
    (row,) = node.deliveries()
    assert (row.state, row.status, row.sop_instance_uid) == ("sent", 0, "2.25.10")
    assert node.archive.closed == 1


def test_the_report_goes_before_the_other_objects_in_one_association(node: Node) -> None:
    node.report()
    on(node.deliverer(), NOW).step()
    assert node.archive.got == [b"1-comprehensive3d", b"1-text"]
    assert node.archive.associations == 1


def test_the_first_sop_class_in_the_peers_order_that_it_accepts_is_sent(node: Node) -> None:
    node.archive.takes = {SR_CLASSES["enhanced"], SR_CLASSES["comprehensive"]}
    node.report(classes=("enhanced", "comprehensive3d", "comprehensive"), **ONLY_SR)
    on(node.deliverer(), NOW).step()
    assert node.archive.got == [b"1-comprehensive"]


def test_a_retry_never_sends_another_object(node: Node) -> None:
    node.archive.takes = {SR_CLASSES["comprehensive"]}
    node.archive.statuses = [0xA700]
    node.report(classes=("comprehensive3d", "comprehensive"), **ONLY_SR)
    on(node.deliverer(), NOW).step()
    node.archive.takes = set(SR_CLASSES.values())
    on(node.deliverer(), NOW + 31).step()
    assert node.archive.got == [b"1-comprehensive", b"1-comprehensive"]
    on(node.ledger, NOW + 40).acts.resend("1.2.3.1")
    node.archive.takes = {SR_CLASSES["comprehensive3d"]}
    on(node.deliverer(), NOW + 40).step()
    assert len(node.archive.got) == 2
    assert "no longer accepts" in node.deliveries()[0].reason


def test_what_no_one_accepts_waits_with_its_reason(node: Node) -> None:
    node.archive.takes = {TEXT}
    node.report()
    on(node.deliverer(), NOW).step()
    sr, text = node.deliveries()
    assert (sr.state, sr.reason) == ("retrying", "archive accepts no SOP class of it")
    assert text.state == "sent"


@pytest.mark.parametrize("status", [0xB000, 0xB001, 0xB006, 0xB007, 0xBFFF, 0x0001, 0x0107, 0x0116])
def test_a_warning_is_a_delivery(node: Node, status: int) -> None:
    node.archive.statuses = [status]
    node.report(**ONLY_SR)
    on(node.deliverer(), NOW).step()
    (row,) = node.deliveries()
    assert (row.state, row.status) == ("sent", status)


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC000, 0x0122, 0x0124, 0x0111, 0xFE00])
def test_a_failure_is_retried_with_its_status_as_the_reason(node: Node, status: int) -> None:
    node.archive.statuses = [status]
    node.report(**ONLY_SR)
    on(node.deliverer(), NOW).step()
    (row,) = node.deliveries()
    assert (row.state, row.status, row.attempts) == ("retrying", status, 1)
    assert row.reason == f"archive answered {meaning(status)}"


def test_refusals_back_off_from_30_seconds_to_an_hour_and_never_end(node: Node) -> None:
    node.report(**ONLY_SR)
    node.archive.statuses = [0xA700] * 10
    work, now, waits = node.deliverer(), NOW, []
    for _ in range(10):
        on(work, now).step()
        due = node.deliveries()[0].next_at
        waits.append(due - now)
        on(work, due - 1).step()
        now = due
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    on(work, now).step()
    assert node.deliveries()[0].state == "sent"
    assert len(node.archive.got) == 11


def test_a_turn_ends_while_ever_more_comes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a turn remembers of each object would grow with all that is sent."""
    monkeypatch.setattr(deliver, "TURN", 2)
    store = node.archive.store

    def store_while_more_comes(content: Path | bytes) -> int:
        if len(node.archive.got) < 9:
            node.report(2 + len(node.archive.got), **ONLY_SR)
        return store(content)

    monkeypatch.setattr(node.archive, "store", store_while_more_comes)
    node.report(1, **ONLY_SR)
    work = node.deliverer()
    assert on(work, NOW).step() <= deliver.LOOK_S
    assert len(node.archive.got) == 2
    while len(node.archive.got) < 10:
        on(work, NOW).step()
    assert len(set(node.archive.got)) == 10


def test_an_archive_that_is_away_costs_no_attempt_and_gets_all_when_it_is_back(node: Node) -> None:
    for n in range(5):
        node.report(n, **ONLY_SR)
    node.archive.is_away = True
    work, now, waits = node.deliverer(), NOW, []
    for _ in range(8):
        waits.append(on(work, now).step())
        now += 40
    rows = [row for n in range(5) for row in node.deliveries(n)]
    assert {row.attempts for row in rows} == {0}
    assert {row.reason for row in rows} == {"ARCHIVE@127.0.0.1:1 refused the connection"}
    assert max(waits) <= 30
    node.archive.is_away = False
    on(work, now).step()
    assert sorted(node.archive.got) == [f"{n}-comprehensive3d".encode() for n in range(5)]
    assert node.ledger.deliveries.destination("archive").failures == 0


def test_one_object_that_breaks_each_association_holds_up_no_other(node: Node) -> None:
    for n in range(4):
        node.report(n, **ONLY_SR)
    node.archive.breaks_on = b"0-comprehensive3d"
    work, now = node.deliverer(), NOW
    for _ in range(12):
        on(work, now).step()
        now += 2
    assert sorted(node.archive.got) == [f"{n}-comprehensive3d".encode() for n in (1, 2, 3)]
    (row,) = node.deliveries(0)
    assert (row.state, row.attempts) == ("retrying", 0)
    node.archive.breaks_on = b"nothing"
    on(work, now + 100).step()
    assert node.deliveries(0)[0].state == "sent"


def test_an_unknown_sender_gets_its_report_when_the_settings_know_it(node: Node) -> None:
    node.report(send_to=("@sender",))
    on(node.deliverer(), NOW).step()
    assert node.archive.got == []
    node.peers["room1"] = Peer(ae_title="MODALITY", host="10.0.0.9", port=1)
    stop = threading.Event()
    thread = threading.Thread(target=node.running(stop), args=(stop,))
    thread.start()
    wait_for(lambda: node.archive.got)
    stop.set()
    thread.join(10)
    assert node.archive.got == [b"1-comprehensive3d"]
    sr, text = node.deliveries()
    assert (sr.destination, sr.state) == ("room1", "sent")
    assert (text.state, text.reason) == ("withheld", "room1 takes no basic-text")


def test_a_peer_that_was_removed_leaves_its_reports_waiting(node: Node) -> None:
    node.report(**ONLY_SR)
    node.peers.clear()
    on(node.deliverer(), NOW).step()
    (row,) = node.deliveries()
    assert (row.state, row.reason) == (
        "retrying",
        "archive is no longer in [peers]; add it again",
    )


def test_a_lost_report_file_is_told(node: Node) -> None:
    node.report(**ONLY_SR)
    for path in (node.spool.root / "reports").rglob("*.dcm"):
        path.unlink()
    on(node.deliverer(), NOW).step()
    (row,) = node.deliveries()
    assert (row.state, row.reason) == (
        "retrying",
        "its file cannot be read: FileNotFoundError; replay the Instance",
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (MismatchedAnswer("A says that it stored another object"), "stored another object"),
        (NotUnderstood(f"/a/path: {CUT_OFF}"), "its file is cut off; replay the Instance"),
        (NotUnderstood("/a/path is not a DICOM file"), "its file cannot be read: NotUnderstood"),
    ],
)
def test_an_object_that_was_not_stored_waits_and_holds_no_other_up(
    node: Node, monkeypatch: pytest.MonkeyPatch, fault: Exception, reason: str
) -> None:
    honest = node.archive.store

    def store(content: Any) -> int:
        if b"1-" in content.read_bytes():
            raise fault
        return honest(content)

    monkeypatch.setattr(node.archive, "store", store)
    node.report(1, **ONLY_SR)
    node.report(2, **ONLY_SR)
    on(node.deliverer(), NOW).step()
    (first,), (second,) = node.deliveries(1), node.deliveries(2)
    assert (first.state, second.state) == ("retrying", "sent")
    assert reason in first.reason
    assert "/a/path" not in first.reason


def test_the_loop_delivers_soon_and_again_after_an_outage(node: Node) -> None:
    stop = threading.Event()
    pace = Pace(silent=(0.1, 0.3), idle=0.3)
    thread = threading.Thread(target=node.running(stop, pace), args=(stop,))
    thread.start()
    try:
        node.report(1, **ONLY_SR)
        wait_for(lambda: len(node.archive.got) == 1)
        wait_for(lambda: node.archive.closed == 1)
        node.archive.is_away = True
        node.report(2, **ONLY_SR)
        wait_for(lambda: node.ledger.deliveries.destination("archive").failures >= 2)
        assert len(node.archive.got) == 1
        node.archive.is_away = False
        wait_for(lambda: len(node.archive.got) == 2)
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert node.deliveries(2)[0].attempts == 0


def test_a_slow_archive_does_not_hold_up_another(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.peers["viewer"] = Peer(ae_title="VIEWER", host="h", port=2)
    slow, quick = Archive(), Archive()
    gate = threading.Event()
    honest = slow.store
    slow.store = lambda path: honest(path) if gate.wait(20) else 0xA700  # type: ignore[method-assign]

    def connect(peer: Peer) -> Archive:
        return slow if peer.ae_title == "ARCHIVE" else quick

    node.archive = connect  # type: ignore[assignment]
    node.report(send_to=("archive", "viewer"), objects={"archive": ("sr",), "viewer": ("sr",)})
    stop = threading.Event()
    thread = threading.Thread(target=node.running(stop), args=(stop,))
    thread.start()
    wait_for(lambda: quick.got)
    assert slow.got == []
    gate.set()
    wait_for(lambda: slow.got)
    stop.set()
    thread.join(10)
    node.ledger.close()


def wait_for(claim: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def row(node: Node) -> Any:
    return node.ledger.history.trace("1.2.3.1").deliveries[0]


def test_a_duplicate_after_a_lost_answer_is_a_delivery(node: Node) -> None:
    node.report(**ONLY_SR)
    node.archive.breaks_on = b"1-comprehensive3d"
    work = node.deliverer()
    on(work, NOW).step()
    assert (row(node).state, row(node).unanswered) == ("retrying", 1)
    node.archive.breaks_on = b"nothing"
    node.archive.statuses = [0x0111]
    on(work, NOW + 60).step()
    assert (row(node).state, row(node).status) == ("sent", 0x0111)


def test_a_duplicate_after_a_kill_between_sending_and_recording_is_a_delivery(node: Node) -> None:
    """What a killed courier leaves is an attempt whose answer nobody has recorded."""
    node.report(**ONLY_SR)
    (due,) = on(node.ledger, NOW).deliveries.due()
    node.ledger.deliveries.choose(due.id, "2.25.10")
    node.archive.statuses = [0x0111]
    on(node.deliverer(), NOW + 1).step()
    assert row(node).state == "sent"


def test_a_duplicate_at_the_first_attempt_is_somebody_elses_object(node: Node) -> None:
    node.report(**ONLY_SR)
    node.archive.statuses = [0x0111, 0xA700, 0x0111]
    work = node.deliverer()
    for wait in (0, 100, 1000):
        on(work, NOW + wait).step()
        assert row(node).state == "retrying"
    assert row(node).reason == "archive answered 0x0111 duplicate SOP Instance"


@pytest.mark.parametrize("why", ["", "has this study under another Patient ID"])
def test_a_duplicate_that_was_never_sent_is_looked_at(node: Node, why: str) -> None:
    """Another node that got the same image may have sent the same report."""
    node.report()
    node.archive.statuses = [0x0111]
    asked: list[Path | bytes] = []

    def look(peer: Peer, report: Path | bytes) -> str:
        assert peer.ae_title == "ARCHIVE"
        asked.append(report)
        return why

    settings = Settings(peers=node.peers)
    Deliverer(settings, node.spool, node.ledger, node.archive, look=look).step()
    assert len(asked) == 1
    found = row(node)
    assert (found.state, found.status) == ("retrying" if why else "sent", 0x0111)
    assert found.reason.endswith(why)


def test_a_duplicate_of_what_is_sent_again_is_a_delivery(node: Node) -> None:
    node.report(**ONLY_SR)
    work = node.deliverer()
    on(work, NOW).step()
    assert on(node.ledger, NOW + 1).acts.resend("1.2.3.1") == 1
    node.archive.statuses = [0x0111]
    on(work, NOW + 2).step()
    assert row(node).state == "sent"


def test_what_is_refused_for_too_long_is_given_up_and_what_is_silent_is_not(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.report(**ONLY_SR)
    limits = Settings(peers=node.peers, delivery={"give_up": "30d"})
    work = Deliverer(limits, node.spool, node.ledger, node.archive)
    day = 86400.0
    node.archive.statuses = [0xA900] * 3
    on(work, NOW).step()
    node.archive.is_away = True
    on(work, NOW + 31 * day).step()
    assert row(node).state == "retrying", "silence ends nothing"
    node.archive.is_away = False
    on(work, NOW + 32 * day).step()
    assert row(node).state == "given up"
    assert "0xA900" in row(node).reason
    assert any("given up sop=1.2.3.1 destination=archive" in line for line in caplog.messages)
    on(work, NOW + 40 * day).step()
    assert len(node.archive.got) == 2


def test_by_default_nothing_is_given_up(node: Node) -> None:
    node.report(**ONLY_SR)
    node.archive.statuses = [0xA900] * 2
    work = node.deliverer()
    on(work, NOW).step()
    on(work, NOW + 400 * 86400).step()
    assert row(node).state == "retrying"


def with_note(node: Node) -> None:
    """Replace a report that was sent, and report again with the note."""
    node.report(objects={"archive": ("sr",)})
    on(node.deliverer(), NOW).step()
    on(node.ledger, NOW + 1).acts.replay("1.2.3.1", rejects=True)
    ticket = taken(node.ledger, at=NOW + 2)
    made = [
        ("new", "sr", SR_CLASSES["comprehensive3d"], b"new"),
        ("note", "rejection-note", KO, b"note"),
    ]
    objects = tuple(
        ReportObject(
            kind=kind, part=part, sop_class_uid=uid,  # type: ignore[arg-type]
            sop_instance_uid=f"2.25.7{i}", series_instance_uid="2.25.9",
        )
        for i, (part, kind, uid, _) in enumerate(made)
    )  # fmt: skip
    files = {
        part: node.spool.write_report(ticket.job, ticket.token, part, content)
        for part, _, _, content in made
    }
    answer = result(ticket, 7, objects=objects)
    on(node.ledger, NOW + 2).jobs.report(ticket.job, ticket.token, answer, files)


def states(node: Node) -> dict[str, tuple[str, str]]:
    """Return state and reason of the last delivery of each kind."""
    rows = node.ledger.history.trace("1.2.3.1").deliveries
    return {row.kind: (row.state, row.reason) for row in rows}


def test_the_old_report_is_hidden_after_the_new_one_arrived(node: Node) -> None:
    node.archive.takes.add(KO)
    with_note(node)
    node.archive.statuses = [0xC000]
    work = node.deliverer()
    on(work, NOW + 3).step()
    assert node.archive.got == [b"1-comprehensive3d", b"new"], "refused: nothing is hidden"
    assert (
        states(node)["rejection-note"][1] == "archive has no report yet that replaces the old one"
    )
    on(work, NOW + 9000).step()
    on(work, NOW + 9100).step()
    assert node.archive.got[2:] == [b"new", b"note"]
    assert states(node)["rejection-note"][0] == "sent"


def test_an_archive_without_key_objects_gets_no_note(node: Node) -> None:
    with_note(node)
    on(node.deliverer(), NOW + 3).step()
    state, reason = states(node)["rejection-note"]
    assert state == "withheld"
    assert "takes no Key Object Selection Documents" in reason
    assert node.archive.got == [b"1-comprehensive3d", b"new"]
