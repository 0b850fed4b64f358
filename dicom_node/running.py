"""Whether a node runs on a data folder, and how it is asked to take other peers and rules."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger.events import Actor
from dicom_node.store.uses import local_actor

ANSWER_S = 20.0
"""Longest wait for every role."""

ANSWER = "reloaded.json"
"""File in data_dir that tells how the last reload ended."""

ASKED = "reload.json"
"""File in data_dir that tells who asks: a signal tells nobody."""

ASKED_S = 30.0


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a node took over."""

    peers: tuple[str, ...]
    rules: tuple[str, ...]
    waiting: tuple[str, ...] = ()
    """Tables that changed, too, and are in force after the next start."""
    at: float = 0.0


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
