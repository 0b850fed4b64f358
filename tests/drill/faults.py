"""What can be done to a hospital, and a storm of it: seeded, weighted, written down."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import processes
from .count import are_done, held_jobs
from .world import LEASE_S, World

Struck = tuple[float, Callable[[], Any]] | None
"""Seconds after which it is to be healed and how; None when there was nobody to strike.

What heals may return the seconds after which it is to be asked again: it is too early.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault; faults on the same thing never overlap."""

    name: str
    on: str
    weight: int
    strike: Callable[[World, Random], Struck]
    rest_s: float = 1.0
    """Time that what was struck gets before it is struck again."""


def _role(name: str) -> Callable[[World, Random], Struck]:
    def strike(world: World, rng: Random) -> Struck:
        pid = processes.role(world.serve, name)
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        return 0.0, lambda: None

    return strike


def _serve_killed(world: World, rng: Random) -> Struck:
    return (0.0, lambda: None) if world.serve.signal(signal.SIGKILL) else None


def _worker_killed(world: World, rng: Random) -> Struck:
    return (0.0, lambda: None) if rng.choice(world.workers).signal(signal.SIGKILL) else None


def _worker_stopped(world: World, rng: Random) -> Struck:
    """Stop one that holds a job, and let it go on when somebody else has done it."""
    held = held_jobs(world.ledger)
    busy = [worker for worker in world.workers if worker.pid in held]
    worker = rng.choice(busy) if busy else None
    if worker is None or not worker.signal(signal.SIGSTOP):
        return None
    jobs = held[worker.pid or 0]
    latest = time.monotonic() + world.choice.stuck_s - 2.5

    def goes_on() -> float | None:
        if time.monotonic() < latest and not are_done(world.ledger, jobs):
            return 0.2
        worker.signal(signal.SIGCONT)
        return None

    return LEASE_S, goes_on


def _broker_killed(world: World, rng: Random) -> Struck:
    return _away(world.broker, rng.choice((0.0, 1.5))) if _kill(world.broker) else None


def _broker_stopped(world: World, rng: Random) -> Struck:
    if not world.broker.signal(signal.SIGSTOP):
        return None
    return rng.uniform(2, LEASE_S + 3), lambda: world.broker.signal(signal.SIGCONT)


def _database_killed(world: World, rng: Random) -> Struck:
    """End the server without warning; it comes back and repairs itself from its log."""
    return _away(world.server, rng.choice((0.0, 2.0))) if _kill(world.server) else None


def _database_stopped(world: World, rng: Random) -> Struck:
    """Let the server and what serves its clients stand still."""
    pid = world.server.pid
    if pid is None:
        return None
    family = [*processes.children(pid), pid]
    for process in family:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)

    def goes_on() -> None:
        for process in reversed(family):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    return rng.uniform(1, 4), goes_on


def _flushed(world: World, rng: Random) -> Struck:
    return (0.0, lambda: None) if world.redis("FLUSHALL") else None


def _shut_down(world: World, rng: Random) -> Struck:
    back = _away(world.broker, rng.uniform(2, 4))
    if not world.redis("SHUTDOWN", "NOSAVE"):
        _kill(world.broker)  # the stand-in knows no SHUTDOWN; Redis gives no answer to it
    return back


def _archive_killed(world: World, rng: Random) -> Struck:
    return _away(world.archive, rng.uniform(0, 5)) if _kill(world.archive) else None


def _archive_stopped(world: World, rng: Random) -> Struck:
    if not world.archive.signal(signal.SIGSTOP):
        return None
    return rng.uniform(1, 6), lambda: world.archive.signal(signal.SIGCONT)


def _archive_does(mode: str) -> Callable[[World, Random], Struck]:
    def strike(world: World, rng: Random) -> Struck:
        world.archive_does(mode)
        return rng.uniform(1.5, 4), lambda: world.archive_does("ok")

    return strike


def _disk_full(world: World, rng: Random) -> Struck:
    if not world.is_small_disk:
        return None
    ballast = world.data / "ballast"
    with ballast.open("wb") as file:
        free = shutil.disk_usage(world.data).free
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, free - rng.choice((0, 0, 200_000))))
        except OSError:
            return 0.0, lambda: ballast.unlink(missing_ok=True)
    return rng.uniform(1.5, 4), lambda: ballast.unlink(missing_ok=True)


def _clock_jumps(world: World, rng: Random) -> Struck:
    jump = rng.choice((10, 3600, 90_000)) * rng.choice((-1, 1))
    world.clock.write_text(str(jump))
    return rng.uniform(1.5, 4), lambda: world.clock.write_text("0")


def _kill(station: processes.Station) -> bool:
    return station.signal(signal.SIGKILL)


def _away(station: processes.Station, seconds: float) -> tuple[float, Callable[[], Any]]:
    def back() -> None:
        station.wanted = True

    station.wanted = seconds == 0
    return seconds, back


# Weights: of what restarts a process less, since on two cores a start takes two seconds of both.
FAULTS = (
    Fault("listener killed", "node", 2, _role("listener"), 1.5),
    Fault("courier killed", "node", 2, _role("courier"), 1.5),
    Fault("web killed", "node", 2, _role("web"), 1.5),
    Fault("serve killed", "node", 1, _serve_killed, 6.0),
    Fault("worker killed", "workers", 2, _worker_killed, 2.0),
    Fault("worker stopped past its lease", "workers", 2, _worker_stopped),
    Fault("broker killed", "broker", 4, _broker_killed),
    Fault("broker stopped", "broker", 2, _broker_stopped),
    Fault("broker flushed", "broker", 6, _flushed, 0.2),
    Fault("broker shut down", "broker", 2, _shut_down),
    Fault("archive killed", "archive", 4, _archive_killed),
    Fault("archive stopped", "archive", 4, _archive_stopped),
    Fault("archive slow", "archive", 4, _archive_does("slow"), 0.2),
    Fault("archive refuses associations", "archive", 4, _archive_does("refuse"), 0.2),
    Fault("archive warns", "archive", 4, _archive_does("warn"), 0.2),
    Fault("archive out of resources", "archive", 4, _archive_does("full"), 0.2),
    Fault("archive does not understand", "archive", 4, _archive_does("fail"), 0.2),
    Fault("database killed", "database", 4, _database_killed, 2.0),
    Fault("database stopped", "database", 4, _database_stopped, 1.0),
    Fault("disk full", "disk", 4, _disk_full, 1.0),
    Fault("clock jumps", "clock", 6, _clock_jumps, 0.5),
)


@dataclass(slots=True)
class Storm:
    """Strikes and heals; `record` says what and when."""

    world: World
    rng: Random
    record: list[dict[str, Any]] = field(default_factory=list)
    healed_at: float = 0.0
    missed: int = 0
    _open: list[tuple[float, Callable[[], Any], Fault]] = field(default_factory=list)
    _free_at: dict[str, float] = field(default_factory=dict)

    def strike(self, kinds: Sequence[Fault]) -> bool:
        """Strike with one of these; False when all of them have to wait."""
        self.heal()
        now = time.monotonic()
        ready = [kind for kind in kinds if self._free_at.get(kind.on, 0) <= now]
        if not ready:
            return False
        kind = self.rng.choices(ready, [fault.weight for fault in ready])[0]
        struck = kind.strike(self.world, self.rng)
        if struck is None:
            self.missed += 1
            self._free_at[kind.on] = now + 0.2
            return False
        seconds, heal = struck
        self._open.append((now + seconds, heal, kind))
        self._free_at[kind.on] = now + seconds + kind.rest_s
        self.record.append({"at": time.time(), "fault": kind.name, "seconds": round(seconds, 2)})
        self.heal()
        return True

    def heal(self, *, everything: bool = False) -> None:
        """Heal what is due, or all."""
        now = time.monotonic()
        for due in [fault for fault in self._open if everything or fault[0] <= now]:
            again, kind = due[1](), due[2]
            self._open.remove(due)
            if isinstance(again, float) and not everything:
                self._open.append((now + again, due[1], kind))
                self._free_at[kind.on] = now + again + kind.rest_s
            self.healed_at = time.monotonic()
