"""``python -m tests.bench.retention``: what reception waits for while retention works.

    python -m tests.bench.retention [--size 1000000] [--seconds 20] [--turns 3] [--folder DIR]
                                    [--json FILE]

Instances are received one by one into a copy of a grown SQLite ledger, by turns alone and beside
another process that removes files, drops old steps and sweeps as fast as it may. That process does
the ledger's upkeep all the time, as a node's courier does. Times are those of a call of `receive`,
with its sync; the longest of all is shown, too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from multiprocessing.synchronize import Event
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from grower import RANGE, SPREAD, grown, uid_of
from ledgers import instance, route

from dicom_node.flow.loop import Loop
from dicom_node.settings import Retention, Settings
from dicom_node.store import retention
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.upkeep import TURN_S
from dicom_node.store.spool import Spool

from .record import Row, row, write

HOUR = 3600.0
PACE_S = 0.02
"""Pause between two receptions: fifty a second."""


def work(
    url: str,
    spool: Path,
    busy: Event,
    stop: Event,
    done: multiprocessing.SimpleQueue[dict[str, int]],
) -> None:
    """Keep the ledger as a courier does; do what retention does, without rests, while `busy`."""
    ledger, ends = Ledger.open(url), threading.Event()
    upkeep = Loop("upkeep", ledger.upkeep.step, ledger.clock, ledger.watch(), rest_s=TURN_S)
    thread = threading.Thread(target=upkeep.run, args=(ends,))
    thread.start()
    limits = Retention(images=HOUR, reports=HOUR, history=HOUR)
    sweep = retention.RetentionSweep(Settings(retention=limits), Spool(spool), ledger)
    retention._BATCH, retention._CONDENSE_S = 50, 2.0  # shorter turns, the pieces as ever
    while not stop.is_set():
        counted = {"files": 0, "steps": 0, "sweeps": 0}
        while busy.is_set():
            items = ledger.purge.purgeable(HOUR, HOUR, retention._BATCH)
            counted["files"] += sum(sweep._purge_item(item) for item in items)
            mark = ledger.history.mark("condensed") or 0
            sweep.condense()
            counted["steps"] += (ledger.history.mark("condensed") or 0) - mark
            if counted["sweeps"] < 1 + counted["steps"] // 100_000:
                sweep.sweep()
                ledger.purge.keep_statistics()
                counted["sweeps"] += 1
        if any(counted.values()):
            done.put(counted)
        time.sleep(PACE_S)
    ends.set()
    thread.join()
    ledger.close()


@contextmanager
def courier_beside(url: str, spool: Path) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Let another process keep the same ledger; within what is given, retention works in it."""
    processes = multiprocessing.get_context("spawn")
    busy, stop, done = processes.Event(), processes.Event(), processes.SimpleQueue()
    process = processes.Process(target=work, args=(url, spool, busy, stop, done))
    process.start()

    @contextmanager
    def retention_beside() -> Iterator[None]:
        busy.set()
        try:
            yield
        finally:
            busy.clear()
            print("  beside it:", done.get())

    time.sleep(2)  # it starts
    try:
        yield retention_beside
    finally:
        stop.set()
        process.join()


def receive(ledger: Ledger, numbers: Iterator[int], seconds: float) -> list[float]:
    """Receive Instances at a steady pace; return the milliseconds that each took."""
    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        n = next(numbers)
        new = instance(
            n,
            sop_instance_uid=uid_of(17, n),
            study_instance_uid=uid_of(19, n),
            series_instance_uid=uid_of(33, n),
            file=f"images/{n % 16:x}/{n * SPREAD % RANGE:08x}.dcm",
            patient_id=f"PHANTOM-{n}",
            accession_number=f"PH{n}",
        )
        began = time.perf_counter()
        ledger.instances.receive(new, [route()])
        took.append((time.perf_counter() - began) * 1e3)
        time.sleep(PACE_S)
    return took


def main() -> None:
    """Measure by turns, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the grown ledger is kept")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        source = (given.folder or Path(name)) / f"sqlite-{given.size}"
        grown(source, given.size)
        folder = Path(name) / "copy"
        folder.mkdir()
        shutil.copyfile(source / "ledger.sqlite", folder / "ledger.sqlite")
        url, spool = f"sqlite:///{folder / 'ledger.sqlite'}", folder / "spool"
        ledger, numbers = Ledger.open(url), count(10**7 + int(time.time()) % 10**6 * 10)
        alone: list[float] = []
        beside: list[float] = []
        with courier_beside(url, spool) as retention_beside:
            receive(ledger, numbers, 2)
            for _ in range(given.turns):
                alone += receive(ledger, numbers, given.seconds)
                with retention_beside():
                    beside += receive(ledger, numbers, given.seconds)
        ledger.close()
    base = statistics.median(alone)
    rows = [
        row("receive, alone", alone, "ms"),
        row("receive, beside retention", beside, "ms", "alone", base),
        Row("the longest, alone", "ms", len(alone), max(alone), max(alone)),
        Row("the longest, beside retention", "ms", len(beside), max(beside), max(beside)),
    ]
    write("retention", rows, given.json)


if __name__ == "__main__":
    main()
