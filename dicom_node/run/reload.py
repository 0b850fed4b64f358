"""Asks a running node to take the peers and rules of its node.toml, and waits for its answer."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.operate import machine
from dicom_node.settings import Settings

ANSWER_S = 20.0
"""Longest wait for every role."""

ANSWER = "reloaded.json"


def reload(settings: Settings, *, as_json: bool = False) -> None:
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
    try:
        os.kill(_pid(folder), signal.SIGHUP)
    except (OSError, ValueError, KeyError) as exc:
        why = getattr(exc, "strerror", None) or "its lock file tells no process"
        raise Unreachable(f"the node of {folder} cannot be asked: {why}") from exc
    told = _answer(folder / ANSWER, asked)
    if told["problem"]:
        raise ConfigurationError(f"{told['problem']}; peers and rules stay as they were")
    _show(told, as_json=as_json)


def _pid(folder: Path) -> int:
    return int(json.loads((folder / "serve.lock").read_text(encoding="utf-8"))["pid"])


def _answer(path: Path, asked: float) -> dict[str, Any]:
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        try:
            told = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            told = {"at": 0.0}
        if told["at"] >= asked:
            return told
        time.sleep(0.05)
    raise Unreachable(f"the node did not say within {ANSWER_S:.0f} s that it reloaded; see its log")


def _show(told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
        return
    for what in ("peers", "rules"):
        print(f"{what}: {', '.join(told[what]) or 'none'}")
    if told["waiting"]:
        tables = ", ".join(f"[{table}]" for table in told["waiting"])
        print(f"note: {tables} changed too: in force after the next start")
