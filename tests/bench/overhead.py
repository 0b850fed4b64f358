"""What the route costs beside the model: single images, and images that wait for one another.

    python -m tests.bench.overhead [--images 12] [--backlog 50] [--json FILE]

A house of real processes on loopback with a model of no cost (`tests.soak`). A single image: from
the end of its C-STORE to the end of its report's, by the ledger's times. A backlog: all are sent at
once, and the time from the first report to the last is divided by their number; what each role used
of the processor meanwhile, per image. Anchor: the goals, 100 ms, 20 ms and 60 ms.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from ..soak.house import CALLING, House, until
from ..support.peers import need
from .record import Row, row, write

GOALS = {
    "single": 100.0,
    "backlog": 20.0,
    "processor": 60.0,
    "idle": 1.0,
    "crowd": 200.0,
    "own": 25.0,
}
OF_ROLE = {"worker": 40.0, "courier": 10.0, "web": 5.0, "listener": 5.0}
CROWD = 20
IDLE_S = 10.0


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--backlog", type=int, default=50)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, House(Path(name)).running() as house:
        house.send(4)
        until(lambda: house.count() >= 5, 60, "the reports of the warm-up")
        rows = [
            *single(house, given.images),
            *single(house, given.images, is_large=True),
            *backlog(house, given.backlog),
            *idle(house),
            *crowded(house),
        ]
    with tempfile.TemporaryDirectory() as name:
        rows += prepared_beside(Path(name), given.backlog)
    write("overhead", rows, given.json)


def single(house: House, images: int, *, is_large: bool = False) -> list[Row]:
    """Send one image after another, of 0.5 MB or of 10 MB."""
    warm = len(house.latencies())
    for _ in range(images):
        before = house.count()
        house.send(1, is_large=is_large)
        until(lambda before=before: house.count() > before, 60, "a report")
        time.sleep(0.3)
    times = [seconds * 1000 for _, seconds in house.latencies()[warm:]]
    size = "10 MB" if is_large else "0.5 MB"
    name = f"single image of {size}, C-STORE to report"
    return [row(name, times, "ms", "the goal", GOALS["single"])]


def backlog(house: House, images: int) -> list[Row]:
    """Send images at once; return the time and the processor of each."""
    before, used, warm = house.count(), house.usage(), len(house.latencies())
    house.send(images)
    until(lambda: house.count() >= before + images, 300, "the reports of a backlog")
    after = house.usage()
    late = house.latencies()[warm:]
    ends = sorted(came + took for came, took in late)
    each = (ends[-1] - min(came for came, _ in late)) * 1000 / images
    found = [
        Row(
            "image of a backlog, wall time",
            "ms",
            images,
            each,
            each,
            each / GOALS["backlog"],
            "the goal",
        )
    ]
    total = 0.0
    for role in sorted(used.keys() & after.keys()):
        ms = (after[role].cpu_s - used[role].cpu_s) * 1000 / images
        total += ms
        goal = OF_ROLE.get(role)
        beside = (ms / goal, "the goal") if goal else ()
        found.append(Row(f"processor of {role}", "ms/image", images, ms, ms, *beside))
    ratio = total / GOALS["processor"]
    found.append(Row("processor of all", "ms/image", images, total, total, ratio, "the goal"))
    return found


def prepared_beside(folder: Path, images: int) -> list[Row]:
    """Return what is left to the worker's own process where another makes pictures and reports."""
    with House(folder, preparers=1).running() as house:
        house.send(4)
        until(lambda: house.count() >= 5, 60, "the reports of the warm-up")
        used = house.own_usage_of_worker().cpu_s
        rows = {row.name: row for row in backlog(house, images)}
        own = (house.own_usage_of_worker().cpu_s - used) * 1000 / images
    name, ratio = "processor of the worker's own process, one preparer", own / GOALS["own"]
    both = rows["processor of worker"].median
    return [
        Row(name, "ms/image", images, own, own, ratio, "the goal"),
        Row("processor of the worker with its preparer", "ms/image", images, both, both),
    ]


def idle(house: House) -> list[Row]:
    """Return what an idle node takes of one core, and what each role holds."""
    time.sleep(6.0)  # the association to the archive is released meanwhile
    before = house.usage()
    time.sleep(IDLE_S)
    after = house.usage()
    roles = sorted(after.keys() - {"worker"})
    share = sum(after[role].cpu_s - before[role].cpu_s for role in roles) / IDLE_S * 100
    found = [Row("idle node", "% of core", 1, share, share, share / GOALS["idle"], "the goal")]
    found += [Row(f"memory of {role}", "MB", 1, after[role].mb, after[role].mb) for role in after]
    return found


def crowded(house: House) -> list[Row]:
    """Return what the listener holds at most while many send images of 20 MB at once."""
    image = house.write_large(20_000_000)
    command = [need("storescu"), "+II", "-aet", CALLING, "-aec", "CHEXFRACT"]
    command += ["127.0.0.1", str(house.dicom), *[str(image)] * 3]
    senders = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(CROWD)
    ]
    most = 0.0
    while any(sender.poll() is None for sender in senders):
        most = max(most, house.usage()["listener"].mb)
        time.sleep(0.02)
    assert not any(sender.returncode for sender in senders)
    name = f"memory of listener, {CROWD} senders of 20 MB"
    return [Row(name, "MB", 1, most, most, most / GOALS["crowd"], "the goal")]


if __name__ == "__main__":
    main()
