"""Measure how full a worker keeps its model under a backlog, and how many workers one node feeds.

    python tests/bench/feed.py [--images 96] [--model-ms 300] [--size 10] [--workers 1 8]
                               [--scaling-ms 2400]

A real node (ledger, dispatcher here, job API in a process of its own, as `serve` has it) and real
desks of a worker; the model is simulated: a call takes its time whatever its batch, and computes
nothing. Hand-outs go to the desks as a broker gives them: to whoever has room.

First one worker, a model of ``--model-ms`` and images of ``--size`` MB: ``fill`` (pictures per
batch over the batch wanted, the last left out) has to be 0.9 or more and ``busy`` (time at the
model over time with work in the house) 0.95 or more. ``processor_ms`` is what an image takes of
processors in node and worker together; ``affordable_ms`` is what all processors have for an image
while the model has a batch. Where the first is more, no feeding can keep this model busy here.

Then ``--workers`` with pictures that cost nothing to prepare and a model of ``--scaling-ms``: 8
have to do 7.6 times the work of 1. They are threads of one process, which could not claim and post
for eight models of 300 ms (213 images/s); a batch of 8 in 2.4 s is 27 images/s for all of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from io import BytesIO
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
from pydicom import dcmwrite

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from stations import free_ports

from dicom_node.dimse import Accepted, Sender
from dicom_node.flow.dispatch import Dispatcher
from dicom_node.flow.intake import Intake
from dicom_node.settings import Dispatch, Node, Peer, Retention, Rule, Settings, Web
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.app import create_app, serve_web
from worker import settings as worker_settings
from worker.image.decode import Decoder
from worker.image.pixels import Radiograph
from worker.models import Description, ModelInfo
from worker.phantom.draw import instance
from worker.pipeline import Case, Pipeline
from worker.service.tasks import Desk, LeaseRenewal

SECRET = "a-secret-of-some-length"
GOALS = {"fill": 0.9, "busy": 0.95, "speed_up": 7.6}


class SimulatedModel:
    """Takes its time, whatever the batch."""

    info = ModelInfo(name="simulated", version="simulated-1.0", prompt="p")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.batches: list[int] = []

    def describe(self, radiographs, progress=None):
        """Wait, as for a GPU."""
        time.sleep(self.seconds)
        self.batches.append(len(radiographs))
        return [Description("No fracture.", 3, "stop", self.seconds) for _ in radiographs]


class Free(Pipeline):
    """A pipeline whose pictures and reports cost nothing: what is measured is the feeding."""

    def prepare(self, content: bytes) -> Case:
        """Return a picture of nothing."""
        return Case(radiograph=Radiograph(np.zeros((4, 4), np.uint8), "none"))


class Site:
    """A node over its real ledger, spool and job API, and the queue between it and workers."""

    def __init__(self, folder: Path) -> None:
        port = free_ports(1)[0]
        self.settings = Settings(
            node=Node(data_dir=folder),
            web=Web(port=port, url=f"http://127.0.0.1:{port}"),
            dispatch=Dispatch(),
            peers={"archive": Peer(ae_title="ARCHIVE", host="127.0.0.1", port=1)},
            rules=(
                Rule(name="all", model="simulated", send_to=("archive",), allow_demonstration=True),
            ),
            retention=Retention(min_free=0),
        )
        Ledger.upgrade(self.settings.ledger_url)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.spool = Spool(folder / "spool")
        self.intake = Intake(self.settings, self.spool, self.ledger)
        self.handouts: queue.PriorityQueue = queue.PriorityQueue()
        self._count = 0
        self.stop = threading.Event()
        spawning = multiprocessing.get_context("spawn")
        self._ready, self._ends = spawning.Event(), spawning.Event()
        self._spent = spawning.Value("d", 0.0)
        self._web = spawning.Process(
            target=serve, args=(self.settings, self._ready, self._ends, self._spent)
        )
        self._web.start()
        assert self._ready.wait(60)
        loop = Dispatcher(self.settings, self.ledger, self.publish).loop()
        self.dispatching = threading.Thread(target=loop.run, args=(self.stop,))

    @property
    def processor_s(self) -> float:
        """Time of processors that the job API has taken; known once it has ended."""
        return float(self._spent.value)

    def publish(self, handout, priority: int) -> None:
        """Put a hand-out into the queue, as Redis keeps it."""
        self._count += 1
        self.handouts.put((priority, self._count, handout))

    def receive(self, count: int, megabytes: float) -> None:
        """Take in images of that size."""
        ds = instance(7, 0)
        side = int((megabytes * 5e5) ** 0.5) if megabytes else 0
        if side > ds.Rows:
            random = np.random.default_rng(0)
            ds.Rows = ds.Columns = side
            ds.PixelData = random.integers(0, 4096, (side, side)).astype("<u2").tobytes()
        for n in range(count):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{n}"
            content = BytesIO()
            dcmwrite(content, ds, enforce_file_format=True)
            body = content.getvalue()
            accepted = Accepted(ds.SOPClassUID, ds.SOPInstanceUID, "1.2.840.10008.1.2.1")
            incoming = self.intake.begin(accepted)
            incoming.write(body[144 + int.from_bytes(body[140:144], "little") :])
            self.intake.finish(incoming, accepted, Sender("ARCHIVE", "127.0.0.1", "CHEXFRACT"))

    def close(self) -> None:
        """End node and dispatcher."""
        self.stop.set()
        self._ends.set()
        self.dispatching.join(20)
        self._web.join(20)
        self.ledger.close()


def serve(settings: Settings, ready: Event, ends: Event, spent: Synchronized[float]) -> None:
    """Serve the job API in this process until `ends` is set."""
    ledger, stop = Ledger.open(settings.ledger_url), threading.Event()
    app = create_app(settings, ledger, Spool(settings.node.data_dir / "spool"), SECRET)
    threading.Thread(target=lambda: (ends.wait(), stop.set()), daemon=True).start()
    began = 0.0

    def note() -> None:
        nonlocal began
        began = time.process_time()
        ready.set()

    serve_web(settings, app, stop, note)
    spent.value = time.process_time() - began
    ledger.close()


def feed(site: Site, desks: Sequence[Desk], images: int) -> float:
    """Let the desks do all images; return the seconds that they take."""
    room = threading.Semaphore(0)
    for desk in desks:
        desk._on_room = desk.batches._on_room = room.release
    site.dispatching.start()
    began, done = time.monotonic(), []
    turn = 0
    while len(done) < images or not all(future.done() for future in done):
        ready = [desk for desk in desks if desk.has_room()]
        try:
            handout = site.handouts.get(timeout=0.01)[2] if ready else None
        except queue.Empty:
            continue
        if handout is None:
            room.acquire(timeout=0.01)
            continue
        turn += 1
        done += ready[turn % len(ready)].take(handout)
    return time.monotonic() - began


def measure(images: int, model_s: float, megabytes: float, workers: int, *, free: bool) -> dict:
    """Return the figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        site.receive(images, 0 if free else megabytes)
        models = [SimulatedModel(model_s) for _ in range(workers)]
        options = worker_settings.Settings(worker={"nodes": [site.settings.web.url]})
        pulse = LeaseRenewal(stuck_after=600)
        pulse.start()
        kind = Free if free else Pipeline
        with Decoder() as decoder:
            desks = [
                Desk(kind(model, decoder, options.pixels), options, SECRET, pulse)
                for model in models
            ]
            before = _processor_s()
            seconds = feed(site, desks, images)
            spent = _processor_s() - before
            figures = [desk.batches.figures for desk in desks]
            for desk in desks:
                desk.close()
        pulse.stop()
        site.close()
        of_node = site.processor_s
    batch = options.worker.batch
    sizes = [size for model in models for size in model.batches[:-1]]
    busy = sum(one.busy_s for one in figures)
    return {
        "workers": workers,
        "images": images,
        "images_per_s": round(images / seconds, 2),
        "batches": [model.batches for model in models] if workers == 1 else None,
        "fill": round(sum(sizes) / max(1, len(sizes)) / batch, 3),
        "busy": round(busy / max(busy + sum(one.idle_s for one in figures), 1e-9), 3),
        "processor_ms": round((spent + of_node) / images * 1000, 1),
        "of_job_api_ms": round(of_node / images * 1000, 1),
        "affordable_ms": round((os.cpu_count() or 1) * model_s / batch / workers * 1000, 1),
    }


def _processor_s() -> float:
    """Return the time of processors that this process has taken."""
    own = os.times()
    return own.user + own.system


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line of JSON per run and whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--model-ms", type=float, default=300.0)
    parser.add_argument("--size", type=float, default=10.0, help="MB of an image")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--scaling-ms", type=float, default=2400.0)
    parser.add_argument("--scaling-images", type=int, default=48, help="for each worker")
    options = parser.parse_args(arguments)
    print(f"# {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    seconds = options.model_ms / 1000
    one = measure(options.images, seconds, options.size, 1, free=False)
    print(json.dumps(one | {"size_mb": options.size}), flush=True)
    met = {name: one[name] >= GOALS[name] for name in ("fill", "busy")}
    rates = {}
    for workers in options.workers:
        row = measure(
            options.scaling_images * workers, options.scaling_ms / 1000, 0, workers, free=True
        )
        rates[workers] = row["images_per_s"]
        print(json.dumps(row), flush=True)
    if len(rates) > 1:
        speed_up = rates[max(rates)] / rates[min(rates)]
        met["speed_up"] = speed_up >= GOALS["speed_up"]
        print(json.dumps({"speed_up": round(speed_up, 2)}))
    print(json.dumps({"goals": GOALS, "met": met}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
