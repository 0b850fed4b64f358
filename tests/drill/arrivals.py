"""``python -m tests.drill.arrivals``: images at random times, and what the formulas say of it.

A real node with one worker, whose model takes a fixed time as an accelerator would. First images
come one by one: what a way without waiting takes, and what the model costs. Then they come at
random times (Poisson), so many that the model is busy for a chosen share; their waits are compared
with M/M/1 at those costs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from statistics import fmean, quantiles
from typing import Any

import sqlalchemy as sa

from dicom_node.dimse import scu
from dicom_node.operate.capacity import ImageCosts, late_share, mean_wait, measured_costs
from dicom_node.settings import Peer
from dicom_node.store.ledger import Ledger

from ..support.peers import need, where_possible
from . import count as counting
from .pictures import Picture, picture, write
from .processes import wait_for
from .world import Choice, World

PATIENCE_S = 300.0
SENDERS = 8
"""Associations at the same time: an image must not wait for the one before it to be sent."""


class OneWorkerWorld(World):
    """The drill's hospital with one worker and a batch of a chosen size."""

    def __init__(self, choice: Choice, batch: int) -> None:
        self._batch = batch
        super().__init__(choice)
        self.workers[1].wanted = False

    def _configure(self) -> None:
        super()._configure()
        file = self.folder / "worker.toml"
        file.write_text(file.read_text().replace("batch = 4", f"batch = {self._batch}"))

    def _workers_are_ready(self) -> bool:
        log = self.workers[0].log
        return log.exists() and b"ready: " in log.read_bytes()

    def _mount(self) -> None:
        """No small disk: nothing fills it here."""

    def ways(self) -> dict[str, float]:
        """Return for each reported image the seconds from its reception to its report."""
        engine = sa.create_engine(self.ledger, poolclass=sa.NullPool)
        query = "SELECT sop_instance_uid, ended_at - received_at AS s FROM jobs WHERE ended_at > 0"
        with engine.connect() as connection:
            return {
                row.sop_instance_uid: float(row.s) for row in connection.execute(sa.text(query))
            }

    def costs(self) -> ImageCosts:
        """Return what ``chexfract-node capacity --config`` takes from the ledger."""
        ledger = Ledger.open(f"sqlite:///{self.data / 'ledger.sqlite'}")
        try:
            return measured_costs(ledger, ImageCosts())
        finally:
            ledger.close()


class Modality:
    """Sends images to a node, each over an association of its own."""

    def __init__(self, port: int, folder: Path) -> None:
        self._peer = Peer(ae_title="CHEXFRACT", host="127.0.0.1", port=port, timeout=60)
        self._folder = folder

    def send(self, one: Picture) -> None:
        """Return when the node has acknowledged it."""
        file = self._folder / f"{one.uid}.dcm"
        write(one, file)
        found: list[int | None] = []
        scu.send("DRILL", self._peer, [file], lambda _path, status, _why: found.append(status))
        if found != [0]:
            raise RuntimeError(f"{one.uid}: {found}")


def arrivals(options: argparse.Namespace) -> dict[str, Any]:
    """Let images arrive and return what was predicted and what was measured."""
    need("redis-server")  # before anything is made that would have to be removed
    rng = Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="arrivals-"))
    choice = Choice(folder / "world", seconds=options.seconds, stuck_s=60.0)
    world = OneWorkerWorld(choice, options.batch)
    pictures = [picture(i, rng.getrandbits(96)) for i in range(options.first + options.instances)]
    first, later = pictures[: options.first], pictures[options.first :]
    try:
        with world.running():
            modality = Modality(world.ports["node"], folder)
            for one in first:
                modality.send(one)
                wait_for("its report", lambda uid=one.uid: uid in world.ways(), PATIENCE_S)
            alone = world.costs()
            ways = world.ways()
            way = fmean(ways[one.uid] for one in first[1:])  # the first one fills caches
            rate = options.busy / alone.model_s
            took = _send_at_random(modality, later, rate, rng)
            wait_for("nothing is open", lambda: not counting.open_work(world.ledger), PATIENCE_S)
            costs, ways = world.costs(), world.ways()
            reported = len(ways)
    finally:
        world.clean()
        shutil.rmtree(folder, ignore_errors=True)
    waits = [max(0.0, ways[one.uid] - way) for one in later]
    real_rate = len(later) / took
    late = _late_after(real_rate, costs.model_s)
    return {
        "passed": reported == len(pictures),
        "batch": options.batch,
        "images": len(later),
        "a_second": round(real_rate, 3),
        "model_s_alone": round(alone.model_s, 4),
        "model_s": round(costs.model_s, 4),
        "way_alone_s": round(way, 3),
        "busy": round(real_rate * costs.model_s, 3),
        "predicted": {
            "mean_wait_s": round(mean_wait(1, real_rate, costs.model_s), 3),
            "95_of_100_wait_up_to_s": round(late, 3),
        },
        "measured": {
            "mean_wait_s": round(fmean(waits), 3),
            "95_of_100_wait_up_to_s": round(quantiles(waits, n=20)[-1], 3),
        },
    }


def _send_at_random(
    modality: Modality, pictures: Sequence[Picture], rate: float, rng: Random
) -> float:
    """Send each picture at its random time; return the seconds that all of them took."""
    began = time.monotonic()
    due = 0.0
    with ThreadPoolExecutor(SENDERS) as pool:
        sent = []
        for one in pictures:
            due += rng.expovariate(rate)
            time.sleep(max(0.0, began + due - time.monotonic()))
            sent.append(pool.submit(modality.send, one))
        for answer in sent:
            answer.result()
    return time.monotonic() - began


def _late_after(rate: float, service_s: float) -> float:
    """Return the seconds after which the formula lets one image in twenty wait on."""
    seconds = 0.0
    while late_share(1, rate, service_s, seconds) > 0.05 and seconds < PATIENCE_S:
        seconds += service_s / 20
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 when every image was reported."""
    options = argparse.ArgumentParser(prog="python -m tests.drill.arrivals", description=__doc__)
    options.add_argument("--instances", type=int, default=400)
    options.add_argument("--first", type=int, default=20, help="images that come one by one")
    options.add_argument("--busy", type=float, default=0.7, help="share of time the model works")
    options.add_argument("--seconds", type=float, default=0.4, help="the model's time a picture")
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args(arguments)

    def drill() -> int:
        result = arrivals(chosen)
        print(json.dumps(result))
        return 0 if result["passed"] else 1

    return where_possible("arrivals", drill)


if __name__ == "__main__":
    sys.exit(main())
