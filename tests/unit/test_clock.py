"""A clock that is set, ahead or back, loses nothing and makes nothing wait beyond its back-off."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest
from ledgers import NOW, instance, on, post, reported, result, route, taken

from dicom_node.base.job import Handout
from dicom_node.flow.deliver import Deliverer, Pace
from dicom_node.flow.dispatch import Dispatcher
from dicom_node.flow.loop import Loop
from dicom_node.settings import Dispatch, Peer, Settings
from dicom_node.store import retention
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool

NODE = Path(__file__).resolve().parents[2] / "dicom_node"
ASKS_THE_SYSTEM = re.compile(
    r"\btime\.time\b|\bfrom time import\b|\bdatetime\.(now|utcnow|today)\b|\bdate\.today\b"
)

JUMPS = (3.0, 50.0, 110.0, 3600.0, 90_000.0)
"""Seconds that the clock was ahead while something was written; then it was right again."""


class Archive:
    """A destination that answers with one status."""

    def __init__(self, status: int = 0x0000) -> None:
        self.status = status
        self.got: list[str] = []

    def __call__(self, peer: Peer) -> Archive:
        return self

    def connect(self, sop_classes: object) -> None: ...

    def accepts(self, sop_class_uid: str) -> bool:
        return True

    def store(self, content: Path | bytes) -> int:
        assert isinstance(content, Path)
        self.got.append(content.name)
        return self.status

    def close(self) -> None: ...


@pytest.fixture
def archive() -> Archive:
    return Archive()


def deliverer(
    ledger: Ledger, archive: Archive, folder: Path, pace: Pace | None = None
) -> Deliverer:
    peers = {"archive": Peer(ae_title="ARCHIVE", host="127.0.0.1", port=104)}
    return Deliverer(Settings(peers=peers), Spool(folder / "spool"), ledger, archive, pace)


def dispatcher(ledger: Ledger, handed: list[Handout]) -> Dispatcher:
    settings = Settings(dispatch=Dispatch(lease=60, queued_for=60))
    return Dispatcher(settings, ledger, lambda handout, *_: handed.append(handout))


# deliveries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", JUMPS)
def test_a_report_that_was_made_while_the_clock_was_ahead_goes_at_once(
    ledger: Ledger, archive: Archive, tmp_path: Path, ahead: float
) -> None:
    reported(ledger, at=NOW + ahead)
    on(deliverer(ledger, archive, tmp_path), NOW).step()
    assert len(archive.got) == 1


@pytest.mark.parametrize("ahead", JUMPS)
def test_what_was_refused_while_the_clock_was_ahead_waits_its_back_off_and_no_longer(
    ledger: Ledger, archive: Archive, tmp_path: Path, ahead: float
) -> None:
    reported(ledger, at=NOW)
    work = deliverer(ledger, archive, tmp_path)
    archive.status = 0xA700
    on(work, NOW + ahead).step()
    archive.status = 0x0000
    on(work, NOW).step()
    assert len(archive.got) == 1
    on(work, NOW + 31).step()
    assert len(archive.got) == 2


@pytest.mark.parametrize("ahead", JUMPS)
def test_a_destination_that_was_held_while_the_clock_was_ahead_is_held_no_longer(
    ledger: Ledger, archive: Archive, tmp_path: Path, ahead: float
) -> None:
    reported(ledger, at=NOW)
    on(ledger, NOW + ahead).deliveries.hold("archive", "ARCHIVE gives no answer", NOW + ahead + 30)
    work = deliverer(ledger, archive, tmp_path)
    on(work, NOW).step()
    on(work, NOW + 31).step()
    assert len(archive.got) == 1


@pytest.mark.parametrize("ahead", JUMPS)
def test_a_commitment_that_was_put_off_while_the_clock_was_ahead_is_asked_for_in_its_time(
    ledger: Ledger, archive: Archive, tmp_path: Path, ahead: float
) -> None:
    reported(ledger, at=NOW)
    ledger.deliveries.choose(1, "2.25.1")
    on(ledger, NOW + ahead).deliveries.delivered(1, 0x0000, ask_at=NOW + ahead + 1)
    on(deliverer(ledger, archive, tmp_path), NOW).step()
    assert not on(ledger, NOW).commitments.due()
    assert on(ledger, NOW + 2).commitments.due()


def test_a_back_off_of_a_day_is_a_day(ledger: Ledger, archive: Archive, tmp_path: Path) -> None:
    reported(ledger, at=NOW)
    archive.status = 0xA700
    work = deliverer(ledger, archive, tmp_path, Pace(refused=(86_400.0, 86_400.0)))
    for seconds in (0, 1, 60, 86_000):
        on(work, NOW + seconds).step()
    assert len(archive.got) == 1


@pytest.mark.parametrize("act", ["retry", "resend"])
def test_an_act_of_the_operator_while_the_clock_was_ahead_is_done_at_once(
    ledger: Ledger, archive: Archive, tmp_path: Path, act: str
) -> None:
    reported(ledger, at=NOW)
    if act == "resend":
        on(ledger, NOW).deliveries.delivered(1, 0x0000)
    getattr(ledger.acts, act)("1.2.3.1", NOW + 3600)
    on(deliverer(ledger, archive, tmp_path), NOW).step()
    assert len(archive.got) == 1


# jobs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", JUMPS)
def test_a_job_that_was_given_back_while_the_clock_was_ahead_is_handed_out_at_once(
    ledger: Ledger, ahead: float
) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    on(ledger, NOW + ahead).jobs.release(ticket.job, ticket.token, "the worker ends", delay_s=0)
    handed: list[Handout] = []
    on(dispatcher(ledger, handed), NOW + 1).step()
    assert len(handed) == 1


@pytest.mark.parametrize("ahead", JUMPS)
def test_a_lease_from_a_clock_that_was_ahead_ends_in_its_time(ledger: Ledger, ahead: float) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    taken(ledger, at=NOW + ahead)
    handed: list[Handout] = []
    work = dispatcher(ledger, handed)
    on(work, NOW).step()
    assert not handed, "the worker that holds it had no time at all"
    on(work, NOW + 61).step()
    assert len(handed) == 1


@pytest.mark.parametrize("ahead", JUMPS)
def test_an_instance_from_a_clock_that_was_ahead_does_not_wait_behind_all_others(
    ledger: Ledger, ahead: float
) -> None:
    on(ledger, NOW + ahead).instances.receive(instance(1), [route()])
    handed: list[Handout] = []
    work = dispatcher(ledger, handed)
    on(work, NOW).step()
    ledger.jobs.unpublish(handed.pop().tickets)
    on(ledger, NOW + 2).instances.receive(instance(2), [route()])
    first, _ = on(ledger, NOW + 3).jobs.hand_out("phantom", 2, NOW + 90)
    assert ledger.history.trace("1.2.3.1").jobs[0].job == first.job


class Set:
    """A wall clock that is set by so many seconds."""

    def __init__(self) -> None:
        self.by = 0.0
        self._right = time.time

    def __call__(self) -> float:
        return self._right() + self.by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Set:
    clock = Set()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.mark.parametrize("by", [5000.0, -5000.0, 30.0])
def test_a_worker_keeps_its_lease_when_the_clock_is_set(
    ledger: Ledger, clock: Set, by: float
) -> None:
    ledger.instances.receive(instance(), [route()])
    handed: list[Handout] = []
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher(ledger, handed).loop().run, args=(stop,))
    thread.start()
    try:
        _wait(lambda: bool(handed))
        (ticket,) = handed[0].tickets
        ledger.jobs.claim(ticket.job, ticket.token, "w", 20)
        for _ in range(2):  # set, and set right again
            clock.by = by - clock.by
            time.sleep(1.5)
        assert ledger.history.trace("1.2.3.1").jobs[0].attempts == 1
        assert post(ledger, ticket, result(ticket))
    finally:
        stop.set()
        thread.join(10)
    assert len(handed) == 1


# retention ----------------------------------------------------------------------------------------


def test_a_clock_that_is_set_ahead_makes_no_orphan_of_what_is_just_being_received(
    ledger: Ledger, clock: Set, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool")
    with spool.writing() as incoming:
        incoming.write(b"an image")
        kept = incoming.keep("1.2.3.1")
    clock.by = 90_000.0
    retention.RetentionSweep(Settings(), spool, ledger).remove()
    ledger.instances.receive(instance(1, file=kept.name), [route()])  # and now 0x0000 is answered
    assert spool.path(kept.name).is_file()


def test_a_clock_that_is_set_ahead_is_believed_only_when_it_has_run_evenly(
    ledger: Ledger, clock: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SETTLED_S", 1.0)
    spool = Spool(tmp_path / "spool")
    with spool.writing() as incoming:
        incoming.write(b"an image")
        kept = incoming.keep("1.2.3.1")
    ledger.instances.receive(instance(1, file=kept.name), [], "no rule matched")
    work, stop = retention.RetentionSweep(Settings(), spool, ledger, every_s=0.1), threading.Event()
    loop = Loop("retention", work.step, ledger.clock)
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        time.sleep(1.3)
        clock.by = 90_000.0
        time.sleep(0.7)
        assert spool.path(kept.name).is_file()
        _wait(lambda: not spool.path(kept.name).exists())
    finally:
        stop.set()
        thread.join(10)


def _wait(holds: object) -> None:
    assert callable(holds)
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def who_asks_the_system(folder: Path) -> set[str]:
    """Return the files that read the wall clock of the host themselves."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if ASKS_THE_SYSTEM.search(path.read_text(encoding="utf-8"))
    }


def test_one_clock_tells_the_node_what_time_it_is() -> None:
    """What asks the host itself goes on with the right time when a test sets another.

    The date on the site's walls is asked for by `local_time` alone, below the store.
    """
    assert who_asks_the_system(NODE) == {"store/clock.py", "base/local_time.py"}


@pytest.mark.parametrize("line", ["time.time()", "default=time.time", "datetime.now(UTC)"])
def test_a_second_clock_would_be_seen(tmp_path: Path, line: str) -> None:
    (tmp_path / "other.py").write_text(f"at = {line}\n")
    assert who_asks_the_system(tmp_path) == {"other.py"}
