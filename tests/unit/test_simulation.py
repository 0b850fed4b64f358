"""Some schedules of the simulated world; more by ``python -m tests.simulate``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from ledgers import NOW, on, reported

from dicom_node.store.ledger import Ledger

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.simulate import broken, outside, schedule
from tests.simulate.driver import DirectConnection


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", range(1, 7))
def test_the_invariants_hold_and_a_seed_replays_to_the_same_line(seed: int) -> None:
    outcome = schedule.simulate(seed)
    assert outcome.failure is None, "\n".join(outcome.story)
    if seed == 1:
        assert schedule.simulate(seed).story == outcome.story


def test_a_fault_is_found_and_its_story_is_short_and_replays() -> None:
    with broken.second_sender_dropped():
        events = [
            schedule.Event("send", (0, 0, 0, 0, 0)),
            schedule.Event("pass", (0, 1)),
            schedule.Event("archive", (0, 3, 2)),
            schedule.Event("send", (0, 0, 0, 2, 0)),
            schedule.Event("pass", (0, 2)),
        ]
        outcome = schedule.play(events, 1)
        assert outcome.failure is not None
        what = outcome.failure[0]
        assert what == "a destination that a rule names got nothing"
        shortest = schedule.shrink(events, 1, what, tries=12)
        assert [event.kind for event in shortest] == ["send", "send"]
        again = [schedule.play(shortest, 1) for _ in range(2)]
        assert again[0].story == again[1].story
        assert again[0].failure == again[1].failure
    assert schedule.play(events, 1).failure is None


def test_after_a_restore_a_duplicate_is_an_object_that_is_there(ledger: Ledger) -> None:
    """Found by the simulation: what was sent after the backup was refused as 0x0111 for ever."""
    reported(ledger)
    (before,) = on(ledger, NOW).deliveries.due()
    assert before.unanswered == 0
    ledger.deliveries.doubt()
    ledger.deliveries.doubt()
    (after,) = on(ledger, NOW).deliveries.due()
    assert after.unanswered > 0


def test_two_nodes_that_send_one_report_both_end() -> None:
    """Found by the simulation: the second was refused as 0x0111 for ever."""
    events = [
        schedule.Event("send", (1, 0, 0, 0, 0)),
        schedule.Event("run", (0, 7)),
        schedule.Event("send", (0, 0, 0, 0, 0)),
    ]
    outcome = schedule.play(events, 1)
    assert outcome.failure is None, "\n".join(outcome.story)
    assert {"node-a", "node-b"} <= {
        word.rstrip(":") for line in outcome.story for word in line.split()
    }
    with broken.another_nodes_report_refused():
        refused = schedule.play(events, 1).failure
    assert refused is not None
    assert refused[0] == "something waits for ever"


@pytest.mark.parametrize("is_done", [False, True])
def test_a_second_rule_for_every_result_is_wider_than_the_first(is_done: bool) -> None:
    """Found by the simulation: the vault, first named for rejected images only, got nothing."""
    events = [
        schedule.Event("reload", (0, 4)),
        schedule.Event("send", (1, 4)),
        *[schedule.Event("run", (0, 7))] * (8 * is_done),
        schedule.Event("reload", (0, 1)),
        schedule.Event("send", (1, 4, 0, 2)),
    ]
    outcome = schedule.play(events, 1)
    assert outcome.failure is None, "\n".join(outcome.story)


def test_what_nobody_foresaw_is_a_failure_of_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    def happen(*_: Any) -> None:
        raise RuntimeError("nobody foresaw it")

    monkeypatch.setattr(schedule, "happen", happen)
    outcome = schedule.simulate(1)
    assert outcome.failure is not None
    assert outcome.failure[0] == "an unforeseen fault"
    assert "nobody foresaw it" in outcome.failure[1]


def test_some_workers_get_the_image_with_their_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, set[str]] = {}
    honest = outside.Network._carry

    def carry(network: Any, call: outside.Call) -> Any:
        what = "claim with the image" if call.wants_instance else call.act
        asked.setdefault(network.worker.name, set()).add(what)
        return honest(network, call)

    monkeypatch.setattr(outside.Network, "_carry", carry)
    outcome = schedule.simulate(11)
    assert outcome.failure is None, "\n".join(outcome.story)
    given = [calls for calls in asked.values() if "claim with the image" in calls]
    others = [calls for calls in asked.values() if "claim" in calls]
    assert given
    assert others
    assert not any(calls & {"claim", "instance"} for calls in given)
    assert all("instance" in calls for calls in others)


def test_what_is_held_between_two_effects_meets_what_happens_meanwhile() -> None:
    """Two accepting processes have one image at a time: each sender gets its report."""
    events = [
        schedule.Event("weave", (0, 3)),
        schedule.Event("send", (1, 0, 0, 0, 0)),
        schedule.Event("send", (1, 0, 0, 2, 3)),
    ]
    outcome = schedule.play(events, 1)
    assert outcome.failure is None, "\n".join(outcome.story)
    assert [line.split("  ")[-1] for line in outcome.story[1:3]] == [
        "ct1 to node-a: is held",
        "room sends image 0 (first) to node-a: new",
    ]
    assert schedule.play(events, 1).story == outcome.story
    with broken.known_by_a_look():
        failed = schedule.play(events, 1).failure
    assert failed is not None
    assert failed[0] == "a destination that a rule names got nothing"


def test_what_is_held_of_a_killed_process_goes_no_further() -> None:
    events = [
        schedule.Event("weave", (0, 3)),
        schedule.Event("send", (1, 0, 0, 0, 0)),
        schedule.Event("power", (0,)),
        schedule.Event("restart"),
        schedule.Event("run", (0, 7)),
    ]
    outcome = schedule.play(events, 1)
    assert outcome.failure is None, "\n".join(outcome.story)
    assert "ct1 sends image 0 (first) to node-a: killed" in "\n".join(outcome.story)


def test_a_second_sender_after_the_report_was_removed_does_not_wait_for_ever() -> None:
    """Found by seed 1601: its delivery was tried again each hour, and its file was gone."""
    events = [
        schedule.Event("send", (1, 0, 0, 0, 0)),
        *[schedule.Event("run", (0, 7))] * 8,
        schedule.Event("pass", (0, 6)),
        schedule.Event("pass", (0, 6)),
        *[schedule.Event("run", (0, 7))] * 4,
        schedule.Event("send", (1, 0, 0, 2, 0)),
    ]
    outcome = schedule.play(events, 1)
    assert outcome.failure is None, "\n".join(outcome.story)


@pytest.mark.parametrize(
    "seed", [1601, 1991, 3893, 5777, 7261, 23003, 101943, 121615, 374262, 932427]
)
def test_seeds_that_have_failed_hold(seed: int) -> None:
    outcome = schedule.simulate(seed, length=1.0)
    assert outcome.failure is None, "\n".join(outcome.story)


@pytest.mark.parametrize("seed", [13, 23])
def test_what_saves_time_in_memory_changes_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = schedule.simulate(seed, length=1.0)
    for name in ("execute", "scalar", "scalars"):

        def whole(self: Any, statement: Any, parameters: Any = None, name: str = name) -> Any:
            return getattr(self._whole, name)(statement, parameters)

        monkeypatch.setattr(DirectConnection, name, whole)
    monkeypatch.setattr(schedule, "kept_answers", nullcontext)
    assert schedule.simulate(seed, length=1.0).story == outcome.story
