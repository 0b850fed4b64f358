"""What a running node has accepted of node.toml: read by every role, exchanged as a whole.

The file may be edited, and be wrong, at any time. A role that starts again must not meet it
halfway, so all roles read a copy in data_dir, which changes only when a new one is found right.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.base import toml
from dicom_node.base.errors import ConfigurationError
from dicom_node.dimse import security
from dicom_node.settings import Settings, load

FILE = "accepted.json"

_DATA_DIR = re.compile(r"""\s*(?:node\s*\.\s*)?data_dir\s*=\s*["']([^"'\n]+)["']""")

EXCHANGED = ("peers", "rules", "retention")
"""Tables that a running node takes over again; the others wait for its next start."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What changed when peers and rules were taken over again."""

    peers: tuple[str, ...]
    rules: tuple[str, ...]
    waiting: tuple[str, ...]
    """Tables that differ too and are not in force before the next start."""


def accept(config: Path, settings: Settings) -> Path:
    """Keep what `config` says as what this node runs with; return the copy.

    Raises
    ------
    ConfigurationError
        `config` or data_dir gives no answer.
    """
    copy = settings.node.data_dir / FILE
    _write_copy(copy, config, toml.read(config))
    return copy


def kept(settings: Settings) -> Settings | None:
    """Return what the last node in this data_dir ran with; None for the first."""
    copy = settings.node.data_dir / FILE
    try:
        return _checked_settings(copy, _read_content(copy)["content"])
    except (ConfigurationError, KeyError, TypeError):
        return None


def differing(old: Settings, new: Settings) -> tuple[str, ...]:
    """Return the tables in which two configurations differ."""
    return tuple(
        table for table in Settings.model_fields if getattr(old, table) != getattr(new, table)
    )


def read(path: Path) -> Settings:
    """Return the settings in force, from a copy or, for a role that stands alone, from node.toml.

    Raises
    ------
    ConfigurationError
        The file cannot be read or a key is wrong.
    """
    return (
        load(path) if path.name != FILE else _checked_settings(path, _read_content(path)["content"])
    )


def beside_broken_file(config: Path) -> Settings | None:
    """Return what a node of `config` runs with, for a `config` that is wrong at the moment.

    What looks at a node or acts on its ledger must not wait until a typing error is mended.

    Returns
    -------
    Settings or None
        None where no node has accepted this file, or where its data_dir cannot be found.
    """
    for folder in _data_dirs(config):
        copy = folder / FILE
        try:
            accepted = _read_content(copy)
            if Path(accepted["config"]) == config.absolute():
                return _checked_settings(copy, accepted["content"])
        except (ConfigurationError, KeyError, TypeError):
            continue
    return None


def _data_dirs(config: Path) -> Iterator[Path]:
    """Yield where the data of a broken file may be: as its text says, then the default."""
    if named := os.environ.get("CHEXFRACT_NODE__DATA_DIR"):
        yield Path(named)
    try:
        text = config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        if found := _DATA_DIR.match(line):
            yield Path(found[1])
    yield Settings.model_fields["node"].get_default().data_dir


def exchange(copy: Path) -> Exchange:
    """Find out whether node.toml is right, then put its peers and rules into the copy.

    Raises
    ------
    ConfigurationError
        It is not right, or names TLS files that cannot be used; nothing has changed.
    """
    accepted = _read_content(copy)
    config = Path(accepted["config"])
    new = load(config)
    check_tls(new, config)
    content, old = toml.read(config), _checked_settings(copy, accepted["content"])
    kept = {key: value for key, value in accepted["content"].items() if key not in EXCHANGED}
    kept |= {key: content[key] for key in EXCHANGED if key in content}
    _checked_settings(config, kept)
    _write_copy(copy, config, kept)
    return Exchange(
        tuple(new.peers), tuple(rule.name for rule in new.rules), _differing_tables(old, new)
    )


def check_tls(settings: Settings, where: object) -> None:
    """Raise `ConfigurationError` where the TLS files of a peer cannot be used."""
    for name, peer in settings.peers.items():
        try:
            security.requestor(peer.tls)
        except ConfigurationError as exc:
            raise ConfigurationError(f"{where}: peers.{name}.tls: {exc}") from exc


def config_file(settings: Settings) -> Path | None:
    """Return the node.toml that the node of this data_dir has accepted; None before its start."""
    try:
        return Path(_read_content(settings.node.data_dir / FILE)["config"])
    except (ConfigurationError, KeyError, TypeError):
        return None


def on_disk(copy: Path) -> tuple[Path, tuple[str, ...]]:
    """Return node.toml and the tables in which it differs from what is in force.

    Raises
    ------
    ConfigurationError
        node.toml is not right.
    """
    accepted = _read_content(copy)
    config = Path(accepted["config"])
    old, new = _checked_settings(copy, accepted["content"]), load(config)
    changed = [table for table in EXCHANGED if getattr(old, table) != getattr(new, table)]
    return config, (*changed, *_differing_tables(old, new))


def _differing_tables(old: Settings, new: Settings) -> tuple[str, ...]:
    others = (table for table in Settings.model_fields if table not in EXCHANGED)
    return tuple(table for table in others if getattr(old, table) != getattr(new, table))


def _read_content(copy: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(copy.read_text(encoding="utf-8")))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{copy}: {getattr(exc, 'strerror', None) or exc}") from exc


def _checked_settings(where: Path, content: dict[str, Any]) -> Settings:
    return toml.settings(Settings, content, where)


def _write_copy(copy: Path, config: Path, content: dict[str, Any]) -> None:
    """Put a copy in place as a whole; it may hold passwords."""
    text = json.dumps({"config": str(config.absolute()), "content": content}, default=str)
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(copy)
    except OSError as exc:
        raise ConfigurationError(f"node.data_dir: {copy}: {exc.strerror}") from exc
