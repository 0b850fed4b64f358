"""How a worker shows that it is there: to nodes, for their pages, and to what supervises it."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.base.job import Batches, Card, Device, Measured

if TYPE_CHECKING:
    from worker.models import ModelInfo
    from worker.service.batches import BatchFigures

logger = logging.getLogger(__name__)

MEASURED = Path(__file__).parents[1] / "phantom" / "measured.json"
"""What ``phantom evaluate --json`` says of the shipped model."""

WORDS = {
    "exact": "text letter for letter",
    "presence": "fracture or none",
    "precision": "precision of findings",
    "recall": "recall of findings",
}
"""Shares of an evaluation that a page shows, in words."""

_ANSWER_S = 5.0

ALIVE_S = 5.0
"""Seconds between two touches of `AliveFile`."""


class AliveFile:
    """A file whose age says when this worker was last ready and not stuck.

    Parameters
    ----------
    path : Path or None
        None: nobody looks after this worker in this way.
    monotonic : callable
        The clock.
    """

    def __init__(self, path: Path | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._next = 0.0

    def touch(self) -> None:
        """Make the file, or make it young again; not more often than every `ALIVE_S`."""
        now = self._monotonic()
        if self._path is None or now < self._next:
            return
        self._next = now + ALIVE_S
        try:
            self._path.touch()
        except OSError as exc:  # a worker that works need not end because nobody sees it
            logger.warning("worker.alive_file: %s: %s", self._path, exc.strerror or exc)


def card(info: ModelInfo) -> Card:
    """Return what a page shows of a model."""
    return Card(
        name=info.name[:64],
        version=info.version[:64],
        licence=(info.licence or ("that of this software" if info.demonstration else ""))[:256],
        licence_accepted_by=info.licence_accepted_by[:256],
        demonstration=info.demonstration,
        language=info.language[:16],
        files=info.files[:256],
        prompt=info.prompt[:1024],
        parameters=dict(list(info.parameters.items())[:64]),
        measured=_measured_accuracy(info),
    )


def _measured_accuracy(info: ModelInfo) -> tuple[Measured, ...]:
    """Return how well the weights that are shipped read drawings; others were not measured."""
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))
    return tuple(
        Measured(
            on=f"drawn phantoms, {row['name'].removeprefix('of these, ')}",
            count=row["count"],
            shares={word: row[key] for key, word in WORDS.items() if row[key] is not None},
        )
        for row in rows
        if row["count"] and row["weights"] == info.parameters.get("weights")
    )


def batches(figures: BatchFigures, limit: int) -> Batches:
    """Return how full the model's batches were, and how busy it was."""
    return Batches(
        limit=limit,
        count=figures.batches,
        pictures=figures.pictures,
        last=figures.last,
        fill=None if figures.fill is None else min(1.0, round(figures.fill, 3)),
        busy=round(figures.busy, 3) if figures.batches else None,
    )


def device(name: str) -> Device:
    """Return what computes, and how busy it is.

    Parameters
    ----------
    name : str
        As torch names it: ``cpu``, ``cuda:1``; empty where another server computes.
    """
    if name.startswith("cuda"):
        return _ask_card(int(name.partition(":")[2] or 0)) or Device(name=name)
    if name in ("cpu", "auto"):
        return _processor_device()
    return Device(name=name[:128] or "another server")


def _ask_card(number: int) -> Device | None:
    """Ask the driver about an NVIDIA card; None where it gives no answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    # nvidia-smi numbers all cards, torch those that are visible.
    ident = visible[number] if number < len(visible) and visible[number] else str(number)
    query = "--query-gpu=name,memory.total,memory.used,utilization.gpu"
    command = [program, "-i", ident, query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_ANSWER_S
        )
        kind, memory, used, load = (part.strip() for part in done.stdout.split(",", 3))
        return Device(
            name=kind[:128],
            memory=int(memory) << 20,
            used=int(used) << 20,
            load=int(load) / 100 if load.isdigit() else None,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _processor_device() -> Device:
    count = os.cpu_count() or 1
    memory = _memory_fields()
    total = memory.get("MemTotal", 0)
    return Device(
        name=f"{count} x {_processor_name()}"[:128],
        memory=total,
        used=max(0, total - memory.get("MemAvailable", total)),
        load=min(1.0, round(os.getloadavg()[0] / count, 2)),
    )


@lru_cache(maxsize=1)
def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine() or "processor"


def _memory_fields() -> dict[str, int]:
    """Return the fields of /proc/meminfo in bytes; none where there is no such file."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (re.fullmatch(r"(\w+):\s+(\d+) kB", line) for line in lines)
    return {found[1]: int(found[2]) << 10 for found in pairs if found}
