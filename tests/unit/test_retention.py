"""Retention: what is delivered goes in time, what is not delivered never does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW, fresh, instance, on, result, route, taken

from dicom_node.base.errors import NotFound
from dicom_node.settings import Audit, Settings
from dicom_node.settings import Node as NodeSection
from dicom_node.settings import Retention as Limits
from dicom_node.store.ledger import Ledger, Receipt
from dicom_node.store.ledger.purge import Purgeable
from dicom_node.store.retention import ORPHAN_AGE_S, RetentionSweep
from dicom_node.store.schema import jobs
from dicom_node.store.spool import Spool
from dicom_node.store.uses import FILE_PLACE, REPOSITORY_PLACE

HOUR = 3600.0
HEAD = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + bytes(4)


class Node:
    def __init__(self, folder: Path, **limits: float) -> None:
        self.spool = Spool(folder / "spool")
        self.ledger = Ledger.open(fresh(folder))
        settings = Settings(retention=Limits(images=HOUR, reports=10 * HOUR, **limits))
        self.retention = RetentionSweep(settings, self.spool, self.ledger)

    def receive(self, n: int = 1, is_routed: bool = True) -> Receipt:
        with self.spool.writing() as incoming:
            incoming.write(HEAD + b"image %d" % n)
            kept = incoming.keep(f"1.2.3.{n}")
        facts = {"file": kept.name, "sha256": self.spool.digest(kept.name), "size": kept.size}
        return on(self.ledger, NOW).instances.receive(
            instance(n, **facts), [route()] if is_routed else []
        )

    def conflict(self, n: int = 1) -> Receipt:
        """Receive other content for the patient of an Instance that is known."""
        with self.spool.writing() as incoming:
            incoming.write(HEAD + b"other image %d" % n)
            kept = incoming.keep(f"1.2.3.{n}")
        facts = {"file": kept.name, "sha256": self.spool.digest(kept.name), "size": kept.size}
        other = instance(n, patient_name="Roe^Jane", **facts)
        return on(self.ledger, NOW).instances.receive(other, [route()])

    def report(self, n: int = 1) -> None:
        self.receive(n)
        ticket = taken(self.ledger)
        name = self.spool.write_report(ticket.job, ticket.token, "sr", b"report %d" % n)
        on(self.ledger, NOW).jobs.report(ticket.job, ticket.token, result(ticket, n), {"sr": name})

    def files(self, folder: str) -> int:
        return len(list((self.spool.root / folder).rglob("*.dcm")))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.ledger.close()


def test_files_go_when_their_time_after_delivery_is_over_and_rows_stay(node: Node) -> None:
    node.report()
    on(node.ledger, NOW + 100).deliveries.delivered(1, 0)
    assert on(node.retention, NOW + HOUR + 99).purge() == 0
    assert on(node.retention, NOW + HOUR + 101).purge() == 1
    assert (node.files("images"), node.files("reports")) == (0, 1)
    assert on(node.retention, NOW + 10 * HOUR + 101).purge() == 1
    assert node.files("reports") == 0
    trace = node.ledger.history.trace("1.2.3.1")
    assert trace.state == "delivered"
    assert trace.jobs[0].result.text == "No fracture."


def test_what_is_not_delivered_is_never_removed(node: Node) -> None:
    node.report()
    on(node.ledger, NOW).deliveries.postpone(1, "archive answered 0xA700", NOW + 30)
    node.receive(2)
    assert on(node.retention, NOW + 10_000 * HOUR).purge() == 0
    assert (node.files("images"), node.files("reports")) == (2, 1)


def test_ignored_and_failed_instances_go_too(node: Node) -> None:
    node.receive(1, is_routed=False)
    node.receive(2)
    ticket = taken(node.ledger)
    on(node.ledger, NOW + 50).jobs.release(ticket.job, ticket.token, "broken", True, 0, 1)
    assert on(node.retention, NOW + HOUR + 49).purge() == 1
    assert on(node.retention, NOW + HOUR + 51).purge() == 1
    assert node.files("images") == 0


def test_an_image_sent_again_after_it_was_removed_can_be_replayed(node: Node) -> None:
    node.report()
    on(node.ledger, NOW).deliveries.delivered(1, 0)
    on(node.retention, NOW + 2 * HOUR).purge()
    with pytest.raises(NotFound, match="send it again"):
        node.ledger.acts.replay("1.2.3.1")
    assert node.receive().kind == "duplicate"
    assert node.files("images") == 1
    assert len(on(node.ledger, NOW).acts.replay("1.2.3.1")) == 1
    assert on(node.retention, NOW + 100 * HOUR).purge() == 1
    assert node.files("images") == 1


def test_what_a_crash_left_is_removed_after_a_day_and_nothing_else(node: Node) -> None:
    node.report()
    with node.spool.writing() as incoming:
        incoming.write(b"kept, and killed before the ledger knew")
        orphan = incoming.keep("1.9").name
    stale = node.spool.write_report("0" * 32, "zombie", "sr", b"late")
    assert node.retention.sweep() == 0
    for path in node.spool.root.rglob("*.dcm"):
        os.utime(path, (NOW - 2 * ORPHAN_AGE_S, 1))
    assert node.retention.sweep() == 0, "seen for the first time"
    assert node.retention.sweep() == 2
    assert not node.spool.path(orphan).exists()
    assert not node.spool.path(stale).exists()
    assert (node.files("images"), node.files("reports")) == (1, 1)


def test_a_step_says_when_to_look_again(node: Node) -> None:
    node.retention._settled_at = 0.0
    assert node.retention.step() == 300.0


def test_old_steps_are_dropped_and_what_came_of_them_stays(node: Node) -> None:
    node.report()
    on(node.ledger, NOW).deliveries.delivered(1, 0)
    before = [stage.stage for stage in node.ledger.history.trace("1.2.3.1").stages]
    assert {"queued", "claimed"} <= set(before)
    node.retention._limits = node.retention._limits.model_copy(update={"history": HOUR})
    on(node.retention, NOW + HOUR / 2).condense()
    assert [s.stage for s in node.ledger.history.trace("1.2.3.1").stages] == before
    on(node.retention, NOW + 2 * HOUR).condense()
    left = [stage.stage for stage in node.ledger.history.trace("1.2.3.1").stages]
    assert left == ["received", "routed", "other", "model", "reported", "sent"]


@pytest.mark.parametrize(
    ("ignored", "gone"), [(0.0, 1), (HOUR / 2, HOUR / 2), (3 * HOUR, 3 * HOUR)]
)
def test_an_image_that_no_rule_took_is_kept_for_its_own_time(
    tmp_path: Path, ignored: float, gone: float
) -> None:
    node = Node(tmp_path, ignored=ignored)
    node.receive(1, is_routed=False)
    node.report(2)
    on(node.ledger, NOW).deliveries.delivered(1, 0)
    times = sorted({gone + 1, HOUR + 1})
    left = [(on(node.retention, NOW + at).purge(), node.files("images")) for at in times]
    assert left == [(1, 1), (1, 0)]
    assert on(node.retention, NOW + 9 * HOUR).purge() == 0
    assert node.ledger.history.trace("1.2.3.1").state == "ignored"
    node.ledger.close()


def test_an_ignored_image_stays_as_long_as_it_is_to(tmp_path: Path) -> None:
    node = Node(tmp_path, ignored=5 * HOUR)
    node.receive(1, is_routed=False)
    assert on(node.retention, NOW + 5 * HOUR - 1).purge() == 0
    assert node.files("images") == 1
    node.ledger.close()


@pytest.mark.parametrize(("limits", "gone"), [({}, 10 * HOUR), ({"conflicts": 2 * HOUR}, 2 * HOUR)])
def test_other_content_of_a_known_uid_is_kept_for_its_own_time(
    tmp_path: Path, limits: dict[str, float], gone: float
) -> None:
    node = Node(tmp_path, **limits)
    node.report()
    on(node.ledger, NOW).deliveries.delivered(1, 0)
    receipt = node.conflict()
    assert receipt.kind == "conflict"
    on(node.retention, NOW + gone - 1).purge()
    assert node.spool.path(receipt.file).exists()
    on(node.retention, NOW + gone + 1).purge()
    assert not node.spool.path(receipt.file).exists()
    (kept,) = node.ledger.history.conflicts()
    assert (kept.file, kept.purged_at) == ("", NOW + gone + 1)
    assert node.ledger.history.status().conflicts == 1
    node.ledger.close()


def test_a_sweep_asks_for_each_row_once_and_spares_what_has_one(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.store.ledger.purge._FILES_AT_ONCE", 2)
    for n in range(1, 6):
        node.receive(n)
    node.report(6)
    node.conflict(1)
    kept = {*node.spool.names("images"), *node.spool.names("reports")}
    assert sorted(node.ledger.purge.named_files()) == sorted(kept)
    for path in node.spool.root.rglob("*.dcm"):
        os.utime(path, (NOW - 2 * ORPHAN_AGE_S, 1))
    assert [node.retention.sweep() for _ in range(3)] == [0, 0, 0]
    assert {*node.spool.names("images"), *node.spool.names("reports")} == kept


def test_what_was_tried_again_and_again_becomes_one_step_with_count_and_times(node: Node) -> None:
    node.report()
    for n in range(1, 30):
        on(node.ledger, NOW + n).deliveries.postpone(1, f"answered 0xA70{n % 3}", NOW + n)
    on(node.ledger, NOW + 60).deliveries.delivered(1, 0)
    late = on(node.ledger, NOW + 2 * HOUR)
    while late.purge.condense(NOW + HOUR, 7):
        continue
    steps = node.ledger.history.trace("1.2.3.1").stages
    (tried,) = (step for step in steps if step.stage == "retrying")
    assert (tried.details.count, tried.details.since, tried.at) == (29, NOW + 1, NOW + 29)
    assert tried.details.reason == "answered 0xA702"
    assert "sr to archive: answered 0xA702 (29 times, first 2027-" in tried.detail
    assert [step.stage for step in steps][-1] == "sent"


def test_what_is_young_is_not_condensed_with_what_is_old(node: Node) -> None:
    node.report()
    for n in (1, 2, 3, 4000, 5000):
        on(node.ledger, NOW + n).deliveries.postpone(1, "no answer", NOW + n)
    on(node.ledger, NOW + 2 * HOUR).purge.condense(NOW + 1000)
    times = [
        (step.at - NOW, step.details.count)
        for step in node.ledger.history.trace("1.2.3.1").stages
        if step.stage == "retrying"
    ]
    assert times == [(3, 3), (4000, 0), (5000, 0)]


def test_of_what_an_old_result_took_the_model_and_the_rest_stay(node: Node) -> None:
    node.report()
    before = node.ledger.history.recent(1)[0]
    on(node.ledger, NOW + 2 * HOUR).purge.condense(NOW + HOUR)
    result = node.ledger.history.trace("1.2.3.1").jobs[0].result
    assert result.stages_ms == {"other": 7.0, "model": 30.0}
    assert node.ledger.history.recent(1)[0] == before


def test_a_time_that_an_older_version_kept_as_null_is_passed_over(node: Node) -> None:
    node.report()
    kept = '{"stages_ms": {"fetch": 1.0, "decode": null, "model": 30.0, "report": 4.0}}'
    with node.ledger.database.writing() as connection:
        connection.execute(jobs.update().values(result=kept))
    assert node.ledger.history.recent(1)[0].ms == 35.0
    assert ("model", 30.0) in node.ledger.history.stage_times(0, 999)
    on(node.ledger, NOW + 2 * HOUR).purge.condense(NOW + HOUR)
    result = node.ledger.history.trace("1.2.3.1").jobs[0].result
    assert result.stages_ms == {"other": 5.0, "model": 30.0}


def test_what_an_audit_repository_has_not_got_yet_stays(tmp_path: Path) -> None:
    node = Node(tmp_path, history=HOUR)
    settings = node.retention._settings.model_copy(
        update={
            "audit": Audit(syslog="udp://127.0.0.1:9"),
            "node": NodeSection(data_dir=tmp_path),
        }
    )
    on(node.ledger, NOW).history.note("queried", "{}")
    node.retention._settings = settings
    on(node.retention, NOW + 2 * HOUR).condense()
    assert node.ledger.history.events_after(0, 9, ("queried",))
    (tmp_path / REPOSITORY_PLACE).write_text(f"{node.ledger.history.newest_event():<20}")
    node.ledger.history.note("signed-in", "{}")
    on(node.retention, NOW + 2 * HOUR).condense()
    assert not node.ledger.history.events_after(0, 9, ("queried",))
    node.ledger.close()


def test_what_the_audit_file_has_not_got_yet_is_not_packed(tmp_path: Path) -> None:
    """Its disk was full, or the node off, for longer than a week."""
    node = Node(tmp_path, history=0.0)
    section = NodeSection(data_dir=tmp_path)
    node.retention._settings = node.retention._settings.model_copy(update={"node": section})
    node.receive(is_routed=False)
    (tmp_path / FILE_PLACE).write_text(f"{0:<20}")
    node.ledger.history.note("signed-in", "{}")
    late = on(node.retention, NOW + 9 * 24 * HOUR)
    late.pack()
    assert node.ledger.history.events_after(0, 9, ("received",))
    (tmp_path / FILE_PLACE).write_text(f"{node.ledger.history.newest_event():<20}")
    late.pack()
    assert not node.ledger.history.events_after(0, 9, ("received",))
    node.ledger.close()


def test_who_follows_the_events_misses_none_after_a_quiet_time(node: Node) -> None:
    """SQLite gives an id again when the row that had the highest is gone."""
    node.receive(1)
    for _ in range(3):
        node.ledger.history.note("queried", "{}")
    place = node.ledger.history.newest_event()
    late = on(node.ledger, NOW + 2 * HOUR)
    while late.purge.condense(NOW + HOUR, last=place):
        continue
    node.receive(2)
    after = node.ledger.history.events_after(place, 9)
    assert [event.stage for event in after] == ["received", "routed"]
    on(node.ledger, NOW + 2 * HOUR).purge.condense(NOW + HOUR)
    assert not node.ledger.history.events_after(0, 9, ("queried",))


def test_a_row_that_has_another_file_by_now_is_left_alone(node: Node) -> None:
    """SQLite gives the id of an adopted correction to the next one."""
    node.report()
    on(node.ledger, NOW).deliveries.delivered(1, 0)
    node.conflict(1)
    late = NOW + 10 * HOUR + 1
    (item,) = (due for due in _due(node, late) if due.what == "conflict")
    kept = node.ledger.acts.kept_apart("1.2.3.1")
    corrected = instance(1, patient_name="Roe^Jane", file=kept.file)
    on(node.ledger, NOW).acts.adopt(kept.id, corrected, [route()])
    node.receive(2)
    newer = node.conflict(2)
    assert node.ledger.acts.kept_apart("1.2.3.2").id == kept.id
    assert not on(node.retention, late)._purge_item(item)
    assert node.spool.path(item.file).exists(), "it stands for its Instance now"
    assert node.ledger.acts.kept_apart("1.2.3.2").file == newer.file


def _due(node: Node, at: float) -> list[Purgeable]:
    return on(node.ledger, at).purge.purgeable(HOUR, 10 * HOUR)


def test_old_steps_go_a_few_at_a_time_and_a_stop_in_between_loses_nothing(node: Node) -> None:
    for n in range(1, 6):
        node.report(n)
    late = on(node.ledger, NOW + 2 * HOUR)
    looked_at = []
    while count := late.purge.condense(NOW + HOUR, 7):
        looked_at.append(count)
        if len(looked_at) == 2:
            node.ledger.close()  # as after a kill: another process goes on
            node.ledger = Ledger.open(node.ledger.url)
            late = on(node.ledger, NOW + 2 * HOUR)
    assert max(looked_at) <= 7
    for n in range(1, 6):
        left = {stage.stage for stage in node.ledger.history.trace(f"1.2.3.{n}").stages}
        assert not left & {"queued", "claimed"}
        assert {"received", "routed", "reported"} <= left
