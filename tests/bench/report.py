"""How long a report takes, all SR classes together, against the slow way of the same bytes.

``python -m tests.bench.report [--json]`` prints the machine, the versions, medians and p95 of
processor time on one core, and the ratio to highdicom and pydicom without the project's caches.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "support"), str(HERE), str(HERE.parent)]

import reports  # noqa: E402 - the tests' own modules stand beside this folder
from slow_way import slowly  # noqa: E402

from worker.report.sr import SOP_CLASSES, build_each  # noqa: E402

GOAL_MS = 15.0
"""Milliseconds of processor for all SR classes of one report."""


def spent(act: Callable[[], object], count: int) -> list[float]:
    """Return the milliseconds of processor that each of `count` calls took, after a warm-up."""
    for _ in range(5):
        act()
    times = []
    for _ in range(count):
        started = time.process_time()
        act()
        times.append((time.process_time() - started) * 1000)
    return sorted(times)


def measured(count: int) -> list[dict[str, object]]:
    """Return one row for each case of report."""
    rows = []
    source, classes = reports.source(), list(SOP_CLASSES)
    for case, outcome in reports.CASES.items():
        arguments = (source, outcome, reports.ALGORITHM, reports.ORDER)

        def fast(arguments: tuple[object, ...] = arguments) -> object:
            return build_each(*arguments, classes)  # type: ignore[arg-type]

        def slow(arguments: tuple[object, ...] = arguments) -> object:
            return [slowly(*arguments, name) for name in classes]  # type: ignore[arg-type]

        times, anchor = spent(fast, count), spent(slow, max(count // 5, 5))
        median = statistics.median(times)
        rows.append(
            {
                "case": case,
                "n": count,
                "median_ms": round(median, 2),
                "p95_ms": round(times[int(count * 0.95)], 2),
                "slow_way_ms": round(statistics.median(anchor), 2),
                "ratio": round(statistics.median(anchor) / median, 1),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    options.add_argument("-n", type=int, default=100)
    chosen = options.parse_args(arguments)
    machine = f"{platform.machine()}, {platform.python_version()}"
    figures = {
        "machine": machine,
        "versions": {name: version(name) for name in ("highdicom", "pydicom")},
        "goal_ms": GOAL_MS,
        "rows": measured(chosen.n),
    }
    if chosen.json:
        print(json.dumps(figures, indent=1))
        return 0
    print(
        f"{machine}; {figures['versions']}; goal {GOAL_MS:g} ms of processor for three SR classes"
    )
    for row in figures["rows"]:  # type: ignore[union-attr, attr-defined]
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
