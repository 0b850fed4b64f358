"""Every pinned package installs on the oldest Python that the project names, as Debian ships it."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
OLDEST = "3.11.2"
"""Of Debian 12: a pin that asks for a later patch ends the README's first command there."""


def test_pins_install_on_debian_s_own_python() -> None:
    asked = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+]+)", CONSTRAINTS.read_text(), re.M):
        try:
            found = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform or Python
        if found["Version"] == version:
            asked[name] = found["Requires-Python"] or ""
    assert len(asked) > 50
    assert [name for name, wish in asked.items() if OLDEST not in SpecifierSet(wish)] == []
