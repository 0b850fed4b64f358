"""What is wrong is said first, by pages, doctor, readyz and metrics; it ends with its cause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pages
import pytest
import scene
import trustme
from ledgers import NOW, fresh, instance, on, route
from serving import Api, serving

from dicom_node import conditions
from dicom_node.base.errors import Unreachable
from dicom_node.base.job import Card, Device, WorkerHeartbeat
from dicom_node.conditions import CertificateDates, Condition, Conditions
from dicom_node.operate import surroundings
from dicom_node.settings import Settings
from dicom_node.store.ledger import DestinationState, Ledger, Waiting
from dicom_node.store.ledger.refused import RefusedCaller
from dicom_node.web import board, workers


def keys(found: Iterator[Condition]) -> list[tuple[str, str]]:
    return [(condition.key, condition.level) for condition in found]


@pytest.mark.parametrize(
    ("free", "found"),
    [
        (10, [("disk-full", "stop")]),
        (150, [("disk-low", "warn")]),
        (200, []),
        (-1, [("disk-full", "stop")]),
    ],
)
def test_a_disk_is_full_low_or_neither(free: int, found: list[tuple[str, str]]) -> None:
    assert keys(conditions.of_disk(free, 100, Path())) == found


def test_a_ledger_that_cannot_be_written_is_not_one_that_is_away(tmp_path: Path) -> None:
    url = fresh(tmp_path)
    writable = Ledger.open(url)
    assert keys(conditions.of_ledger(writable)) == []
    file = url.removeprefix("sqlite:///")
    read_only = Ledger(f"sqlite:///file:{file}?mode=ro&uri=true")
    (found,) = conditions.of_ledger(read_only)
    assert (found.key, found.level) == ("ledger-read-only", "stop")
    assert "readonly" in found.text
    for ledger in (writable, read_only):
        ledger.close()


def test_a_ledger_that_another_process_writes_is_not_read_only(tmp_path: Path) -> None:
    import sqlite3

    url = fresh(tmp_path)
    ledger = Ledger.open(url)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as other:
        other.execute("PRAGMA wal_checkpoint")
    assert ledger.why_read_only() == ""
    ledger.close()


@pytest.mark.parametrize(
    ("line", "here", "found"),
    [
        (Waiting(due=1, oldest=NOW - 60), set(), ["no-worker"]),
        (Waiting(queued=2, oldest=NOW - 60), set(), ["no-worker"]),
        (Waiting(queued=2, oldest=NOW - 2), set(), []),
        (Waiting(due=1, running=1, oldest=NOW - 600), set(), []),
        (Waiting(due=1, oldest=NOW - 60), {"phantom"}, []),
        (Waiting(due=1, oldest=NOW - 600), {"phantom"}, ["idle-worker"]),
        (Waiting(due=1, oldest=NOW - 600), {"another"}, ["no-worker"]),
        (Waiting(), set(), []),
    ],
)
def test_jobs_that_wait_without_a_worker_are_named(
    line: Waiting, here: set[str], found: list[str]
) -> None:
    listed = list(conditions.of_jobs({"phantom": line}, here, NOW))
    assert [one.key for one in listed] == found
    assert all("phantom" in one.text and one.level == "stop" for one in listed)


@pytest.mark.parametrize(
    ("waited", "here", "words"),
    [(60, (), "60\u00a0s"), (36_000, (), "10\u00a0h"), (600, {"phantom"}, "10\u00a0min")],
)
def test_a_wait_is_told_in_one_unit(waited: float, here: set[str], words: str) -> None:
    """In the morning it was 36000 s."""
    for due in (1, 2):
        line = {"phantom": Waiting(due=due, oldest=NOW - waited)}
        (found,) = conditions.of_jobs(line, here, NOW)
        assert found.text.endswith(f"for {words}.")


def test_the_command_that_starts_a_worker_is_told() -> None:
    (found,) = conditions.of_jobs({"phantom": Waiting(due=1, oldest=NOW - 60)}, (), NOW)
    assert "chexfract-worker run" in found.advised


def test_a_job_that_the_broker_has_taken_waits_all_the_same(tmp_path: Path) -> None:
    ledger = Ledger.open(fresh(tmp_path))
    on(ledger, NOW).instances.receive(instance(), [route()])
    assert on(ledger, NOW + 1).jobs.hand_out("phantom", 1, NOW + 900)
    waiting = on(ledger, NOW + 60).jobs.waiting()
    assert [condition.key for condition in conditions.of_jobs(waiting, (), NOW + 60)] == [
        "no-worker"
    ]
    ledger.close()


def test_a_worker_that_nobody_needs_yet_is_missed_mildly() -> None:
    rule = {"name": "r", "mode": "shadow"}
    settings = Settings(rules=[rule])
    (found,) = conditions.of_workers(settings, {}, ())
    assert (found.key, found.level) == ("no-worker-yet", "warn")
    assert keys(conditions.of_workers(settings, {}, {"phantom"})) == []
    waiting = {"phantom": Waiting(due=1, oldest=NOW)}
    assert keys(conditions.of_workers(settings, waiting, ())) == []


def test_an_archive_is_away_while_reports_wait_for_it() -> None:
    away = DestinationState("pacs", waiting=3, failures=2, held_until=NOW + 60, reason="silent")
    (found,) = conditions.of_destinations([away])
    assert (found.key, found.name) == ("archive-away", "pacs")
    assert found.text == "pacs is away (silent): 3 reports wait for it."
    settled = DestinationState("pacs", waiting=0, failures=2, held_until=NOW + 60, reason="silent")
    assert keys(conditions.of_destinations([settled])) == []


@pytest.mark.parametrize(
    ("now", "last", "jump", "found"),
    [
        (NOW, NOW - 5, 0.0, []),
        (NOW, NOW + 3600, 0.0, [("clock", "stop")]),
        (NOW, NOW, -7200.0, [("clock", "warn")]),
        (NOW, NOW, 3.0, []),
        (1000.0, 0.0, 0.0, [("clock", "stop")]),
    ],
)
def test_a_clock_that_is_wrong_or_was_set_is_named(
    now: float, last: float, jump: float, found: list[tuple[str, str]]
) -> None:
    assert keys(conditions.of_clock(now, last, jump)) == found


@pytest.mark.parametrize(
    ("lasts", "found"),
    [
        (timedelta(days=400), []),
        (timedelta(days=9), [("certificate", "warn")]),
        (timedelta(days=-1), [("certificate", "stop")]),
    ],
)
def test_a_certificate_is_named_before_it_ends(
    tmp_path: Path, lasts: timedelta, found: list[tuple[str, str]]
) -> None:
    issued = trustme.CA().issue_cert("node.example", not_after=datetime.now(UTC) + lasts)
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    settings = Settings(node={"tls": {"certificate": certificate, "key": key}})
    assert keys(conditions.of_certificates(settings)) == found


def test_a_certificate_of_tomorrow_and_one_of_our_own_say_what_to_do(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    tomorrow, later = now + timedelta(days=1), now + timedelta(days=400)
    (found,) = conditions.of_dates(CertificateDates("tls node", tmp_path / "a", tomorrow, later))
    assert "is not valid yet" in found.text
    assert "Set the clock" in found.advised
    (tmp_path / "ca.key").touch()
    ends = CertificateDates("tls node", tmp_path / "a", now, now + timedelta(days=9, hours=1))
    (found,) = conditions.of_dates(ends)
    assert "in 9 days" in found.text
    assert "chexfract-node certificate" in found.advised


def test_an_audit_trail_without_room_is_named_as_images_are_refused(tmp_path: Path) -> None:
    settings = Settings(node={"data_dir": tmp_path})
    assert keys(conditions.of_audit(settings)) == []
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / ".audit.xml.reserve").write_bytes(b"spent")
    (found,) = conditions.of_audit(settings)
    assert (found.key, found.level) == ("audit-full", "stop")
    assert str(tmp_path / "audit") in found.advised


def refused(title: str, ago: float, address: str = "10.0.0.9") -> RefusedCaller:
    return RefusedCaller(title, address, "CHEXFRACT", "no peer has it", 4, NOW - 999, NOW - ago)


def test_a_refused_caller_is_named_until_it_would_be_let_in() -> None:
    settings = Settings()
    (found,) = conditions.of_refused(settings, [refused("XRAY9", 60)], NOW)
    assert (found.key, found.level, found.page) == ("refused-caller", "warn", "/peers#refused")
    assert "XRAY9 at 10.0.0.9 was refused 4 times" in found.text
    assert keys(conditions.of_refused(settings, [refused("XRAY9", 7200)], NOW)) == []
    assert keys(conditions.of_refused(settings, [refused("", 60)], NOW)) == []
    peer = {"ae_title": "XRAY9", "host": "10.0.0.9", "port": 104}
    known = Settings(peers={"xray": peer})
    assert keys(conditions.of_refused(known, [refused("XRAY9", 60)], NOW)) == []
    assert len(list(conditions.of_refused(known, [refused("XRAY9", 60, "10.0.0.1")], NOW))) == 1


def test_a_broker_that_gives_no_answer_is_named_without_its_password() -> None:
    def silent() -> None:
        raise Unreachable("redis://host gives no answer")

    (found,) = conditions.of_broker("redis://:secret@host:1/0", silent)
    assert (found.key, found.level) == ("broker-away", "stop")
    assert "secret" not in found.text + found.name
    assert keys(conditions.of_broker("redis://host", lambda: None)) == []


# In a running node


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("node")
    with serving(folder, sign_in=False, rules=scene.RULES) as running:
        yield running


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each question be answered by a fresh look."""
    monkeypatch.setattr(conditions, "FRESH_S", 0.0)
    monkeypatch.setattr(conditions, "YOUNG_S", 0.0)
    monkeypatch.setattr(conditions, "GRACE_S", 0.0)
    monkeypatch.setattr(conditions, "WAIT_S", 60.0)


def overview(api: Api) -> dict[str, Any]:
    """Return what pages, readyz and metrics say."""
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=60) as http:
        metrics = http.get("/metrics").text
        return {
            "page": http.get("/alerts").text,
            "ready": http.get("/readyz").json(),
            "metrics": {
                line.split('condition="')[1].split('"')[0]
                for line in metrics.splitlines()
                if line.startswith("chexfract_condition{")
            },
        }


def test_a_full_disk_is_said_everywhere_and_ends_with_its_cause(
    api: Api, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.spool, "min_free", 1 << 62)
    monkeypatch.setattr(api.spool, "_free_at", -1.0)
    found = overview(api)
    assert 'role="alert"' in found["page"]
    assert "The disk is full: images are refused." in found["page"]
    assert "disk-full" in found["ready"]["conditions"]
    assert found["ready"]["ready"] is False
    assert "disk-full" in found["metrics"]
    monkeypatch.setattr(api.spool, "min_free", 0)
    monkeypatch.setattr(api.spool, "_free_at", -1.0)
    found = overview(api)
    assert "disk is full" not in found["page"]
    assert "disk-full" not in {*found["ready"]["conditions"], *found["metrics"]}


def test_a_ledger_that_is_away_is_said_by_pages_that_are_open(
    api: Api, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise Unreachable("the ledger is away")

    monkeypatch.setattr(api.ledger.history, "answers", away)
    found = overview(api)
    assert "The ledger gives no answer" in found["page"]
    assert "ledger-away" in found["ready"]["conditions"]


def test_pages_doctor_and_metrics_agree_on_a_missing_worker(
    api: Api, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages.keep(api, b"\0" * 128 + b"DICM waits", pages.route())
    found = overview(api)
    assert "No worker of the model phantom is running: 1 image waits" in found["page"]
    assert "chexfract-worker run" in found["page"]
    assert "no-worker" in {*found["ready"]["conditions"]} & found["metrics"]
    assert found["ready"]["ready"] is True
    monkeypatch.setattr(surroundings, "_models_here", lambda settings: set())
    checks = {check.name: check for check in surroundings.ledger(api.settings)}
    assert checks["jobs"].verdict == "fail"
    assert "chexfract-worker run" in checks["jobs"].advice
    pages.rejected(api, pages.claimed(api))
    assert "no-worker" not in overview(api)["ready"]["conditions"]


def test_a_look_that_hangs_keeps_no_page_waiting(
    api: Api, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    released = threading.Event()
    monkeypatch.setattr(conditions, "WAIT_S", 0.05)
    monkeypatch.setattr(conditions, "SILENT_S", 0.0)
    monkeypatch.setattr(api.ledger.history, "answers", lambda: released.wait(30))
    looked = Conditions(api.settings, api.ledger, api.spool, set, time.monotonic())
    try:
        assert [condition.key for condition in looked.now()] == ["ledger-away"]
    finally:
        released.set()


def test_a_worker_that_went_is_missed_only_until_another_is_there() -> None:
    def seen(name: str, ago: float) -> workers.Seen:
        card = Card(name="phantom", version="1")
        return workers.Seen(WorkerHeartbeat(worker=name, card=card, device=Device(name="cpu")), ago)

    gone = seen("b", workers.HERE_S + 9)
    assert board._busy_workers((), [seen("a", 1.0), gone])["gone"] == []
    assert board._busy_workers((), [gone])["gone"] == ["b"]
