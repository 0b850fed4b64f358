"""The command ``reload``: a running node takes the peers and rules of its node.toml."""

from __future__ import annotations

import json
from dataclasses import asdict

from dicom_node.base.errors import Unreachable
from dicom_node.running import Reloaded, ask_reload, is_running
from dicom_node.settings import Settings
from dicom_node.store.actor import Actor


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
    if not is_running(folder):
        raise Unreachable(f"no node runs on {folder}; its next start reads node.toml anyway")
    _show_outcome(ask_reload(folder, by), as_json=as_json)


def _show_outcome(answer: Reloaded, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"problem": "", **asdict(answer)}, ensure_ascii=False))
        return
    for what, names in (("peers", answer.peers), ("rules", answer.rules)):
        print(f"{what}: {', '.join(names) or 'none'}")
    if answer.waiting:
        tables = ", ".join(f"[{table}]" for table in answer.waiting)
        print(f"note: {tables} changed too: in force after the next start")
