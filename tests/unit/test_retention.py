"""Retention: what is delivered goes in time, what is not delivered never does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW, fresh, instance, on, result, route, taken

from dicom_node.base.errors import NotFound
from dicom_node.settings import Retention as Limits
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger, Receipt
from dicom_node.store.retention import ORPHAN_AGE_S, Retention
from dicom_node.store.spool import Spool

HOUR = 3600.0
HEAD = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + bytes(4)


class Node:
    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder / "spool")
        self.ledger = Ledger.open(fresh(folder))
        settings = Settings(retention=Limits(images=HOUR, reports=10 * HOUR))
        self.retention = Retention(settings, self.spool, self.ledger)

    def receive(self, n: int = 1, is_routed: bool = True) -> Receipt:
        with self.spool.writing() as incoming:
            incoming.write(HEAD + b"image %d" % n)
            kept = incoming.keep(f"1.2.3.{n}")
        facts = {"file": kept.name, "sha256": self.spool.digest(kept.name), "size": kept.size}
        return on(self.ledger, NOW).instances.receive(
            instance(n, **facts), [route()] if is_routed else []
        )

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
    told = node.ledger.history.trace("1.2.3.1")
    assert told.state == "delivered"
    assert told.jobs[0].result.text == "No fracture."


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
    assert left == [stage for stage in before if stage not in ("queued", "claimed")]
    assert {"received", "reported", "sent"} <= set(left)
