"""Whether a node runs on a data folder, and how it is asked to reload or to run a worker."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.store.actor import Actor, local_actor
from dicom_node.store.clock import HOST_CLOCK

ANSWER_S = 20.0
"""Longest wait for every role."""

ANSWER = "reloaded.json"
"""File in data_dir that tells how the last reload ended."""

ASKED = "reload.json"
"""File in data_dir that tells who asks: a signal tells nobody."""

ASKED_S = 30.0

WORKER_NAME = "worker"
"""What `serve` calls its worker: also the name of its log."""

WORKER = "worker.json"
"""File in data_dir that tells of the worker that `serve` runs, or could run."""

ASK_WORKER = signal.SIGUSR1
"""Signal that asks `serve` to start its worker, or to start it again."""

_LAST_LINES = 1 << 16


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a node took over."""

    peers: tuple[str, ...]
    rules: tuple[str, ...]
    waiting: tuple[str, ...] = ()
    """Tables that changed, too, and are in force after the next start."""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class ServedWorker:
    """The worker of `serve`: that which it runs, or the one that it could run."""

    host: str
    config: str
    """The worker.toml."""
    is_run: bool
    """Whether `serve` keeps it running."""
    why_not: str = ""
    """Why it cannot be started; empty where it can."""
    ended_at: float = 0.0
    """When it ended last; 0 while it runs."""
    ended_with: int | None = None
    """Its exit status."""
    next_at: float = 0.0
    """When it is started again by itself."""
    kill_at: float = 0.0
    """When it is killed if it does not end; 0 unless it was asked to end."""
    was_killed: bool = False
    """Whether the one before had to be killed."""


def tell_worker(folder: Path, worker: ServedWorker) -> None:
    """Keep what `serve` knows of its worker, for the pages."""
    temporary = folder / f".{WORKER}.{os.getpid()}"
    with contextlib.suppress(OSError):  # a full disk: the log has the same
        temporary.write_text(json.dumps(asdict(worker)), encoding="utf-8")
        temporary.replace(folder / WORKER)


def served_worker(folder: Path) -> ServedWorker | None:
    """Return what `serve` knows of its worker; None where no `serve` runs on the data folder."""
    if not is_running(folder):
        return None
    try:
        return ServedWorker(**json.loads((folder / WORKER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def last_trouble(file: Path) -> str:
    """Return the last line of a log that tells of trouble; empty for none among the newest."""
    try:
        with file.open("rb") as content:
            content.seek(max(0, content.seek(0, os.SEEK_END) - _LAST_LINES))
            lines = content.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError):  # the first one may be cut
            said = json.loads(line)
            if said["level"] in ("error", "critical"):
                return str(said["message"])[:500]
    return ""


def ask_worker(folder: Path) -> None:
    """Let the `serve` of a data folder start its worker, or start it again.

    Raises
    ------
    Unreachable
        No `serve` runs there, it is another user's, or it is of a version that would end by the
        signal: whoever upgrades in place may have new pages under the old `serve` for a while.
    """
    try:
        if not is_running(folder):
            raise ProcessLookupError
        pid = _read_pid(folder)
        if not _has_handler(pid, ASK_WORKER):
            raise Unreachable(
                "the node cannot be asked to start a worker: it runs an older version; restart it"
            )
        os.kill(pid, ASK_WORKER)
    except (OSError, ValueError, KeyError) as exc:
        why = getattr(exc, "strerror", None) or "no serve runs on its data folder"
        raise Unreachable(f"the node cannot be asked to start a worker: {why}") from exc


def is_running(folder: Path) -> bool:
    """Return whether a node holds the data folder."""
    try:
        with (folder / "serve.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def ask_reload(folder: Path, by: Actor) -> Reloaded:
    """Let the node of a data folder take the peers and rules of its node.toml.

    Raises
    ------
    ConfigurationError
        The node refuses its node.toml; peers and rules are those of before.
    Unreachable
        It is another user's, or it gives no answer.
    """
    asked = HOST_CLOCK.wall()
    _write_sign(folder / ASKED, by)
    try:
        os.kill(_read_pid(folder), signal.SIGHUP)
    except (OSError, ValueError, KeyError) as exc:
        why = getattr(exc, "strerror", None) or "its lock file tells no process"
        raise Unreachable(f"the node of {folder} cannot be asked: {why}") from exc
    answer = _await_answer(folder / ANSWER, asked)
    if answer["problem"]:
        raise ConfigurationError(f"{answer['problem']}; peers and rules stay as they were")
    names = {key: tuple(answer[key]) for key in ("peers", "rules", "waiting")}
    return Reloaded(**names, at=float(answer["at"]))


def who_asked(folder: Path) -> Actor:
    """Return who asked for the reload that begins, and forget it."""
    path = folder / ASKED
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        if 0 <= HOST_CLOCK.wall() - said["at"] < ASKED_S:
            return Actor(str(said["name"])[:64], str(said["address"])[:256])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # SIGHUP by other means
    return Actor("unknown (SIGHUP)", local_actor().address)


def _write_sign(path: Path, by: Actor) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # the node says itself that nobody is known
        temporary.write_text(
            json.dumps({"at": HOST_CLOCK.wall(), "name": by.name, "address": by.address})
        )
        temporary.replace(path)


def _has_handler(pid: int, number: int) -> bool:
    """Return whether a process does something about a signal of its own; Linux tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return True  # no such process, which is seen next, or another operating system
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is None or bool(int(caught[1], 16) >> (number - 1) & 1)


def _read_pid(folder: Path) -> int:
    return int(json.loads((folder / "serve.lock").read_text(encoding="utf-8"))["pid"])


def _await_answer(path: Path, asked: float) -> dict[str, Any]:
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        try:
            answer = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            answer = {"at": 0.0}
        if answer["at"] >= asked:
            return answer
        time.sleep(0.05)
    raise Unreachable(f"the node did not say within {ANSWER_S:.0f} s that it reloaded; see its log")
