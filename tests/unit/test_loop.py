"""A loop turns when something has changed or time has come, and outlives what its work meets."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from clocks import FakeClock

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.flow.loop import LASTING_S, POLL_S, TROUBLE_S, Loop, Threads
from dicom_node.run.roles import MOST_FAULTS, check_turns


class Bell:
    """A watch that rings when a test says so."""

    def __init__(self) -> None:
        self.rings = False
        self.is_closed = False

    def changed(self) -> bool:
        rings, self.rings = self.rings, False
        return rings

    def wait(self, seconds: float) -> None:
        assert not self.is_closed

    def close(self) -> None:
        self.is_closed = True


class Work:
    """Steps that return, or raise, what a test has put there."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.outcomes: list[float | Exception | None] = []
        self.takes_s = 0.0
        self.count = 0

    def __call__(self) -> float | None:
        self.count += 1
        self.clock.pass_by(self.takes_s)
        outcome = self.outcomes.pop(0) if self.outcomes else 5.0
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def work(clock: FakeClock) -> Work:
    return Work(clock)


def test_it_works_at_once_and_then_when_time_has_come(clock: FakeClock, work: Work) -> None:
    loop = Loop("x", work, clock)
    assert loop.turn() == 5.0
    clock.pass_by(4.9)
    assert loop.turn() == pytest.approx(0.1)
    assert work.count == 1
    clock.pass_by(0.1)
    loop.turn()
    assert work.count == 2


def test_a_change_is_seen_before_time_has_come(clock: FakeClock, work: Work) -> None:
    bell = Bell()
    loop = Loop("x", work, clock, bell)
    loop.turn()
    clock.pass_by(0.02)
    assert loop.turn() == POLL_S
    assert work.count == 1
    bell.rings = True
    loop.turn()
    assert work.count == 2


@pytest.mark.parametrize("by", [-86_400.0, 86_400.0])
def test_a_clock_that_is_set_delays_no_turn(clock: FakeClock, work: Work, by: float) -> None:
    loop = Loop("x", work, clock)
    loop.turn()
    clock.set_by(by)
    clock.pass_by(5.0)
    loop.turn()
    assert work.count == 2


@pytest.mark.parametrize(("took", "rest"), [(0.0, POLL_S), (0.3, 0.3), (60.0, 1.0)])
def test_it_rests_as_long_as_it_worked_up_to_a_second(
    clock: FakeClock, work: Work, took: float, rest: float
) -> None:
    work.takes_s = took
    assert Loop("x", work, clock, Bell()).turn() == pytest.approx(rest)


def test_troubles_are_waited_out_and_told_once(
    clock: FakeClock, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    away = [Unreachable("the ledger is locked") for _ in range(3)]
    work.outcomes = [*away, 5.0, Unreachable("the ledger is locked"), ConfigurationError("full")]
    loop = Loop("dispatch", work, clock)
    waits = []
    for _ in range(6):
        wait = loop.turn()
        assert wait is not None
        waits.append(wait)
        clock.pass_by(wait)
    assert waits == [TROUBLE_S, TROUBLE_S, TROUBLE_S, 5.0, TROUBLE_S, LASTING_S]
    assert caplog.text.count("dispatch waits: the ledger is locked") == 2
    assert loop.faults == 0


def test_a_fault_that_nobody_foresaw_ends_no_loop_and_is_backed_off(
    clock: FakeClock, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    work.outcomes = [KeyError("x") for _ in range(8)]
    loop = Loop("delivery", work, clock)
    waits: list[float] = []
    for _ in range(8):
        waits.append(loop.turn() or 0.0)
        clock.pass_by(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "delivery failed 8 times" in caplog.text
    loop.turn()
    assert loop.faults == 0


def test_a_role_whose_loop_fails_again_and_again_is_started_again(work: Work) -> None:
    loop = Loop("delivery", work, FakeClock())
    loop.turned_at = float("inf")
    loop.faults = MOST_FAULTS - 1
    check_turns([loop])
    loop.faults = MOST_FAULTS
    with pytest.raises(Unreachable, match="delivery fails again and again"):
        check_turns([loop])


def test_a_loop_ends_when_its_work_is_over_and_gives_back_what_it_holds(
    clock: FakeClock, work: Work
) -> None:
    ended, bell = list[int](), Bell()
    work.outcomes = [None]
    loop = Loop("x", work, clock, bell, on_end=lambda: ended.append(1))
    loop.run(threading.Event())
    assert (work.count, ended, bell.is_closed) == (1, [1], True)


def test_a_thread_drives_it_until_all_end(work: Work) -> None:
    from dicom_node.store.clock import Clock

    stop, turned = threading.Event(), threading.Event()
    step: Callable[[], float] = lambda: turned.set() or 0.0  # type: ignore[func-returns-value] # noqa: E731
    crew = Threads(stop)
    crew.add(Loop("x", step, Clock()))
    assert turned.wait(60)
    assert (crew.has("x"), crew.has("y"), crew.is_ending()) == (True, False, False)
    stop.set()
    crew.join(60)
    assert (crew.has("x"), crew.dead(), crew.is_ending()) == (False, ["x"], True)
