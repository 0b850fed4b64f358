"""The commands ``peer``, ``rule``, ``config history`` and ``config undo``: node.toml by words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dicom_node.base.errors import NotFound
from dicom_node.base.local_time import local_time
from dicom_node.base.toml_fields import changed_by_words, fields_of
from dicom_node.editing import (
    WORDS,
    ChangeOutcome,
    ConfigFile,
    Draft,
    FileChanged,
    Kind,
    ReadOnlyFile,
    TableChange,
)
from dicom_node.operate.show import print_json
from dicom_node.settings import Peer, Retention, Rule, Settings
from dicom_node.store.actor import Actor
from dicom_node.store.uses import noting

WAY = "command line"

MODELS: dict[Kind, Any] = {"peers": Peer, "rules": Rule, "retention": Retention}


def config_file(config: Path, settings: Settings) -> ConfigFile:
    """Return node.toml as commands change it; a node that runs on it takes each change."""
    return ConfigFile.of_node(config, settings.node.data_dir, noting(settings, None))


def list_tables(file: ConfigFile, kind: Kind, *, as_json: bool) -> None:
    """Print the peers or rules of the file in their order."""
    revision = file.read()
    rows = [(name, revision.table(kind, name) or {}) for name in revision.names(kind)]
    if as_json:
        print_json([{**values, "name": name} for name, values in rows])
        return
    for number, (name, values) in enumerate(rows, 1):
        if kind == "peers":
            shown = (
                f"{values.get('ae_title', '')}@{values.get('host', '')}:{values.get('port', '')}"
            )
        else:
            to = ", ".join(values.get("send_to", ["@sender"]))
            shown = f"{values.get('model', 'phantom')}, {values.get('mode', 'live')}, to {to}"
        print(f"{number}. {name}  {shown}" if kind == "rules" else f"{name}  {shown}")


def change_table(
    file: ConfigFile,
    kind: Kind,
    name: str,
    words: Sequence[str],
    by: Actor,
    *,
    is_new: bool = False,
    place: int | None = None,
    is_dry: bool = False,
    as_json: bool = False,
) -> int:
    """Add or change a peer or a rule.

    Parameters
    ----------
    words : sequence of str
        ``KEY=VALUE``; see `toml_fields.changed_by_words`.
    place : int, optional
        Where a rule shall stand, 1 for the first.
    """
    old = file.read().table(kind, name)
    if old is None and not is_new:
        raise NotFound(f"no {WORDS[kind]} is named {name!r}; add it")
    first = {} if kind == "peers" else {"name": name}
    values = changed_by_words(fields_of(MODELS[kind]), old or first, words)
    at = None if place is None else place - 1
    wanted = TableChange(kind, name, values, at, is_new=is_new)
    return _do_change(file, wanted, by, is_dry=is_dry, as_json=as_json)


def remove_table(
    file: ConfigFile, kind: Kind, name: str, by: Actor, *, is_dry: bool, as_json: bool
) -> int:
    """Remove a peer or a rule."""
    return _do_change(file, TableChange(kind, name), by, is_dry=is_dry, as_json=as_json)


def move_rule(
    file: ConfigFile, name: str, place: int, by: Actor, *, is_dry: bool, as_json: bool
) -> int:
    """Put a rule at another place, 1 for the first."""
    wanted = TableChange("rules", name, place=place - 1, is_move=True)
    return _do_change(file, wanted, by, is_dry=is_dry, as_json=as_json)


def undo(file: ConfigFile, number: int, by: Actor, *, is_dry: bool, as_json: bool) -> int:
    """Undo a change of the history."""
    if is_dry:
        return _print_draft(file.undoing(number), as_json=as_json)
    try:
        return _print_outcome(file.undo(number, by, WAY), as_json=as_json)
    except ReadOnlyFile as exc:
        return _read_only(exc)


def history(file: ConfigFile, limit: int, *, as_json: bool) -> None:
    """Print the last changes, the newest last."""
    found = file.history()[-limit:] if limit > 0 else []
    if as_json:
        print_json([{**asdict(change), "diff": change.diff} for change in found])
        return
    table = Table("number", "when", "who", "by way of", "what")
    for change in found:
        when = f"{local_time(change.at):%Y-%m-%d %H:%M:%S}"
        what = f"{change.what}; did not last: {change.problem}" if change.problem else change.what
        table.add_row(str(change.number), when, f"{change.by}@{change.address}", change.way, what)
    Console().print(table)


def _do_change(
    file: ConfigFile, wanted: TableChange, by: Actor, *, is_dry: bool, as_json: bool
) -> int:
    if is_dry:
        return _print_draft(file.draft(wanted), as_json=as_json)
    try:
        return _print_outcome(file.change(wanted, by, WAY), as_json=as_json)
    except ReadOnlyFile as exc:
        return _read_only(exc)
    except FileChanged as exc:
        for change in exc.since:
            print(f"change {change.number}: {change.what} by {change.by}", file=sys.stderr)
        raise


def _print_draft(draft: Draft, *, as_json: bool) -> int:
    if as_json:
        print_json({"act": draft.act, "diff": draft.diff, "revision": draft.base})
    else:
        print(draft.diff or "nothing changes")
    return 0


def _print_outcome(outcome: ChangeOutcome, *, as_json: bool) -> int:
    change = outcome.change
    if as_json:
        taken = asdict(outcome.reloaded) if outcome.reloaded else None
        print_json(
            {"change": change.number, "diff": change.diff, "reloaded": taken,
             "remark": outcome.remark, "revision": change.mark}
        )  # fmt: skip
        return 0
    if not change.number:
        print(outcome.remark)
        return 0
    print(change.diff)
    took = "the node has taken it" if outcome.reloaded else outcome.remark
    print(f"{change.what} (change {change.number}); {took}", file=sys.stderr)
    return 0


def _read_only(exc: ReadOnlyFile) -> int:
    print(f"{exc}; the lines to write there yourself:", file=sys.stderr)
    print(exc.lines or "# none: remove the table")
    return exc.exit_code
