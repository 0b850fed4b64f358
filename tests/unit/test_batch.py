"""Group commit: one transaction for all who wait, and each its own answer or fault."""

from __future__ import annotations

import threading
import time

from ledgers import NOW, instance, on, route

from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.batch import Batch
from dicom_node.store.ledger.instances import _Arrival

WAIT_S = 20


def test_whoever_comes_while_one_writes_is_written_together() -> None:
    written: list[list[int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def write(items: list[int]) -> list[int]:
        written.append(items)
        begun.set()
        assert go_on.wait(WAIT_S)
        return [item * 10 for item in items]

    batch = Batch(write)
    answers: dict[int, int] = {}

    def ask(item: int) -> None:
        answers[item] = batch(item)

    first = threading.Thread(target=ask, args=(0,))
    first.start()
    assert begun.wait(WAIT_S)
    others = [threading.Thread(target=ask, args=(n,)) for n in range(1, 8)]
    for thread in others:
        thread.start()
    while len(batch._waiting) < 7:
        time.sleep(0.001)
    go_on.set()
    for thread in (first, *others):
        thread.join(WAIT_S)
    assert answers == {n: n * 10 for n in range(8)}
    assert written[0] == [0]
    assert sorted(written[1]) == list(range(1, 8))
    assert len(written) == 2


def test_one_that_cannot_be_written_takes_no_other_with_it() -> None:
    def write(items: list[int]) -> list[int]:
        if 3 in items:
            raise ValueError("three")
        return items

    batch = Batch(write)
    outcomes: dict[int, object] = {}

    def ask(item: int) -> None:
        try:
            outcomes[item] = batch(item)
        except ValueError as exc:
            outcomes[item] = str(exc)

    with batch._turn:  # so that all of them wait
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        while len(batch._waiting) < 5:
            time.sleep(0.001)
    for thread in threads:
        thread.join(WAIT_S)
    assert outcomes == {0: 0, 1: 1, 2: 2, 3: "three", 4: 4}


def test_instances_of_one_batch_have_what_each_would_have_alone(ledger: Ledger) -> None:
    receipts = ledger.instances._receive_batch(
        [
            _Arrival(instance(1), [route()], "", NOW),
            _Arrival(instance(2), [route(), route(model="second")], "", NOW + 1),
            _Arrival(instance(3), [], "no rule matched", NOW + 2),
            _Arrival(instance(1), [route()], "", NOW + 3),
        ]
    )
    assert [receipt and len(receipt.jobs) for receipt in receipts] == [1, 2, 0, None]
    traces = [ledger.history.trace(f"1.2.3.{n}") for n in (1, 2, 3)]
    assert [[stage.stage for stage in trace.stages] for trace in traces] == [
        ["received", "routed"],
        ["received", "routed", "routed"],
        ["received", "ignored"],
    ]
    numbers = [job.report_order.instance_number for trace in traces for job in trace.jobs]
    assert numbers == [1, 2, 1]


def test_without_a_digest_a_known_uid_changes_nothing(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(sha256=""), [route()])
    assert ledger.instances.receive(instance(file="images/aa/y.dcm"), [route()]).kind == "known"
    ledger.instances.note_digest("1.2.3.1", "f" * 64)
    ledger.instances.note_digest("1.2.3.1", "0" * 64)
    again = instance(sha256="f" * 64, file="images/aa/y.dcm")
    assert ledger.instances.receive(again, [route()]).kind == "duplicate"
    assert len(ledger.history.trace("1.2.3.1").stages) == 3


def test_many_threads_lose_nothing(ledger: Ledger) -> None:
    def send(start: int) -> None:
        for n in range(start, start + 10):
            assert on(ledger, NOW).instances.receive(instance(n), [route()]).kind == "new"

    threads = [threading.Thread(target=send, args=(10 * t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    numbers = sorted(
        ledger.history.trace(f"1.2.3.{n}").jobs[0].report_order.instance_number for n in range(80)
    )
    assert numbers == list(range(1, 81))
