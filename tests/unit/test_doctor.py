"""Doctor names the cause of each broken set-up and says what to do about it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from clocks import FakeClock
from ledgers import NOW, expand, fresh, instance, on, reported, route
from listening import listening

from dicom_node.base.checks import Check, exit_code, failed, passed, show, warned
from dicom_node.base.confine import landlock_version
from dicom_node.operate import machine, neighbours, people, surroundings
from dicom_node.operate.doctor import together
from dicom_node.settings import Settings
from dicom_node.store.audit_file import AuditFile
from dicom_node.store.ledger import Ledger
from dicom_node.users import add_user


def settings_of(folder: Path, **tables: Any) -> Settings:
    node = {"host": "127.0.0.1", "port": 0, "data_dir": folder, **tables.pop("node", {})}
    retention = tables.pop("retention", {"min_free": 0})
    return Settings(node=node, retention=retention, **tables)


def only(checks: Iterable[Check]) -> Check:
    (check,) = checks
    return check


def worst(checks: Iterable[Check]) -> Check:
    return max(checks, key=lambda check: ("pass", "warn", "fail").index(check.verdict))


def archive(port: int, **keys: Any) -> dict[str, Any]:
    return {"archive": {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port, **keys}}


RULES = [{"name": "all", "model": "phantom", "allow_demonstration": True, "send_to": ["archive"]}]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_a_port_of_another_program_is_named(tmp_path: Path, taken: int) -> None:
    node, _ = machine.ports(settings_of(tmp_path, node={"port": taken}))
    assert (node.verdict, node.exit_code) == ("fail", 78)
    assert f"port {taken}: in use by another program" in node.what
    assert "change [node] port" in node.advice


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    node, _ = machine.ports(settings_of(tmp_path, node={"host": "203.0.113.9", "port": 11112}))
    assert node.verdict == "fail"
    assert "[node] host must be an address of this machine" in node.advice


def test_an_open_node_is_warned_of(tmp_path: Path) -> None:
    open_node = {"host": "0.0.0.0", "known_peers_only": False}
    check = only(machine.openness(settings_of(tmp_path, node=open_node)))
    assert check.verdict == "warn"
    assert "anyone" in check.what
    assert "known_peers_only = true" in check.advice


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    settings = settings_of(Path("/proc/self/node"))
    check = worst(machine.disk(settings))
    assert (check.verdict, check.exit_code) == ("fail", 78)
    assert "/proc/self cannot be written" in check.what


def test_a_disk_below_its_watermark_is_named(tmp_path: Path) -> None:
    check = worst(machine.disk(settings_of(tmp_path, retention={"min_free": 10**18})))
    assert check.verdict == "fail"
    assert check.what.startswith("The disk is full: images are refused.")


def test_a_wrong_clock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "HOST_CLOCK", FakeClock(1e9))
    check = worst(machine.disk(settings_of(tmp_path)))
    assert (check.name, check.verdict) == ("clock", "fail")
    assert "chrony" in check.advice


def test_a_ledger_from_the_future_is_named(tmp_path: Path) -> None:
    ledger = Ledger.open(fresh(tmp_path))
    reported(ledger, at=time.time() + 3600)
    ledger.close()
    checks = list(surroundings.ledger(settings_of(tmp_path)))
    clock = next(check for check in checks if check.name == "clock")
    assert clock.verdict == "fail"
    assert "in the future" in clock.what


@pytest.mark.parametrize(
    ("mode", "content", "cause"),
    [(0o644, "s" * 30, "may be read by others (0644)"), (0o600, "short", "shorter than 16")],
)
def test_a_bad_secret_is_named(tmp_path: Path, mode: int, content: str, cause: str) -> None:
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(mode)
    check = only(machine.secret(settings_of(tmp_path)))
    assert check.verdict == "fail"
    assert cause in check.what


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    web = {"secret_file": str(tmp_path / "gone")}
    check = only(machine.secret(settings_of(tmp_path, web=web)))
    assert check.exit_code == 78
    assert "No such file" in check.what


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("ends", "found", "cause"),
    [
        (timedelta(days=400), "pass", "valid until"),
        (timedelta(days=9, hours=1), "warn", "in 9 days"),
        (timedelta(days=-1), "fail", "is not valid any more"),
    ],
)
def test_a_certificate_is_judged_by_its_end(
    tmp_path: Path, authority: trustme.CA, ends: timedelta, found: str, cause: str
) -> None:
    until = datetime.now(UTC) + ends
    made = authority.issue_cert("node.example", not_after=until)
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    tls = {"certificate": certificate, "key": key}
    check = only(machine.tls(settings_of(tmp_path, node={"tls": tls})))
    assert (check.name, check.verdict) == ("tls node", found)
    assert cause in check.what


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    tls = {"certificate": tmp_path / "gone.pem"}
    check = only(machine.tls(settings_of(tmp_path, node={"tls": tls})))
    assert check.exit_code == 78
    assert "gone.pem" in check.what


def test_an_archive_that_does_not_listen_is_unreachable(tmp_path: Path, free_port: int) -> None:
    settings = settings_of(tmp_path, peers=archive(free_port), rules=RULES)
    check = only(neighbours.peer(settings, "archive"))
    assert (check.verdict, check.exit_code) == ("fail", 69)
    assert f"ARCHIVE@127.0.0.1:{free_port} refuses connections" in check.what
    assert "Rule 'all' sends reports to it" in check.advice


def test_a_host_name_that_nobody_knows_is_named(tmp_path: Path) -> None:
    peers = archive(104, host="pacs.invalid")
    check = only(neighbours.peer(settings_of(tmp_path, peers=peers, rules=RULES), "archive"))
    assert "cannot be resolved" in check.what
    assert check.advice.startswith("correct peers.archive.host")


def test_an_archive_that_does_not_know_us_shall_register_us(tmp_path: Path) -> None:
    with listening(tmp_path / "other") as other:
        peers = archive(other.port, ae_title="CHEXFRACT")
        settings = settings_of(tmp_path, node={"ae_title": "STRANGER"}, peers=peers, rules=RULES)
        check = only(neighbours.peer(settings, "archive"))
    assert (check.verdict, check.exit_code) == ("fail", 69)
    assert "calling AE title" in check.what
    assert "ask whoever runs archive to register STRANGER" in check.advice


def test_an_archive_of_another_name_is_to_be_corrected_here(tmp_path: Path) -> None:
    with listening(tmp_path / "other") as other:
        settings = settings_of(
            tmp_path, node={"ae_title": "MODALITY"}, peers=archive(other.port), rules=RULES
        )
        check = only(neighbours.peer(settings, "archive"))
    assert "correct peers.archive.ae_title" in check.advice


def test_an_archive_that_takes_no_report_is_named(tmp_path: Path) -> None:
    with listening(tmp_path / "other", called_ae_check=False) as other:  # takes images only
        settings = settings_of(
            tmp_path, node={"ae_title": "MODALITY"}, peers=archive(other.port), rules=RULES
        )
        check = worst(neighbours.peer(settings, "archive"))
    assert check.verdict == "fail"
    assert "answers C-ECHO" in check.what
    assert "Comprehensive SR Storage" in check.advice


def test_a_port_that_speaks_no_dicom_is_named(tmp_path: Path, taken: int) -> None:
    started = time.monotonic()
    settings = settings_of(tmp_path, peers=archive(taken), rules=RULES)
    check = only(neighbours.peer(settings, "archive"))
    assert check.verdict == "fail"
    assert "no answer within 3 s" in check.what
    assert time.monotonic() - started < 20


def test_a_peer_that_only_sends_needs_no_port(tmp_path: Path) -> None:
    peers = archive(0) | {"xray": {"ae_title": "XRAY", "host": "10.0.0.7", "port": 0}}
    check = only(neighbours.peer(settings_of(tmp_path, peers=peers, rules=RULES), "xray"))
    assert (check.verdict, "only sends" in check.what) == ("pass", True)


def test_a_dead_modality_to_which_reports_would_go_is_explained(
    tmp_path: Path, free_port: int
) -> None:
    rule = RULES[0] | {"send_to": ["@sender"], "match": {"calling_ae": ["ARCH*"]}}
    settings = settings_of(tmp_path, peers=archive(free_port), rules=[rule])
    check = only(neighbours.peer(settings, "archive"))
    assert check.verdict == "fail"
    assert "name the archive in send_to" in check.advice


def test_a_missing_broker_is_unreachable_and_keeps_its_password(
    tmp_path: Path, free_port: int
) -> None:
    url = f"redis://:geheim@127.0.0.1:{free_port}/0"
    check = only(surroundings.broker(settings_of(tmp_path, broker={"url": url})))
    assert check.exit_code == 69
    assert "geheim" not in check.what


def test_jobs_that_nobody_takes_are_named(tmp_path: Path) -> None:
    ledger = Ledger.open(fresh(tmp_path))
    on(ledger, time.time() - 600).instances.receive(instance(), [route()])
    ledger.close()
    check = worst(surroundings.ledger(settings_of(tmp_path)))
    assert (check.name, check.verdict) == ("jobs", "fail")
    assert "1 image waits, for 10\u00a0min. (no worker ever claimed one)" in check.what
    assert "Start a worker of that model" in check.advice


def test_a_ledger_of_a_newer_version_is_named(tmp_path: Path) -> None:
    import sqlite3

    fresh(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as book:
        book.execute("UPDATE alembic_version SET version_num = '9999'")
    check = only(surroundings.ledger(settings_of(tmp_path)))
    assert check.exit_code == 78
    assert "newer version" in check.what


def test_a_newer_ledger_that_this_version_may_use_is_a_warning(tmp_path: Path) -> None:
    expand(fresh(tmp_path))
    first = next(iter(surroundings.ledger(settings_of(tmp_path))))
    assert (first.name, first.verdict) == ("ledger", "warn")
    assert "which may use it" in first.what


def test_a_worker_that_was_at_work_is_told_with_its_last_claim(tmp_path: Path) -> None:
    ledger = Ledger.open(fresh(tmp_path))
    reported(ledger, at=NOW - 10**9)
    ledger.close()
    jobs = [c for c in surroundings.ledger(settings_of(tmp_path)) if c.name == "jobs"]
    assert only(jobs).verdict == "pass"
    assert " ago" in jobs[0].what


def test_a_url_that_leads_workers_elsewhere_is_named(tmp_path: Path) -> None:
    web = {"port": 8090, "url": "http://127.0.0.1:8080"}
    check = only(surroundings.web(settings_of(tmp_path, web=web), Path("node.toml")))
    assert (check.verdict, check.exit_code) == ("fail", 78)
    assert 'web.url = "http://127.0.0.1:8090"' in check.advice


def test_a_file_of_users_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("anna:boss:secret\n")
    check = only(people.users(settings_of(tmp_path)))
    assert (check.verdict, check.exit_code) == ("fail", 78)
    assert "users:1: not name:role:hash" in check.what


def test_users_are_counted_by_role_and_their_file_is_private(tmp_path: Path) -> None:
    settings, path = settings_of(tmp_path), tmp_path / "users"
    assert "only admin may sign in" in only(people.users(settings)).what
    add_user(path, "anna", "viewer", "correct horse battery")
    assert "nobody sees the configuration" in only(people.users(settings)).what
    add_user(path, "otto", "admin", "correct horse battery")
    check = only(people.users(settings))
    assert (check.verdict, check.what) == ("pass", f"{path}: 1 admin, 1 viewer")
    path.chmod(0o644)
    assert worst(people.users(settings)).advice == f"chmod 600 {path}"


def test_a_webhook_that_is_away_is_named_without_its_path(tmp_path: Path, free_port: int) -> None:
    notify = {"webhook": f"https://127.0.0.1:{free_port}/hidden-token"}
    check = only(people.notify(settings_of(tmp_path, notify=notify)))
    assert (check.verdict, check.exit_code) == ("fail", 69)
    assert f"127.0.0.1:{free_port}: Connection refused" in check.what
    assert "hidden-token" not in str(check)


def test_a_webhook_in_the_open_is_warned_of(tmp_path: Path, taken: int) -> None:
    notify = {"webhook": f"http://127.0.0.1:{taken}/x"}
    check = only(people.notify(settings_of(tmp_path, notify=notify)))
    assert (check.verdict, "not encrypted" in check.what) == ("warn", True)


def test_a_mail_server_that_is_away_is_named(tmp_path: Path, free_port: int) -> None:
    notify = {"mail_to": ["a@example.org"], "mail_from": "b@example.org", "smtp_port": free_port}
    check = only(people.notify(settings_of(tmp_path, notify=notify)))
    assert (check.verdict, check.exit_code) == ("fail", 69)
    assert f"localhost:{free_port}: ConnectionRefusedError" in check.what


def test_nobody_told_and_no_trail_are_said(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert only(people.notify(settings)).verdict == "warn"
    settings = settings_of(tmp_path, audit={"enabled": False})
    assert only(people.audit(settings)).verdict == "warn"


def test_doctor_says_where_the_audit_trail_is(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    check = only(people.audit(settings))
    assert check.verdict == "pass"
    assert str(settings.audit_file) in check.what
    assert settings.audit_file is not None
    trail = AuditFile(settings.audit_file)
    trail.refill()
    os.truncate(trail.path.with_name(".audit.xml.reserve"), 0)
    check = only(people.audit(settings))
    assert check.verdict == "fail"
    assert "full" in check.what


def test_an_audit_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "no" / "audit.xml"
    file.parent.touch()
    check = only(people.audit(settings_of(tmp_path, audit={"file": str(file)})))
    assert (check.verdict, check.exit_code) == ("fail", 78)
    assert "cannot be written" in check.what


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_a_repository_that_is_away_is_named(tmp_path: Path, free_port: int, scheme: str) -> None:
    audit = {"syslog": f"{scheme}://127.0.0.1:{free_port}"}
    _, check = people.audit(settings_of(tmp_path, audit=audit))
    assert (check.verdict, check.exit_code) == ("fail", 69)
    assert "Connection refused" in check.what


def test_a_repository_of_unknown_authority_is_named(tmp_path: Path, authority: trustme.CA) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    found = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            for _ in range(2):
                with suppress(OSError), server.accept()[0] as line:
                    context.wrap_socket(line, server_side=True).close()

        threading.Thread(target=greet, daemon=True).start()
        where = f"tls://localhost:{server.getsockname()[1]}"
        for tls in ({}, {"ca": ca}):
            settings = settings_of(tmp_path, audit={"syslog": where, "tls": tls})
            found += list(people.audit(settings))[1:]
    assert [check.verdict for check in found] == ["fail", "pass"]
    assert "certificate is not trusted" in found[0].what
    assert "audit.tls.ca" in found[0].advice


class Asked:
    """A worker's doctor that has answered."""

    def __init__(self, **answer: Any) -> None:
        self._answer = {"checks": [], "model": "phantom", "broker": "redis://a:6379/0"} | answer

    def communicate(self, timeout: float) -> tuple[str, None]:
        return json.dumps(self._answer), None


def test_a_worker_at_another_broker_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, broker={"url": "redis://b:6379/0"}, peers=archive(0))
    (check,) = surroundings.worker(settings, Path("worker.toml"), Asked())  # type: ignore[arg-type]
    assert check.exit_code == 78
    assert "redis://a:6379/0" in check.what


def test_a_worker_of_a_model_that_no_rule_wants_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, peers=archive(0), rules=RULES)
    asked = Asked(model="maira-2")
    (check,) = surroundings.worker(settings, Path("worker.toml"), asked)  # type: ignore[arg-type]
    assert "'maira-2', the rules ask for phantom" in check.what


def test_what_a_worker_elsewhere_lacks_here_is_no_fault(tmp_path: Path) -> None:
    line = {"name": "packages", "verdict": "fail", "what": "no torch", "advice": "", "exit_code": 1}
    (check,) = surroundings.worker(None, None, Asked(checks=[line]))  # type: ignore[arg-type]
    assert (check.name, check.verdict) == ("worker packages", "warn")


def test_checks_that_hang_or_break_do_not_hide_the_others() -> None:
    release = threading.Event()

    def hangs() -> list[Check]:
        release.wait(20)
        return []

    def breaks() -> list[Check]:
        raise ZeroDivisionError("oh")

    started = time.monotonic()
    looks = [("slow", hangs), ("broken", breaks), ("fine", lambda: [passed("fine", "all right")])]
    slow, broken, fine = together(looks, limit_s=0.5)
    release.set()
    assert time.monotonic() - started < 15
    assert (slow.verdict, broken.verdict, fine.verdict) == ("fail", "fail", "pass")
    assert "ZeroDivisionError" in broken.what


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([passed("a", "")], 0),
        ([warned("a", "", "")], 0),
        ([failed("a", "", ""), failed("b", "", "", 69)], 69),
        ([failed("a", "", "", 69), failed("b", "", "", 78)], 78),
        ([failed("a", "", "", 75)], 1),
    ],
)
def test_the_exit_code_is_that_of_the_gravest_cause(checks: list[Check], code: int) -> None:
    assert exit_code(checks) == code


def test_a_line_has_a_symbol_a_word_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    show([failed("disk", "[red]full[/red]", "make room")], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "✗ FAIL  disk  [red]full[/red]"
    assert lines[1].strip() == "→ make room"


def test_a_data_dir_that_others_may_read_is_a_failure(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    tmp_path.chmod(0o755)
    assert only(machine.data_dir(settings)).verdict == "fail"
    tmp_path.chmod(0o700)
    (tmp_path / "ledger.sqlite").touch(0o644)
    (tmp_path / "ledger.sqlite").chmod(0o644)
    check = only(machine.data_dir(settings))
    assert (check.verdict, "ledger.sqlite" in check.what) == ("warn", True)
    (tmp_path / "ledger.sqlite").chmod(0o600)
    assert only(machine.data_dir(settings)).verdict == "pass"


def test_doctor_asks_a_child_what_keeps_it_in() -> None:
    check = only(machine.confinement())
    assert check.name == "confinement"
    assert check.verdict == ("pass" if landlock_version() else "warn")
