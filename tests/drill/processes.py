"""The drill's processes, and the outside supervisor that starts again what ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..support.ports import free_port as free_port

ROOT = Path(__file__).resolve().parents[2]
MARK = "CHEXFRACT_DRILL"
"""Environment variable by which the drill knows its own processes."""

RESTART_S = 0.3


def answers(port: int) -> bool:
    """Return whether something listens on a loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


@dataclass(slots=True)
class Station:
    """A process that is to run; `wanted` is False while it is to stay away."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    stdin_bytes: bytes = b""
    """What it reads from standard input."""
    wanted: bool = True
    folder: Path = ROOT
    """Where it runs: the checkout whose modules it takes."""
    process: subprocess.Popen[bytes] | None = None
    ended_at: float = 0.0
    exits: Counter[int] = field(default_factory=Counter)

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self.process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=dict(self.environment),
                start_new_session=True,
                preexec_fn=_die_with_the_drill,
            )
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(self.stdin_bytes)
                self.process.stdin.close()

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal and return whether there was somebody to get it."""
        pid = self.pid
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return True


def _die_with_the_drill() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Supervisor:
    """Starts stations and starts them again, as systemd or compose do."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self.stations = stations
        self._ends = threading.Event()
        self._looks_no_more = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start everything and look after it."""
        self._thread.start()

    def stop(self) -> None:
        """End everything, the last started first."""
        self._ends.set()
        self._looks_no_more.wait(5)
        for station in reversed(self.stations):
            if station.signal(signal.SIGCONT) and station.signal(signal.SIGTERM):
                _wait_or_kill(station)
        self._thread.join(5)

    def _run(self) -> None:
        # a child dies with the thread that started it: this one lives until the drill's end
        while not self._ends.wait(0.05):
            for station in self.stations:
                self._look_at(station)
        self._looks_no_more.set()
        while any(station.pid is not None for station in self.stations):
            time.sleep(0.05)

    def _look_at(self, station: Station) -> None:
        process = station.process
        if process is not None and process.poll() is not None:
            station.exits[process.returncode] += 1
            station.process, station.ended_at = None, time.monotonic()
        rested = time.monotonic() - station.ended_at >= RESTART_S
        if station.process is None and station.wanted and rested:
            station.start()


def _wait_or_kill(station: Station) -> None:
    process = station.process
    if process is None:
        return
    try:
        process.wait(12)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def role(serve: Station, name: str) -> int | None:
    """Return the process id of a role of the node."""
    parent = serve.pid
    if parent is None:
        return None
    for pid in children(parent):
        words = _words(pid)
        if "role" in words and name in words:
            return pid
    return None


def program(pid: int) -> str:
    """Return what a process is, in a word: a role, a module of Python, or a program."""
    words = _words(pid)
    for before in ("role", "-m"):
        if before in words[:-1]:
            return words[words.index(before) + 1].rpartition(".")[2]
    return Path(words[0]).name.partition(":")[0] if words else ""


def children(parent: int) -> list[int]:
    """Return the process ids of a process's children."""
    found = []
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in task.read_text().split()]
    return found


def left_over(mark: str) -> list[str]:
    """Return the command lines of processes of this drill that still run."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if int(path.parent.name) != os.getpid() and wanted in path.read_bytes().split(b"\0"):
                found.append(" ".join(_words(int(path.parent.name))))
    return found


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def wait_for(what: str, holds: Callable[[], bool], limit_s: float) -> None:
    """Return when `holds` does; raise TimeoutError with `what` when it does not in time."""
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(0.05)


def python(*words: str) -> list[str]:
    """Return the command line of this Python."""
    return [sys.executable, *words]
