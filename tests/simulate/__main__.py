"""``python -m tests.simulate --schedules N --seed S``: schedules of faults, each from its seed."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path


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
    parser.add_argument(
        "--state", type=Path, help="a file that keeps how far it has come; a later call goes on"
    )
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="postgresql: a server of its own; both nodes are on one ledger in each third schedule",
    )
    parser.add_argument("--story", action="store_true", help="tell the story of a schedule")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with _server(options.database):
        return _do(options)


def _do(options: argparse.Namespace) -> int:
    from . import broken, schedule

    if options.broken:
        names = list(broken.VARIANTS) if options.broken == "all" else [options.broken]
        return max([_find(name, options.known, options.seed, options.story) for name in names])
    if options.story:
        outcome = schedule.simulate(options.seed)
        print("\n".join(outcome.story))
        print(f"seed {options.seed}: {outcome.failure or 'all invariants hold'}")
        return 1 if outcome.failure else 0
    return _play(options)


SETTINGS = (
    *("fsync=off", "full_page_writes=off", "jit=off", "deadlock_timeout=1ms"),
    # Nothing of the server's own happens at a time of its own, and no plan hangs on what was
    # executed before, nor on statistics of schedules before.
    *("autovacuum=off", "plan_cache_mode=force_custom_plan"),
)
"""How the server of simulated ledgers is set up."""


@contextmanager
def _server(database: str) -> Iterator[None]:
    """Let the ledgers be in a server of PostgreSQL, where that is wanted."""
    if database == "sqlite":
        yield
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
    from postgresql import cluster

    from . import schedule

    with cluster(settings=SETTINGS) as server:
        schedule.Servers.url_of = server.named
        yield


def _play(options: argparse.Namespace) -> int:
    """Play the schedules that a state file does not have yet."""
    state = State.of(options)
    began, last = time.perf_counter(), state.done
    for seed, failure, effects, cpu in _all(options, state):
        state.done, state.effects, state.cpu = (
            state.done + 1,
            state.effects + effects,
            state.cpu + cpu,
        )
        if failure:
            state.failed.append(seed)
            _tell(seed, failure[0])
        spent = time.perf_counter() - began
        if state.done % 100 == 0 or failure:
            state.write(options.state)
        if state.done % 500 == 0:
            print(f"{state}; {spent:.0f} s", file=sys.stderr, flush=True)
        if (failure and not options.keep_on) or (options.seconds and spent > options.seconds):
            break
    state.write(options.state)
    spent = time.perf_counter() - began
    rate = (state.done - last) / spent
    print(f"{state}, {rate:.1f} a second by {options.processes} process(es)")
    return 1 if state.failed else 0


@dataclass
class State:
    """How far a run has come; a later call goes on from there."""

    seed: int
    done: int = 0
    effects: int = 0
    cpu: float = 0.0
    failed: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, options: argparse.Namespace) -> State:
        """Return the state in the file of a run, or that of a new one."""
        if options.state and options.state.exists():
            return cls(**json.loads(options.state.read_text()))
        return cls(options.seed)

    def write(self, file: Path | None) -> None:
        """Keep it, whole or not at all."""
        if file is not None:
            new = file.with_suffix(".new")
            new.write_text(json.dumps(asdict(self)))
            new.replace(file)

    def __str__(self) -> str:
        ms = 1000 * self.cpu / max(1, self.done)
        failed = f"{len(self.failed)} failed {self.failed[:9] or ''}".strip()
        return (
            f"{self.done} schedules from seed {self.seed}, {self.effects} effects, {failed}, "
            f"{ms:.0f} ms of processor each"
        )


def _all(
    options: argparse.Namespace, state: State
) -> Iterator[tuple[int, tuple[str, str] | None, int, float]]:
    seeds = range(state.seed + state.done, state.seed + options.schedules)
    if options.processes == 1:
        _prepare()
        yield from map(run_seed, seeds)
        return
    from . import schedule

    schedule.home()  # this process removes it
    with multiprocessing.get_context("fork").Pool(options.processes, _prepare) as pool:
        yield from pool.imap(run_seed, seeds, chunksize=20)


def _prepare() -> None:
    """Import all, and let the collector pass over it: a schedule makes much and keeps little."""
    from . import schedule

    schedule.simulate(0)
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 100)


def run_seed(seed: int) -> tuple[int, tuple[str, str] | None, int, float]:
    """Play one schedule."""
    from . import schedule

    began = time.process_time()
    outcome = schedule.simulate(seed)
    return seed, outcome.failure, outcome.effects, time.process_time() - began


def _tell(seed: int, what: str) -> None:
    from . import schedule

    print(f"seed {seed} fails: {what}", flush=True)  # a replay may hold, on PostgreSQL
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
