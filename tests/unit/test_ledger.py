"""The ledger: every acknowledged Instance has a way on, and no job has two results."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hot import HOT
from hypothesis import given
from hypothesis import strategies as st
from ledgers import (
    NOW,
    SR,
    expand,
    fresh,
    instance,
    on,
    post,
    reported,
    result,
    route,
    schema_differences,
    taken,
)
from postgresql import Cluster, cluster
from stations import wait_for

from dicom_node.base.errors import (
    Busy,
    ChexFractError,
    ConfigurationError,
    NotFound,
    OutOfResources,
    Stale,
    Unreachable,
)
from dicom_node.base.job import FractureFound, Reason, ReportObject, Result, Ticket
from dicom_node.store import schema
from dicom_node.store.ledger import Ledger, Wanted, as_json, past
from dicom_node.store.ledger import database as database_module
from dicom_node.store.ledger import instances as instances_module
from dicom_node.store.ledger.events import Details, Stage
from dicom_node.store.ledger.studies import StudyFilter
from dicom_node.store.ledger.views import JobView


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return fresh(tmp_path)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("postgresql").fresh())


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = Ledger.open(url)
    yield ledger
    ledger.close()


def job_row(ledger: Ledger, n: int = 1) -> JobView:
    return ledger.history.trace(f"1.2.3.{n}").jobs[-1]


# reception ---------------------------------------------------------------------------------------


def test_a_new_instance_becomes_one_job_per_route(ledger: Ledger) -> None:
    routes = [route(), route(model="second", mode="shadow")]
    receipt = on(ledger, NOW).instances.receive(instance(), routes)
    assert receipt.kind == "new"
    assert len(set(receipt.jobs)) == 2
    assert {row.model for row in ledger.history.trace("1.2.3.1").jobs} == {
        "phantom",
        "second",
    }
    assert ledger.instances.known("1.2.3.1") == instance()
    assert ledger.instances.known("1.2.3.2") is None


def test_the_same_bytes_again_make_no_job(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    for _ in range(3):
        receipt = on(ledger, NOW + 1).instances.receive(instance(calling_ae="OTHER"), [route()])
        assert (receipt.kind, receipt.jobs) == ("duplicate", ())
    trace = ledger.history.trace("1.2.3.1")
    assert len(trace.jobs) == 1
    assert trace.instance.resends == 3
    assert [stage.stage for stage in trace.stages].count("duplicate") == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"sha256": "f" * 64, "patient_id": "PID2"},
        {"transfer_syntax_uid": "1.2.840.10008.1.2.4.50"},  # a lossy copy
    ],
)
def test_other_content_under_a_known_uid_is_kept_apart(
    ledger: Ledger, changed: dict[str, str]
) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    other = instance(file="images/aa/other.dcm", **changed)
    for _ in range(2):
        receipt = on(ledger, NOW + 1).instances.receive(other, [route()])
        assert (receipt.kind, receipt.jobs, receipt.file) == ("conflict", (), "images/aa/other.dcm")
    trace = ledger.history.trace("1.2.3.1")
    assert len(trace.jobs) == len(trace.conflicts) == 1
    assert trace.instance.file == "images/aa/1.dcm"
    assert ledger.history.status().conflicts == 1
    assert [row.file for row in ledger.history.conflicts()] == ["images/aa/other.dcm"]


def test_without_a_route_an_instance_is_ignored_with_its_reason(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [], "no rule matched")
    trace = ledger.history.trace("1.2.3.1")
    assert (trace.state, trace.instance.reason) == ("ignored", "no rule matched")
    assert [stage.stage for stage in trace.stages] == ["received", "ignored"]
    assert ledger.jobs.waiting() == {}


def test_instance_numbers_count_up_in_a_study_for_each_model(ledger: Ledger) -> None:
    for n in (1, 2, 3):
        on(ledger, NOW + n).instances.receive(instance(n), [route(), route(model="second")])
    on(ledger, NOW).instances.receive(instance(4, study_instance_uid="1.9"), [route()])
    numbers = {
        n: [row.report_order.instance_number for row in ledger.history.trace(f"1.2.3.{n}").jobs]
        for n in (1, 2, 3, 4)
    }
    assert numbers == {1: [1, 1], 2: [2, 2], 3: [3, 3], 4: [1]}


def test_the_time_of_a_report_is_fixed_when_its_job_is_made(ledger: Ledger) -> None:
    on(ledger, NOW + 0.7).instances.receive(instance(), [route()])
    first = taken(ledger)
    order = on(ledger, NOW).jobs.claim(first.job, first.token, "w", 60).order
    assert order.content_datetime.timestamp() == NOW
    on(ledger, NOW + 61).jobs.expire(5)
    second = taken(ledger, "w2", NOW + 61)
    assert on(ledger, NOW + 61).jobs.claim(second.job, second.token, "w2", 60).order == order


def test_two_associations_with_the_same_instance_at_once_make_one_job(url: str) -> None:
    ledgers = [Ledger.open(url) for _ in range(2)]
    barrier = threading.Barrier(8)
    kinds: list[str] = []

    def send(i: int) -> None:
        for n in range(5):
            barrier.wait(20)
            kinds.append(ledgers[i % 2].instances.receive(instance(n), [route()]).kind)

    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (kinds.count("new"), kinds.count("duplicate")) == (5, 35)
    assert ledgers[0].history.status().jobs == {"received": 5}
    for ledger in ledgers:
        ledger.close()


# hand-out, claim, lease ---------------------------------------------------------------------------


def test_jobs_are_handed_out_by_priority_then_by_reception(ledger: Ledger) -> None:
    for n, priority in ((1, 0), (2, 2), (3, 1), (4, 1)):  # C-STORE: 0 medium, 1 high, 2 low
        on(ledger, NOW + n).instances.receive(instance(n, priority=priority), [route()])
    on(ledger, NOW + 5).instances.receive(instance(5, priority=2), [route(priority=0)])
    order = [
        ledger.history.trace(t.job).sop_instance_uid
        for t in ledger.jobs.hand_out("phantom", 9, NOW + 60)
    ]
    assert order == ["1.2.3.3", "1.2.3.4", "1.2.3.5", "1.2.3.1", "1.2.3.2"]


def test_a_job_is_handed_out_once(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    assert len(on(ledger, NOW).jobs.hand_out("phantom", 5, NOW + 60)) == 1
    assert on(ledger, NOW).jobs.hand_out("phantom", 5, NOW + 60) == []
    assert on(ledger, NOW).jobs.hand_out("other", 5, NOW + 60) == []


def test_what_the_broker_did_not_get_is_due_again_and_its_token_void(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    tickets = on(ledger, NOW).jobs.hand_out("phantom", 1, NOW + 60)
    ledger.jobs.unpublish(tickets)
    with pytest.raises(Stale):
        on(ledger, NOW).jobs.claim(tickets[0].job, tickets[0].token, "w", 60)
    assert on(ledger, NOW).jobs.waiting()["phantom"].due == 1
    assert job_row(ledger).attempts == 0


def test_a_claim_repeated_by_its_worker_has_the_same_answer(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    (ticket,) = on(ledger, NOW).jobs.hand_out("phantom", 1, NOW + 60)
    first = on(ledger, NOW).jobs.claim(ticket.job, ticket.token, "w", 60)
    assert on(ledger, NOW + 1).jobs.claim(ticket.job, ticket.token, "w", 60) == first
    assert (first.attempt, first.size, first.file) == (1, 101, "images/aa/1.dcm")
    with pytest.raises(Stale):
        on(ledger, NOW).jobs.claim(ticket.job, ticket.token, "another", 60)


def test_a_token_that_was_replaced_changes_nothing(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    old = taken(ledger)
    assert on(ledger, NOW + 61).jobs.expire(5).running == 1
    new = taken(ledger, "w2", NOW + 61)
    before = ledger.history.trace("1.2.3.1")
    for act in (
        lambda: ledger.jobs.claim(old.job, old.token, "w", 60),
        lambda: ledger.jobs.renew(old.job, old.token, 60),
        lambda: ledger.jobs.instance_file(old.job, old.token),
        lambda: ledger.jobs.release(old.job, old.token, "x", True, 0, 5),
        lambda: post(ledger, old, result(old)),
    ):
        with pytest.raises(Stale):
            act()
    assert ledger.history.trace("1.2.3.1") == before
    assert ledger.jobs.instance_file(new.job, new.token) == "images/aa/1.dcm"


def test_an_unknown_job_is_not_found(ledger: Ledger) -> None:
    ticket = Ticket(job="0" * 32, token="t")
    for act in (
        lambda: ledger.jobs.claim(ticket.job, "t", "w", 60),
        lambda: ledger.jobs.renew(ticket.job, "t", 60),
        lambda: ledger.jobs.instance_file(ticket.job, "t"),
        lambda: ledger.jobs.release(ticket.job, "t", "x", True, 0, 5),
        lambda: post(ledger, ticket, result(ticket)),
        lambda: ledger.history.trace(ticket.job),
    ):
        with pytest.raises(NotFound):
            act()


def test_a_renewed_lease_lasts_longer(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    on(ledger, NOW + 50).jobs.renew(ticket.job, ticket.token, 60)
    assert on(ledger, NOW + 70).jobs.expire(5).running == 0
    assert on(ledger, NOW + 111).jobs.expire(5).running == 1


def test_a_clock_set_back_does_not_lock_a_job_away(ledger: Ledger) -> None:
    """Leases and waits written before the clock went back a day would last a day."""
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    back = NOW - 86400
    assert on(ledger, back).jobs.redate() == 1
    assert on(ledger, back + 59).jobs.expire(5).running == 0
    assert on(ledger, back + 61).jobs.expire(5).running == 1
    second = taken(ledger, "w2", back + 61)
    on(ledger, NOW).jobs.release(second.job, second.token, "x", True, 60, 5)
    assert on(ledger, back + 70).jobs.redate() == 1
    assert on(ledger, back + 129).jobs.hand_out("phantom", 1, NOW) == []
    assert len(on(ledger, back + 131).jobs.hand_out("phantom", 1, NOW)) == 1
    assert ticket.token != second.token
    assert on(ledger, back + 131).jobs.redate() == 0


def test_attempts_run_out_with_the_reason(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    at = NOW
    for _ in range(3):
        at += 200
        taken(ledger, at=at)
        expired = on(ledger, at + 61).jobs.expire(3)
    assert expired.failed == 1
    row = job_row(ledger)
    assert (row.state, row.attempts) == ("failed", 3)
    assert "fell silent" in row.reason
    assert on(ledger, at + 999).jobs.hand_out("phantom", 5, at + 999) == []


def test_time_in_the_queue_counts_as_no_attempt(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    for i in range(20):
        assert len(on(ledger, NOW + i * 100).jobs.hand_out("phantom", 1, NOW + i * 100 + 60)) == 1
        assert on(ledger, NOW + i * 100 + 61).jobs.expire(3).queued == 1
    assert job_row(ledger).attempts == 0
    assert len(ledger.history.trace("1.2.3.1").stages) < 12


def test_release_waits_and_counts_as_it_is_told(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    assert (
        on(ledger, NOW).jobs.release(ticket.job, ticket.token, "no memory", False, 30, 1)
        == "received"
    )
    assert on(ledger, NOW + 29).jobs.hand_out("phantom", 1, NOW + 90) == []
    assert job_row(ledger).attempts == 0
    ticket = taken(ledger, at=NOW + 31)
    assert (
        on(ledger, NOW + 32).jobs.release(ticket.job, ticket.token, "broken", True, 0, 1)
        == "failed"
    )
    assert job_row(ledger).reason == "after 1 attempt: broken"


def test_waiting_tells_models_and_priorities_apart(ledger: Ledger) -> None:
    for n in range(6):
        changed = {"priority": 1} if n == 5 else {}
        on(ledger, NOW + n).instances.receive(instance(n, **changed), [route()])
    on(ledger, NOW).instances.receive(instance(7), [route(model="second")])
    first, _ = on(ledger, NOW + 9).jobs.hand_out("phantom", 2, NOW + 60)
    on(ledger, NOW).jobs.claim(first.job, first.token, "w", 60)
    waiting = on(ledger, NOW + 9).jobs.waiting()
    assert (waiting["phantom"].due, waiting["phantom"].queued) == (4, 1)
    assert (waiting["phantom"].running, waiting["phantom"].oldest) == (1, NOW)
    assert waiting["phantom"].due_by == (0, 4, 0)
    assert waiting["phantom"].queued_by == (0, 1, 0)
    assert waiting["second"].due == 1
    assert on(ledger, NOW).jobs.next_due() == NOW + 60


# the one result -----------------------------------------------------------------------------------


def test_a_result_is_recorded_with_its_objects_and_deliveries(ledger: Ledger) -> None:
    ticket = reported(ledger)
    trace = ledger.history.trace("1.2.3.1")
    assert trace.state == "reported"
    assert [(d.destination, d.kind, d.state) for d in trace.deliveries] == [
        ("archive", "sr", "pending")
    ]
    assert trace.objects[0].file == f"reports/aa/{ticket.job[:8]}.sr.dcm"
    assert trace.jobs[0].result.text == "No fracture."
    assert ticket.token not in json.dumps(as_json(trace))


def test_the_same_result_again_is_told_to_be_recorded(ledger: Ledger) -> None:
    ticket = reported(ledger)
    before = ledger.history.trace("1.2.3.1")
    assert post(ledger, ticket, result(ticket)) is True
    assert ledger.history.trace("1.2.3.1") == before


def test_the_first_result_wins_over_a_zombie(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    zombie = taken(ledger)
    on(ledger, NOW + 61).jobs.expire(5)
    heir = taken(ledger, "w2", NOW + 61)
    assert post(ledger, heir, result(heir, 2))
    with pytest.raises(Stale):
        post(ledger, zombie, result(zombie, 3))
    assert [o.sop_instance_uid for o in ledger.history.trace("1.2.3.1").objects] == ["2.25.2"]


def test_a_result_without_a_file_for_each_object_is_refused_whole(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    with pytest.raises(NotFound, match="no file for part 'sr'"):
        ledger.jobs.report(ticket.job, ticket.token, result(ticket), {})
    assert job_row(ledger).state == "running"


def test_a_rejected_image_keeps_its_reason_and_sends_its_report(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    reason = Reason(code="not-chest", text="A hip.")
    post(ledger, ticket, result(ticket, outcome="rejected", text=None, reason=reason))
    trace = ledger.history.trace("1.2.3.1")
    assert (trace.state, trace.jobs[0].reason) == ("rejected", "not-chest")
    assert [d.state for d in trace.deliveries] == ["pending"]
    assert trace.stages[-1].detail == "not-chest: A hip."


def test_the_trace_tells_each_stage_in_order_with_its_time(ledger: Ledger) -> None:
    reported(ledger)
    on(ledger, NOW + 2).deliveries.delivered(1, 0, 12.5)
    trace = ledger.history.trace("1.2.3.1")
    names = ["received", "routed", "queued", "claimed", "fetch", "decode", "model", "report"]
    assert [stage.stage for stage in trace.stages] == [*names, "reported", "sent"]
    times = [stage.at for stage in trace.stages]
    assert times == sorted(times)
    ms = {stage.stage: stage.ms for stage in trace.stages}
    assert (ms["model"], ms["sent"]) == (30.0, 12.5)
    assert trace.state == "delivered"


# deliveries ---------------------------------------------------------------------------------------


def two_kinds(ticket: Ticket) -> Result:
    shared = {"series_instance_uid": "2.25.9"}
    return result(
        ticket,
        objects=(
            ReportObject(
                kind="basic-text",
                part="text",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.88.11",
                sop_instance_uid="2.25.13",
                **shared,
            ),
            ReportObject(
                kind="sr", part="sr-1", sop_class_uid=SR, sop_instance_uid="2.25.11", **shared
            ),
            ReportObject(
                kind="sr",
                part="sr-2",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33",
                sop_instance_uid="2.25.12",
                **shared,
            ),
        ),
    )


def test_each_destination_gets_one_report_and_the_kinds_that_it_takes(ledger: Ledger) -> None:
    routed = route(
        send_to=("archive", "viewer"),
        objects={"archive": ("sr",), "viewer": ("sr", "basic-text")},
    )
    on(ledger, NOW).instances.receive(instance(), [routed])
    ticket = taken(ledger)
    post(ledger, ticket, two_kinds(ticket), NOW)
    due = on(ledger, NOW).deliveries.due()
    assert [(d.destination, d.kind, len(d.objects)) for d in due] == [
        ("archive", "sr", 3),  # of two made, and the third recast
        ("viewer", "sr", 3),
        ("viewer", "basic-text", 1),
    ]


def test_the_object_settled_on_first_stays(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    post(ledger, ticket, two_kinds(ticket), NOW)
    assert ledger.deliveries.choose(1, "2.25.12") == "2.25.12"
    assert ledger.deliveries.choose(1, "2.25.11") == "2.25.12"
    assert on(ledger, NOW).deliveries.due()[0].chosen == "2.25.12"


def test_a_shadow_rule_sends_nothing_and_says_so(ledger: Ledger) -> None:
    reported(ledger, mode="shadow")
    (delivery,) = ledger.history.trace("1.2.3.1").deliveries
    assert (delivery.state, delivery.reason) == (
        "withheld",
        "rule 'frontal' is in shadow mode",
    )
    assert on(ledger, NOW + 9).deliveries.due() == []
    assert ledger.acts.resend("1.2.3.1") == 0


def test_a_demonstration_report_is_withheld_where_the_rule_does_not_allow_it(
    ledger: Ledger,
) -> None:
    reported(ledger, allow_demonstration=False)
    (delivery,) = ledger.history.trace("1.2.3.1").deliveries
    assert delivery.state == "withheld"
    assert "allow_demonstration" in delivery.reason


def test_a_report_for_an_unknown_sender_waits_until_the_peer_is_known(ledger: Ledger) -> None:
    ticket = reported(ledger, send_to=("@sender",))
    (delivery,) = ledger.history.trace("1.2.3.1").deliveries
    assert (delivery.state, delivery.reason) == (
        "retrying",
        "sender MODALITY@10.0.0.9 is not in [peers]; add it",
    )
    assert on(ledger, NOW + 1).deliveries.redirect(ticket.job, "archive", ("sr",)) == 1
    (delivery,) = ledger.history.trace("1.2.3.1").deliveries
    assert (delivery.destination, delivery.state) == ("archive", "pending")


def test_a_sender_that_gets_the_report_anyway_gets_it_once(ledger: Ledger) -> None:
    ticket = reported(ledger, send_to=("archive", "@sender"))
    assert on(ledger, NOW + 1).deliveries.redirect(ticket.job, "archive", ("sr",)) == 0
    assert [d.state for d in ledger.history.trace("1.2.3.1").deliveries] == [
        "pending",
        "withheld",
    ]


def test_a_failure_is_postponed_and_a_silence_is_not_counted(ledger: Ledger) -> None:
    reported(ledger)
    on(ledger, NOW).deliveries.postpone(1, "archive answered 0xA700", NOW + 30, status=0xA700)
    on(ledger, NOW).deliveries.hold("archive", "connection refused", NOW + 60)
    (delivery,) = ledger.history.trace("1.2.3.1").deliveries
    assert (delivery.state, delivery.attempts) == ("retrying", 1)
    assert delivery.reason == "archive answered 0xA700"
    assert on(ledger, NOW + 31).deliveries.due() == []
    ledger.deliveries.resume("archive")
    assert len(on(ledger, NOW + 31).deliveries.due()) == 1
    assert on(ledger, NOW + 29).deliveries.due() == []


def test_a_held_destination_gives_its_reason_to_what_waits(ledger: Ledger) -> None:
    reported(ledger)
    on(ledger, NOW).deliveries.hold("archive", "connection refused", NOW + 60)
    (delivery,) = ledger.history.trace("1.2.3.1").deliveries
    assert (delivery.state, delivery.attempts) == ("retrying", 0)
    assert delivery.reason == "connection refused"
    (line,) = on(ledger, NOW).history.status().destinations
    assert (line.waiting, line.failures, line.held_until) == (1, 1, NOW + 60)
    assert on(ledger, NOW).deliveries.due_destinations() == []
    assert on(ledger, NOW).deliveries.next_due() == NOW + 60
    ledger.deliveries.resume("archive")
    assert on(ledger, NOW).deliveries.due_destinations() == ["archive"]


def test_a_settled_delivery_is_not_settled_again(ledger: Ledger) -> None:
    reported(ledger)
    assert on(ledger, NOW).deliveries.delivered(1, 0xB000)
    assert not on(ledger, NOW).deliveries.delivered(1, 0)
    assert not ledger.deliveries.postpone(1, "late", NOW + 30)
    (delivery,) = ledger.history.trace("1.2.3.1").deliveries
    assert (delivery.state, delivery.status) == ("sent", 0xB000)
    assert ledger.deliveries.committed(1)
    assert not ledger.deliveries.committed(1)


# operator -----------------------------------------------------------------------------------------


def test_retry_gives_a_failed_job_all_its_attempts_again(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    ledger.jobs.release(ticket.job, ticket.token, "broken", True, 0, 1)
    assert on(ledger, NOW).acts.retry("1.2.3.1") == 1
    assert (job_row(ledger).state, job_row(ledger).attempts) == ("received", 0)
    ticket = taken(ledger)
    ledger.jobs.release(ticket.job, ticket.token, "broken", True, 0, 1)
    assert on(ledger, NOW).acts.retry_failed() == 1
    assert on(ledger, NOW).acts.retry_failed() == 0


def test_retry_lets_waiting_deliveries_go_at_once(ledger: Ledger) -> None:
    reported(ledger)
    on(ledger, NOW).deliveries.postpone(1, "archive answered 0xA700", NOW + 3600)
    on(ledger, NOW).deliveries.hold("archive", "connection refused", NOW + 60)
    assert on(ledger, NOW).acts.retry("1.2.3.1") == 1
    assert len(on(ledger, NOW).deliveries.due()) == 1


def test_resend_sends_the_same_objects_again(ledger: Ledger) -> None:
    reported(ledger)
    ledger.deliveries.choose(1, "2.25.1")
    on(ledger, NOW).deliveries.delivered(1, 0)
    assert on(ledger, NOW + 1).deliveries.due() == []
    assert on(ledger, NOW + 1).acts.resend("1.2.3.1") == 1
    (delivery,) = on(ledger, NOW + 1).deliveries.due()
    assert delivery.chosen == "2.25.1"
    assert "resend" in [stage.stage for stage in ledger.history.trace("1.2.3.1").stages]


def test_replay_makes_a_new_generation_that_names_its_predecessor(ledger: Ledger) -> None:
    first = reported(ledger)
    (second,) = on(ledger, NOW + 5).acts.replay("1.2.3.1")
    assert second != first.job
    with pytest.raises(Busy):
        on(ledger, NOW + 6).acts.replay("1.2.3.1")
    ticket = taken(ledger, at=NOW + 6)
    order = on(ledger, NOW + 6).jobs.claim(ticket.job, ticket.token, "w", 60).order
    assert (order.generation, order.instance_number) == (2, 2)
    assert order.predecessor is not None
    assert order.predecessor.sop_instance_uid == "2.25.1"
    assert order.predecessor.sop_class_uid == SR
    assert order.content_datetime.timestamp() == NOW + 5


@pytest.mark.parametrize("ident", ["1.2.3.1", "1.2.4", "A1", "2.25.1", "job"])
def test_an_instance_is_found_by_any_of_its_names(ledger: Ledger, ident: str) -> None:
    ticket = reported(ledger)
    named = ticket.job if ident == "job" else ident
    assert ledger.history.trace(named).sop_instance_uid == "1.2.3.1"


def test_recent_searches_and_filters(ledger: Ledger) -> None:
    ticket = reported(ledger, 1, NOW)
    on(ledger, NOW + 2).instances.receive(
        instance(2, patient_id="100%", accession_number="B2"), [], "no rule"
    )
    on(ledger, NOW + 1).instances.receive(instance(3), [route()])
    uids = lambda **asked: [r.sop_instance_uid[-1] for r in ledger.history.recent(**asked)]  # noqa: E731
    assert uids() == ["2", "3", "1"]
    assert uids(limit=1, offset=1) == ["3"]
    assert uids(search="pid1") == ["3", "1"]
    assert uids(search="100") == ["2"]
    assert uids(search="jane do") == uids(search="DOE, Jane") == ["3", "2", "1"]
    assert uids(search="%") == []
    assert uids(search="1.2.3.1") == ["1"]
    assert uids(search=ticket.job) == ["1"]
    assert uids(state="ignored") == ["2"]
    assert uids(state="received") == ["3"]
    assert uids(state="undelivered") == ["1"]
    ledger.deliveries.delivered(1, 0)
    assert uids(state="delivered") == ["1"]
    assert ledger.history.recent(state="delivered")[0].text == "No fracture."


def test_reports_are_found_for_query_and_retrieve(ledger: Ledger) -> None:
    reported(ledger)
    (row,) = ledger.results.objects(["1.2.4"])
    assert (row.sop_instance_uid, row.source_instance_uid) == ("2.25.1", "1.2.3.1")
    assert (row.patient_id, row.is_filled) == ("PID1", True)
    assert list(ledger.results.studies()) == [("1.2.4", "PID1")]
    found = lambda **wanted: list(ledger.results.studies(Wanted(**wanted)))  # noqa: E731
    assert found(exact={"sop_instance_uid": ["2.25.7"]}) == []
    assert found(exact={"sop_instance_uid": ["2.25.1"]}) == [("1.2.4", "PID1")]
    assert found(like={"patient_id": "PI*"}) == [("1.2.4", "PID1")]
    assert found(words=("jan",)) == [("1.2.4", "PID1")]
    assert found(words=("jon",)) == []


def test_status_counts_what_there_is(ledger: Ledger) -> None:
    reported(ledger)
    on(ledger, NOW).instances.receive(instance(2), [route()])
    status = on(ledger, NOW + 10).history.status()
    assert status.jobs == {"reported": 1, "received": 1}
    assert status.deliveries == {"pending": 1}
    assert status.models == {"phantom": {"reported": 1, "received": 1}}
    assert status.oldest_open_s == 10


# the database -------------------------------------------------------------------------------------


def test_the_migrations_lead_to_the_schema(url: str) -> None:
    from alembic.script import ScriptDirectory

    assert schema_differences(url) == []
    folder = Path(schema.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == schema.VERSIONS[-1]


def test_two_images_of_a_study_at_once_have_two_numbers(url: str) -> None:
    """By listeners with transactions of their own; a second model counts for itself."""
    listeners = [Ledger.open(url) for _ in range(4)]

    def receive(listener: int) -> None:
        for n in range(listener * 5, listener * 5 + 5):
            new = instance(n, study_instance_uid=f"1.2.{n % 5}")
            listeners[listener].instances.receive(new, [route(), route(model="second")])

    threads = [threading.Thread(target=receive, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    given: dict[tuple[int, str], set[int]] = {}
    for n in range(20):
        for job in listeners[0].history.trace(f"1.2.3.{n}").jobs:
            given.setdefault((n % 5, job.model), set()).add(job.report_order.instance_number)
    for listener in listeners:
        listener.close()
    assert given == {(n, model): {1, 2, 3, 4} for n in range(5) for model in ("phantom", "second")}


def test_an_older_node_beside_a_new_one_gives_out_no_number_twice(postgresql: Cluster) -> None:
    """Software of 0008 counts in a row that the new one makes for a second image only."""
    url = postgresql.fresh()
    ledger = Ledger.open(url)
    on(ledger, NOW).instances.receive(instance(1), [route()])
    old = sa.text(
        "INSERT INTO study_numbers (study_instance_uid, model, last) "
        "VALUES ('1.2.4', 'phantom', coalesce((SELECT last FROM counters "
        "WHERE study_instance_uid = '1.2.4' AND model = 'phantom'), 0) + 1) "
        "ON CONFLICT (study_instance_uid, model) DO UPDATE SET last = study_numbers.last + 1 "
        "RETURNING last"
    )
    given = []
    for _ in range(2):
        with ledger.database.writing() as connection:
            given.append(connection.scalar(old))
    on(ledger, NOW).instances.receive(instance(2), [route()])
    (job,) = ledger.history.trace("1.2.3.2").jobs
    ledger.close()
    assert [*given, job.report_order.instance_number] == [2, 3, 4]


def test_two_deliveries_that_end_at_once_leave_a_delivered_job(postgresql: Cluster) -> None:
    """Each transaction saw the other's delivery as it was before: the job stood as reported."""
    ledger = Ledger.open(postgresql.fresh())
    reported(ledger, send_to=("archive", "second"))
    first, second = on(ledger, NOW).deliveries.due()
    end = sa.text("UPDATE deliveries SET state = 'sent' WHERE id = :id")
    with ledger.database.writing() as one:
        one.execute(end, {"id": first.id})
        other = threading.Thread(target=ledger.deliveries.delivered, args=(second.id, 0))
        other.start()
        waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        wait_for("the second waits for the first", lambda: _scalar(ledger, waits) == 1)
    other.join(60)
    (job,) = ledger.history.trace("1.2.3.1").jobs
    ledger.close()
    assert job.standing == "delivered"


def _scalar(ledger: Ledger, query: sa.TextClause) -> Any:
    with ledger.database.reading() as connection:
        return connection.scalar(query)


# events of what is over ---------------------------------------------------------------------------

WEEK = 7 * 86400.0


def kept_events(ledger: Ledger) -> int:
    return int(_scalar(ledger, sa.text("SELECT count(*) FROM events WHERE instance IS NOT NULL")))


def lived(ledger: Ledger, n: int = 1) -> None:
    """An Instance that was delivered, and whose file was removed a day later."""
    reported(ledger, n, NOW + n)
    for due in on(ledger, NOW + 20).deliveries.due():
        on(ledger, NOW + 20).deliveries.delivered(due.id, 0, 12.5)


def pack(ledger: Ledger, at: float, last: int | None = None) -> None:
    while on(ledger, at).past.pack(5, last):
        pass


def test_events_of_what_is_over_are_one_row_and_read_as_before(ledger: Ledger) -> None:
    for n in (1, 2, 3):
        lived(ledger, n)
    on(ledger, NOW + 30).instances.receive(instance(9, study_instance_uid="1.9"), [], "no rule")
    before = [ledger.history.trace(f"1.2.3.{n}").stages for n in (1, 2, 3, 9)]
    pack(ledger, NOW + WEEK)
    assert kept_events(ledger) == 20, "not a week old"
    pack(ledger, NOW + WEEK + 60)
    assert kept_events(ledger) == 1, "the newest stays: SQLite would give its key to the next"
    assert [ledger.history.trace(f"1.2.3.{n}").stages for n in (1, 2, 3, 9)] == before


def test_what_comes_later_is_read_behind_and_packed_in_its_turn(ledger: Ledger) -> None:
    lived(ledger)
    lived(ledger, 2)
    pack(ledger, NOW + WEEK + 60)
    later = NOW + 2 * WEEK
    on(ledger, later).acts.resend("1.2.3.1", by="mary")
    pack(ledger, later + WEEK + 60)
    names = [step.stage for step in ledger.history.trace("1.2.3.1").stages]
    assert names[-2:] == ["sent", "resend"]
    assert kept_events(ledger) == 2, "the delivery is open again, and one was the newest"
    (due,) = on(ledger, later).deliveries.due()
    on(ledger, later + 9).deliveries.delivered(due.id, 0)
    lived(ledger, 3)
    before = ledger.history.trace("1.2.3.1").stages
    pack(ledger, later + WEEK + 60)
    assert kept_events(ledger) == 2
    assert ledger.history.trace("1.2.3.1").stages == before


def test_nothing_is_packed_that_an_audit_repository_waits_for(ledger: Ledger) -> None:
    for n in (1, 2, 3):
        lived(ledger, n)
    first = ledger.history.events_after(0, 99)
    pack(ledger, NOW + WEEK + 60, last=first[7].id)
    left = ledger.history.events_after(0, 99)
    assert [event.id for event in left] == [event.id for event in first[6:]]


def test_pages_of_events_find_their_instances_by_few_statements(ledger: Ledger) -> None:
    """A connection keeps each statement: one for each number of Instances would be many."""
    for n in range(1, 18):
        lived(ledger, n)
    asked: set[str] = set()
    with ledger.database.reading() as connection:
        driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        pytest.skip("PostgreSQL's driver is not traced")
    driver.set_trace_callback(asked.add)
    last = ledger.history.events_after(0, 999)[-1].id
    for after in range(last):
        found = ledger.history.events_after(after, 999)
        assert all(event.sop_instance_uid.startswith("1.2.3.") for event in found)
    forms = {len(text.split(" IN (")[1].split(",")) for text in asked if " IN (" in text}
    assert len(asked) > last
    assert forms <= {1, 2, 4, 8, 16, 32}


def test_connections_are_used_again_before_further_ones(ledger: Ledger) -> None:
    reading = ledger.database.reading
    with reading() as first, reading() as second, reading() as third:
        drivers = {id(one.connection.driver_connection) for one in (first, second, third)}
    used = set()
    for _ in range(6):
        with reading() as one:
            used.add(id(one.connection.driver_connection))
    if ledger.is_sqlite:
        assert len(drivers) == 3
        assert len(used) == 1


def test_of_what_has_very_many_events_the_later_ones_stay(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "MOST_EVENTS", 4)
    lived(ledger)
    lived(ledger, 2)
    before = ledger.history.trace("1.2.3.1").stages
    for _ in range(2):
        pack(ledger, NOW + WEEK + 60)
    assert ledger.history.trace("1.2.3.1").stages == before
    assert kept_events(ledger) == 4


STEPS = st.lists(
    st.builds(
        past.KeptEvent,
        st.sampled_from([*Stage, "fetch", "3", ""]),
        st.integers(0, 2**42).map(lambda ms: ms / 1000),
        st.sampled_from(["", "ab12cd34", "00000000"]),
        st.none() | st.floats(0, 1e9),
        st.just(""),
        st.booleans(),
    ).flatmap(
        lambda event: st.builds(
            lambda detail: event._replace(detail=detail),
            st.builds(Details, worker=st.text(), count=st.integers(0, 9)).map(Details.dump)
            if event.is_typed
            else st.text(),
        )
    ),
    min_size=1,
)


@given(STEPS)
def test_packed_events_come_back_as_they_were(kept: list[past.KeptEvent]) -> None:
    assert past.unpack_events(past.pack_events(kept)) == kept


def test_events_that_were_packed_before_are_read_as_long_as_there_are_ledgers() -> None:
    """What is deflated hangs on the dictionary: another one makes these bytes unreadable."""
    kept = [
        past.KeptEvent("received", 1795999898.0, "", None, "", True),
        past.KeptEvent("claimed", 1795999899.25, "3456789a", None, '{"n":1,"w":"w:1"}', True),
    ]
    packed = "010399670a74b985a5858181019289482619eb181a61682c077b2e361600"
    assert past.unpack_events(bytes.fromhex(packed)) == kept


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(url: str, ledger: Ledger) -> None:
    ledger.instances.receive(instance(), [route()])
    Ledger.upgrade(url)
    assert ledger.instances.known("1.2.3.1") is not None


def test_software_goes_on_with_a_newer_schema_that_only_adds_to_its_own(url: str) -> None:
    """A rollback by one version, or an old node that starts again beside a new one."""
    running = Ledger.open(url)
    running.instances.receive(instance(1), [route()])
    version = expand(url)
    running.instances.receive(instance(2), [route()])  # its connections saw the old schema
    running.close()
    Ledger.upgrade(url)
    again = Ledger.open(url)
    reported(again, 3)
    again.instances.receive(instance(1), [route()])
    assert again.history.status().jobs == {"received": 2, "reported": 1}
    assert again.upgrading.step() == "", "which indexes the newer one needs is not known"
    assert again.revision() == version
    again.close()


@pytest.mark.parametrize("readable_by", [None, f"{int(schema.VERSIONS[-1]) + 1:04d}"])
def test_a_newer_schema_that_older_software_would_harm_is_refused(
    sqlite_url: str, readable_by: str | None
) -> None:
    expand(sqlite_url, readable_by)
    for act in (Ledger.open, Ledger.upgrade):
        with pytest.raises(ConfigurationError, match="written by a newer version"):
            act(sqlite_url)


def test_each_upgrade_says_who_may_go_on_using_the_schema(url: str) -> None:
    mark = schema.readable_mark(schema.VERSIONS[-1])
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = connection.scalar(
            sa.select(schema.marks.c.value).where(schema.marks.c.name == mark)
        )
    engine.dispose()
    assert found == int(schema.READABLE_BY)
    assert schema.READABLE_BY in schema.VERSIONS


def test_a_ledger_that_is_missing_newer_or_no_database_is_refused_in_one_line(
    tmp_path: Path, sqlite_url: str
) -> None:
    with pytest.raises(ConfigurationError, match="no ledger here yet"):
        Ledger.open(f"sqlite:///{tmp_path}/other.sqlite")
    assert not (tmp_path / "other.sqlite").exists()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for act in (Ledger.open, Ledger.upgrade):
        with pytest.raises(ConfigurationError, match="written by a newer version"):
            act(sqlite_url)
    (tmp_path / "text.sqlite").write_text("this is not a database" * 100)
    with pytest.raises(ConfigurationError, match="not a database"):
        Ledger.open(f"sqlite:///{tmp_path}/text.sqlite")
    with pytest.raises(ConfigurationError, match=r"node\.ledger"):
        Ledger.open("nonsense")


def test_a_database_that_is_away_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="its folder is not there"):
        Ledger.open(f"sqlite:///{tmp_path}/missing/ledger.sqlite")


def test_a_locked_database_is_unreachable_without_patient_data(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_S", 0.1)
    ledger = Ledger.open(sqlite_url)
    holder = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unreachable, match="database is locked") as caught:
        ledger.instances.receive(instance(), [route()])
    assert "Jane" not in str(caught.value) + repr(caught.value.__cause__)
    assert ledger.instances.known("1.2.3.1") is None
    holder.execute("ROLLBACK")
    holder.close()
    assert ledger.instances.receive(instance(), [route()]).kind == "new"
    ledger.close()


def test_a_full_disk_under_the_ledger_is_told_as_such(sqlite_url: str) -> None:
    ledger = Ledger.open(sqlite_url)
    with ledger.database.writing() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 60")

    def receive_many() -> None:
        for n in range(2000):
            ledger.instances.receive(instance(n), [route()])

    with pytest.raises(OutOfResources, match="full"):
        receive_many()
    ledger.close()


def test_commits_survive_a_power_cut(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(sqlite_url)
    with ledger.database.writing() as connection:
        # the log before it is copied and the database before the log is used again; see below
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    synced = []
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        rows = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
        count = rows.execute("SELECT count(*) FROM instances").fetchone()[0]
        rows.close()
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, count))
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    ledger.instances.receive(instance(), [route()])
    log = Path(sqlite_url).name + "-wal"
    assert synced == [(log, 1)]  # after the commit, before the answer
    with ledger.database.writing(durable=False):
        pass
    assert synced == [(log, 1)]
    ledger.close()


def test_one_sync_serves_all_who_wrote_before_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(sqlite_url)
    first, go, count = threading.Event(), threading.Event(), []

    def sync(descriptor: int) -> None:
        count.append(descriptor)
        first.set()
        assert go.wait(60)

    monkeypatch.setattr(os, "fdatasync", sync)
    writers = [
        threading.Thread(target=ledger.instances.note_digest, args=("1", "x")) for _ in range(6)
    ]
    writers[0].start()
    assert first.wait(60)
    asked = ledger.database._disk
    assert asked is not None
    for writer in writers[1:]:
        writer.start()
    wait_for("all have written", lambda: asked._asked == 6)
    go.set()
    for writer in writers:
        writer.join(60)
    assert len(count) == 2
    ledger.close()


def test_a_sync_that_fails_is_said(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(sqlite_url)

    def sync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", sync)
    with pytest.raises(OutOfResources, match="cannot be synced: Input/output error"):
        ledger.instances.receive(instance(), [route()])
    ledger.close()


def test_a_writer_waits_for_that_of_another_process(sqlite_url: str) -> None:
    ledger, other = Ledger.open(sqlite_url), Ledger.open(sqlite_url)
    waiting = threading.Thread(target=other.instances.receive, args=(instance(), [route()]))
    with ledger.database.writing():
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(60)
    assert ledger.instances.known(instance().sop_instance_uid) is not None
    other.close()
    ledger.close()


def test_a_watch_sees_what_others_commit(url: str) -> None:
    ledger, other = Ledger.open(url), Ledger.open(url)
    watch = ledger.watch()
    assert watch.changed()
    assert not watch.changed()
    other.instances.receive(instance(), [route()])
    ends = time.monotonic() + 5
    while not watch.changed():  # PostgreSQL's bell takes a moment
        assert time.monotonic() < ends
    assert not watch.changed()
    watch.close()
    other.close()
    ledger.close()


CLAIMER = """
import os, sys, time
from dicom_node.base.errors import Stale
from dicom_node.base.job import Result
from dicom_node.store.ledger import Ledger, Wanted, as_json
ledger = Ledger.open(sys.argv[1])
deadline = time.time() + 30
while time.time() < deadline:
    tickets = ledger.jobs.hand_out("phantom", 3, time.time() + 0.2)
    for t in tickets:
        try:
            ledger.jobs.claim(t.job, t.token, sys.argv[2], 0.3)
            made = Result(token=t.token, outcome="reported", model="phantom", model_version="1",
                          device_uid="2.25.1")
            ledger.jobs.report(t.job, t.token, made, {})
            os.write(1, f"{t.job}\\n".encode())
        except Stale:
            pass
    ledger.jobs.expire(1000)
    open_jobs = ledger.jobs.waiting()
    if not tickets and not open_jobs:
        break
"""


def test_killed_claimers_lose_nothing_and_no_job_has_two_results(url: str, ledger: Ledger) -> None:
    for n in range(24):
        ledger.instances.receive(instance(n), [route()])

    def claimer(i: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CLAIMER, url, f"w{i}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    killed = [claimer(i) for i in range(2)]
    for child in killed:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
    last = [claimer(9), claimer(10)]
    done = [line for child in last for line in child.communicate(timeout=60)[0].split()]
    for child in killed:
        child.communicate()
    assert ledger.history.status().jobs == {"reported": 24}
    assert len(done) == len(set(done))
    results = [
        stage
        for n in range(24)
        for stage in ledger.history.trace(f"1.2.3.{n}").stages
        if stage.stage == "reported"
    ]
    assert len(results) == 24


def test_findings_come_back_as_they_were_posted(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger)
    found = FractureFound(bone="rib", number="6", side="right")
    post(ledger, ticket, result(ticket, presence="present", fractures=(found,)))
    kept = job_row(ledger).result
    assert kept.fractures[0] == found
    assert not hasattr(kept, "token")


def test_each_hot_statement_has_an_index_in_postgresql(
    postgresql: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its planner prefers to scan small tables; without that choice it shows what it has."""
    ledger = Ledger.open(postgresql.fresh())
    reported(ledger)
    ledger.instances.receive(instance(2), [], "no rule matched")
    asked: dict[str, tuple[str, Any]] = {}
    honest = {name: getattr(psycopg.Cursor, name) for name in ("execute", "executemany")}

    def noting(how: str) -> Any:
        def execute(cursor: Any, query: Any, given: Any = None, **more: Any) -> Any:
            rows = list(given) if how == "executemany" else [given]
            if str(query).split(None, 1)[0] in ("SELECT", "UPDATE", "DELETE", "WITH") and rows:
                asked[str(query)] = (name, rows[0])
            return honest[how](cursor, query, rows if how == "executemany" else given, **more)

        return execute

    for how in honest:  # whoever speaks to the driver
        monkeypatch.setattr(psycopg.Cursor, how, noting(how))
    for name, act in HOT.items():  # noqa: B007 - noting reads it
        act(ledger)
    monkeypatch.undo()
    reception = ledger.instances._statements
    asked[reception.any_order.sql] = (
        "reception of a study's second image",
        reception.any_order.row({"study": "1.2.4", "for_model": "phantom"}),
    )
    scans: dict[str, set[str]] = {}
    with ledger.database.writing() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, (name, parameters) in asked.items():
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters or ()).scalars()
            for line in plan:
                if found := re.search(r"Seq Scan on (\w+)", line):
                    scans.setdefault(found[1], set()).add(name)
    ledger.close()
    few = {"totals", "destinations", "makers", "workers", "marks", "orders", "likenesses"}
    assert len(asked) > 60
    assert {table: names for table, names in scans.items() if table not in few} == {}


def test_no_statement_within_a_trigger_scans_what_grows(postgresql: Cluster) -> None:
    """PostgreSQL tells the plan of each statement of its functions, as it runs it."""
    asked = ["session_preload_libraries=auto_explain", "enable_seqscan=off"]
    asked += [f"auto_explain.log_{name}" for name in ("min_duration=0", "level=notice")]
    asked += ["auto_explain.log_nested_statements=on"]
    options = " ".join(f"-c {setting}" for setting in asked)
    url = sa.make_url(postgresql.fresh()).update_query_dict({"options": options})
    ledger = Ledger.open(url.render_as_string(hide_password=False))
    plans: list[str] = []

    def listen(connection: Any, _: object) -> None:
        connection.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))

    for engine in (ledger.database._engine, ledger.database._relaxed):
        engine.dispose()
        sa.event.listen(engine, "connect", listen)
    for n in range(1, 4):  # the numbers of a study with one image, two and more
        reported(ledger, n)
    for act in HOT.values():
        act(ledger)
    ledger.instances.receive(instance(sha256="f" * 64, file="conflicts/ff/1.dcm"), [route()])
    (due, *_) = on(ledger, NOW + 1).deliveries.due()
    ledger.deliveries.choose(due.id, due.objects[0].sop_instance_uid)
    ledger.deliveries.delivered(due.id, 0)
    ledger.acts.resend("1.2.4")
    ledger.close()
    within = ("INSERT INTO totals", "standing :=", "stands :=", "UPDATE study_numbers", "counters")
    assert [text for text in within if not any(text in plan for plan in plans)] == []
    few = "totals|destinations|makers|workers|marks|orders|likenesses|holds|pg_|alembic_version"
    scans = {plan for plan in plans if re.search(rf"Seq Scan on (?!{few})", plan)}
    assert sorted(scans) == []


def test_a_lost_connection_is_one_error_and_leaves_nothing_half_done(postgresql: Cluster) -> None:
    """The server ends every connection, idle ones and one in the middle of a transaction."""
    url = postgresql.fresh()
    ledger, other = Ledger.open(url), Ledger.open(url)

    def cut() -> None:
        """Return when all are ended; a connection that ends a moment later is lost in its work."""
        with other.database.writing() as connection:
            end = time.monotonic() + 60
            while connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).all():
                assert time.monotonic() < end
                # within a transaction PostgreSQL shows the sessions as at its first look
                connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")

    ledger.instances.receive(instance(1), [route()])
    cut()
    assert ledger.instances.receive(instance(2), [route()]).kind == "new"

    def half() -> None:
        with ledger.database.writing() as connection:
            connection.execute(schema.jobs.delete())
            cut()
            connection.execute(schema.instances.delete())

    with pytest.raises(Unreachable) as caught:
        half()
    assert len(str(caught.value).splitlines()) == 1
    assert ledger.instances.known("1.2.3.1") is not None
    assert ledger.history.status().jobs == {"received": 2}
    other.close()
    ledger.close()


@pytest.mark.parametrize("name", ["archive", 'Archiv "Süd" \\ 2'])
def test_each_transition_keeps_its_event_in_the_same_words(ledger: Ledger, name: str) -> None:
    """PostgreSQL writes those of most transitions itself, in the statement that changes the row."""
    moments = on(ledger, NOW)
    moments.instances.receive(instance(), [route(send_to=(name,))])
    ticket = taken(ledger, worker=name)
    post(ledger, ticket, result(ticket))
    (due,) = ledger.deliveries.due()
    moments.deliveries.choose(due.id, due.objects[0].sop_instance_uid)
    assert moments.deliveries.delivered(due.id, 0xB007, 12.5)
    assert not moments.deliveries.delivered(due.id, 0)
    said = {
        "claimed": Details(attempt=1, worker=name),
        "sent": Details(kind="sr", destination=name, status=0xB007),
    }
    with ledger.database.reading() as connection:
        rows = connection.execute(sa.select(schema.events).order_by(schema.events.c.id)).all()
    stages = ["received", "routed", "queued", "claimed", "reported", "sent"]
    assert [row.stage for row in rows] == stages
    assert [row.detail for row in rows] == [said.get(s, Details()).dump() for s in stages]
    assert [row.job for row in rows] == ["", *[ticket.job[:8]] * 5]
    assert {(row.instance, row.sop_instance_uid, row.is_typed) for row in rows} == {(1, "", 1)}
    assert [row.ms for row in rows] == [None] * 5 + [12.5]
    assert {row.at for row in rows if row.stage in ("received", "routed", "sent")} == {NOW}


def test_postgresql_gets_few_messages_from_reception_to_delivery(
    postgresql: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There were 40; each costs the driver and the server more than most of the work in it."""
    ledger = Ledger.open(postgresql.fresh())
    reported(ledger)
    sent: list[str] = []
    honest = psycopg.Cursor.execute

    def noting(cursor: Any, query: Any, *given: Any, **more: Any) -> Any:
        sent.append(str(query))
        return honest(cursor, query, *given, **more)

    monkeypatch.setattr(psycopg.Cursor, "execute", noting)
    ledger.instances.receive(instance(2, study_instance_uid="1.2.5"), [route()])
    ticket = taken(ledger)
    post(ledger, ticket, result(ticket))
    (due,) = ledger.deliveries.due()
    ledger.deliveries.choose(due.id, due.objects[0].sop_instance_uid)
    ledger.deliveries.delivered(due.id, 0)
    ledger.close()
    assert len(sent) <= 16, [" ".join(query.split())[:60] for query in sent]


def test_an_index_is_dropped_when_nobody_has_to_wait_for_that(postgresql: Cluster) -> None:
    """A dump reads the table for minutes: a drop behind it would keep all others out as long."""
    url = postgresql.fresh()
    ((name, table),) = schema.SUPERSEDED_CONSTRAINTS.items()
    columns = "sop_instance_uid, model, generation"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE ({columns})")
    ledger = Ledger.open(url)
    with engine.begin() as dump:
        dump.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
        dump.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '10s'")
        assert ledger.upgrading.step() == ""
        assert ledger.instances.receive(instance(), [route()]).kind == "new"
    assert ledger.upgrading.step() == f"index {name} is dropped, 0 to go"
    assert ledger.upgrading.step() == ""
    ledger.close()


@pytest.mark.parametrize("state", ["received", "undelivered", ""])
def test_pages_lose_no_job_of_the_same_moment(ledger: Ledger, state: str) -> None:
    """Two models of one image, and images of one moment: a page ends between any two of them."""
    routes = [route(), route(model="other")]
    for n in range(1, 4):
        on(ledger, NOW).instances.receive(instance(n), routes)
    if state == "undelivered":
        for model in ("phantom", "other"):
            for ticket in on(ledger, NOW).jobs.hand_out(model, 3, NOW + 60):
                on(ledger, NOW).jobs.claim(ticket.job, ticket.token, "w", 60)
                post(ledger, ticket, result(ticket, model=model), NOW)
    shown: list[str | None] = []
    place = ""
    while True:
        page = ledger.history.page(1, state=state, before=place)
        shown += [row.job for row in page.rows]
        place = page.older
        if not place:
            break
    assert len(shown) == len(set(shown)) == 6


@pytest.mark.parametrize("sort", ["newest", "oldest"])
@pytest.mark.parametrize("limit", [1, 50])
def test_a_later_job_of_an_image_within_the_dates_is_shown(
    ledger: Ledger, sort: str, limit: int
) -> None:
    """The dates are of reception; its second analysis began when they were over."""
    reported(ledger)
    for n in (2, 3):
        changed = {"study_instance_uid": f"1.2.{n}.4", "accession_number": f"A{n}"}
        on(ledger, NOW + 10 * n).instances.receive(instance(n, **changed), [route()])
    on(ledger, NOW + 100).acts.replay("1.2.3.1")
    wanted = StudyFilter(state="received", since=NOW - 1, until=NOW + 25, sort=sort)
    shown, place = [], ""
    while True:
        page = ledger.studies.page(limit, wanted, place)
        shown += [view.newest.sop_instance_uid for view in page.studies]
        place = page.older
        if not place:
            break
    expected = ["1.2.3.1", "1.2.3.2"] if sort == "newest" else ["1.2.3.2", "1.2.3.1"]
    assert shown == expected


def test_a_study_that_an_adopted_image_leaves_repeats_no_number(ledger: Ledger) -> None:
    """Its report stays in the archive, with Instance Number 1."""
    reported(ledger)
    other = instance(sha256="f" * 64, file="conflicts/ff/1.dcm", patient_id="PID2")
    assert ledger.instances.receive(other, [route()]).kind == "conflict"
    (conflict,) = ledger.history.conflicts()
    corrected = instance(study_instance_uid="1.2.9", file="conflicts/ff/1.dcm", patient_id="PID2")
    ledger.acts.adopt(conflict.id, corrected, [route()])
    ledger.instances.receive(instance(2), [route()])
    order = ledger.history.trace("1.2.3.2").jobs[0].report_order
    assert order.instance_number > 1


def race(*acts: Callable[[int], object], rounds: int = 6) -> None:
    """Let acts run at the same moments, a thread each; raise the first fault."""
    barrier, faults = threading.Barrier(len(acts)), list[Exception]()

    def run(act: Callable[[int], object]) -> None:
        for n in range(rounds):
            barrier.wait(60)
            try:
                act(n)
            except ChexFractError as exc:
                faults.append(exc)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if faults:
        raise faults[0]


def test_acts_holds_and_a_reload_wait_for_each_other_and_never_in_a_circle(
    postgresql: Cluster,
) -> None:
    """A job of one destination's deliveries has others', and new ones come in between."""
    url = postgresql.fresh()
    ledgers = [Ledger.open(url) for _ in range(5)]
    acting, again, waking, courier, worker = ledgers
    names = ("b", "a", "c")
    for n in range(20):
        reported(worker, n, send_to=names)

    def acts(n: int) -> None:
        acting.acts.retry("1.2.4")
        acting.acts.resend("1.2.4")

    def acts_again(n: int) -> None:
        again.acts.retry(f"1.2.3.{n}")
        again.acts.settle("1.2.4", "sent", names[n % 3])

    def sends(n: int) -> None:
        for name in names:
            for item in courier.deliveries.due(3, name):
                courier.deliveries.delivered(item.id, 0)
            courier.deliveries.hold(name, f"no answer {n}", NOW)

    race(
        acts,
        acts_again,
        lambda n: waking.deliveries.wake(*names),
        sends,
        lambda n: reported(worker, 100 + n, send_to=names),
        rounds=8,
    )
    for ledger in ledgers:
        ledger.close()


def test_two_listeners_get_the_same_images_in_two_orders_and_neither_refuses_any(
    postgresql: Cluster,
) -> None:
    url = postgresql.fresh()
    one, other = Ledger.open(url), Ledger.open(url)

    def listens(ledger: Ledger, step: int) -> Callable[[int], object]:
        def receive(round_: int) -> None:
            batch = [
                instances_module._Arrival(instance(8 * round_ + n), [route()], "", 1000.0)
                for n in range(8)
            ]
            ledger.instances._receive_batch(batch[::step])

        return receive

    race(listens(one, 1), listens(other, -1), rounds=12)
    assert one.history.status().jobs == {"received": 96}
    for ledger in (one, other):
        ledger.close()


def test_who_changes_many_deliveries_waits_for_others_and_never_in_a_circle(
    postgresql: Cluster,
) -> None:
    """Two transactions that lock the same rows in two orders are a deadlock: one would fail."""
    url = postgresql.fresh()
    ledger, other, third = Ledger.open(url), Ledger.open(url), Ledger.open(url)
    for n in range(16):
        reported(ledger, n, at=1000.0, send_to=("a", "b"))
    due = [item for item in ledger.deliveries.due(100) if item.destination == "b"]
    for item in due:
        ledger.deliveries.choose(item.id, item.objects[0].sop_instance_uid)
        ledger.deliveries.delivered(item.id, 0, ask_at=1.0)
    asked = ledger.commitments.due()["b"]
    for n in range(6):
        ledger.commitments.ask(f"2.25.{n}", asked, lambda _: -1.0)
        ledger.commitments.ask(f"2.26.{n}", asked[::-1], lambda _: -1.0)
    uids = {item.sop_instance_uid: "no room" for item in asked}

    def answers(ledger: Ledger, root: str) -> Callable[[int], object]:
        return lambda n: ledger.commitments.answer(
            f"{root}.{n}", () if n % 2 else uids, uids if n % 2 else {}, lambda _: 0.0
        )

    def sends_again(n: int) -> None:
        third.deliveries.hold("a", f"no answer {n}", 0.0)
        third.acts.resend("1.2.4")

    race(answers(ledger, "2.25"), answers(other, "2.26"), sends_again)
    for one in (ledger, other, third):
        one.close()


@pytest.mark.parametrize("how", ["a statement fails", "the caller fails", "both wait"])
def test_a_transaction_in_a_row_happens_as_a_whole_or_not(ledger: Ledger, how: str) -> None:
    """PostgreSQL gets its statements without a wait for each answer: a late fault undoes all."""
    reported(ledger)
    add = schema.workers.insert()

    def begun() -> None:
        with ledger.database.writing(in_a_row=True) as connection:
            database_module.write(
                connection, add, [{"name": "a", "claimed_at": 1.0}], is_whole=False
            )
            if how == "a statement fails":
                twice = [{"name": "b", "claimed_at": 1.0}] * 2
                database_module.write(connection, add, twice, is_whole=False)
            if how == "both wait":
                known = connection.execute(sa.select(schema.workers.c.name)).scalars().all()
                assert "a" in known
            if how != "a statement fails":
                raise Stale("somebody else was faster")

    with pytest.raises((Unreachable, Stale)):
        begun()
    assert [worker.worker for worker in ledger.results.workers()] == ["w"]
    with ledger.database.writing(in_a_row=True) as connection:
        update = schema.workers.update().where(schema.workers.c.name == sa.bindparam("who"))
        update = update.values(claimed_at=sa.bindparam("at"))
        assert database_module.change(connection, update, {"who": "w", "at": 5.0}) == 1
        assert database_module.change(connection, update, {"who": "x", "at": 5.0}) == 0
    assert [worker.claimed_at for worker in ledger.results.workers()] == [5.0]


def test_a_question_leaves_its_connection_fit_for_a_transaction(ledger: Ledger) -> None:
    """PostgreSQL is asked without a transaction, and the same connection has one afterwards."""
    reported(ledger)

    def undone() -> None:
        with ledger.database.writing() as connection:
            connection.execute(schema.workers.delete())
            raise Stale("undone")

    for ask in (ledger.jobs.waiting, ledger.history.status, ledger.jobs.next_due):
        ask()
        with pytest.raises(Stale):
            undone()
        assert [worker.worker for worker in ledger.results.workers()] == ["w"]
