"""``python -m tests.simulate.lengths``: how soon faults are found, by the length of schedules."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
import time
from pathlib import Path

LENGTHS = {
    "whole": {1.0: 1},
    "half": {0.5: 1},
    "quarter": {0.25: 1},
    "mixed": {0.25: 2, 0.5: 1, 1.0: 1},
}


def main() -> int:
    """Measure each broken variant with each distribution of lengths; print finds by time."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        here = [sys.executable, "-m", "tests.simulate.lengths", *sys.argv[1:]]
        os.execve(sys.executable, here, environment)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of processor, for each")
    parser.add_argument("--finds", type=int, default=20, help="enough for each")
    parser.add_argument("--seed", type=int, default=1_000_001)
    parser.add_argument("--variants", nargs="*", default=[])
    parser.add_argument("--out", type=Path, help="a file that keeps the figures as JSON lines")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    from . import broken, schedule
    from .__main__ import _prepare

    _prepare()
    every = broken.VARIANTS | broken.RARE
    for name in options.variants or every:
        line = [f"{name:32}"]
        for kind, lengths in LENGTHS.items():
            schedule.LENGTHS = lengths
            finds, played, cpu = measure(every[name], options)
            if options.out:
                row = {"variant": name, "lengths": kind, "finds": finds, "played": played}
                with options.out.open("a") as file:
                    file.write(json.dumps(row | {"cpu": cpu}) + "\n")
            cost = f"{cpu / finds:8.2f} s" if finds else f"> {cpu:6.0f} s"
            line.append(f"{kind} {cost} ({finds} of {played})")
        print("; ".join(line), flush=True)
    return 0


def measure(variant: object, options: argparse.Namespace) -> tuple[int, int, float]:
    """Return finds, schedules and seconds of processor."""
    from . import schedule

    finds, began = 0, time.process_time()
    with variant():  # type: ignore[operator]
        for seed in itertools.count(options.seed):
            finds += bool(schedule.simulate(seed).failure)
            cpu = time.process_time() - began
            if finds >= options.finds or cpu > options.seconds:
                return finds, seed - options.seed + 1, cpu
    raise AssertionError


if __name__ == "__main__":
    raise SystemExit(main())
