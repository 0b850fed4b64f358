"""The drill's count sees what it is there to see."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledgers import NOW, fresh, instance, on, post, result, route, taken

from dicom_node.store.ledger import Ledger

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.drill import count as counting
from tests.drill.pictures import Picture


@dataclass
class World:
    """Where a drill's archive and ledger are."""

    log: Path
    ledger: str


class Story:
    """What a node and an archive might have left behind; Instance n is 1.2.3.n."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger.open(fresh(folder))
        self.world: Any = World(folder / "archive.jsonl", f"sqlite:///{folder / 'ledger.sqlite'}")

    def receive(self, n: int) -> None:
        on(self.ledger, NOW + n).instances.receive(instance(n), [route()])

    def report(self, n: int) -> None:
        self.receive(n)
        ticket = taken(self.ledger, at=NOW + n)
        post(self.ledger, ticket, result(ticket, n), NOW + n)

    def archive(self, n: int, report: str = "", **changed: Any) -> None:
        line = {"source": f"1.2.3.{n}", "report": report or f"2.25.{n}", "sha256": "a"}
        line |= {"status": 0, "completion": "COMPLETE", "text": picture(n).text}
        with self.world.log.open("a") as log:
            log.write(json.dumps(line | changed) + "\n")

    def count(self, *numbers: int, kind: str = "healthy") -> counting.Count:
        acknowledged = {f"1.2.3.{n}" for n in numbers}
        return counting.count(self.world, [picture(n, kind) for n in numbers], acknowledged)


def picture(n: int, kind: str = "healthy") -> Picture:
    return Picture(f"1.2.3.{n}", kind, 4 + n, "left")


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def faults(found: counting.Count) -> dict[str, int]:
    return {name: number for name, number in found.faults.items() if number}


def test_one_report_that_arrived_is_no_fault(story: Story) -> None:
    story.report(1)
    story.archive(1, status=0xA700)
    story.archive(1)
    found = story.count(1)
    assert faults(found) == {}
    assert (found.delivered, found.refusals, found.repeats) == (1, 1, 0)


def test_an_acknowledged_image_that_nobody_knows_is_lost(story: Story) -> None:
    assert faults(story.count(1)) == {"lost": 1}


def test_a_report_that_only_the_node_calls_sent_is_lost(story: Story) -> None:
    story.report(1)
    (delivery,) = on(story.ledger, NOW + 5).deliveries.due()
    on(story.ledger, NOW + 5).deliveries.delivered(delivery.id, 0)
    assert faults(story.count(1)) == {"lost": 1, "without_reason": 1}


def test_what_still_waits_without_a_reason_is_told(story: Story) -> None:
    story.receive(1)
    assert faults(story.count(1)) == {"lost": 1, "without_reason": 1}


def test_a_second_report_of_one_image_is_told(story: Story) -> None:
    story.report(1)
    story.archive(1)
    story.archive(1, report="2.25.99")
    assert faults(story.count(1)) == {"second_reports": 1}


def test_a_repeat_is_counted_and_other_bytes_under_its_uid_are_told(story: Story) -> None:
    story.report(1)
    story.archive(1)
    story.archive(1)
    assert (story.count(1).repeats, faults(story.count(1))) == (1, {})
    story.archive(1, sha256="b")
    assert faults(story.count(1)) == {"changed_bytes": 1}


def test_the_words_of_another_picture_are_told(story: Story) -> None:
    story.report(1)
    story.archive(1, text=picture(2).text)
    assert faults(story.count(1)) == {"wrong_text": 1}


@pytest.mark.parametrize(("kind", "seen"), [("killing", {}), ("healthy", {"wrongly_failed": 1})])
def test_only_a_picture_that_harms_workers_may_fail(
    story: Story, kind: str, seen: dict[str, int]
) -> None:
    story.receive(1)
    ticket = taken(story.ledger, at=NOW + 1)
    on(story.ledger, NOW + 2).jobs.release(ticket.job, ticket.token, "fell silent", max_attempts=1)
    assert faults(story.count(1, kind=kind)) == seen
