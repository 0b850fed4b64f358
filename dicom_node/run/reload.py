"""Asks a running node to take the peers and rules of its node.toml, and waits for its answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.operate import machine
from dicom_node.settings import Settings
from dicom_node.store.ledger.events import Actor
from dicom_node.store.uses import local_actor

ANSWER_S = 20.0
"""Longest wait for every role."""

ANSWER = "reloaded.json"

ASKED = "reload.json"
"""File in data_dir that tells who asks: a signal tells nobody."""

ASKED_S = 30.0


def reload(settings: Settings, by: Actor, *, as_json: bool = False) -> None:
    """Let the node of this data_dir reload, and print what it took over.

    Raises
    ------
    ConfigurationError
        The node refuses its node.toml; peers and rules are those of before.
    Unreachable
        No node runs here, or it is another user's, or it gives no answer.
    """
    folder = settings.node.data_dir
    if not machine.is_running(settings):
        raise Unreachable(f"no node runs on {folder}; its next start reads node.toml anyway")
    asked = time.time()
    _sign(folder / ASKED, by)
    try:
        os.kill(_pid(folder), signal.SIGHUP)
    except (OSError, ValueError, KeyError) as exc:
        why = getattr(exc, "strerror", None) or "its lock file tells no process"
        raise Unreachable(f"the node of {folder} cannot be asked: {why}") from exc
    answer = _answer(folder / ANSWER, asked)
    if answer["problem"]:
        raise ConfigurationError(f"{answer['problem']}; peers and rules stay as they were")
    _show(answer, as_json=as_json)


def who_asked(folder: Path) -> Actor:
    """Return who asked for the reload that begins, and forget it."""
    path = folder / ASKED
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        if 0 <= time.time() - said["at"] < ASKED_S:
            return Actor(str(said["name"])[:64], str(said["address"])[:256])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # SIGHUP by other means
    return Actor("unknown (SIGHUP)", local_actor().address)


def _sign(path: Path, by: Actor) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # the node says itself that nobody is known
        temporary.write_text(
            json.dumps({"at": time.time(), "name": by.name, "address": by.address})
        )
        temporary.replace(path)


def _pid(folder: Path) -> int:
    return int(json.loads((folder / "serve.lock").read_text(encoding="utf-8"))["pid"])


def _answer(path: Path, asked: float) -> dict[str, Any]:
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


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
        return
    for what in ("peers", "rules"):
        print(f"{what}: {', '.join(answer[what]) or 'none'}")
    if answer["waiting"]:
        tables = ", ".join(f"[{table}]" for table in answer["waiting"])
        print(f"note: {tables} changed too: in force after the next start")
