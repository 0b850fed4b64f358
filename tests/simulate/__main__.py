"""``python -m tests.simulate --schedules N --seed S``: schedules of faults, each from its seed."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator


def main() -> int:
    """Play schedules; print the shortest story of the first that fails."""
    if (
        os.environ.get("PYTHONHASHSEED") != "0"
    ):  # sets are walked in one order, so replays are equal
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.simulate", *sys.argv[1:]], environment
        )
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--for", dest="seconds", type=float, default=0.0, help="end after so many seconds"
    )
    parser.add_argument(
        "--broken", default="", help="a broken variant, or 'all': each must be found"
    )
    parser.add_argument("--known", action="store_true", help="begin shortly before what finds it")
    parser.add_argument("--keep-on", action="store_true", help="go on after a failure")
    parser.add_argument("--story", action="store_true", help="tell the story of a schedule")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    from . import broken, schedule

    if options.broken:
        names = list(broken.VARIANTS) if options.broken == "all" else [options.broken]
        return max([_find(name, options.known, options.seed, options.story) for name in names])
    if options.story:
        outcome = schedule.simulate(options.seed)
        print("\n".join(outcome.story))
        print(f"seed {options.seed}: {outcome.failure or 'all invariants hold'}")
        return 1 if outcome.failure else 0
    began, done, failed, effects, cpu = time.perf_counter(), 0, 0, 0, 0.0
    for seed, failure, hits, spent in _all(options):
        done, effects, cpu = done + 1, effects + hits, cpu + spent
        if failure:
            failed += 1
            _tell(seed, failure[0])
            if not options.keep_on:
                break
        spent = time.perf_counter() - began
        if done % 500 == 0:
            print(
                f"{done} schedules in {spent:.0f} s, {failed} failed", file=sys.stderr, flush=True
            )
        if options.seconds and spent > options.seconds:
            break
    spent = time.perf_counter() - began
    print(
        f"{done} schedules from seed {options.seed}, {effects} effects, {failed} failed, "
        f"{done / spent:.1f} a second by {options.processes} process(es)"
        f", {1000 * cpu / done:.0f} ms of processor each"
    )
    return 1 if failed else 0


def _all(options: argparse.Namespace) -> Iterator[tuple[int, tuple[str, str] | None, int, float]]:
    seeds = range(options.seed, options.seed + options.schedules)
    if options.processes == 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        yield from pool.imap_unordered(one, seeds, chunksize=20)


def one(seed: int) -> tuple[int, tuple[str, str] | None, int, float]:
    """Play one schedule."""
    from . import schedule

    began = time.process_time()
    outcome = schedule.simulate(seed)
    return seed, outcome.failure, outcome.effects, time.process_time() - began


def _tell(seed: int, what: str) -> None:
    from . import schedule

    events = schedule.shrink(schedule.draw(seed), seed, what)
    outcome = schedule.play(events, seed)
    print(f"seed {seed} fails; the shortest story of it ({len(events)} events):")
    print("\n".join(outcome.story))
    print(f"events: {[(event.kind, event.numbers) for event in events]}", flush=True)


MOST = 300
"""Within so many schedules each broken variant must be found."""


def _find(name: str, is_known: bool, seed: int, tells: bool) -> int:
    from . import broken, schedule

    first = max(seed, broken.FOUND_BY.get(name, seed) - 1) if is_known else seed
    with broken.VARIANTS[name]():
        for n in range(first, seed + MOST):
            if (outcome := schedule.simulate(n)).failure:
                print(f"{name}: found by schedule {n - seed + 1}: {outcome.failure[0]}", flush=True)
                if tells:
                    _tell(n, outcome.failure[0])
                return 0
    print(f"{name}: not found within {MOST} schedules", flush=True)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
