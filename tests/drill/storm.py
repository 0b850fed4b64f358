"""``python -m tests.drill --storm SECONDS --seed S``: kill -9 of any process, again and again.

The other form strikes in rounds and lets the node recover; here nothing is waited for. A steady
stream of Instances goes on, and at random times some process of the whole hospital is killed:
`serve`, a role, a process that a role or worker has started for one picture, a worker, the broker,
the archive, the database. Modalities send again what they saw no Success for, and some of what
they did see Success for.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import processes
from .pictures import Picture
from .processes import Station
from .sender import Sender
from .world import World

LEAST_GAP_S = 0.2

AGAIN_S = 4.0
"""Mean time after which some of what was acknowledged long ago comes again."""


@dataclass(slots=True)
class Lightning:
    """Kills processes by chance; `record` says which, and when."""

    world: World
    rng: Random
    record: list[dict[str, Any]] = field(default_factory=list)
    missed: int = 0

    def strike(self) -> None:
        """Kill one process of the hospital."""
        targets = sorted(self._targets())
        if not targets:
            self.missed += 1
            return
        name = self.rng.choice(sorted({name for name, _ in targets}))
        pid = self.rng.choice([pid for found, pid in targets if found == name])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.record.append({"at": time.time(), "fault": f"{name} killed"})

    def _targets(self) -> set[tuple[str, int]]:
        """Return all processes that run, by what they are: each kind is struck as often."""
        found: set[tuple[str, int]] = set()
        for station in self.world.supervisor.stations:
            pid = station.pid
            if pid is None:
                continue
            found.add((_kind(station), pid))
            found |= set(_below(pid, _kind(station)))
        return found


def _kind(station: Station) -> str:
    return "worker" if station.name.startswith("worker") else station.name


def _below(parent: int, above: str) -> list[tuple[str, int]]:
    found = []
    for pid in processes.children(parent):
        # a server of PostgreSQL that loses a child ends all of them and begins again
        name = above if above == "server" else f"{above}/{processes.program(pid)}"
        found.append((name, pid))
        found += _below(pid, name)
    return found


def storm(
    world: World,
    sender: Sender,
    pictures: Sequence[Picture],
    rng: Random,
    rate: float,
    gap_s: float,
) -> Lightning:
    """Send at a rate, some again, and kill at random times until all has been begun with.

    Parameters
    ----------
    rate : float
        Instances a second.
    gap_s : float
        Mean time between two kills.
    """
    lightning = Lightning(world, rng)
    is_over = threading.Event()
    repeats = threading.Thread(
        target=_send_again, args=(sender, pictures, Random(rng.random()), is_over), daemon=True
    )
    repeats.start()
    began = time.monotonic()
    next_at = began + 2.0
    while (now := time.monotonic()) < began + len(pictures) / rate:
        sender.allow(1 + int((now - began) * rate))
        if now >= next_at:
            lightning.strike()
            next_at = now + max(LEAST_GAP_S, rng.expovariate(1 / gap_s))
        time.sleep(0.05)
    sender.end()
    is_over.set()
    repeats.join(120)
    return lightning


def _send_again(
    sender: Sender, pictures: Sequence[Picture], rng: Random, is_over: threading.Event
) -> None:
    """Send what was acknowledged before, with the same bytes; its reports may be delivered."""
    while not is_over.wait(rng.expovariate(1 / AGAIN_S)):
        known = [picture for picture in pictures if picture.uid in sender.sent.acknowledged]
        if known:
            sender.send_again(rng.sample(known, min(3, len(known))))
