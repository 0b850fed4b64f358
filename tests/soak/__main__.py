"""``python -m tests.soak --minutes N``: a steady load through everything, with a model of no cost.

Memory, descriptors and threads of each role, and the time from C-STORE to the report in the
archive, are fitted by a line once the house is warm. The soak fails where one of them has grown by
more than its limit with 99.9 % confidence, where an image got no report, or where one got two.

``--images N`` sends so many images as fast as the house takes them; ``--deliveries N`` small ones,
whose reports go to twenty archives that answer at once and keep nothing, until there were so many
deliveries. The machine sets the rate then, so a latency that grows is not a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .house import House, Usage, until
from .trend import Trend, trend

SAMPLE_S = 1.0
WARM_SHARE = 0.3
"""Part of the time that is warm-up: caches fill, pools of threads and connections form."""
BACKLOG = 40
"""Images on their way above which the sender waits: then the machine sets the rate, not we."""

ARCHIVES = 20
"""Destinations of each report with ``--deliveries``."""

LIMITS = {"own_mb": 12.0, "descriptors": 6.0, "threads": 4.0}
"""Growth of one role that is let through, whatever the length of the run.

Not of mapped pages: the ledger grows, and what of it was read lies in the system's cache once.
"""
STEPS = 10
"""Lines that tell of the memory on the way: a run that is broken off has said something."""
SLOWER = 1.0
"""Growth of the latency that is let through, as a share of what it was."""


@dataclass(frozen=True)
class Sample:
    """What one look found."""

    at: float
    delivered: int
    roles: dict[str, Usage]


def main() -> None:
    """Run the soak and end with 1 where something grew or is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=5.0, help="images per second")
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--images", type=int, help="so many, as fast as they go")
    much.add_argument(
        "--deliveries", type=int, help="so many, to twenty archives, as fast as they go"
    )
    parser.add_argument("--json", type=Path, help="write the result into this file")
    given = parser.parse_args()
    archives = ARCHIVES if given.deliveries else 1
    images = given.images or -(-(given.deliveries or 0) // archives)
    # What was found is written before the folder goes away: that takes minutes after a long run.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        house = House(Path(name), archives=archives)
        found = soak(house, given.minutes * 60, given.rate, images)
        print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{found['sent']} images, {found['deliveries']} deliveries")
        for line in found["lines"]:
            print(line, flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))
    for fault in found["faults"]:
        print(f"FAULT: {fault}")
    sys.exit(1 if found["faults"] else 0)


def soak(house: House, seconds: float, rate: float, images: int = 0) -> dict:
    """Load the house; return what grew, and what it took per image.

    Parameters
    ----------
    house : House
        Not running yet.
    seconds, rate : float
        How long, and images per second.
    images : int
        So many as fast as they go, instead.
    """
    samples: list[Sample] = []
    with house.running() as running:
        began, sent, before, delivered = time.monotonic(), 0, running.count(), 0
        shown = 0
        while (sent < images) if images else (time.monotonic() - began < seconds):
            now = time.monotonic() - began
            # A look at all processes takes some milliseconds: the longer the run, the rarer it is.
            if not samples or now - samples[-1].at >= max(SAMPLE_S, now / 500):
                samples.append(Sample(now, delivered, running.usage()))
                step = int(STEPS * (delivered / images if images else now / seconds))
                if step > shown:
                    shown = step
                    print(on_the_way(samples[-1], house.archives), flush=True)
            delivered = running.count() - before
            due = images - sent if images else int(now * rate) + 1 - sent
            due = min(due, BACKLOG - (sent - delivered), 10)
            if due > 0:
                running.send(due)
                sent += due
            else:
                time.sleep(0.05)
        until(lambda: running.count() - before >= sent, 600, "the last report")
        time.sleep(1.0)  # a second report of one image would come now
        arrived = running.count() - before
        latencies = running.latencies()
    faults = [] if arrived == sent else [f"{sent} images, {arrived} reports"]
    found = judged(samples, latencies, faults, is_steady=not images)
    return found | {"sent": sent, "arrived": arrived, "deliveries": arrived * house.archives}


def on_the_way(sample: Sample, archives: int) -> str:
    """Return what each role holds at a moment, of its own and with what it has mapped."""
    roles = sorted(sample.roles.items())
    words = (f"{role} {used.own_mb:.0f} ({used.mb:.0f}) MB" for role, used in roles)
    return f"{sample.at:5.0f} s, {sample.delivered * archives} deliveries: {', '.join(words)}"


def judged(
    samples: list[Sample],
    latencies: list[tuple[float, float]],
    faults: list[str],
    *,
    is_steady: bool = True,
) -> dict:
    """Return the trends in words, and those that are faults.

    Latency is judged where we set the rate: elsewhere each image waits for others.
    """
    last = samples[-1]
    warm = [one for one in samples if one.at >= WARM_SHARE * last.at]
    images = warm[-1].delivered - warm[0].delivered
    took = warm[-1].at - warm[0].at
    lines = [f"{images / took:.1f} images/s delivered over {took:.0f} s"]
    per_image: dict[str, float] = {}
    trends: dict[str, Trend] = {}
    for role in sorted(warm[0].roles.keys() & last.roles.keys()):
        seen = [one for one in warm if role in one.roles]
        spent = seen[-1].roles[role].cpu_s - seen[0].roles[role].cpu_s
        per_image[role] = spent * 1000 / max(1, images)
        words = [f"{role:9} {per_image[role]:6.1f} ms of processor per image"]
        for what, limit in LIMITS.items():
            times = [one.at for one in seen]
            found = trend(times, [float(getattr(one.roles[role], what)) for one in seen])
            trends[f"{role} {what}"] = found
            words.append(f"{what} {found.start:.1f} {found.growth:+.1f}")
            if found.at_least > limit:
                faults.append(
                    f"{what} of {role} grew by {found.growth:.1f} (at least {found.at_least:.1f}) "
                    f"from {found.start:.0f} in {took:.0f} s"
                )
        lines.append(", ".join(words))
    late = latencies[int(len(latencies) * WARM_SHARE) :]
    times, waits = [at for at, _ in late], [wait for _, wait in late]
    found = trend(times, waits)
    middle = statistics.median(waits)
    p95 = statistics.quantiles(waits, n=20)[18]
    lines.append(
        f"C-STORE to archive: median {middle * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms, "
        f"{found.growth * 1000:+.0f} ms in {took:.0f} s"
    )
    # Two seconds are nothing where the machine sets the rate and each image waits for others.
    if is_steady and found.at_least > max(SLOWER * found.start, 2.0):
        faults.append(f"latency grew by {found.growth:.2f} s from {found.start:.2f}")
    trends["latency"] = found
    return {
        "lines": lines,
        "faults": faults,
        "per_image_ms": per_image,
        "latency_ms": {"n": len(waits), "median": middle * 1000, "p95": p95 * 1000},
        "rate": images / took,
        "trends": {name: asdict(one) for name, one in trends.items()},
    }


if __name__ == "__main__":
    main()
